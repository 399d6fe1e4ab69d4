"""`clipfuse train [overrides] [-m]`."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.launch import (
    COMPOSED,
    complete_job,
    run_composed,
    run_dir_made,
    run_hydra,
    split_options,
)
from clipfuse.cli.parts import join_parts
from clipfuse.cli.repeat import command_line, group_words, rebase, split_from
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
    from hydra_plugins.clipfuse_launcher._sweep import SweepLauncher

    if COMPOSED in arguments[:1]:
        return run_composed("train", arguments[1], _check, _train)
    run, arguments = split_from(arguments)
    if run is not None:
        check = partial(_join_and_check, run=run, words=arguments)
        task = partial(_train, run=run, words=arguments)
        return run_hydra("train", group_words(arguments)[0], check, task)
    SweepLauncher.resume = any(word.startswith(RESUME) for word in arguments)
    words = _resumed(arguments) if SweepLauncher.resume else arguments
    SweepLauncher.options = [word for word in split_options(words)[0] if word not in ("-m", "--multirun")]
    SweepLauncher.complete = partial(complete_job, check=_join_and_judge)
    SweepLauncher.forget()
    with SweepLauncher.owner:
        run_hydra("train", words, _join_and_check, _train)
        SweepLauncher.conclude()


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
    new.append(f"hydra.sweep.dir={quoted(_return_to(content.get('started_in'), folder))}")
    replaced = {word.partition("=")[0] for word in new} | {"hydra.mode"}
    if "hydra/launcher" in replaced:
        known = [word for word in known if not word.startswith("hydra.launcher.")]
    kept = [word for word in known if word.partition("=")[0] not in replaced]
    return [*content.get("options", []), "-m", *kept, *new]


def _return_to(start: str | None, sweep: str) -> str:
    """Go to where a sweep was started, so that its relative paths hold; return the path of the sweep."""
    if start is None or Path(start).resolve() == Path.cwd().resolve():
        return sweep
    if not Path(start).is_dir():
        print(
            f"{start}, where {sweep} was started, is not here: its relative paths are taken from {Path.cwd()}"
        )
        return sweep
    target = Path(sweep).resolve()
    os.chdir(start)
    here = Path.cwd().resolve()
    return str(target.relative_to(here) if target.is_relative_to(here) else target)


def check_and_train(config: "DictConfig") -> float | None:
    """Check a composed configuration, train and test; see `clipfuse.runs.train.train`.

    Args:
        config: the configuration.

    Raises:
        UserError: the configuration cannot work, or the loss is no longer finite.
    """
    _join_and_check(config)
    with run_dir_made(config):
        return _train(config)


def _join_and_check(config: "DictConfig", run: str | None = None, words: Sequence[str] = ()) -> None:
    _refuse_search_of_one()
    if run is not None:
        rebase(config, run, words)
    join_parts(config)
    _check(config)


def _refuse_search_of_one() -> None:
    """Refuse a search that is no sweep: it would train one job, with the defaults of what is searched."""
    from hydra.core.hydra_config import HydraConfig

    if HydraConfig.initialized() and (choice := HydraConfig.get().runtime.choices.get("sweep")):
        raise UserError(f"sweep={choice} is for several jobs: clipfuse train -m sweep={choice} ...")


def _join_and_judge(config: "DictConfig") -> None:
    """Complete the configuration of a job; of a search also require that its jobs will have an objective."""
    from hydra.core.hydra_config import HydraConfig

    join_parts(config)
    if not str(HydraConfig.get().sweeper._target_).startswith("hydra._internal."):
        from clipfuse.runs.build import build
        from clipfuse.runs.objective import check_objective

        _check(config)
        check_objective(config.objective, build(config.metrics, "metrics"), config.test)


def _name_classes(config: "DictConfig") -> None:
    """Put the names of the classes in the place of their file, as a loss that sees labels takes names."""
    from omegaconf import DictConfig, OmegaConf

    data = config.get("data")
    labels = data.get("labels") if isinstance(data, DictConfig) else None
    if isinstance(labels, DictConfig) and isinstance(given := labels.get("classes"), str):
        from clipfuse.data.labels.description import class_names

        root = "." if OmegaConf.is_missing(data, "root") else str(data.get("root", "."))
        labels.classes = list(class_names(given, Path(root), "data.labels.classes"))


def _check(config: "DictConfig") -> None:
    from clipfuse.cli.config import check_config
    from clipfuse.runs.train import TrainSettings

    _name_classes(config)
    check_config(config, TrainSettings, GROUPS)


def _train(config: "DictConfig", run: str | None = None, words: Sequence[str] = ()) -> float | None:
    from clipfuse.runs.train import train

    return train(config, command_line("train", config, run, words))
