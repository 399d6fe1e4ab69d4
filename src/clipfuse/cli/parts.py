"""The parts of `loss=weighted_sum`: each is composed as if it were the only loss of the run."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipfuse.cli.options import options, unknown_option
from clipfuse.cli.searchpath import check_search_path
from clipfuse.errors import UserError
from clipfuse.runs.overrides import raw, search_words

if TYPE_CHECKING:
    from omegaconf import DictConfig

TARGET = "clipfuse.losses.weighted_sum.weighted_sum"


def join_parts(config: "DictConfig") -> None:
    """Fill `loss.of` of a run with a sum of losses, and take over the solver that a part needs.

    A part is what `conf/loss/NAME.yaml` (or a file on the search path) holds, with the user's
    `loss.of.NAME` over it. Parts of weight 0 are left out.

    Args:
        config: as composed; changed in place.

    Raises:
        UserError: a part is not known, or arguments are given for a loss that is no part.
    """
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig, OmegaConf, open_dict

    loss = config.get("loss")
    if not isinstance(loss, DictConfig) or loss.get("_target_") != TARGET:
        return
    if OmegaConf.is_missing(loss, "parts") or not loss.parts:
        raise UserError("loss.parts must be given, as in '+loss.parts={pixel:1,ldfusion:0.1}'")
    if not isinstance(loss.parts, DictConfig) or not isinstance(loss.of, DictConfig):
        return  # check_config raises the error
    for name in map(str, loss.of):
        if name not in loss.parts:
            raise UserError(
                f"loss.of.{name}: loss.parts has no '{name}', only {', '.join(map(str, loss.parts))}"
            )
    overrides = HydraConfig.get().overrides
    words = [*_without_loss(raw(overrides.task)), *search_words(raw(overrides.hydra))]
    solver = OmegaConf.to_container(config.solver, resolve=True)
    with open_dict(config):
        for name, weight in {str(key): value for key, value in loss.parts.items()}.items():
            given = loss.of.pop(name, {})
            if weight == 0:
                _known(name, given, words)
                continue
            loss.of[name], asked = _compose(name, given, words)
            if asked is not None and asked != solver:
                config.solver = asked


def _compose(name: str, given: "DictConfig", words: Sequence[str]) -> "tuple[DictConfig, object]":
    """Return a part, and the solver with which it would be trained alone."""
    from hydra import compose
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    if not _known(name, given, words):
        return given, None
    primary = HydraConfig.get().job.config_name
    config = compose(primary, [*words, f"loss={name}"], return_hydra_config=True)
    check_search_path(config.hydra)
    OmegaConf.set_struct(config, False)
    del config["hydra"]
    for key in ("parts", "of"):  # an experiment may have set them for the sum
        config.loss.pop(key, None)
    config.loss = OmegaConf.merge(config.loss, given)
    return config.loss, OmegaConf.to_container(config.solver, resolve=True)


def _known(name: str, given: "DictConfig", words: Sequence[str]) -> bool:
    """Return whether the part has a file; one that names its `_target_` needs none."""
    if "_target_" in given:
        return False
    if name not in options("loss", words):
        raise UserError(f"loss.parts: {unknown_option(f'loss/{name}', words)}")
    return True


def _without_loss(words: Sequence[str]) -> list[str]:
    return [word for word in words if word.lstrip("+~").partition("=")[0].split(".")[0] != "loss"]
