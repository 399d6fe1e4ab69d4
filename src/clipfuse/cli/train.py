"""`clipfuse train [overrides] [-m]`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.config import run_hydra
from clipfuse.cli.repeat import command_line, group_words, rebase, run_dir_made, split_from
from clipfuse.errors import UserError
from clipfuse.runs.overrides import quoted

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


RESUME = "sweep.resume="


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/train.yaml` with the overrides and train, or run the sweep of `-m`.

    `--from RUN` takes the settings of an earlier run in place of the defaults.

    Raises:
        UserError: the configuration cannot work, or jobs of a sweep failed; all of them have been run.
    """
    run, arguments = split_from(arguments)
    if run is not None:
        composed, _ = group_words(arguments)
        return run_hydra("train", composed, partial(check_and_train, run=run, words=arguments))
    resume = any(word.startswith(RESUME) for word in arguments)
    if resume:
        arguments = _resumed(arguments)
    sweep = {"-m", "--multirun"} & set(arguments)
    if sweep and any(word.startswith("run_dir=") for word in arguments):
        raise UserError("a sweep makes its own run folders; instead of run_dir=X give hydra.sweep.dir=X")
    if not sweep:
        return run_hydra("train", arguments, check_and_train)
    from hydra_plugins.clipfuse_launcher._sweep import SweepLauncher

    SweepLauncher.resume = resume
    with SweepLauncher.owner:
        run_hydra("train", arguments, check_and_train)
        SweepLauncher.raise_failures()


def _resumed(arguments: Sequence[str]) -> list[str]:
    """Return the overrides of the sweep that `sweep.resume=DIR` names; only what is missing will be run.

    Settings of Hydra may be changed (`hydra.launcher.max_parallel=2`), settings of the trainings may not.
    """
    from clipfuse.files import read_yaml

    folder = next(word for word in arguments if word.startswith(RESUME)).removeprefix(RESUME)
    record = Path(folder) / "sweep.yaml"
    if not record.is_file():
        raise UserError(f"{RESUME}{folder}: there is no {record}; expected the folder of a sweep")
    content = read_yaml(record, remedy="restore it, or start the sweep anew in another folder")
    known = content.get("words")
    if not known or not isinstance(known, list) or not all(isinstance(word, str) for word in known):
        raise UserError(f"{record} does not hold the words of its command; such a sweep cannot be resumed")
    new = [word for word in arguments if not word.startswith((RESUME, "-"))]
    if other := [word for word in new if not word.startswith("hydra") and word not in known]:
        raise UserError(f"a resumed sweep keeps its settings; {other[0]} is not among those in {record}")
    new = [word for word in new if word.startswith("hydra")]
    new.append(f"hydra.sweep.dir={quoted(folder)}")
    replaced = {word.partition("=")[0] for word in new} | {"hydra.mode"}
    if "hydra/launcher" in replaced:
        known = [word for word in known if not word.startswith("hydra.launcher.")]
    return ["-m", *(word for word in known if word.partition("=")[0] not in replaced), *new]


def check_and_train(config: "DictConfig", run: str | None = None, words: Sequence[str] = ()) -> float | None:
    """Check a composed configuration, train and test; see `clipfuse.runs.train.train`.

    Args:
        config: the configuration.
        run: the run folder whose settings it gets, of `--from`.
        words: the overrides on top of them.

    Raises:
        UserError: the configuration cannot work, or the loss is no longer finite.
    """
    from clipfuse.cli.config import check_config
    from clipfuse.cli.parts import join_parts
    from clipfuse.runs.train import TrainSettings, train

    command = command_line("train", config, run, words)
    if run is not None:
        rebase(config, run, words)
    with run_dir_made(config):
        join_parts(config)
        check_config(config, TrainSettings, GROUPS)
        return train(config, command)
