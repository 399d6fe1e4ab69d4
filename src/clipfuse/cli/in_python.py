"""Composing a configuration inside of a Python program, which may use Hydra for itself."""

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from clipfuse.cli.config import explained
from clipfuse.cli.launch import discover_plugins, see_own
from clipfuse.cli.options import conf_dir
from clipfuse.cli.searchpath import check_search_path
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

Result = TypeVar("Result")


def run_in_python(name: str, overrides: Sequence[str], task: Callable[["DictConfig"], Result]) -> Result:
    """Compose `conf/NAME.yaml` with overrides and run `task` on it; the process is left as it was.

    Arguments, environment, current folder, import path, warning filters, random state, torch's choice of
    deterministic algorithms and Hydra's global state are afterwards those of before, whatever happens.

    Args:
        name: of the configuration.
        overrides: the words of the command line, such as "loss=pixel" or "steps=10".
        task: takes the composed configuration.

    Raises:
        UserError: the overrides do not fit the configuration, or as `task`.
    """
    for word in overrides:
        if not isinstance(word, str):
            raise UserError(f"{word!r} is no override; expected texts such as 'loss=pixel', 'steps=100'")
        if word.startswith("-"):
            raise UserError(f"{word} is an option of the command line; from Python give overrides alone")
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    def initialized() -> Any:
        return initialize_config_dir(str(conf_dir()), job_name=name, version_base="1.3")

    with process_kept(), hydra_apart():
        discover_plugins()
        with explained(name, overrides), initialized():
            config = compose(name, list(overrides), return_hydra_config=True)
            check_search_path(config.hydra)
        HydraConfig.instance().set_config(config)
        searchpath = list(config.hydra.searchpath)
        with open_dict(config):
            del config["hydra"]
        see_own(config, searchpath)
        with initialized():
            return task(config)


@contextmanager
def hydra_apart() -> Iterator[None]:
    """Inside, Hydra is as if nobody had used it; a program's own use of it goes on afterwards."""
    import hydra  # noqa: F401  (so that what is registered by importing it is there before and after)
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.version import VersionBase
    from omegaconf.basecontainer import BaseContainer

    own: tuple[type, ...] = (GlobalHydra, HydraConfig, VersionBase)
    instances, resolvers = Singleton._instances, dict(BaseContainer._resolvers)
    kept: dict[Any, Any] = {kind: instances.pop(kind) for kind in own if kind in instances}
    try:
        yield
    finally:
        for kind in own:
            instances.pop(kind, None)
        instances.update(kept)
        BaseContainer._resolvers.clear()
        BaseContainer._resolvers.update(resolvers)


@contextmanager
def process_kept() -> Iterator[None]:
    """Put back, at the end, what a training sets in its process."""
    environment, folder, words, path = dict(os.environ), os.getcwd(), sys.argv[:], sys.path[:]
    finders = sys.meta_path[:]

    import numpy as np
    import torch

    exact = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark = torch.backends.cudnn.benchmark
    drawn = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    loggers = {
        name: logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")
    }
    levels = {name: logger.level for name, logger in loggers.items()}
    try:
        with warnings.catch_warnings():
            yield
    finally:
        random.setstate(drawn[0])
        np.random.set_state(drawn[1])
        torch.set_rng_state(drawn[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        torch.use_deterministic_algorithms(exact[0], warn_only=exact[1])
        torch.backends.cudnn.benchmark = benchmark
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        sys.argv[:], sys.path[:], sys.meta_path[:] = words, path, finders
        for name, logger in loggers.items():
            logger.setLevel(levels[name])
