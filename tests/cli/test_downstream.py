"""`clipfuse downstream` on a few labelled pairs: its sources, its table, what is kept and what is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipfuse.cli.downstream import as_overrides
from clipfuse.downstream.sources import ALWAYS
from clipfuse.images import write_png

sys.path.append(str(Path(__file__).parents[2]))
from tests.downstream.recorder import RECORDERS
from tests.downstream.tiny import TinyPairs, TinyTask, write_options

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """A folder with a sweep of one finished run and one that failed, and images of another method."""
    monkeypatch.chdir(tmp_path)
    write_options(tmp_path / "conf")
    shutil.copytree(trained, tmp_path / "sweep/0")
    shutil.copytree(trained, tmp_path / "sweep/1")
    (tmp_path / "sweep/1/status.json").write_text('{"status": "failed", "reason": "by hand"}')
    data = TinyPairs()
    for part, names in data.parts().items():
        for name in names:
            folder = tmp_path / ("theirs/test" if part == "test" else "theirs/train")
            write_png(folder / f"{name}.png", data.pair(name).infrared[0], overwrite=False)
    return tmp_path


WORDS = ["hydra.searchpath=[file://conf]", "data=tiny", "downstream=tiny"]
THEIRS = "--fused=theirs=theirs/train:theirs/test"


def test_a_sweep_is_judged_with_all_other_sources_and_kept(
    here: Path, clipfuse: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["downstream", "sweep", "sweep/0/checkpoints/last.ckpt", THEIRS, *WORDS]
    code, output, errors = clipfuse(*words)
    assert code == 0, errors
    assert "16 trainings of 12 updates" in output
    assert "sweep/1 (failed)" in output
    assert "5 training and 3 test images; input color, task seeds 0, 1" in output
    rows = [line.split("  ")[0] for line in output.split("\nsource")[1].split("\n\n")[0].splitlines()[2:]]
    fused = ["theirs", "sweep/0 (tiny, seed 0)", "0-last"]
    assert rows == [*ALWAYS, *fused]
    own = json.loads((here / "sweep/0/downstream/segmentation/metrics.json").read_text())
    assert [each["seed"] for each in own["results"]] == [0, 1]
    beside = here / "sweep/downstream-sources"
    assert {path.name for path in beside.iterdir()} == {*ALWAYS, "theirs", "0-last"}
    # The network is the run's, so that all numbers are.
    network = json.loads((beside / "0-last/downstream/segmentation/metrics.json").read_text())
    assert network["results"][0]["images"] == own["results"][0]["images"]
    assert not list(here.rglob(".lock*"))
    monkeypatch.setattr(TinyTask, "build", None)  # to train would fail
    code, again, errors = clipfuse(*words)
    assert code == 0, errors
    assert again.count("done before") == 8
    assert again.split("\nsource")[1] == output.split("\nsource")[1]
    # The folders are still those of a run and of a sweep, and a new run takes the results away.
    from clipfuse.runs.folder import check_sweep_folder, prepare_folder

    check_sweep_folder(here / "sweep")
    prepare_folder(here / "sweep/0", True, {})
    assert not (here / "sweep/0/downstream").exists()


def test_results_are_logged_for_each_source(here: Path, clipfuse: Command) -> None:
    """A run keeps its own W&B run, as after a resume; what is no run gets one in the group of the sweep."""
    known = here / "sweep/0/wandb/offline-run-20200101_000000-abc/run-abc.wandb"
    known.parent.mkdir(parents=True)
    known.touch()
    code, output, errors = clipfuse(
        *("downstream", "sweep", *WORDS, "seeds=[0]", "logger=wandb", "logger.wandb.mode=offline"),
        "+logger.mine._target_=tests.downstream.recorder.Recorder",
    )
    assert code == 0, errors
    assert output.count("wandb sync ") == len(ALWAYS) + 1
    assert f"wandb sync {here}/sweep/0/wandb\n" in output
    ids = {path.stem for path in (here / "sweep/0/wandb").glob("offline-run-*/run-*.wandb")}
    assert ids == {"run-abc"}
    assert len(list((here / "sweep/0/wandb").glob("offline-run-*"))) == 2
    beside = here / "sweep/downstream-sources"
    assert all(len(list((beside / name / "wandb").glob("offline-run-*"))) == 1 for name in ALWAYS)
    logged = [RECORDERS.pop().logged for _ in range(len(ALWAYS) + 1)][::-1]
    stored = json.loads((beside / "infrared/downstream/segmentation/metrics.json").read_text())["results"]
    assert logged[0]["downstream/segmentation/mIoU"] == stored[0]["scores"]["mIoU"]
    columns, rows = logged[-1]["downstream/segmentation/overlays"]
    assert columns == ["image", "truth", "sweep/0"]
    assert [row[0] for row in rows] == ["5D", "6N", "7D"]
    assert [row[0] for row in logged[0]["downstream/segmentation/curves"][1]] == ["infrared"] * 12
    assert logged[0]["trainer/samples_seen"] == 0
    assert logged[-1]["trainer/samples_seen"] > 0
    from clipfuse.runs.folder import check_sweep_folder, prepare_folder

    check_sweep_folder(here / "sweep")
    prepare_folder(here / "sweep/0", True, {})  # no file in it is a stranger's


def test_frozen_and_luma_are_chosen_by_settings(here: Path, clipfuse: Command) -> None:
    code, output, errors = clipfuse(
        "downstream", THEIRS, *WORDS, "protocol=frozen-1", "input=luma", "seeds=[3]", "out=kept"
    )
    assert code == 0, errors
    assert "1 trainings of 12 updates" in output
    assert "segmentation, frozen-1: 5 training and 3 test images; input luma, task seed 3" in output
    assert {path.name for path in (here / "kept").iterdir()} == {*ALWAYS[:-1], "theirs"}


def test_words_become_overrides() -> None:
    words = [
        "a=b/run",
        "sweep",
        "--fused",
        "x=a:b",
        "data.root=a b",
        "--fused=y=c:d",
        "~data",
        "--cfg",
        "job",
    ]
    assert as_overrides(words) == [
        *("--cfg", "job", "a=b/run", "data.root=a b", "~data"),
        *("sources=['sweep']", "fused=['x=a:b','y=c:d']"),
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "nothing: no run folder, no sweep and no network"),
        (["sweep/1"], "sweep/1: this run is failed"),
        (["~data"], "data is missing"),
        (["sweep/0", "~data"], "the data set 'folder' has no labels"),
        (["data.labelled=false"], "the data set 'tiny' has no labels"),
        (["data.lacking=[1N]"], "1 of 8 pairs have no map of classes, which segmentation needs: 1N"),
        (["--fused", "x=theirs/train"], "--fused x=theirs/train: expected NAME=TRAIN_DIR:TEST_DIR"),
        (["--fused", "x=theirs/test:theirs/test"], "theirs/test: 5 of 5 training pairs have no image"),
        (["--fused", "x=theirs/train:none"], "none: no such folder"),
        (["--fused", "both=theirs/train:theirs/test"], "two sources are called 'both'"),
        (["--fused"], "--fused needs NAME=TRAIN_DIR:TEST_DIR"),
        (["protocol=retrained-2"], "protocol is 'retrained-2'; expected retrained-1 or frozen-1"),
        (["seeds=[]"], "seeds is []"),
        (["seeds=[-1]"], "seeds is [-1]"),
        (["input=gray"], "input is 'gray'; expected color or luma"),
        (["parallel=0"], "parallel is 0"),
        (["device=cuda:77"], "device=cuda:77 cannot be used here"),
        (["downstream.classes=3"], "unknown key"),
        (["logger=wandb", "+logger.wandb.entiti=me"], "wandb.init has no argument 'entiti'"),
        (["-m"], "set parallel=N instead of -m"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    words: list[str], message: str, here: Path, clipfuse: Command
) -> None:
    before = sorted(here.rglob("*"))
    code, _, errors = clipfuse("downstream", *WORDS, *words)
    assert code == 2, errors
    (line,) = [each for each in errors.splitlines() if each.startswith("clipfuse: error: ")]
    assert message in line
    assert sorted(here.rglob("*")) == before


def test_a_run_without_checkpoint_is_refused(here: Path, clipfuse: Command) -> None:
    (here / "sweep/0/checkpoints/last.ckpt").unlink()
    code, _, errors = clipfuse("downstream", "sweep", *WORDS)
    assert code == 2
    assert "sweep/0: there is no checkpoints/last.ckpt" in errors


def test_a_run_in_use_is_left_alone(here: Path, clipfuse: Command) -> None:
    from clipfuse.runs.owner import owned

    with owned(here / "sweep/0"):
        code, _, errors = clipfuse("downstream", "sweep", *WORDS)
    assert code == 2
    assert "sweep/0 is in use by" in errors
    assert not (here / "sweep/downstream-sources").exists()


def test_help_names_the_words_and_settings(clipfuse: Command) -> None:
    code, output, _ = clipfuse("downstream", "--help")
    assert code == 0
    assert (
        "usage: clipfuse downstream [SWEEP | RUN | NETWORK ...] [--fused NAME=TRAIN_DIR:TEST_DIR]" in output
    )
    assert "parallel=1" in output
    assert "* segmentation" in output


def trained_here(clipfuse: Command, *words: str) -> str:
    little = ["backbone=conv_tiny", "backbone.width=8", "backbone.depth=1", "steps=2", "validate_every=2"]
    little += ["loader.batch_size=2", "loader.crop_size=16", "trainer=cpu", "metrics.test=[SSIM]"]
    little += ["metrics.validation=[SSIM]", "~callbacks.progress"]
    little += ["+trainer.enable_progress_bar=false"]
    code, output, errors = clipfuse("train", *WORDS, *little, *words)
    assert code == 0, errors
    return output


def test_a_training_is_judged_at_its_end(here: Path, clipfuse: Command) -> None:
    mine = "+logger.mine._target_=tests.downstream.recorder.Recorder"
    output = trained_here(clipfuse, "run_dir=runs/a", "downstream_seeds=[0]", mine)
    logged = RECORDERS.pop().logged
    columns, rows = logged["downstream/segmentation/overlays"]
    assert columns == ["image", "truth", *ALWAYS, "fused"]
    assert [row[0] for row in rows] == ["5D", "6N", "7D"]
    assert {image.size for row in rows for image in row[1:]} == {(32, 32)}
    stored = json.loads((here / "runs/a/downstream/segmentation/metrics.json").read_text())["results"]
    assert logged["downstream/segmentation/mIoU"] == stored[0]["scores"]["mIoU"]
    columns, rows = logged["downstream/segmentation/curves"]
    assert columns == ["source", "task seed", "done", "loss"]
    assert [row[3] for row in rows if row[0] == "fused"] == stored[0]["curve"]
    assert {row[0] for row in rows} == {*ALWAYS, "fused"}
    assert rows[-1][2] == 1
    assert {f"downstream/segmentation/mIoU/{name}" for name in ALWAYS} <= set(logged)
    assert "fused " in output.split("\nsource")[1]
    curves = (here / "runs/a/metrics.csv").read_text()
    assert "downstream/segmentation/mIoU" in curves
    assert (here / "runs/a/downstream/segmentation/metrics.json").is_file()
    # What runs share is not computed again, and the command finds what the training has done.
    output = trained_here(clipfuse, "run_dir=runs/b", "downstream_seeds=[0]", "seed=1")
    assert output.count("done before") == len(ALWAYS)
    code, output, errors = clipfuse("downstream", "runs/a", "runs/b", *WORDS, "seeds=[0]")
    assert code == 0, errors
    assert output.count("done before") == len(ALWAYS) + 2
    # Trained anew, it has results of its new weights alone.
    old = (here / "runs/a/downstream/segmentation/metrics.json").read_bytes()
    trained_here(clipfuse, "run_dir=runs/a", "downstream_seeds=[0]", "overwrite=true", "seed=2")
    assert (here / "runs/a/downstream/segmentation/metrics.json").read_bytes() != old


def test_a_run_on_other_pairs_is_judged_without_the_sources_of_the_first(
    here: Path, clipfuse: Command
) -> None:
    trained_here(clipfuse, "run_dir=runs/a", "downstream_seeds=[0]")
    beside = {path: path.read_bytes() for path in here.glob("runs/downstream-sources/*/downstream/*/*.json")}
    assert len(beside) == len(ALWAYS)
    output = trained_here(clipfuse, "run_dir=runs/b", "downstream_seeds=[0]", "data.shift=20")
    assert "runs/downstream-sources holds results for other data, so that infrared" in output
    table = output.split("\nsource")[1].split("\n\n")[0]
    assert [line.split()[0] for line in table.splitlines()[2:]] == ["fused"]
    assert {path: path.read_bytes() for path in beside} == beside


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.labelled=false"], "has no labels"),
        (["data.lacking=[1N]"], "1 of 8 pairs have no map of classes"),
        (["downstream_seeds=[]"], "downstream_seeds is []; expected one or more different whole numbers"),
        (["downstream_seeds=[0,0]"], "downstream_seeds is [0, 0]"),
        (["downstream=segmentation", "downstream.encoder=typo.pth"], "downstream.encoder is 'typo.pth'"),
        (["downstream=segmentation", "downstream.encoder=other.pth"], "another encoder than that of fpn_"),
        (["downstream=segmentation", "data.bare=[0D,1N,2D,3N,4D]"], "the training part hold class 'ground'"),
        (
            ["downstream=detection", "downstream.boxes=components"],
            "test part (3) has an object",
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_before_a_training_begins(
    words: list[str], message: str, here: Path, clipfuse: Command
) -> None:
    torch.save({"features.0.0.weight": torch.zeros(1)}, here / "other.pth")
    bare = ["data.bare=[5D,6N,7D]"] if "has an object" in message else []
    for command in (["train", "run_dir=runs/c", "trainer=cpu"], ["downstream", "bundled"]):
        if command[0] == "downstream" and "downstream_seeds" in words[0]:
            continue
        code, _, errors = clipfuse(command[0], *WORDS, *command[1:], *words, *bare)
        assert code == 2, errors
        (line,) = [each for each in errors.splitlines() if each.startswith("clipfuse: error: ")]
        assert message in line
        assert not (here / "runs").exists()


def test_results_without_their_maps_are_logged_without_overlays(here: Path, clipfuse: Command) -> None:
    words = ["downstream", "bundled", *WORDS, "seeds=[0]"]
    assert clipfuse(*words)[0] == 0
    for folder in here.rglob("predicted"):
        shutil.rmtree(folder)
    code, _, errors = clipfuse(*words, "+logger.mine._target_=tests.downstream.recorder.Recorder")
    assert code == 0, errors
    logged = [RECORDERS.pop().logged for _ in range(len(ALWAYS) + 1)]
    assert all("downstream/segmentation/mIoU" in each for each in logged)
    assert not any("downstream/segmentation/overlays" in each for each in logged)
