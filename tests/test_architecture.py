"""Which package may import which."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
FILES = sorted((SOURCE / "clipfuse").rglob("*.py"))

# Package or module of ours -> what of ours it may import; "x.y" stands for that module alone.
ALLOWED = {
    "lazy": set(),
    "errors": set(),
    "version": set(),
    "types": set(),
    "files": {"errors", "files"},
    "ops": {"types", "files", "ops"},
    "decoding": {"errors", "decoding"},
    "images": {"errors", "files", "ops", "decoding"},
    "processes": {"errors"},
    "bilevel": {"bilevel"},
    "contourlet": {"types", "ops", "contourlet"},
    "backbones": {
        "lazy",
        "types",
        "ops",
        "contourlet",
        "backbones.base",
        "backbones.blocks",
        "backbones.chroma",
    },
    "clip": {"lazy", "errors", "files", "types", "ops", "clip"},
    "losses": {
        *("lazy", "errors", "types", "ops", "clip", "rewards", "metrics", "losses.base"),
        "losses.promptfusion",
    },
    "rewards": {"errors", "files", "types", "ops", "rewards"},
    "metrics": {"lazy", "errors", "ops", "metrics"},
    "data": {"errors", "files", "types", "ops", "decoding", "images", "data"},
    "downstream": {
        *("lazy", "errors", "types", "files", "ops", "images", "processes", "networks", "downstream"),
    },
    "networks": {"errors", "version", "types", "files", "lazy", "ops", "networks"},
    "training": {"errors", "types", "files", "ops", "bilevel", "losses.base", "networks", "training"},
    "tracking": {
        *("errors", "types", "files", "ops", "metrics", "losses.base", "networks", "training", "tracking"),
    },
    "runs": {
        *("errors", "version", "types", "files", "ops", "images", "bilevel", "losses.base", "downstream"),
        *("networks", "training", "tracking", "runs"),
    },
    "comparison": {
        "errors",
        "types",
        "files",
        "images",
        "metrics",
        "ops",
        "runs.contract",
        "runs.folder",
        "comparison",
    },
    "board": {"errors", "types", "files", "images", "metrics", "ops", "comparison", "board"},
    "testing": {
        *("lazy", "errors", "types", "ops", "bilevel", "losses.base", "training"),
        *("runs.build", "runs.overrides", "runs.train", "cli", "testing"),
    },
    "hydra_plugins": {
        *("errors", "files", "runs.composed", "runs.folder", "runs.objective", "runs.overrides"),
        "runs.owner",
    },
    "__main__": {"cli"},
    "api": {
        *("errors", "types", "files", "decoding", "images", "data", "ops", "metrics", "networks"),
        *("comparison", "cli.sources", "cli.in_python", "cli.options", "cli.train", "api"),
    },
    "cli": {
        *("errors", "version", "types", "files", "decoding", "images", "ops", "clip", "metrics", "data"),
        *("rewards", "processes", "networks", "downstream", "training", "tracking", "runs", "comparison"),
        *("board", "cli"),
    },
}
# Package of others -> where it may be imported at all.
PLACES = {
    "lightning": ("training/", "tracking/", "runs/", "data/datamodule.py"),
    "hydra": ("cli/", "runs/build.py", "testing/composing.py"),
    "omegaconf": ("cli/", "api/training.py", "runs/", "testing/composing.py"),
    "wandb": ("tracking/wandb_", "comparison/wandb_report.py"),
    "wandb_workspaces": ("comparison/wandb_report.py",),
    "open_clip": ("clip/",),
    "jinja2": ("comparison/", "board/"),
    "matplotlib": ("comparison/", "board/"),
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
    "files/": {"torch", "numpy", "yaml"},
    "networks/": {"lightning", "hydra", "omegaconf", "torchmetrics", "kornia", "matplotlib", "onnx"},
    "bilevel/": {"lightning", "torchvision", "kornia", "numpy", "PIL"},
}
# Modules without a test file of their own name, and where they are tested. One line each, in order.
TESTED_ELSEWHERE = {
    "__main__.py": "one call: tests/test_front_door.py",
    "backbones/base.py": "through each network: tests/backbones/test_conv_tiny.py",
    "bilevel/alternate.py": "tests/bilevel/test_solvers.py, tests/bilevel/test_hypergradients.py",
    "bilevel/descent.py": "through the solvers that descend: tests/bilevel/test_solvers.py",
    "bilevel/gauss_newton.py": "tests/bilevel/test_hypergradients.py",
    "bilevel/nested.py": "what solvers share: tests/bilevel/test_solvers.py",
    "bilevel/problem.py": "protocols alone, nothing to test",
    "board/album.py": "tests/board/test_page.py",
    "board/drawings.py": "tests/board/test_page.py",
    "board/drops.py": "tests/board/test_standings.py",
    "board/gathering.py": "tests/board/test_page.py",
    "board/ranks.py": "tests/board/test_standings.py",
    "board/results.py": "tests/board/test_reading.py",
    "board/rows.py": "tests/board/test_standings.py",
    "cli/evaluate.py": "ten lines: tests/cli/test_bad_input.py, tests/training/test_training.py",
    "cli/in_python.py": "tests/api/test_training.py",
    "cli/judged.py": "tests/cli/test_downstream.py",
    "cli/new_loss.py": "tests/cli/test_own.py",
    "cli/sources.py": "tests/cli/test_compare.py",
    "cli/starters.py": "tests/cli/test_own.py",
    "cli/starters_bilevel.py": "tests/cli/test_own.py",
    "cli/stated.py": "tests/cli/test_board.py",
    "clip/patches.py": "tests/losses/test_ldfusion.py, tests/losses/test_autofuse.py",
    "clip/perceptual.py": "the loss that asks it: tests/losses/test_ldfusion.py",
    "clip/support.py": "tests/clip/test_encoder.py",
    "clip/tokens.py": "tests/clip/test_encoder.py, tests/clip/test_prompts.py",
    "clip/towers.py": "tests/clip/test_encoder.py",
    "comparison/assemble.py": "tests/api/test_comparing.py, tests/cli/test_compare.py",
    "comparison/plan.py": "tests/cli/test_compare.py",
    "comparison/ranking.py": "tests/comparison/test_compute.py",
    "comparison/table.py": "records: tests/comparison/test_compute.py",
    "contourlet/cache.py": "tests/contourlet/test_transform.py",
    "contourlet/coefficients.py": "tests/contourlet/test_transform.py",
    "contourlet/fourier.py": "tests/contourlet/test_transform.py, tests/contourlet/test_parity.py",
    "contourlet/operators.py": "tests/contourlet/test_transform.py",
    "contourlet/spatial.py": "tests/contourlet/test_transform.py, tests/contourlet/test_parity.py",
    "contourlet/spectra.py": "tests/contourlet/test_transform.py",
    "contourlet/tree.py": "tests/contourlet/test_parity.py",
    "downstream/base.py": "an interface: tests/downstream/test_segmentation.py",
    "downstream/detectors.py": "tests/downstream/test_detection.py",
    "downstream/material.py": "tests/downstream/test_evaluation.py, tests/cli/test_downstream.py",
    "errors.py": "tests/cli/test_bad_input.py",
    "hydra_plugins/clipfuse_launcher/_display.py": "tests/cli/test_sweep.py",
    "hydra_plugins/clipfuse_launcher/_sweep.py": "tests/cli/test_sweep.py",
    "hydra_plugins/clipfuse_launcher/cluster.py": "tests/cli/test_sweep_cluster.py",
    "metrics/safe.py": "two lines: tests/metrics/test_information.py",
    "metrics/verdict.py": "tests/metrics/test_balanced.py",
    "networks/checkpoints.py": "tests/cli/test_strangers.py",
    "networks/onnx.py": "tests/networks/test_export.py",
    "runs/downstream.py": "tests/cli/test_downstream.py",
    "runs/downstream_log.py": "tests/cli/test_downstream.py",
    "testing/ranks.py": "tests/testing/test_loss_contract.py",
    "version.py": "one line: tests/cli/test_main.py, tests/test_documents.py",
}


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


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

    yield from visit(parsed(path))


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
            assert allowed, f"{path.relative_to(SOURCE)} may not import {name}"
            if words[0] != room:
                arrows.setdefault(room, set()).add(words[0])
    # Raises CycleError with the rooms of a circle.
    TopologicalSorter(arrows).prepare()


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside of functions and for type checkers count, too: a reader follows them as well."""
    names = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in FILES}
    names = {name: path for name, path in names.items() if not name.endswith("__init__")}
    arrows = {
        name: {
            known
            for target in imports(path)
            for known in (target, target.rpartition(".")[0])
            if known in names and known != name
        }
        for name, path in names.items()
    }
    assert "clipfuse.errors" in arrows["clipfuse.cli.launch"]
    TopologicalSorter(arrows).prepare()  # raises CycleError with the modules of a circle


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


def test_each_module_has_a_test_file_of_its_name() -> None:
    """`a/b/c.py` is tested by `test_c.py` below `tests/a`; underscores about a name do not count."""
    tests = SOURCE.parent / "tests"
    missing, modules = [], [*FILES, *sorted((SOURCE / "hydra_plugins").rglob("*.py"))]
    for path in modules:
        name = str(path.relative_to(SOURCE)).removeprefix("clipfuse/")
        *rooms, stem = Path(name).with_suffix("").parts
        folder = tests / rooms[0] if rooms else tests
        found = any(folder.glob(f"{'**/' if rooms else ''}test_{stem.strip('_')}.py"))
        if stem != "__init__" and not found:
            missing.append(name)
    untested = [name for name in missing if name not in TESTED_ELSEWHERE]
    assert not untested, f"write a test file of their names, or say in TESTED_ELSEWHERE why not: {untested}"
    left_over = [name for name in TESTED_ELSEWHERE if name not in missing]
    assert not left_over, f"take out of TESTED_ELSEWHERE what has its test file or is gone: {left_over}"


def test_where_a_module_is_tested_instead_is_a_test_file() -> None:
    assert list(TESTED_ELSEWHERE) == sorted(TESTED_ELSEWHERE)
    for name, reason in TESTED_ELSEWHERE.items():
        places = [word.strip(",;:") for word in reason.split() if word.startswith("tests/")]
        assert places or "nothing to test" in reason, f"{name}: say in which file of tests/"
        absent = [each for each in places if not (SOURCE.parent / each).is_file()]
        assert not absent, f"{name} is said to be tested in {absent}"
