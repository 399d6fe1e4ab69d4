"""`clipfuse train [overrides] [-m]`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfuse.cli.config import run_hydra
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


GROUPS = (
    "backbone",
    "solver",
    "loss",
    "clip",
    "data",
    "loader",
    "metrics",
    "optimizer",
    "scheduler",
    "trainer",
)


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/train.yaml` with the overrides and train, or run the sweep of `-m`.

    Raises:
        UserError: the configuration cannot work, or jobs of a sweep failed; all of them have been run.
    """
    sweep = {"-m", "--multirun"} & set(arguments)
    if sweep and any(word.startswith("run_dir=") for word in arguments):
        raise UserError("a sweep makes its own run folders; instead of run_dir=X give hydra.sweep.dir=X")
    run_hydra("train", arguments, _task)
    if sweep:
        from hydra_plugins.clipfuse_launcher.launcher import SubprocessLauncher

        SubprocessLauncher.raise_failures()


def _task(config: "DictConfig") -> float | None:
    from clipfuse.cli.config import check_config, check_run_dir
    from clipfuse.engine.run import TrainSettings, train

    check_run_dir(config)
    check_config(config, TrainSettings, GROUPS)
    return train(config)
