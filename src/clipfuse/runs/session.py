"""What a training and an evaluation share: checks before, the run folder around, scores after."""

import logging
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
from clipfuse.runs.build import build, build_all
from clipfuse.runs.failures import failures_explained
from clipfuse.runs.folder import prepare_folder, run_status
from clipfuse.runs.results import TestWriter
from clipfuse.tracking.base import MediaLogger
from clipfuse.tracking.record import MediaRecord

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
    checkpoint: str | None,
    resumes: bool = False,
) -> Iterator[dict[str, Any]]:
    """Prepare the run folder, keep configuration and status in it, and close the loggers whatever happens.

    Args:
        folder: the run folder.
        record: the content of `config.yaml`.
        trainer: of the run.
        overwrite: replace an earlier run that lies in the folder.
        checkpoint: a file that must survive.
        resumes: the run goes on in its own folder.

    Yields:
        A mapping whose entries are written into `status.json` at the end.

    Raises:
        UserError: the folder cannot be used, or the run failed for a reason that has a remedy.
    """
    leads: bool = rank_zero_only.rank == 0  # type: ignore[attr-defined]
    if leads:
        prepare_folder(folder, overwrite, checkpoint, resumes)
        print(f"run folder: {folder}")
        if record["pairs"]:
            print(f"data: {record['pairs']}")
        if warning := record["scenes"]["warning"]:
            log.warning("%s", warning)
    failed = True
    try:
        with run_status(folder, leads) as status, failures_explained(record):
            if leads:
                with write_atomically(folder / "config.yaml") as file:
                    file.write(OmegaConf.to_yaml(OmegaConf.create(dict(record))))
            for logger in trainer.loggers:
                logger.log_hyperparams(record)  # type: ignore[arg-type]
            yield status
        failed = False
    finally:
        for logger in trainer.loggers:
            logger.finalize("failed" if failed else "success")
            if isinstance(logger, MediaLogger) and (command := logger.finish(failed)):
                print(f"upload this run later with: {command}")


@rank_zero_only
def print_scores(writer: TestWriter, metrics: Any) -> None:
    """Print the table of a test, and where its images are."""
    print(metrics.test.table({f"fused ({len(writer.scores)} images)": writer.columns()}))
    print(f"images: {writer.panel_path}")
