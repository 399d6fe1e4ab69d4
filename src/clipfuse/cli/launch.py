"""From the words of a command line, or from the file of a process that composed them, to the task."""

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfuse.cli.config import explained
from clipfuse.cli.options import conf_dir, help_text
from clipfuse.cli.own import dotted_names, installed_alone, look_in
from clipfuse.cli.searchpath import check_search_path
from clipfuse.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

COMPOSED = "--composed"  # the option by which a process is started from what another one composed


def run_hydra(
    name: str,
    arguments: Sequence[str],
    check: Callable[["DictConfig"], None],
    task: Callable[["DictConfig"], Any],
) -> None:
    """Compose `conf/NAME.yaml` with the overrides in `arguments`, check it and run `task` on it.

    Args:
        name: of the configuration.
        arguments: overrides and Hydra's options, in any order.
        check: completes and checks the composed configuration.
        task: takes what was checked.

    Raises:
        UserError: the overrides do not fit the configuration.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig

    failures: list[Exception] = []

    def guarded(config: "DictConfig") -> Any:
        # Hydra prints a line about each exception that passes through it.
        try:
            node: Any = HydraConfig.get()
            check_search_path(node)
            see_own(config, node.searchpath)
            check(config)
            return _run(name, config, hydra_node(node), task)
        except Exception as error:
            failures.append(error)

    options, overrides = split_options(arguments)
    arguments = [*options, *overrides]  # Hydra wants no option between overrides
    if {"-h", "--help"} & set(arguments):
        print(help_text(name, arguments))
        return
    look_in(os.getcwd(), _packages(arguments))
    sys.argv = [sys.argv[0], *arguments]
    # Without it Hydra prints errors itself and exits with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with explained(name, arguments):
        discover_plugins()
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(guarded)()
    if failures:
        raise failures[0]


def run_composed(
    name: str, file: str, check: Callable[["DictConfig"], None], task: Callable[["DictConfig"], Any]
) -> None:
    """Run `task` on the configuration that another process composed and wrote; Hydra composes nothing.

    Raises:
        UserError: the file is not one, or the configuration cannot work.
    """
    from hydra.conf import HydraConf
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from clipfuse.runs.composed import read_composed

    composed = read_composed(Path(file))
    with explained(name, []):
        node = OmegaConf.merge(OmegaConf.structured(HydraConf), composed.hydra)
        HydraConfig.instance().set_config(OmegaConf.create({"hydra": node}))
        see_own(composed.config, node.searchpath)
        check(composed.config)
        _run(name, composed.config, composed.hydra, task)


def _run(
    name: str, config: "DictConfig", hydra: Mapping[str, Any], task: Callable[["DictConfig"], Any]
) -> Any:
    """Run `task`; Lightning starts other ranks by `sys.argv`, which names the very same configuration."""
    from clipfuse.runs.composed import write_composed

    with run_dir_made(config):
        if config.get("trainer", {}).get("strategy") is None:
            return task(config)
        with tempfile.TemporaryDirectory(prefix="clipfuse-") as folder:
            file = Path(folder) / f"{name}.yaml"
            write_composed(file, name, config, hydra)
            sys.argv = [sys.argv[0], name, COMPOSED, str(file)]
            return task(config)


@contextmanager
def run_dir_made(config: "DictConfig") -> Iterator[None]:
    """Give a run whose folder is named by the time a folder of its own, also beside one of the same second.

    Raises:
        UserError: this is a rank that torchrun or SLURM started, each of which would name another folder; or
            the folder cannot be made.
    """
    from omegaconf import OmegaConf

    from clipfuse.runs.owner import claimed

    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    if "${now" not in str(plain.get("run_dir")):
        yield
        return
    # Only srun sets the second variable: another process of an allocation is one process.
    ranks = int(os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or 1)
    if ranks > 1:
        raise UserError(
            f"{ranks} processes were started together, and each would name the run folder by its own clock; "
            "give them one, as in run_dir=runs/mine"
        )
    with claimed(Path(config.run_dir)) as folder:
        config.run_dir = str(folder)
        yield


def hydra_node(hydra: "DictConfig") -> dict[str, Any]:
    """Return what another process needs of Hydra's node; variables of the environment it gets as such."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(hydra, resolve=False, enum_to_str=True)
    assert isinstance(content, dict)
    for key in ("env_set", "env_copy"):
        content["job"].pop(key, None)
    return {
        key: content[key] for key in ("mode", "searchpath", "sweep", "run", "job", "overrides", "runtime")
    }


def complete_job(
    config: "DictConfig", check: Callable[["DictConfig"], None]
) -> "tuple[DictConfig, dict[str, Any]]":
    """Complete the composed configuration of one job of a sweep, for `run_composed` in the job's process.

    Args:
        config: with Hydra's node.
        check: completes the configuration.

    Returns:
        The settings in plain types but for the environment's values, and what the job needs of Hydra's node.

    Raises:
        UserError: it cannot work.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict, read_write

    from clipfuse.runs.composed import plain

    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        node: Any = HydraConfig.get()
        check_search_path(node)
        job = config.copy()
        with read_write(job), open_dict(job):
            del job["hydra"]
        check(job)
        return OmegaConf.create(plain(job)), hydra_node(node)
    finally:
        HydraConfig.instance().cfg = before


def see_own(config: "DictConfig", searchpath: Iterable[str]) -> None:
    """Let the classes that a configuration names be imported from the current folder and the search path."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:  # which the check of the configuration names
        content = OmegaConf.to_container(config, resolve=False)
    names = list(dotted_names(content))
    for folder in [os.getcwd(), *searchpath]:
        look_in(folder.removeprefix("file://"), [*names, *_packages(searchpath)])


def _packages(words: Iterable[str]) -> list[str]:
    """Return the packages that words such as "pkg://theirs.conf" name."""
    return [found for word in words for found in re.findall(r"pkg://([\w.]+)", word)]


def split_options(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the options of Hydra among the words of a command line, with their values, and the overrides."""
    valued: tuple[str, ...] = (
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--config-dir",
        "-cd",
        "--package",
        "-p",
    )
    valued += ("--cfg", "-c", "--info", "-i", "--experimental-rerun")
    options: list[str] = []
    overrides: list[str] = []
    value_is_due = False
    for word in arguments:
        is_option = word.startswith("-") or value_is_due
        (options if is_option else overrides).append(word)
        value_is_due = word in valued
    return options, overrides


def discover_plugins() -> None:
    """Have Hydra find its plugins among the installed packages, not in the current folder."""
    from hydra.core.plugins import Plugins

    with installed_alone():
        Plugins.instance()
