"""The folders of the user's own that Hydra looks in for configuration files."""

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.errors import UserError
from clipfuse.runs.overrides import raw

if TYPE_CHECKING:
    from omegaconf import DictConfig

HOW = "as in 'hydra.searchpath=[file://my/conf]', or [pkg://my_package.conf] for an installed package"
_OWN = {"hydra.searchpath in command-line", "hydra.searchpath in main", "command-line"}


def check_search_path(hydra: "DictConfig") -> None:
    """Require that each folder on the search path can have an effect, and that what is used of it has.

    Hydra takes a file from the first folder that has it, and ours comes first: it would train our
    `loss/pixel.yaml` where the user gives one of the same name.

    Args:
        hydra: Hydra's own node of a composed configuration, while Hydra is initialised.

    Raises:
        UserError: a folder is empty, or a file of it that this run uses is hidden by another.
    """
    sources = [each for each in hydra.runtime.config_sources if each.schema in ("file", "pkg")]
    own = [index for index, each in enumerate(sources) if each.provider in _OWN]
    if not own:
        return
    places = [_place(each.schema, each.path) for each in sources]
    for index in own:
        place = places[index]
        if isinstance(place, Path) and not any(place.rglob("*.yaml")) and not any(place.glob("*.py")):
            raise UserError(f"hydra.searchpath: {place} holds no configuration, as loss/my_loss.yaml; {HOW}")
    for name in _used(hydra):
        holders = [index for index, place in enumerate(places) if _file(place, name).is_file()]
        for index in holders[1:]:
            first, hidden = (_file(places[each], name) for each in (holders[0], index))
            if index in own and first.read_bytes() != hidden.read_bytes():
                raise UserError(
                    f"{hidden} has no effect: {first} has the same name and comes first; give yours another "
                    f"name, as {Path(name).parent / ('my_' + Path(name).name)}.yaml"
                )


def _place(schema: str, path: str) -> Traversable:
    return files(path) if schema == "pkg" else Path(path)


def _file(place: Traversable, name: str) -> Traversable:
    return place.joinpath(*f"{name}.yaml".split("/"))


def _used(hydra: "DictConfig") -> list[str]:
    """Return the configuration files of this run, as "loss/pixel"."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    words = [*raw(hydra.overrides.hydra), *raw(hydra.overrides.task)]
    found = (
        GlobalHydra.instance()
        .config_loader()
        .compute_defaults_list(config_name=hydra.job.config_name, overrides=words, run_mode=RunMode.MULTIRUN)
    )
    return list(dict.fromkeys(each.config_path for each in found.defaults if each.config_path is not None))
