"""What a training and an evaluation share: the run folder around, scores after."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from clipfuse.files import write_atomically
from clipfuse.runs.failures import failures_explained
from clipfuse.runs.folder import prepare_folder, run_status
from clipfuse.runs.results import TestWriter
from clipfuse.tracking.base import MediaLogger

log = logging.getLogger(__name__)


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
