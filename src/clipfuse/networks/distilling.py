"""How one network learns to fuse as another one does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from clipfuse.networks.apply import passed_planes
from clipfuse.ops.filters import sobel_fields
from clipfuse.ops.seeding import derived_seed
from clipfuse.types import FusionOutput

WEIGHTS = {"intensity": 5.0, "gradient": 1.0, "ssim": 1.0, "chroma": 5.0}  # of the loss's terms
_WINDOW = 11  # of SSIM: smaller images have none


@dataclass(frozen=True)
class Lesson:
    """A pair and what the teacher makes of it, or several of one size.

    Attributes:
        infrared: (N, 1, H, W) in [0, 1].
        visible: luma, the same shape.
        taught: the teacher's fused luma, the same shape.
        chroma: Cb and Cr of the visible image, (N, 2, H, W), where the chroma is learned; else None.
        taught_chroma: the teacher's, the same shape, or None.
    """

    infrared: Tensor
    visible: Tensor
    taught: Tensor
    chroma: Tensor | None = None
    taught_chroma: Tensor | None = None


def distillation_terms(output: FusionOutput, lesson: Lesson) -> dict[str, Tensor]:
    """Return the differences from the teacher, each a scalar, 0 where both agree.

    intensity = mean|F - T|
    gradient = mean|Sobel(F) - Sobel(T)|, of both directions
    ssim = 1 - SSIM(F, T), Gaussian window 11, sigma 1.5 (Wang et al., TIP 2004), from sides of 11 on
    chroma = mean|C_F - C_T|, where the chroma is learned

    The total is their sum by `WEIGHTS`. Own design: the usual terms of fusion losses, against the teacher's
    image in the place of the sources'.
    """
    fused, taught = output.fused, lesson.taught
    terms = {
        "intensity": (fused - taught).abs().mean(),
        "gradient": (sobel_fields(fused) - sobel_fields(taught)).abs().mean(),
    }
    if min(fused.shape[-2:]) >= _WINDOW:
        from kornia.metrics import ssim  # here: it takes long to import, and loading a network needs it not

        terms["ssim"] = 1 - ssim(fused, taught, _WINDOW).mean()
    if output.chroma is not None and lesson.taught_chroma is not None:
        terms["chroma"] = (output.chroma - lesson.taught_chroma).abs().mean()
    return terms


def distil(
    student: nn.Module,
    lessons: Sequence[Lesson],
    updates: int,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    seed: int = 0,
    advance: Callable[[int], object] = lambda count: None,
) -> list[float]:
    """Train a network in place to fuse as the teacher of the lessons does, by Adam.

    The learning rate rises over the first twentieth of the updates and falls by a cosine; the norm of the
    gradient is limited to 1. The lessons are shuffled anew for each pass, by the seed and the pass alone.

    Args:
        student: a network of (infrared, visible), or of the chroma too, that returns a `FusionOutput` or the
            fused luma.
        lessons: one or more of one size, a pair each; on any device, in any floating point type.
        updates: number of updates, 1 or more.
        batch_size: lessons per update.
        learning_rate: the greatest.
        seed: of the shuffles.
        advance: called with 1 after each update.

    Returns:
        The losses.

    Raises:
        ValueError: the loss is not finite; names the update.
    """
    like = next(student.parameters())
    optimizer = torch.optim.Adam(student.parameters(), learning_rate)
    warm = max(1, updates // 20)

    def rate(update: int) -> float:
        return min(
            (update + 1) / warm, 0.5 + 0.5 * float(torch.cos(torch.tensor(torch.pi * update / updates)))
        )

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses: list[float] = []
    order: list[int] = []
    student.train()
    for update in range(updates):
        while len(order) < batch_size:
            shuffle = torch.Generator().manual_seed(derived_seed(seed, update, len(order)))
            order += torch.randperm(len(lessons), generator=shuffle).tolist()
        chosen, order = [lessons[index] for index in order[:batch_size]], order[batch_size:]
        batch = _joined(chosen, like)
        output = student(*passed_planes(student, batch.infrared, batch.visible, batch.chroma))
        if not isinstance(output, FusionOutput):
            output = FusionOutput(output)
        terms = distillation_terms(output, batch)
        total = torch.stack([WEIGHTS[name] * term for name, term in terms.items()]).sum()
        losses.append(float(total.detach()))
        if losses[-1] - losses[-1] != 0:
            raise ValueError(f"the loss is {losses[-1]} at update {update + 1}; lower the learning rate")
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        advance(1)
    student.eval()
    return losses


def _joined(lessons: Sequence[Lesson], like: Tensor) -> Lesson:
    planes: dict[str, Any] = {}
    for field in fields(Lesson):
        parts = [getattr(each, field.name) for each in lessons]
        planes[field.name] = None if parts[0] is None else torch.cat(parts).to(like)
    return Lesson(**planes)
