"""Which package may import which."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "clipfuse").rglob("*.py"))

# Package or module of ours -> what of ours it may import; "x.y" stands for that module alone.
ALLOWED = {
    "lazy": set(),
    "errors": set(),
    "types": set(),
    "files": {"errors"},
    "ops": {"types", "ops"},
    "images": {"errors", "files", "ops"},
    "bilevel": {"bilevel"},
    "contourlet": {"types", "ops", "contourlet"},
    "backbones": {"lazy", "types", "ops", "contourlet", "backbones.base", "backbones.blocks"},
    "clip": {"lazy", "errors", "files", "types", "ops", "clip"},
    "losses": {"lazy", "types", "ops", "clip", "losses.base"},
    "metrics": {"lazy", "errors", "ops", "metrics"},
    "data": {"errors", "files", "types", "ops", "images", "data"},
    "networks": {"errors", "types", "files", "lazy", "networks"},
    "training": {"errors", "types", "files", "ops", "bilevel", "losses.base", "networks", "training"},
    "tracking": {"errors", "types", "files", "ops", "losses.base", "networks", "training", "tracking"},
    "runs": {
        *("errors", "types", "files", "ops", "images", "bilevel", "losses.base"),
        *("networks", "training", "tracking", "runs"),
    },
    "comparison": {"errors", "types", "files", "images", "metrics", "ops", "runs.contract", "comparison"},
    "testing": {"lazy", "errors", "types", "losses.base", "runs.build", "testing"},
    "hydra_plugins": {"errors", "files", "runs.folder", "runs.overrides"},
    "__main__": {"cli"},
    "api": {
        *("errors", "types", "images", "ops", "metrics", "networks", "comparison"),
        *("cli.sources", "cli.in_python", "cli.options", "cli.train", "api"),
    },
    "cli": {
        *("errors", "files", "images", "ops", "clip", "metrics", "data"),
        *("networks", "training", "tracking", "runs", "comparison", "cli"),
    },
}
# Package of others -> where it may be imported at all.
PLACES = {
    "lightning": ("training/", "tracking/", "runs/", "data/datamodule.py"),
    "hydra": ("cli/", "runs/build.py"),
    "omegaconf": (
        "cli/",
        "api/training.py",
        "runs/build.py",
        "runs/train.py",
        "runs/record.py",
        "tracking/wandb_run.py",
    ),
    "wandb": ("tracking/wandb_", "comparison/wandb_report.py"),
    "wandb_workspaces": ("comparison/wandb_report.py",),
    "open_clip": ("clip/",),
    "jinja2": ("comparison/",),
    "matplotlib": ("comparison/",),
}
# Slow to import: never when a module of these places is loaded.
LATE = {
    "cli/": {
        "torch",
        "lightning",
        "hydra",
        "omegaconf",
        "wandb",
        "numpy",
        "kornia",
        "torchmetrics",
        "PIL",
        "tqdm",
        "scipy",
        "matplotlib",
        "jinja2",
        "yaml",
    },
    "": {"wandb", "open_clip"},
    "files.py": {"torch", "numpy"},
    "networks/": {"lightning", "hydra", "omegaconf", "torchmetrics", "kornia", "matplotlib", "onnx"},
    "bilevel/": {"lightning", "torchvision", "kornia", "numpy", "PIL"},
}


def imports(path: Path, at_load: bool = False) -> Iterator[str]:
    """Yield the dotted names a file imports; `at_load` leaves out functions and type checking."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0
                yield from (f"{child.module}.{alias.name}" for alias in child.names)
            elif not (at_load and is_late(child)):
                yield from visit(child)

    yield from visit(ast.parse(path.read_text()))


def is_late(node: ast.AST) -> bool:
    """Whether this runs after loading, or for type checkers only."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def place(path: Path) -> str:
    return str(path.relative_to(SOURCE / "clipfuse"))


def room_of(path: Path) -> str:
    """The first word of a module's name behind `clipfuse`; the launcher is a room of its own."""
    words = path.relative_to(SOURCE).with_suffix("").parts
    return words[1] if words[0] == "clipfuse" else words[0]


def test_who_may_import_whom_and_no_arrow_runs_back_up() -> None:
    assert len(FILES) > 100
    arrows: dict[str, set[str]] = {}
    for path in [*FILES, *sorted((SOURCE / "hydra_plugins").rglob("*.py"))]:
        room = room_of(path)
        if room == "__init__":
            continue
        for name in imports(path):
            if not name.startswith("clipfuse."):
                continue
            words = name.split(".")[1:]
            allowed = any(words[: len(rule)] == rule for rule in (rule.split(".") for rule in ALLOWED[room]))
            allowed |= path.name == "__init__.py" and words[0] == room  # a package knows its own modules
            version = room == "cli" and words == ["__version__"]
            assert allowed or version, f"{path.relative_to(SOURCE)} may not import {name}"
            if words[0] != room and not version:
                arrows.setdefault(room, set()).add(words[0])
    # Raises CycleError with the rooms of a circle.
    TopologicalSorter(arrows).prepare()


def test_imports_of_others_and_what_is_slow_to_import() -> None:
    for path in FILES:
        for name in imports(path):
            rooms = PLACES.get(name.split(".")[0], ("",))
            assert place(path).startswith(rooms), f"{place(path)} may not import {name}: only {rooms} may"
        for room, slow in LATE.items():
            if place(path).startswith(room):
                late = {name.split(".")[0] for name in imports(path, at_load=True)} & slow
                assert not late, f"{place(path)} imports {late} when it is loaded"


def test_the_rules_see_what_they_forbid(tmp_path: Path) -> None:
    source = "import torch.nn\ndef f():\n    from wandb import init\nif TYPE_CHECKING:\n    import hydra\n"
    (tmp_path / "file.py").write_text(source)
    assert list(imports(tmp_path / "file.py")) == ["torch.nn", "wandb.init", "hydra"]
    assert list(imports(tmp_path / "file.py", at_load=True)) == ["torch.nn"]


def test_files_are_short_and_each_loss_has_its_configuration_and_its_test() -> None:
    long = [place(path) for path in FILES if len(path.read_text().splitlines()) > 350]
    assert not long
    root = SOURCE.parent
    losses = {path.stem for path in (SOURCE / "clipfuse/losses").glob("*.py")} - {"__init__", "base"}
    assert losses
    for name in losses:
        assert (root / f"conf/loss/{name}.yaml").is_file()
        assert (root / f"tests/losses/test_{name}.py").is_file()
