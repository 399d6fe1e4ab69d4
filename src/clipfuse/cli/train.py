"""`clipfuse train [overrides] [-m]`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfuse.cli.config import run_hydra

if TYPE_CHECKING:
    from omegaconf import DictConfig


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/train.yaml` with the overrides and train."""
    run_hydra("train", arguments, _task)


def _task(config: "DictConfig") -> float | None:
    from clipfuse.cli.config import check_config
    from clipfuse.engine.run import TrainSettings, train

    check_config(config, TrainSettings)
    return train(config)
