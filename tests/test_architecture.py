"""Who may import whom: the rules that keep the house one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "clipfuse").rglob("*.py"))

# Package or module of ours -> what of ours it may import; "x.y" stands for that module alone.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "ops": {"types", "ops"},
    "images": {"errors", "ops"},
    "contract": {"errors", "ops.settings"},
    "bilevel": set(),
    "contourlet": {"types", "ops", "contourlet"},
    "backbones": {"types", "ops", "contourlet", "backbones.base", "backbones.blocks"},
    "clip": {"errors", "types", "ops", "clip"},
    "losses": {"types", "ops", "clip", "losses.base"},
    "metrics": {"errors", "ops", "metrics"},
    "data": {"errors", "types", "ops", "images", "data"},
    "testing": {"errors", "types", "losses.base", "engine.build", "testing"},
    "engine": {
        "errors",
        "types",
        "ops",
        "images",
        "contract",
        "bilevel",
        "contourlet",
        "losses.base",
        "engine",
    },
    "compare": {"errors", "images", "contract", "metrics", "ops", "compare"},
    "cli": {"errors", "cli", "contract", "compare", "engine", "data", "images", "clip", "metrics", "ops"},
}
# Package of others -> where it may be imported at all.
PLACES = {
    "lightning": ("engine/", "data/datamodule.py"),
    "hydra": ("cli/", "engine/build.py"),
    "omegaconf": ("cli/", "engine/build.py", "engine/run.py", "engine/record.py", "engine/wandb_run.py"),
    "wandb": ("engine/wandb_", "compare/wandb_report.py"),
    "wandb_workspaces": ("compare/wandb_report.py",),
    "open_clip": ("clip/",),
    "jinja2": ("compare/",),
    "matplotlib": ("compare/",),
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


@pytest.mark.parametrize("path", FILES, ids=place)
def test_our_own_imports(path: Path) -> None:
    room = place(path).removesuffix(".py").split("/")[0]
    if room == "__init__":
        return
    for name in imports(path):
        if not name.startswith("clipfuse."):
            continue
        words = name.split(".")[1:]
        allowed = any(words[: len(rule)] == rule for rule in (rule.split(".") for rule in ALLOWED[room]))
        inside = room == "bilevel" and words[0] == room
        version = room == "cli" and words == ["__version__"]
        assert allowed or inside or version, f"{place(path)} may not import {name}"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_imports_of_others(path: Path) -> None:
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


@pytest.mark.parametrize("path", FILES, ids=place)
def test_no_file_is_longer_than_350_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 350


def test_each_loss_has_its_config_and_its_test() -> None:
    root = SOURCE.parent
    losses = {path.stem for path in (SOURCE / "clipfuse/losses").glob("*.py")} - {"__init__", "base"}
    assert losses
    for name in losses:
        assert (root / f"conf/loss/{name}.yaml").is_file()
        assert (root / f"tests/losses/test_{name}.py").is_file()
