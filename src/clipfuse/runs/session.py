"""What a training and an evaluation share: the run folder around, scores after."""

import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from clipfuse.files import write_atomically, write_json
from clipfuse.ops.settings import leaves
from clipfuse.runs.composed import resolved
from clipfuse.runs.failures import failures_explained
from clipfuse.runs.folder import STATUS, prepare_folder, read_status, run_status
from clipfuse.runs.results import TestWriter
from clipfuse.tracking.base import MediaLogger
from clipfuse.training.hangs import ended_in_collectives

COMMAND = "command.txt"
log = logging.getLogger(__name__)


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
        if record["pairs"]:
            print(f"data: {record['pairs']}")
        for notice in [record["scenes"]["warning"], *notices]:
            if notice:
                log.warning("%s", notice)
    failed = True
    try:
        with run_status(folder, leads) as status, failures_explained(record), _ends_in_hangs(folder, trainer):
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
            if isinstance(logger, MediaLogger) and (upload := logger.finish(failed)):
                print(f"upload this run later with: {upload}")


@contextmanager
def _ends_in_hangs(folder: Path, trainer: L.Trainer) -> Iterator[None]:
    """Let a signal end a rank that waits for one which is lost, and the ranks that it has started."""

    def report(line: str) -> None:
        if read_status(folder).get("status") != "failed":
            write_json(folder / STATUS, {"status": "failed", "reason": line})
        if (kill := getattr(trainer.strategy.launcher, "kill", None)) is not None:
            kill(signal.SIGKILL)

    with ended_in_collectives(report) if trainer.world_size > 1 else nullcontext():
        yield


def rank_leads() -> bool:
    """Return whether this process is the one of its run that owns and writes the run folder."""
    node = os.environ.get("NODE_RANK") or os.environ.get("GROUP_RANK") or "0"
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    return rank == 0 and ("RANK" in os.environ or node == "0")


def _inputs(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that may name a file or folder which the run reads."""
    groups = ("checkpoint", "data", "clip", "loss", "backbone", "metrics")
    return {
        key: str(resolved(value))
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
