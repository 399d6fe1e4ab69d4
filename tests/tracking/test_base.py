from pathlib import Path
from types import SimpleNamespace

from clipfuse.tracking.base import media_loggers, samples_seen
from clipfuse.tracking.csv_file import CsvLogger
from clipfuse.tracking.tensorboard import RunTensorBoardLogger
from clipfuse.tracking.wandb_run import RunWandbLogger


def test_loggers_are_known_by_what_they_can_do(tmp_path: Path) -> None:
    """Curves alone, W&B, TensorBoard, and a class of somebody else with the same methods."""

    class Theirs(CsvLogger):
        log_images = log_rows = log_best = finish = lambda *_: None

    folder = str(tmp_path)
    wandb = RunWandbLogger("project", "name", folder, mode="disabled")
    theirs = Theirs(folder)
    tensorboard = RunTensorBoardLogger(folder)
    trainer = SimpleNamespace(loggers=[CsvLogger(folder), wandb, tensorboard, theirs])
    assert media_loggers(trainer) == [wandb, tensorboard, theirs]  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []  # to look starts no run


def test_a_network_that_is_only_tested_has_seen_no_samples() -> None:
    assert samples_seen(SimpleNamespace(samples_seen=12)) == 12  # type: ignore[arg-type]
    assert samples_seen(SimpleNamespace()) == 0  # type: ignore[arg-type]
