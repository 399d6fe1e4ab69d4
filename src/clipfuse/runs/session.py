"""What a training and an evaluation share: checks before, the run folder around, scores after."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from clipfuse.errors import UserError
from clipfuse.files import write_atomically
from clipfuse.ops.settings import leaves
from clipfuse.runs.build import build, build_all
from clipfuse.runs.failures import failures_explained
from clipfuse.runs.folder import prepare_folder, run_status
from clipfuse.runs.results import TestWriter
from clipfuse.tracking.base import MediaLogger
from clipfuse.tracking.record import MediaRecord

COMMAND = "command.txt"
log = logging.getLogger(__name__)

# Warnings that do not concern a user of these runs.
_SILENT = (
    "does not have many workers",
    "LeafSpec",
    "checkpoint directory",
    "smaller than the logging interval",
    "your dataloader is not resumable",  # it is, by the data module
    "sync_dist=True",  # what is logged is the same on all ranks
    "Grad strides do not match bucket view",  # for 1x1 kernels both strides are right
    "`broadcast_buffers` is deprecated",  # older torch does not know its successor
)


def check_trainer(config: DictConfig) -> None:
    """Refuse what Lightning would accept and a run cannot do; silence Lightning's advertisements.

    Raises:
        UserError: names the key of `trainer`, what was expected and what to use.
    """
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _SILENT:
        warnings.filterwarnings("ignore", f".*{text}.*")
    precisions = ("32-true", "bf16-mixed", "64-true")
    precision = config.trainer.get("precision")
    if precision not in precisions:
        raise UserError(f"trainer.precision is {precision}; expected one of {', '.join(precisions)}")
    many = next((key for key in ("devices", "num_nodes") if config.trainer.get(key, 1) != 1), None)
    if many and not config.trainer.get("strategy"):
        raise UserError(f"trainer.{many} is {config.trainer[many]}; for more than one take trainer=ddp")
    for key in ("max_steps", "max_epochs", "val_check_interval", "logger", "callbacks"):
        if key in config.trainer:
            raise UserError(
                f"trainer.{key} is set by each run itself; use steps, validate_every, logger or callbacks"
            )


def make_trainer(config: DictConfig, callbacks: Sequence[L.Callback], **extra: Any) -> L.Trainer:
    """Build loggers and trainer; a logger that shows images gets the callback that provides them.

    Args:
        config: the run's whole configuration.
        callbacks: of the run.
        **extra: further arguments of the trainer.

    Raises:
        UserError: a constructor refused its arguments.
    """
    loggers = build_all(config.get("logger"), "logger")
    media = [MediaRecord()] if any(isinstance(logger, MediaLogger) for logger in loggers) else []
    trainer: L.Trainer = build(
        config.trainer, "trainer", logger=loggers, callbacks=[*callbacks, *media], **extra
    )
    return trainer


@contextmanager
def recorded(
    folder: Path,
    record: Mapping[str, Any],
    trainer: L.Trainer,
    overwrite: bool,
    resumes: bool = False,
    command: str | None = None,
    notices: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Prepare the run folder, keep configuration and status in it, and close the loggers whatever happens.

    Args:
        folder: the run folder.
        record: the content of `config.yaml`.
        trainer: of the run.
        overwrite: replace an earlier run that lies in the folder.
        resumes: the run goes on in its own folder.
        command: the command line that repeats the run, for `command.txt`.
        notices: what a user should notice before the training, for `notes/settings.txt`.

    Yields:
        A mapping whose entries are written into `status.json` at the end.

    Raises:
        UserError: the folder cannot be used, or the run failed for a reason that has a remedy.
    """
    leads = rank_leads()
    if leads:
        prepare_folder(folder, overwrite, _inputs(record), resumes)
        print(f"run folder: {folder}")
        for notice in [record["scenes"]["warning"], *notices]:
            if notice:
                log.warning("%s", notice)
    failed = True
    try:
        with run_status(folder, leads) as status, failures_explained(record):
            if leads:
                _write(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(record))))
                if command is not None and not (folder / COMMAND).is_file():  # a resume keeps the first
                    _write(folder / COMMAND, command)
                if notices:
                    _write(folder / "notes" / "settings.txt", "".join(f"{each}\n" for each in notices))
            for logger in trainer.loggers:
                logger.log_hyperparams(record)  # type: ignore[arg-type]
            yield status
        failed = False
    finally:
        for logger in trainer.loggers:
            logger.finalize("failed" if failed else "success")
            if isinstance(logger, MediaLogger) and (command := logger.finish(failed)):
                print(f"upload this run later with: {command}")


def rank_leads() -> bool:
    """Return whether this process is the one of its run that owns and writes the run folder."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0 and ("RANK" in os.environ or node == "0")


def _inputs(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that may name a file or folder which the run reads."""
    groups = ("checkpoint", "data", "clip", "loss", "backbone", "metrics")
    return {
        key: value
        for key, value in leaves(record).items()
        if isinstance(value, str) and value and key.split(".")[0] in groups
    }


def _write(path: Path, text: str) -> None:
    with write_atomically(path) as file:
        file.write(text)


@rank_zero_only
def print_scores(writer: TestWriter, metrics: Any) -> None:
    """Print the table of a test, and where its images are."""
    print(metrics.test.table({f"fused ({len(writer.scores)} images)": writer.columns()}))
    print(f"images: {writer.panel_path}")
