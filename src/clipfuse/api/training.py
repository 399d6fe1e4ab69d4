"""`clipfuse.train`."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel
from torch import nn

from clipfuse.cli.in_python import run_in_python
from clipfuse.cli.train import check_and_train
from clipfuse.errors import UserError
from clipfuse.files import is_there, read_json
from clipfuse.networks.load import load_network

if TYPE_CHECKING:
    from omegaconf import DictConfig


class _Scores(BaseModel):
    mean: dict[str, float | None]


@dataclass(frozen=True)
class Run:
    """A training that has ended.

    Attributes:
        path: the run folder.
        objective: the score that `objective` names, which a search would get; None where it was not computed.
        trust: the package of the network's class, where it is not ours.
    """

    path: Path
    objective: float | None
    trust: tuple[str, ...] = ()

    @cached_property
    def scores(self) -> dict[str, float]:
        """The mean score on the test images by metric; empty after `test=false`."""
        file = self.path / "test" / "metrics.json"
        return dict(read_json(file, _Scores)["mean"]) if is_there(file) else {}

    @cached_property
    def network(self) -> nn.Module:
        """The trained network, as `clipfuse.load_network` returns it.

        Raises:
            UserError: the run kept no checkpoint.
        """
        return load_network(self.path / "checkpoints" / "last.ckpt", self.trust)


def train(*overrides: str) -> Run:
    """Train one network with one loss and test it, as `clipfuse train` does with the same overrides.

    It works in scripts, notebooks and programs that use Hydra themselves, any number of times. Afterwards
    `sys.argv`, environment, current folder, random state and Hydra's global state are those of before.

    Args:
        *overrides: the words of the command line, such as "loss=ldfusion", "steps=1000", "run_dir=runs/mine".
            The default run folder lies in `runs/` of the current folder.

    Raises:
        UserError: the configuration cannot work, or the loss is no longer finite; it names the setting.
    """
    return run_in_python("train", overrides, _task)


def _task(config: "DictConfig") -> Run:
    trainer = config.get("trainer") or {}
    if any(trainer.get(key, 1) != 1 for key in ("devices", "num_nodes")):
        raise UserError("from Python a training uses one device; for several: clipfuse train trainer=ddp")
    objective = check_and_train(config)
    folder = Path(config.run_dir).absolute()  # which may have got a number
    package = str(config.backbone.get("_target_")).partition(".")[0]
    return Run(folder, objective, () if package == "clipfuse" else (package,))
