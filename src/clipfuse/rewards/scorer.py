"""The interface of a scorer of fused images, the frozen scorer of a loss, and its file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.func import functional_call

from clipfuse.errors import UserError
from clipfuse.files import read_bytes, weights_sha256, write_atomically
from clipfuse.ops.checks import check_planes
from clipfuse.rewards.network import RewardNetwork

BUNDLED = Path(__file__).parent / "bundled" / "reward.safetensors"
_FORMAT, _MOST_SCORES, _MOST_BYTES = 1, 32, 2**22


class Judgement(NamedTuple):
    """What a scorer finds.

    Attributes:
        scores: by name (N,) in [0, 1]; 1 is best, also of `artifacts`.
        map: where artefacts are, (N, 1, H, W) in [0, 1]; 1 is worst.
    """

    scores: Mapping[str, Tensor]
    map: Tensor


@runtime_checkable
class Scorer(Protocol):
    """The interface: what `loss=reward` needs, and what EVAFusion (CVPR 2026) calls a reward model."""

    @property
    def names(self) -> Sequence[str]:
        """The names of the scores."""

    def __call__(self, fused: Tensor, infrared: Tensor, visible: Tensor) -> Judgement:
        """Judge fused luma beside its sources, each (N, 1, H, W) in [0, 1], of any size."""


class Reward:
    """A frozen `RewardNetwork` as a fixed function of images.

    It is no `nn.Module`: a loss that keeps it has nothing of it in its parameters, `state_dict`, copies or
    broadcasts, and no mode of the loss reaches it. The weights follow the device of the images and are
    float32, computed with in the images' type where that is wider; the gradient reaches the images alone.

    Args:
        network: is frozen here, in evaluation mode.
        training: how it was trained, in plain values.
    """

    def __init__(self, network: RewardNetwork, training: Mapping[str, Any] | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.training = dict(training or {})

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores."""
        return self.network.scores

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the scorer: its scores, the SHA-256 of its weights, and how it was trained."""
        return {"scores": list(self.names), "weights_sha256": self.sha256, "training": self.training}

    @property
    def sha256(self) -> str:
        """The SHA-256 (hex) of the weights: their names, types, shapes and bytes."""
        return weights_sha256(self.network.state_dict())

    def __call__(self, fused: Tensor, infrared: Tensor, visible: Tensor) -> Judgement:
        """Return scores and artefact map of fused images.

        Args:
            fused: luma, (N, 1, H, W) in [0, 1], of any size; it may carry a gradient.
            infrared: the same shape.
            visible: the same shape.

        Raises:
            ValueError: the planes have other shapes, or are no floating-point tensors.
        """
        check_planes(fused=fused, infrared=infrared, visible=visible)
        if self.network.judge.weight.device != fused.device:
            self.network.to(fused.device)
        kind = torch.promote_types(fused.dtype, torch.float32)
        planes = tuple(each.to(kind) for each in (fused, infrared, visible))
        values = {name: value.to(kind) for name, value in self.network.named_parameters()}
        with torch.autocast(fused.device.type, enabled=False):
            logits, marks = functional_call(self.network, values, planes)
        scores = dict(zip(self.names, torch.sigmoid(logits).unbind(1), strict=True))
        return Judgement(scores, torch.sigmoid(marks))

    def __deepcopy__(self, memo: object) -> "Reward":
        return self


def write_reward(
    path: Path, network: RewardNetwork, training: Mapping[str, Any], overwrite: bool = True
) -> None:
    """Write a scorer as safetensors, which cannot hold code; the file appears whole or not at all.

    Args:
        path: the file.
        network: the weights and the names of their scores.
        training: how it was trained, in plain values.
        overwrite: whether a file that is there may be replaced.

    Raises:
        UserError: the file cannot be written, or is there and must stay.
        ValueError: a weight is not finite.
    """
    weights = {
        name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()
    }
    if odd := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"the scorer's weight {odd[0]} is not finite; lower the learning rate")
    record = {"format": _FORMAT, "scores": list(network.scores), "training": dict(training)}
    record["sha256"] = weights_sha256(weights, json.dumps(record, sort_keys=True).encode())
    content = save(weights, {"clipfuse_reward": json.dumps(record, sort_keys=True)})
    with write_atomically(path, "wb", overwrite) as file:
        file.write(content)


def read_reward(file: str = "bundled") -> Reward:
    """Read a scorer.

    Args:
        file: `bundled`, the one in the package, or a file of `write_reward`.

    Raises:
        UserError: there is no such file, it is no scorer, or it is damaged.
    """
    path = BUNDLED if file == "bundled" else Path(file).expanduser()
    remedy = "install clipfuse again" if file == "bundled" else "name a file of 'clipfuse train-reward'"
    content = read_bytes(path, most=_MOST_BYTES, remedy=remedy, expected="a scorer of fused images")
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        record = json.loads(header["__metadata__"]["clipfuse_reward"])
        names, digest = record["scores"], record.pop("sha256")
        check_names(names)
        weights = load(content)
        if digest != weights_sha256(weights, json.dumps(record, sort_keys=True).encode()):
            raise ValueError("its checksum does not fit")
        network = RewardNetwork(names)
        network.load_state_dict(weights)
        training = dict(record["training"])
    except Exception as error:  # any error of a parser: the file is a stranger's
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise UserError(f"{path} is not a whole scorer of fused images ({reason}); {remedy}") from error
    return Reward(network, training)


def check_names(names: Any) -> None:
    """Require names of scores: a list of one or more different words.

    Raises:
        ValueError: they are not.
    """
    good = isinstance(names, list | tuple) and 0 < len(names) <= _MOST_SCORES
    if not good or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(f"its scores are {str(names)[:80]}; expected 1 to {_MOST_SCORES} words")
    if len(set(names)) < len(names):
        raise ValueError("a score occurs twice")
