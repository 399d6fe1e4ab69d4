"""Scoring a checkpoint on a data set."""

from pathlib import Path

from omegaconf import DictConfig

from clipfuse.networks.load import load_backbone
from clipfuse.runs.build import build
from clipfuse.runs.owner import owned
from clipfuse.runs.record import run_record
from clipfuse.runs.results import TestWriter
from clipfuse.runs.session import print_scores, rank_leads, recorded
from clipfuse.runs.trainer import check_trainer, make_trainer
from clipfuse.tracking.progress import RunProgress
from clipfuse.training.scoring import ScoringModule


def evaluate(config: DictConfig, command: str | None = None) -> None:
    """Score a checkpoint on the test part of a data set and leave a run folder.

    Args:
        config: `conf/evaluate.yaml`, composed.
        command: the command line that repeats it, for `command.txt`.

    Raises:
        UserError: the checkpoint or the configuration cannot be used, or another process owns the run folder.
    """
    check_trainer(config)
    with owned(Path(config.run_dir), rank_leads()):
        _evaluate(config, command)


def _evaluate(config: DictConfig, command: str | None) -> None:
    backbone = load_backbone(config.checkpoint, config.trust)
    source = build(config.data, "data")
    metrics = build(config.metrics, "metrics")
    data = build(config.loader, "loader", source=source)
    record = run_record(config, source, metrics)
    module = ScoringModule(backbone, metrics.test)
    writer = TestWriter(config.run_dir, save_sources=config.save_sources)
    trainer = make_trainer(config, [writer, RunProgress()])
    data.check_parts("test", ranks=trainer.world_size)
    with recorded(Path(config.run_dir), record, trainer, config.overwrite, command=command):
        trainer.test(module, datamodule=data, verbose=False)
    print_scores(writer, metrics)
