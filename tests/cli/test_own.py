"""What is not ours joins without a change to this tree: losses, backbones and metrics, each three ways.

The current folder (see also test_commands.py), a folder on the search path, an installed package.
"""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from clipfuse.metrics import DEFINITIONS

Clipfuse = Callable[..., tuple[int, str, str]]
SAMPLE = Path(__file__).parents[1] / "sample_plugin"
TINY = ["trainer=cpu", "data=folder", "loader.crop_size=32", "loader.batch_size=2", "steps=2"]
TINY += ["validate_every=2", "trainer.log_every_n_steps=1", "~callbacks.progress", "run_dir=run"]
TINY += ["+trainer.enable_progress_bar=false"]
SMALL = ["backbone=conv_tiny", "backbone.width=4", "backbone.depth=0"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in an empty folder; forget afterwards what was imported from it."""
    modules, definitions = set(sys.modules), set(DEFINITIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in set(sys.modules) - modules:
        if str(getattr(sys.modules[name], "__file__", "")).startswith((str(tmp_path), str(SAMPLE))):
            del sys.modules[name]
    for name in set(DEFINITIONS) - definitions:
        del DEFINITIONS[name]


def put(source: str, target: str) -> None:
    """Copy a file of the sample package to where a user may have it."""
    text = (SAMPLE / "src/sample_fusion" / source).read_text()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(text)


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, errors = result
    assert code == 2
    for word in words:
        assert word in errors.strip().splitlines()[-1]
    assert not Path("run/test").exists()


@pytest.fixture
def theirs() -> str:
    """A folder of somebody's with a loss, elsewhere than here; as a word of the command line."""
    put("loss.py", "elsewhere/their_loss.py")
    config = "# distance to theirs\n_target_: their_loss.SampleLoss\nweight: 2.0\n"
    Path("elsewhere/loss").mkdir()
    Path("elsewhere/loss/theirs.yaml").write_text(config)
    return f"hydra.searchpath=[file://{Path('elsewhere').resolve()}]"


def test_a_folder_on_the_search_path(clipfuse: Clipfuse, theirs: str, pairs_folder: Path) -> None:
    words = ["train", *TINY, *SMALL, f"data.root={pairs_folder}", theirs]
    assert clipfuse(*words, "loss=theirs", "test=false")[0] == 0
    assert "train/loss/their_loss/distance" in Path("run/metrics.csv").read_text().splitlines()[0]
    config = OmegaConf.load("run/config.yaml")
    assert config.name == "theirs-conv_tiny"
    assert config.loss == {"_target_": "their_loss.SampleLoss", "weight": 2.0}
    joined = [*words, "overwrite=true", "test=false", "loss=weighted_sum"]
    parts = ["+loss.parts={pixel:1,theirs:0.5}", "+loss.of.theirs.weight=3"]
    assert clipfuse(*joined, *parts)[0] == 0
    assert OmegaConf.load("run/config.yaml").loss.of.theirs.weight == 3.0


def test_its_options_are_listed_and_its_mistakes_named(clipfuse: Clipfuse, theirs: str) -> None:
    _, output, _ = clipfuse("train", "--help", theirs)
    assert "\n    theirs            distance to theirs\n    weighted_sum" in output
    assert "theirs" not in clipfuse("train", "--help")[1]
    refused(clipfuse("train", theirs, "loss=thiers"), "unknown loss 'thiers'", "Did you mean 'theirs'?")
    refused(clipfuse("train", theirs, "loss=theirs", "loss.wieght=3"), "Did you mean 'loss.weight'?")
    refused(clipfuse("train", theirs, "loss=theirs", "loss.weight=a"), "loss.weight is 'a'")
    parts = ["loss=weighted_sum", "+loss.parts={thiers:1}"]
    refused(clipfuse("train", theirs, *parts), "Did you mean 'theirs'?")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("hydra.searchpath=[file://nowhere]", "hydra.searchpath: there is no nowhere; expected a folder"),
        ("hydra.searchpath=nowhere", "hydra.searchpath must be a list of strings. Got: nowhere"),
    ],
)
def test_a_search_path_that_is_none(clipfuse: Clipfuse, word: str, message: str) -> None:
    refused(clipfuse("train", word, "loss=theirs"), message)


THEIRS = """
from clipfuse.losses.base import FusionLoss
from clipfuse.types import LossOutput

class First(FusionLoss):
    def forward(self, inputs):
        total = (inputs.fused - inputs.visible).square().mean()
        return LossOutput(total, {"distance": total.detach()})

class SecondOne(First):
    pass
"""
INSTALLED = """
import csv, sys
from pathlib import Path
import pytest
import clipfuse
from clipfuse.cli.__main__ import main
from clipfuse.testing import loss_node
site, *words = sys.argv[1:]
assert Path(clipfuse.__file__).is_relative_to(site), clipfuse.__file__
assert main(["train", "--help"]) == 0
assert main(["train", *words]) == 0
assert loss_node("sample")["_target_"] == "sample_fusion.loss.SampleLoss"
assert main(["new-loss", "my_text", "--clip"]) == 0
tests = ["-q", "-p", "no:cacheprovider", "-k", "validates or resumed or negative", "test_my_text.py"]
assert pytest.main(tests) == 0
swept = [word for word in words if word.startswith(("data", "loader", "trainer", "steps", "validate", "~"))]
swept += ["backbone=conv_tiny", "backbone.width=4", "backbone.depth=0", "test=false", "run_dir=theirs_run"]
assert main(["train", *swept, "loss=custom", "loss._target_=theirs.losses.SecondOne"]) == 0
assert "train/loss/second_one/distance" in Path("theirs_run/metrics.csv").read_text().splitlines()[0]
"""


def test_installed_packages(pairs_folder: Path, tmp_path: Path) -> None:
    """Our wheel and theirs, installed for real and in front of this source tree, in one process.

    The sample's loss, backbone and metric go through a sweep and are listed by --help; the contract test of a
    new loss runs; a package with several losses in one file logs each under its own name.
    """
    uv, site = str(Path(sys.executable).with_name("uv")), tmp_path / "site"
    build = [
        uv,
        "build",
        "--quiet",
        "--offline",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
    ]
    subprocess.run([*build, "--out-dir", str(tmp_path / "dist"), str(SAMPLE.parents[1])], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation"]
    install += ["--python", sys.executable, "--target", str(site), str(SAMPLE), str(wheel)]
    subprocess.run(install, check=True)
    for name, text in {"__init__.py": "", "losses.py": THEIRS}.items():
        Path("theirs").mkdir(exist_ok=True)
        Path("theirs", name).write_text(text)
    words = ["-m", *TINY[:-2], TINY[-1], f"data.root={pairs_folder}", "loss=sample", "backbone=sample"]
    words += ["metrics.own=[sample_fusion.metric.roughness]", "hydra.sweep.dir=sweep"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", INSTALLED, str(site), *words]
    result = subprocess.run(
        command, env={**environment, "PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr + result.stdout
    assert "\n    sample            a sample: distance to the mean\n" in result.stdout
    assert "\n    sample\n" in result.stdout  # a backbone whose file has no line
    config = OmegaConf.load("sweep/0/config.yaml")
    assert config.name == "sample-sample"
    record = json.loads(Path("sweep/0/test/metrics.json").read_text())
    assert record["mean"]["roughness"] > 0
    assert record["own"] == {"roughness": {"higher_is_better": False}}
    assert "roughness" in record["unchecked"]


def test_a_backbone_from_the_current_folder(clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path) -> None:
    put("backbone.py", "my_net.py")
    words = ["backbone=custom", "backbone._target_=my_net.SampleBackbone", "+backbone.width=6"]
    assert clipfuse("train", *TINY, *words, f"data.root={pairs_folder}", "test=false")[0] == 0
    checkpoint = "run/checkpoints/last.ckpt"
    bands = ["--infrared", f"{pairs_folder}/val/ir", "--visible", f"{pairs_folder}/val/vi", "--out", "out"]
    result = clipfuse("fuse", "--checkpoint", checkpoint, *bands)
    refused(result, "wants to run code of 'my_net'", "if you trust it, add: trust 'my_net'")
    del sys.meta_path[-1]  # it is trusted, and so found, by --trust alone
    assert clipfuse("fuse", "--checkpoint", checkpoint, *bands, "--trust", "my_net")[0] == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["val-0.png", "val-1.png"]
    evaluate = ["data=folder", f"data.root={pairs_folder}", "trainer=cpu", "run_dir=evaluated"]
    result = clipfuse(
        "evaluate", f"checkpoint={checkpoint}", *evaluate, "trust=[my_net]", "metrics.test=fast"
    )
    assert result[0] == 0


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("self.body(infrared)", "the backbone Net returned Tensor; expected a clipfuse.types.FusionOutput"),
        ("FusionOutput(self.body(infrared)[..., 1:])", "'fused' as torch.float32 (1, 1, 32, 31)"),
        ("FusionOutput(infrared > 0.5)", "'fused' as torch.bool (1, 1, 32, 32)"),
        ("FusionOutput([infrared])", "'fused' as list"),
        ("FusionOutput(self.body(infrared) * 0 - 1)", "gives values from -1 to -1 before the first update"),
        ("FusionOutput(self.body(infrared) / 0)", "expected [0, 1]: let it end in a sigmoid"),
    ],
)
def test_a_backbone_that_returns_something_else(
    clipfuse: Clipfuse, pairs_folder: Path, returned: str, message: str
) -> None:
    Path("net.py").write_text(
        "from torch import nn\nfrom clipfuse.types import FusionOutput\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body = nn.Conv2d(1, 1, 1)\n"
        "    def forward(self, infrared, visible):\n"
        f"        return {returned}\n"
    )
    words = ["backbone=custom", "backbone._target_=net.Net", f"data.root={pairs_folder}"]
    refused(clipfuse("train", *TINY, *words), message)
    assert json.loads(Path("run/status.json").read_text())["status"] == "failed"


def test_a_metric_from_the_current_folder(clipfuse: Clipfuse, pairs_folder: Path) -> None:
    put("metric.py", "my_metric.py")
    own = "metrics.own=[my_metric.roughness]"
    words = [*TINY, *SMALL, f"data.root={pairs_folder}", own, "metrics.test=[SSIM,roughness]"]
    words += ["metrics.validation=[SSIM,roughness]", "objective=test/roughness"]
    code, output, _ = clipfuse("train", *words)
    assert code == 0
    assert "roughness ↓*" in output
    assert "* own, unchecked: roughness" in output
    record = json.loads(Path("run/test/metrics.json").read_text())
    assert record["protocol"] == "strict-2"
    assert record["unchecked"] == ["roughness"]
    status = json.loads(Path("run/status.json").read_text())
    assert status["objective"] == record["mean"]["roughness"]
    assert "val/metric/roughness" in Path("run/metrics.csv").read_text().splitlines()[0]
    folders = ["--fused", "run/test/fused", "--infrared", f"{pairs_folder}/test/ir"]
    folders += ["--visible", f"{pairs_folder}/test/vi", "--metrics", "SSIM", "--out", "scores.csv"]
    assert clipfuse("score", *folders, "--own", "my_metric.roughness")[0] == 0
    with Path("scores.csv").open() as file:
        scores = [float(row["roughness"]) for row in csv.DictReader(file) if row["method"] == "fused"]
    assert sum(scores) / len(scores) == pytest.approx(record["mean"]["roughness"], rel=1e-9)
    code, output, _ = clipfuse("compare", "run", "--own", "my_metric.roughness", "--metrics", "roughness")
    assert code == 0
    assert "roughness ↓*" in output
    refused = clipfuse("compare", "run", "--own", "my_metric.smoothness")
    assert refused[0] == 2
    assert "own metric 'my_metric.smoothness' cannot be imported" in refused[2]


HEAD = "import math\nfrom clipfuse.metrics import metric\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "own metric 'own.score' cannot be imported"),
        ("def score(fused, infrared, visible): ...", "'own.score' is no metric; put @metric("),
        (
            "@metric('SSIM', higher_is_better=True, bounds=(0, 1))\ndef score(fused, infrared, visible): ...",
            "the metric name 'SSIM' is taken by clipfuse.metrics.structure; choose another",
        ),
        (
            "@metric('mine', higher_is_better=True, bounds=(0, 1))\ndef score(fused): ...",
            "the metric 'mine' takes (fused); expected (fused, infrared, visible, ...)",
        ),
        (
            "@metric('mine', higher_is_better=True, bounds=(0, 1))\n"
            "def score(fused, infrared, visible): return fused.mean()",
            "mine: gave (); expected one score per image, (1,)",
        ),
    ],
)
def test_a_metric_that_is_none(clipfuse: Clipfuse, pairs_folder: Path, source: str, message: str) -> None:
    Path("own.py").write_text(HEAD + source)
    words = ["--fused", f"{pairs_folder}/val/ir", "--infrared", f"{pairs_folder}/val/ir"]
    words += ["--visible", f"{pairs_folder}/val/vi", "--own", "own.score", "--metrics", "SSIM"]
    refused(clipfuse("score", *words), message)


KINDS = {"my_contrast": [], "my_text": ["--clip"], "my_levels": ["--bilevel"]}
KINDS["my_words"] = ["--bilevel", "--clip"]


def test_new_loss_writes_what_passes_its_own_test_and_trains(clipfuse: Clipfuse, pairs_folder: Path) -> None:
    written = {name: clipfuse("new-loss", name, *options) for name, options in KINDS.items()}
    assert all(code == 0 for code, _, _ in written.values())
    files = {file for name in KINDS for file in (f"conf/loss/{name}.yaml", f"{name}.py", f"test_{name}.py")}
    assert {str(path) for path in Path().rglob("*") if path.is_file()} == files
    # All of one contract, and of the others what reads the configuration and moves a lower level.
    some = "my_contrast or resumed or fields or validates or lower_level or negative"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", some]
    result = subprocess.run([*command, *sorted(Path().glob("test_*.py"))], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
    (passed,) = re.findall(r"(\d+) passed", result.stdout)
    assert int(passed) >= 39
    words = ["train", *TINY, *SMALL, f"data.root={pairs_folder}", "test=false"]
    search = "hydra.searchpath=[file://conf]"
    terms = {"my_contrast": "loss/my_contrast/brightness", "my_text": "loss/my_text/guidance"}
    terms |= {"my_levels": "lower/my_levels/found", "my_words": "lower/my_words/bad"}
    for name, term in terms.items():
        assert clipfuse(*words, search, f"loss={name}", "overwrite=true")[0] == 0
        assert f"train/{term}" in Path("run/metrics.csv").read_text().splitlines()[0]
        assert f"'{search}' loss={name}" in written[name][1]
    custom = ["loss=custom", "loss._target_=my_contrast.MyContrastLoss", "+loss.weight=2"]
    assert clipfuse(*words, *custom, "overwrite=true")[0] == 0
    assert " ".join(custom) in written["my_contrast"][1]
    before = Path("my_contrast.py").read_text()
    Path("test_my_contrast.py").unlink()
    refused(clipfuse("new-loss", "my_contrast"), "my_contrast.py is there already; choose another name")
    assert Path("my_contrast.py").read_text() == before
    assert not Path("test_my_contrast.py").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-loss", "'my-loss' cannot name a loss; expected small letters, digits and _, as in my_loss"),
        ("../loss", "cannot name a loss"),
        ("2nd", "cannot name a loss"),
        ("class", "cannot name a loss"),
        ("Mine", "cannot name a loss"),
        ("pixel", "'pixel' is a loss of ClipFuse; choose another name, such as my_pixel"),
        ("json", "'json' is an installed module, which would be found first"),
    ],
)
def test_new_loss_refuses_names(clipfuse: Clipfuse, tmp_path: Path, name: str, message: str) -> None:
    refused(clipfuse("new-loss", name), message)
    assert not list(tmp_path.iterdir())
