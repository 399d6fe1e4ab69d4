"""What goes wrong around a training, each provoked: one clear message, nothing half-written, nothing lost."""

import csv
import errno
import json
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from shutil import copytree
from typing import TYPE_CHECKING, Any

import pytest
import torch
import wandb
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError
from clipfuse.losses.base import FusionLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.train import train
from clipfuse.tracking import wandb_run
from clipfuse.types import LossInputs, LossOutput

if TYPE_CHECKING:
    from tests.runs.conftest import FaultTable

pytestmark = pytest.mark.faults

Config = Callable[..., DictConfig]


class _At(Callback):
    """Calls a function before the training batch of that number."""

    act: Callable[[], None]

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch:
            _At.act()


def at(batch: int, act: Callable[[], None]) -> str:
    _At.act = act
    return f"+callbacks.at={{_target_: {__name__}._At, batch: {batch}}}"


def half_written(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")] if folder.exists() else []


def weights(run_dir: Path) -> Tensor:
    state = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]
    return torch.cat([value.flatten() for value in state.values()])


@contextmanager
def no_file_above(size: int) -> Iterator[Callable[[], None]]:
    """Give a function from whose call on the system refuses to write files beyond that size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one(
    tiny_config: Config, tmp_path: Path, faults: "FaultTable"
) -> None:
    with faults.provoke("file too large in a checkpoint (real)") as attempt:
        train(tiny_config("test=false", f"run_dir={tmp_path / 'straight'}"))
        run_dir = tmp_path / "run"
        with no_file_above(20_000) as fill, pytest.raises(UserError) as refused:
            train(tiny_config("test=false", at(4, fill)))
        message = str(refused.value).replace(f"{tmp_path}/", "")
        cause = "cannot be written (File too large); make room, or choose a writable place"
        assert message in [f"run/checkpoints/{name}.ckpt: {cause}" for name in ("best", "last")]
        assert half_written(run_dir) == []
        attempt.keeps(run_dir, 3)
        assert json.loads((run_dir / "status.json").read_text())["reason"] == str(refused.value)
        train(tiny_config("test=false", "auto_resume=true"))
        assert torch.equal(weights(run_dir), weights(tmp_path / "straight"))
        assert (run_dir / "metrics.csv").read_text() == (tmp_path / "straight/metrics.csv").read_text()
        attempt.message = f"`{message}`"


TARGETS = ("config.yaml", "metrics.csv", "best.ckpt", "last.ckpt", "test-1.png", "panel.png", "per_image.csv")


@pytest.mark.parametrize(
    ("target", "number"),
    [(target, errno.ENOSPC) for target in TARGETS]
    + [(target, errno.EROFS) for target in ("config.yaml", "last.ckpt")],
)
def test_what_cannot_be_written_is_named(
    tiny_config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    faults: "FaultTable",
    target: str,
    number: int,
) -> None:
    replace, run_dir = os.replace, tmp_path / "run"
    fault = "disk full, at each kind of file" if number == errno.ENOSPC else "file system becomes read-only"

    def refuse(source: Any, goal: Any) -> None:
        if Path(goal).name == target:
            raise OSError(number, os.strerror(number))
        replace(source, goal)

    with faults.provoke(fault) as attempt:
        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(
            UserError, match=rf"{target}: cannot be written \({os.strerror(number)}\)"
        ) as refused:
            train(tiny_config("steps=2", "validate_every=1"))
        assert half_written(run_dir) == []
        assert json.loads((run_dir / "status.json").read_text())["status"] == "failed"
        monkeypatch.undo()
        train(tiny_config("steps=2", "validate_every=1", "auto_resume=true"))
        assert json.loads((run_dir / "status.json").read_text())["status"] == "finished"
        attempt.message = f"`{str(refused.value).replace(str(tmp_path), '...')}`"


def test_a_disk_that_takes_nothing_more_does_not_hide_why(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faults: "FaultTable"
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fill() -> None:
        monkeypatch.setattr(os, "fsync", refuse)

    with faults.provoke("disk full: all files at once") as attempt:
        with pytest.raises(UserError, match=r"metrics\.csv: cannot be written \(No space left on device\)"):
            train(tiny_config(at(4, fill)))
        monkeypatch.undo()
        assert half_written(tmp_path / "run") == []
        attempt.keeps(tmp_path / "run", 3)
        attempt.message = "`.../metrics.csv: cannot be written (No space left on device); ...`"


@pytest.mark.parametrize("place", ["/proc/run", "{}/file/run"], ids=["proc", "below a file"])
def test_a_folder_that_cannot_be_made_is_named(
    tiny_config: Config, tmp_path: Path, faults: "FaultTable", place: str
) -> None:
    (tmp_path / "file").touch()
    with faults.provoke("run folder where none can be (real)") as attempt:
        with pytest.raises(
            UserError, match=r"cannot write to the run folder .*choose another run_dir"
        ) as refused:
            train(tiny_config(f"run_dir={place.format(tmp_path)}"))
        attempt.message = f"`{str(refused.value).replace(str(tmp_path), '...')}`"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_pair_that_vanishes_is_named(
    clipfuse: Callable[..., tuple[int, str, str]],
    pairs_folder: Path,
    tmp_path: Path,
    faults: "FaultTable",
    workers: int,
) -> None:
    pairs, run_dir = tmp_path / "pairs", tmp_path / "run"
    copytree(pairs_folder, pairs)

    def vanish() -> None:
        for path in (pairs / "train" / "vi").iterdir():
            path.rename(path.with_suffix(".gone"))

    options = (
        *("train", "name=tiny", f"run_dir={run_dir}", "trainer=cpu", "data=folder", f"data.root={pairs}"),
        *("backbone=conv_tiny", "backbone.width=8", "backbone.depth=1", "steps=12", "validate_every=3"),
        *("loader.batch_size=2", "loader.crop_size=32", "loader.cache_mb=0", "~callbacks.progress"),
        *("+trainer.enable_progress_bar=false", "test=false", f"loader.workers={workers}"),
    )
    with faults.provoke("data file vanishes in mid-epoch, 0 and 1 workers") as attempt:
        code, _, error = clipfuse(*options, at(4, vanish))
        attempt.shows_no_traceback(error)
        assert code == 2
        (line,) = [line for line in error.splitlines() if "error" in line]
        assert line.startswith(f"clipfuse: error: {pairs}/train/vi/train-")
        assert "cannot be read (No such file or directory)" in line
        attempt.keeps(run_dir, 3, 6)  # a loader process reads ahead
        for path in (pairs / "train" / "vi").iterdir():
            path.rename(path.with_suffix(".png"))
        assert clipfuse(*options, "auto_resume=true")[0] == 0
        shown = line.removeprefix("clipfuse: error: ").replace(str(tmp_path), "...")
        attempt.message = f"`{shown}`, exit 2"


class _Explodes(FusionLoss):
    """NaN on the first micro-batch of the given updates."""

    def __init__(self, updates: list[int]) -> None:
        super().__init__()
        self.updates = set(updates)

    def forward(self, inputs: LossInputs) -> LossOutput:
        total = (inputs.fused - inputs.infrared).abs().mean()
        bad = self.training and inputs.step in self.updates
        if bad:
            self.updates.remove(inputs.step)
        return LossOutput(total * (float("nan") if bad else 1), {"intensity": total.detach()})


class _Weights(Callback):
    path: list[Tensor]

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        _Weights.path.append(torch.cat([p.detach().flatten().clone() for p in module.backbone.parameters()]))


def exploding(config: DictConfig, *updates: int) -> DictConfig:
    config.loss = {"_target_": f"{__name__}._Explodes", "updates": list(updates)}
    return config


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_update_of_a_skipped_batch_moves_nothing(
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    faults: "FaultTable",
    accumulate: int,
) -> None:
    _Weights.path = []
    watch = f"+callbacks.watch={{_target_: {__name__}._Weights}}"
    options = ("skip_nonfinite=1", f"accumulate={accumulate}", "test=false", watch)
    with faults.provoke("NaN loss, `skip_nonfinite=1`") as attempt:
        train(exploding(tiny_config(*options), 3))
        after = _Weights.path[accumulate - 1 :: accumulate]
        moved = [not torch.equal(old, new) for old, new in pairwise(after)]
        assert moved == [True, True, False, True, True]
        checkpoint = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
        assert (checkpoint["global_step"], checkpoint["clipfuse"]["skipped"]) == (6, 1)
        shown = "skipped batch 1 of 1: the loss 'test_faults' is nan at update 3 (intensity = 0."
        assert shown in caplog.text
        with (tmp_path / "run/metrics.csv").open(newline="") as file:
            skipped = {row["step"]: row["train/skipped"] for row in csv.DictReader(file)}
        assert (skipped["3"], skipped["6"]) == ("0", "1")
        attempt.message = "`skipped batch 1 of 1: the loss ... is nan at update 3 (...)`"


def test_a_resumed_run_counts_skipped_batches_on(
    tiny_config: Config, tmp_path: Path, faults: "FaultTable"
) -> None:
    for _ in range(2):
        with faults.provoke("NaN loss beyond the limit") as attempt:
            with pytest.raises(
                UserError,
                match=r"nan at update 4 \(intensity = .*\) on samples train-.*; skip_nonfinite=1 batches",
            ):
                train(exploding(tiny_config("skip_nonfinite=1", "auto_resume=true"), 1, 4))
            attempt.keeps(tmp_path / "run", 3)
            attempt.message = (
                "`the loss ... is nan at update 4 (TERM = VALUE, ...) on samples ...; skip_nonfinite=1 "
                "batches were skipped before`"
            )


@pytest.mark.parametrize("place", ["of a GPU", "of the machine"])
def test_a_clip_without_memory_names_the_settings(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch, faults: "FaultTable", place: str
) -> None:
    def prepare(self: FrozenClip, images: Tensor, resize: str | None) -> Tensor:
        if place == "of a GPU":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr(FrozenClip, "_prepare", prepare)
    with faults.provoke(f"out of memory {place}, in CLIP") as attempt:
        with pytest.raises(UserError) as refused:
            train(tiny_config("loss=ldfusion", "clip=micro", "test=false"))
        settings = r"loss.clip_batch (now 32), loader.batch_size (now 2), loader.crop_size (now 32)"
        assert str(refused.value).startswith(f"out of memory: lower {settings}; ")
        attempt.message = f"`out of memory: lower {settings}; ...`, exit 2"


@pytest.fixture
def unanswering(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """W&B pointed at a port where nobody listens, or where somebody listens and never answers."""
    wandb.teardown()
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "hanging":
            server.listen(100)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setattr(wandb_run, "START_S", 2)
        yield request.param
    monkeypatch.undo()
    wandb.teardown()


@pytest.mark.parametrize("unanswering", ["down", "hanging"], indirect=True)
def test_wandb_that_does_not_answer_stops_nothing(
    unanswering: str,
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    faults: "FaultTable",
) -> None:
    with faults.provoke(f"W&B {unanswering}") as attempt:
        train(tiny_config("logger=wandb", "logger.wandb.mode=online", "test=false"))
        assert "wandb could not start in mode 'online' and training goes on: " in caplog.text
        assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "finished"
        assert len(list((tmp_path / "run/wandb").glob("offline-run-*"))) == 1
        attempt.message = "`wandb could not start in mode 'online' and training goes on: ...`"
