"""The node of a loss as a run composes it, for tests of plugins."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

from clipfuse.errors import UserError
from clipfuse.runs.overrides import quoted


def loss_node(source: str | Path, *overrides: str) -> dict[str, Any]:
    """Return what `clipfuse train` makes of a loss's configuration file: the argument of `LossContract.node`.

    `defaults:`, `${clip}` and other links to settings of the run are resolved with the defaults of
    `clipfuse train`, and the keys are held against the constructor.

    Args:
        source: path of a file in a folder `loss`, such as conf/loss/my_loss.yaml; or the name of a loss,
            such as "pixel" or that of an installed package.
        *overrides: further words of the command line, such as "loss.weight=2" or "clip=vit_b32_openai".

    Returns:
        The node `loss`, in plain types.

    Raises:
        UserError: there is no such file or loss, or a run would refuse its settings.
    """
    words, content = [f"loss={source}", *overrides], b""
    if (path := Path(source)).suffix == ".yaml":
        if not path.is_file() or path.resolve().parent.name != "loss":
            raise UserError(f"{path}: expected a file in a folder loss, such as conf/loss/my_loss.yaml")
        place = quoted(f"file://{path.resolve().parents[1]}")
        words = [f"hydra.searchpath=[{place}]", f"loss={path.stem}", *overrides]
        content = path.read_bytes()
    return copy.deepcopy(_composed(tuple(words), Path.cwd(), content))


@cache
def _composed(words: tuple[str, ...], folder: Path, content: bytes) -> dict[str, Any]:
    """Compose once for the many tests of a contract: here, and while the file has this content."""
    from hydra import compose, initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    from clipfuse.cli.config import check_config, explained
    from clipfuse.cli.options import conf_dir
    from clipfuse.cli.parts import join_parts
    from clipfuse.cli.searchpath import check_search_path
    from clipfuse.cli.train import GROUPS
    from clipfuse.runs.train import TrainSettings

    before = HydraConfig.instance().cfg
    try:
        with explained("train", words), initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = compose("train", list(words), return_hydra_config=True)
            HydraConfig.instance().set_config(config)
            check_search_path(config.hydra)
            config = config.copy()
            with open_dict(config):
                del config["hydra"]
            join_parts(config)
            check_config(config, TrainSettings, GROUPS)
            node = OmegaConf.to_container(config.loss, resolve=True)
    finally:
        HydraConfig.instance().cfg = before
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}
