"""Every mistake of a user's: one line that names it and the remedy, exit code 2, nothing left behind."""

import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from clipfuse.errors import UserError
from clipfuse.runs.train import train

Clipfuse = Callable[..., tuple[int, str, str]]
Tiny = Callable[..., DictConfig]


@pytest.fixture
def pairs(tmp_path: Path, pairs_folder: Path) -> Path:
    """A copy of the pairs, to be spoiled."""
    return Path(shutil.copytree(pairs_folder, tmp_path / "pairs"))


def unequal_sizes(pairs: Path) -> None:
    Image.new("L", (32, 48)).save(pairs / "train/ir/train-0.png")


def truncated(pairs: Path) -> None:
    path = pairs / "val/vi/val-0.png"
    path.write_bytes(path.read_bytes()[:-40])


def bad_test_image(pairs: Path) -> None:
    path = pairs / "test/ir/test-1.png"
    path.write_bytes(path.read_bytes()[:-40])


def not_an_image(pairs: Path) -> None:
    (pairs / "val/ir/val-1.png").write_text("hello")


def not_a_number(pairs: Path) -> None:
    (pairs / "val/ir/val-0.png").unlink()
    pixels = np.full((48, 64), 0.5, np.float32)
    pixels[3, 4] = np.nan
    Image.fromarray(pixels).save(pairs / "val/ir/val-0.tiff")


def missing_band(pairs: Path) -> None:
    shutil.rmtree(pairs / "train/vi")


def unmatched_name(pairs: Path) -> None:
    (pairs / "test/vi/test-1.png").rename(pairs / "test/vi/other.png")


def empty_folder(pairs: Path) -> None:
    for path in (pairs / "train/ir").iterdir():
        path.unlink()


def refused(result: tuple[int, str, str], *words: str) -> None:
    """Check the form of a refusal and that its last line holds all words."""
    code, _, errors = result
    message = errors.strip().splitlines()[-1]
    assert code == 2
    assert message.startswith("clipfuse: error: ")
    assert "Traceback" not in errors
    for word in words:
        assert word in message


TINY = [
    "trainer=cpu",
    "data=folder",
    "steps=4",
    "validate_every=2",
    "loader.crop_size=32",
    "~callbacks.progress",
]
TINY += ["+trainer.enable_progress_bar=false", "loader.batch_size=8", "backbone=conv_tiny"]
TINY += ["backbone.width=4", "backbone.depth=0"]


@pytest.mark.parametrize(
    ("spoil", "words", "before_the_run"),
    [
        (missing_band, ["train", "no visible folder", "expected vi | vis", "sub-folders found: ir"], True),
        (unmatched_name, ["test/ir", "1 of 3 images have no infrared file", "other", "remove"], True),
        (empty_folder, ["train/ir", "holds no image file", "check the path"], True),
        (unequal_sizes, ["train-0.png is 32 x 48", "train-0.png is 64 x 48", "resample"], True),
        (truncated, ["val-0.png", "cannot be read", "copy or convert"], True),
        (bad_test_image, ["test-1.png", "cannot be read", "copy or convert"], True),
        (not_an_image, ["val-1.png", "expected a PNG, JPEG, BMP, TIFF or WebP", "convert"], True),
        (not_a_number, ["val-0.tiff", "1 of 3072 pixels are NaN", "fill them in"], False),
    ],
)
def test_spoiled_pairs(
    clipfuse: Clipfuse,
    pairs: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: list[str],
    before_the_run: bool,
) -> None:
    spoil(pairs)
    run_dir = tmp_path / "run"
    refused(clipfuse("train", *TINY, f"data.root={pairs}", f"run_dir={run_dir}"), *words)
    if before_the_run:
        assert not run_dir.exists()
    else:
        assert '"status": "failed"' in (run_dir / "status.json").read_text()
        assert not (run_dir / "test").exists()


def test_a_loader_process_reports_in_one_line(clipfuse: Clipfuse, pairs: Path, tmp_path: Path) -> None:
    for path in (pairs / "train/ir").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:200] + bytes(60) + whole[260:])  # which no header shows
    words = [f"data.root={pairs}", f"run_dir={tmp_path / 'run'}", "loader.workers=1"]
    result = clipfuse("train", *TINY, *words)
    refused(result, ".png: cannot be read", "expected a PNG", "copy or convert")
    assert len(result[2].strip().splitlines()[-1]) < 300


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.max_stepz=3"], ["unknown key 'trainer.max_stepz'"]),
        (
            ["loss.gradient_wieght=3"],
            ["unknown key 'loss.gradient_wieght'", "Did you mean 'loss.gradient_weight'?"],
        ),
        (["+loss.gradient_wieght=3"], ["'loss.gradient_wieght'", "Did you mean 'gradient_weight'?"]),
        (["sed=3"], ["unknown key 'sed'", "Did you mean 'seed'?"]),
        (["+sed=3"], ["unknown key 'sed'", "Did you mean 'seed'?"]),
        (["loss=pixels"], ["unknown loss 'pixels'", "Did you mean 'pixel'?", "Available: "]),
        (["losss=pixel"], ["'losss'", "Did you mean 'loss'?"]),
        (["seed=abc"], ["seed is 'abc'", "valid integer"]),
        (["data=mixed", "data.sources=null"], ["data.sources"]),
        (["data=mixed", "~data.sources.roadscene", "~data.sources.synthetic"], ["data.sources is empty"]),
        (["seed=-1"], ["seed is -1", "greater than or equal to 0"]),
        (["steps=0"], ["steps is 0", "greater than or equal to 1"]),
        (["loss.gradient_weight=high"], ["loss.gradient_weight is 'high'", "valid number"]),
        (["loader.batch_size=2.5"], ["loader.batch_size is 2.5", "valid integer"]),
        (["loss._target_=clipfuse.losses.nothing.Loss"], ["loss._target_: cannot import"]),
        (["data=folder"], ["data.root must be given, as in data.root=VALUE"]),
        (["trainer.precision=17"], ["trainer", "17"]),
        (["run_dir"], ["run_dir"]),
        (["checkpoint=nowhere.ckpt"], ["no checkpoint at nowhere.ckpt", "last.ckpt"]),
        (["experiment=quik"], ["unknown experiment 'quik'", "Did you mean 'quick'?"]),
        (["backbone=conv_tini"], ["unknown backbone 'conv_tini'", "Did you mean 'conv_tiny'?"]),
        (
            ["~loss"],
            ["loss is missing: loss=X with X one of adversarial, autofuse, balanced, clip_ratio, custom, "],
        ),
        (["metrics=null"], ["metrics=null: expected metrics=X with X one of default, or ~metrics"]),
        (["overwrite=perhaps"], ["overwrite is 'perhaps'", "valid boolean"]),
        (["loss=custom", "loss._target_=math.pi"], ["'math.pi' is 3.14", "expected a class"]),
        (["loss=custom", "loss._target_=torch.nn.L1Loss"], ["torch.nn.L1Loss", "subclass of FusionLoss"]),
        (
            ["optimizer._target_=torch.optim.LBFGS", "~optimizer.betas", "~optimizer.weight_decay"],
            ["closure"],
        ),
        (["callbacks.test.panel_rows=0"], ["callbacks.test: panel_rows is 0; expected 1 or more"]),
        (["trainer.devices=2"], ["trainer.devices is 2; for more than one take trainer=ddp"]),
        (["trainer.precision=bf16-true"], ["trainer.precision is bf16-true; expected one of 32-true"]),
        (
            ["logger=null"],
            ["logger=null: expected logger=X with X one of csv, none, ", "or ~logger to leave"],
        ),
        (
            ["callbacks=null"],
            ["callbacks=null: expected callbacks=X with X one of default, or ~callbacks to"],
        ),
        (["+experiment=quick"], ["experiment is chosen already: leave out the +"]),
        (["experiment=quick", "+experiment=quick"], ["experiment is chosen already: leave out the +"]),
        (["experimnt=quick"], ["unknown key 'experimnt'. Did you mean 'experiment'?"]),
        (["lossy=pixel"], ["unknown key 'lossy'. Did you mean 'loss'?"]),
        (["seed=None"], ["seed is 'None'", "valid integer"]),
        (["trainer.log_every_n_steps=0"], ["trainer.log_every_n_steps is 0; expected 1 or more updates"]),
        (["trainer.max_time=0"], ["trainer.max_time is 0; expected null, or a time above 0"]),
        (["+trainer.max_steps=3"], ["trainer.max_steps is set by each run itself; use steps"]),
        (["run_dir=a b=c"], ["cannot read 'run_dir=a b=c'", "quote"]),
        (["--resolve"], ["--resolve"]),
        (
            ["logger=wandb", "+logger.wandb.gruop=a"],
            ["logger.wandb: wandb.init has no", "Did you mean 'group'?"],
        ),
    ],
)
def test_configuration(
    clipfuse: Clipfuse,
    overrides: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(clipfuse("train", "trainer=cpu", *overrides), *words)
    assert not list(tmp_path.iterdir())


def test_unwritable_run_folder(clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    result = clipfuse("train", *TINY, f"data.root={pairs_folder}", f"run_dir={tmp_path}/file/run")
    refused(result, "cannot write to the run folder", "choose another run_dir")
    assert (tmp_path / "file").read_text() == "in the way"


def fuse(clipfuse: Clipfuse, pairs: Path, checkpoint: Path, out: Path, *more: str) -> tuple[int, str, str]:
    bands = ["--infrared", f"{pairs}/val/ir", "--visible", f"{pairs}/val/vi"]
    return clipfuse("fuse", "--checkpoint", str(checkpoint), *bands, "--out", str(out), *more)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no checkpoint at", "no such file"]),
        (b"not a checkpoint", ["cannot be read as a checkpoint", "'clipfuse train' wrote"]),
        ({"state_dict": {}}, ["is a checkpoint of another program"]),
        (b"", ["cannot be read as a checkpoint"]),
    ],
)
def test_no_checkpoint(
    clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path, content: bytes | dict | None, words: list[str]
) -> None:
    path = tmp_path / "some.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    refused(fuse(clipfuse, pairs_folder, path, tmp_path / "out"), "some.ckpt", *words)
    assert not (tmp_path / "out").exists()


def spoiled_checkpoint(trained: Path, path: Path, **backbone: object) -> Path:
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    content["clipfuse"]["config"]["backbone"].update(backbone)
    torch.save(content, path)
    return path


def test_checkpoint_of_another_backbone(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    path = spoiled_checkpoint(trained, tmp_path / "wide.ckpt", width=16)
    refused(
        fuse(clipfuse, pairs_folder, path, tmp_path / "out"), "wide.ckpt", "another backbone than ConvTiny"
    )


def test_checkpoint_that_names_foreign_code(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    path = spoiled_checkpoint(trained, tmp_path / "foreign.ckpt", _target_="antigravity.fly")
    refused(
        fuse(clipfuse, pairs_folder, path, tmp_path / "out"), "wants to run code of 'antigravity'", "trust"
    )


class _Payload:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("nested", [True, False])
def test_a_checkpoint_that_opens_a_pickle_is_refused(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path, nested: bool
) -> None:
    trace, payload = tmp_path / "trace", tmp_path / "payload.pkl"
    payload.write_bytes(pickle.dumps(_Payload(trace)))
    # torch.load is reachable through a module of ours, too.
    call = {"f": str(payload), "weights_only": False}
    if nested:
        changes: dict[str, object] = {"width": {"_target_": "torch.load", **call}}
    else:
        changes = {"_target_": "clipfuse.training.checkpoints.torch.load", **call}
    path = spoiled_checkpoint(trained, tmp_path / "evil.ckpt", **changes)
    refused(fuse(clipfuse, pairs_folder, path, tmp_path / "out"), "evil.ckpt", "torch")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed=4", "its seed is 0, this run's is 4"),
        ("steps=8", "its steps is 6, this run's is 8"),
        ("scheduler=constant", "its scheduler._target_"),
        ("ema=0.9", "its ema is None"),
        ("data.val=0.3", "its data.val is 0.1"),
        ("loader.batch_size=4", "its loader.batch_size is 2"),
    ],
)
def test_resuming_with_other_settings(tiny_config: Tiny, trained: Path, override: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        train(tiny_config(override, f"checkpoint={trained}/checkpoints/last.ckpt"))


def test_resuming_a_finished_run(tiny_config: Tiny, trained: Path) -> None:
    with pytest.raises(UserError, match="is the end of its run; score it with: clipfuse evaluate"):
        train(tiny_config(f"checkpoint={trained}/checkpoints/last.ckpt"))


def test_resuming_another_backbone(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    last = trained / "checkpoints/last.ckpt"
    run_dir = tmp_path / "run"
    result = clipfuse("train", *TINY, f"data.root={pairs_folder}", f"checkpoint={last}", f"run_dir={run_dir}")
    refused(result, "cannot be resumed", "its backbone.depth is 1", "this run's is 0", "keeps its settings")
    assert not run_dir.exists()


def test_fused_images_are_not_replaced_unasked(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints/last.ckpt"
    (tmp_path / "val-1.png").write_text("mine")
    result = fuse(clipfuse, pairs_folder, checkpoint, tmp_path)
    refused(result, "already holds val-1.png", "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["val-1.png"]
    assert (tmp_path / "val-1.png").read_text() == "mine"
    assert fuse(clipfuse, pairs_folder, checkpoint, tmp_path, "--overwrite")[0] == 0
    assert Image.open(tmp_path / "val-1.png").size == (64, 48)


def test_unwritable_output_folder(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    checkpoint = trained / "checkpoints/last.ckpt"
    refused(fuse(clipfuse, pairs_folder, checkpoint, tmp_path / "file"), "is a file; expected a folder")
    refused(fuse(clipfuse, pairs_folder, checkpoint, tmp_path / "file/out"), "cannot be written", "choose")


def test_evaluate_needs_data_and_checkpoint(clipfuse: Clipfuse, trained: Path) -> None:
    refused(clipfuse("evaluate", "checkpoint=x.ckpt"), "data must be chosen", "synthetic")
    refused(clipfuse("evaluate", "data=synthetic"), "checkpoint must be given")


def test_evaluate_does_not_delete_what_it_scores(clipfuse: Clipfuse, trained: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(trained, tmp_path / "run"))
    words = [f"checkpoint={run_dir}/checkpoints/last.ckpt", "data=synthetic", f"run_dir={run_dir}"]
    refused(clipfuse("evaluate", *words, "overwrite=true"), "would delete", "last.ckpt", "another run_dir")
    assert (run_dir / "checkpoints/last.ckpt").is_file()


def test_evaluate_takes_no_sweep(clipfuse: Clipfuse) -> None:
    refused(clipfuse("evaluate", "-m", "checkpoint=a,b", "data=synthetic"), "one checkpoint at a time")


def test_a_set_without_test_pairs_is_refused_before_training(
    clipfuse: Clipfuse, pairs: Path, tmp_path: Path
) -> None:
    shutil.rmtree(pairs / "test")
    words = ["train", *TINY, f"data.root={pairs}", "data.test=0", f"run_dir={tmp_path / 'run'}"]
    refused(clipfuse(*words), "has no test pairs", "data.test=0.2, or train with test=false")
    assert not (tmp_path / "run").exists()


def test_fuse_does_not_replace_its_sources(
    clipfuse: Clipfuse, trained: Path, pairs: Path, tmp_path: Path
) -> None:
    before = (pairs / "val/vi/val-0.png").read_bytes()
    result = fuse(clipfuse, pairs, trained / "checkpoints/last.ckpt", pairs / "val/vi", "--overwrite")
    refused(result, "holds the images to fuse; choose another folder")
    assert (pairs / "val/vi/val-0.png").read_bytes() == before


def test_fuse_leaves_nothing_when_a_pair_cannot_be_read(
    clipfuse: Clipfuse, trained: Path, pairs: Path, tmp_path: Path
) -> None:
    not_an_image(pairs)
    result = fuse(clipfuse, pairs, trained / "checkpoints/last.ckpt", tmp_path / "out")
    refused(result, "val-1.png", "expected a PNG, JPEG, BMP, TIFF or WebP")
    assert not (tmp_path / "out").exists()


def test_fuse_on_a_device_that_is_not_there(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints/last.ckpt"
    for device in ("foo", "cuda:99"):
        result = fuse(clipfuse, pairs_folder, checkpoint, tmp_path / "out", "--device", device)
        refused(result, f"--device {device} cannot be used here")


def test_unknown_command(clipfuse: Clipfuse) -> None:
    refused(clipfuse("trian"), "unknown command 'trian'", "Did you mean 'train'?")


def test_debug_shows_the_traceback(clipfuse: Clipfuse) -> None:
    with pytest.raises(UserError, match="unknown loss"):
        clipfuse("train", "loss=pixels", "--debug")


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("WORLD_SIZE", ["2 processes were started together", "run_dir=runs/mine"]),
        ("SLURM_STEP_NUM_TASKS", ["2 processes were started together", "run_dir=runs/mine"]),
        ("SLURM_NTASKS", ["no.ckpt"]),  # an allocation for two, in which one was started
    ],
)
def test_ranks_must_be_given_a_folder(
    clipfuse: Clipfuse, monkeypatch: pytest.MonkeyPatch, variable: str, words: list[str]
) -> None:
    monkeypatch.setenv(variable, "2")
    refused(clipfuse("evaluate", "checkpoint=no.ckpt", "data=synthetic"), *words)
