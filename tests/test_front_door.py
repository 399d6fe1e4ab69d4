"""`import clipfuse` gives every name that it promises, and loads nothing for it."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import clipfuse

PACKAGES = ("backbones", "bilevel", "clip", "contourlet", "losses", "metrics", "networks")
NATURAL = {
    "clipfuse.losses": ("PixelLoss", "PromptFusionLoss", "LDFusionLoss"),
    "clipfuse.metrics": ("ssim", "FusionMetrics"),
    "clipfuse.backbones": ("ContourletAutoencoder",),
    "clipfuse.contourlet": ("ContourletTransform",),
    "clipfuse.clip": ("load_clip",),
    "clipfuse.bilevel": ("ValuePenalty",),
    "clipfuse.types": ("LossInputs",),
    "clipfuse.networks": ("load_network",),
    "clipfuse.testing": ("LossContract",),
}
FUNCTIONS = (
    *("fuse", "load_network", "read_pair", "score", "train", "compare"),
    *("list_losses", "list_metrics", "list_backbones"),
)
SLOW = ("torch", "numpy", "PIL", "hydra", "lightning", "omegaconf", "pydantic")
# Of one process: what is loaded by `import clipfuse` and the help, then by fusing and scoring a pair.
STEPS = """
import contextlib, io, json, sys
def roots():
    return sorted({name.partition(".")[0] for name in sys.modules})
import clipfuse
from clipfuse.cli.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):
    main(["--help"])
first = roots()
pair, out = sys.argv[1:]
words = ["--infrared", pair + "/ir", "--visible", pair + "/vi"]
with contextlib.redirect_stdout(io.StringIO()):
    codes = [main(["fuse", *words, "--out", out])]
    codes.append(main(["score", *words, "--fused", pair + "/ir", "--metrics", "EN"]))
print(json.dumps([first, codes, roots()]))
"""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_functions_are_there(name: str) -> None:
    assert name in clipfuse.__all__
    assert getattr(clipfuse, name).__name__ == name


@pytest.mark.parametrize("package", ["clipfuse", *(f"clipfuse.{name}" for name in PACKAGES)])
def test_every_public_name_can_be_imported_and_is_listed(package: str) -> None:
    found = import_module(package)
    assert len(set(found.__all__)) == len(found.__all__) > 2
    for name in found.__all__:
        assert getattr(found, name) is not None
        assert name in dir(found)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'fuze'"):
        found.fuze  # noqa: B018


@pytest.mark.parametrize(("package", "names"), NATURAL.items())
def test_the_natural_imports(package: str, names: tuple[str, ...]) -> None:
    for name in names:
        assert getattr(import_module(package), name).__module__.startswith(package.rpartition(".")[0])


def test_a_public_name_is_never_hidden_by_a_module() -> None:
    for name in PACKAGES:
        found = import_module(f"clipfuse.{name}")
        modules = {path.stem for path in Path(str(found.__file__)).parent.glob("*.py")}
        late = set(found.__all__) - set(vars(found))
        assert not late & modules


def test_import_and_help_load_nothing_slow_and_fuse_and_score_little(tmp_path: Path) -> None:
    from PIL import Image

    for band, angle in (("ir", 0), ("vi", 180)):
        (tmp_path / "pair" / band).mkdir(parents=True)
        Image.linear_gradient("L").resize((48, 40)).rotate(angle).save(tmp_path / "pair" / band / "a.png")
    words = [sys.executable, "-c", STEPS, str(tmp_path / "pair"), str(tmp_path / "out")]
    first, codes, second = json.loads(subprocess.check_output(words, text=True))
    assert not set(SLOW) & set(first)
    assert codes == [0, 0]
    unused = ("kornia", "torchvision", "torchmetrics", "lightning", "hydra", "omegaconf", "pydantic", "scipy")
    assert not {*unused, "cv2", "matplotlib", "sympy", "wandb", "open_clip", "sqlite3"} & set(second)


def test_the_package_can_be_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import runpy

    monkeypatch.setattr("sys.argv", ["clipfuse", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("clipfuse", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == clipfuse.__version__
