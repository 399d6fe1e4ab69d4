"""Inputs of a loss for tests: batches, parts of them, other sizes, and a small network to train."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipfuse.training.passes import FurtherPass
from clipfuse.types import IGNORED, Boxes, FusionOutput, LossInputs, NetworkPass

ABSENT = ("target_mask", "reference", "classes", "boxes", "captions", "teacher")
"""The fields of `LossInputs` that a training may leave at None."""


class SmallNetwork(nn.Module):
    """Two convolutions with a sigmoid, (infrared, visible) -> `FusionOutput`, the same at each call.

    Args:
        seed: of its weights; the global generator is left as it was.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        """Return the fused luma, (N, 1, H, W) in [0, 1]."""
        hidden = torch.tanh(self.first(torch.cat([infrared, visible], dim=1)))
        return FusionOutput(torch.sigmoid(self.last(hidden)))


def pass_of(network: nn.Module, weights: Mapping[str, Tensor] | None = None) -> NetworkPass:
    """Return `LossInputs.network` as a training gives it, or with weights, by name, `LossInputs.teacher`."""
    return FurtherPass(network, "cpu", weights)


def _taught(kind: torch.dtype) -> NetworkPass:
    weights = {name: value.detach() for name, value in SmallNetwork(1).to(kind).named_parameters()}
    return pass_of(SmallNetwork().to(kind), weights)


def example_inputs(
    count: int = 4, side: int = 48, features: Mapping[str, Tensor] | None = None
) -> LossInputs:
    """Return smooth noise with a warm square in the infrared band, its mask and an ideal fused image.

    Its labels: the square is an object of class 1 on class 0, below a row without a label. `network` and
    `teacher` are those of a `SmallNetwork` that did not make the fused images.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(3, count, 1, side + 4, side + 4, generator=generator)
    fused, infrared, visible = F.avg_pool2d(noise.flatten(0, 1), 5, 1).view(3, count, 1, side, side)
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    mask[..., side // 4 : side // 2, side // 3 : side // 2] = True
    infrared = torch.where(mask, 0.95, infrared)
    classes = mask[:, 0].long()
    classes[:, 0] = IGNORED
    edges = torch.tensor([[side // 3, side // 4, side // 2, side // 2]], dtype=torch.float32)
    return LossInputs(
        fused=fused.clone().requires_grad_(),
        infrared=infrared,
        visible=visible.clone(),
        features=features or {},
        sample_ids=tuple(f"sample-{index}" for index in range(count)),
        target_mask=mask,
        reference=infrared.maximum(visible),
        classes=classes,
        boxes=tuple(Boxes(edges.clone(), torch.ones(1, dtype=torch.int64)) for _ in range(count)),
        captions=tuple(f"a warm square, image {index}" for index in range(count)),
        total_steps=1000,
        network=pass_of(SmallNetwork()),
        teacher=_taught(torch.float32),
    )


def part_of(inputs: LossInputs, samples: Sequence[int]) -> LossInputs:
    """Return some of the samples, in the order asked for."""
    chosen = list(samples)
    parts: dict[str, Any] = {
        name: value[chosen] for name, value in vars(inputs).items() if isinstance(value, Tensor)
    }
    parts |= {
        name: tuple(getattr(inputs, name)[index] for index in chosen)
        for name in ("sample_ids", "boxes", "captions")
        if getattr(inputs, name) is not None
    }
    return replace(inputs, **parts, features={name: value[chosen] for name, value in inputs.features.items()})


def sized(inputs: LossInputs, height: int, width: int) -> LossInputs:
    """Return the batch at another size: images and features resampled, masks, classes and boxes moved along.

    `fused` is a new leaf with gradient.
    """
    before = inputs.fused.shape[-2:]
    scale = height / before[0], width / before[1]

    def resampled(value: Tensor) -> Tensor:
        if not value.is_floating_point():
            planes = value.unsqueeze(1) if value.ndim == 3 else value
            planes = F.interpolate(planes.float(), (height, width)).to(value.dtype)
            return planes.squeeze(1) if value.ndim == 3 else planes
        if value.ndim != 4:
            return value
        size = [max(1, round(old * by)) for old, by in zip(value.shape[-2:], scale, strict=True)]
        return F.interpolate(value, size, mode="bilinear", align_corners=False)

    parts: dict[str, Any] = {
        name: resampled(value.detach()) for name, value in vars(inputs).items() if isinstance(value, Tensor)
    }
    parts["features"] = {name: resampled(value.detach()) for name, value in inputs.features.items()}
    if inputs.boxes is not None:
        by = torch.tensor([scale[1], scale[0]] * 2)
        parts["boxes"] = tuple(Boxes(each.xyxy * by, each.classes) for each in inputs.boxes)
    parts["fused"].requires_grad_()
    return replace(inputs, **parts)


def converted(inputs: LossInputs, kind: torch.dtype, *names: str) -> LossInputs:
    """Return the batch with its floating-point fields, or those named, in another type; `fused` is a leaf.

    Where all are converted, `network` and `teacher` become a `SmallNetwork` of that type.
    """
    parts: dict[str, Any] = {
        name: value.detach().to(kind)
        for name, value in vars(inputs).items()
        if isinstance(value, Tensor) and value.is_floating_point() and (not names or name in names)
    }
    if not names and inputs.network is not None:
        parts["network"] = pass_of(SmallNetwork().to(kind))
        parts["teacher"] = None if inputs.teacher is None else _taught(kind)
    if not names or "features" in names:
        parts["features"] = {name: value.detach().to(kind) for name, value in inputs.features.items()}
    parts["fused"] = parts.get("fused", inputs.fused.detach().clone()).requires_grad_()
    return replace(inputs, **parts)
