"""Whether targets stand out, and how much of the detail is noise (own design)."""

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from clipfuse.metrics.definition import metric
from clipfuse.metrics.safe import ratio
from clipfuse.metrics.sharing import shared

RING = 7
WINDOW = 8
Target = tuple[tuple[slice, slice], Tensor, Tensor]


@metric("target-contrast", higher_is_better=True, bounds=(-255 / 271, 255 / 16))
def target_contrast(fused: Tensor, infrared: Tensor, visible: Tensor, *, target_mask: Tensor) -> Tensor:
    """Weber contrast of targets against their surroundings (own design).

    For each target (8-connected part of the mask) the mean inside, less the mean over the ring of
    pixels at most 7 px away in either direction and in no target, over the ring's mean + 16; the
    score is the mean over targets. The 16 keeps dark rings from making every contrast huge.

    Keyword Args:
        target_mask: (N, 1, H, W) bool, True on targets.

    Returns:
        (N,) in [-0.94, 15.94]; higher is better; NaN where there is no target that has a ring.
    """
    scores = []
    for plane, targets in zip(fused[:, 0], targets_and_rings(target_mask), strict=True):
        contrasts = []
        for place, target, ring in targets:
            inside, around = (plane[place][region].mean() for region in (target, ring))
            contrasts.append((inside - around) / (around + 16))
        scores.append(torch.stack(contrasts).mean() if contrasts else plane.new_full((), torch.nan))
    return torch.stack(scores) if scores else fused.new_zeros(0)


@shared
def targets_and_rings(mask: Tensor) -> list[list[Target]]:
    """Return, per image, the targets that have a ring: where they are, and target and ring in there."""
    from scipy.ndimage import find_objects, label

    images: list[list[Target]] = []
    for plane in mask[:, 0]:
        labels, _ = label(plane.cpu().numpy(), structure=torch.ones(3, 3).numpy())
        found: list[Target] = []
        images.append(found)
        for number, (rows, columns) in enumerate(find_objects(labels), 1):
            down, across = (slice(max(0, side.start - RING), side.stop + RING) for side in (rows, columns))
            target = (torch.from_numpy(labels[down, across]) == number).to(mask.device)
            near = target[None].float()
            for kernel, padding in (((2 * RING + 1, 1), (RING, 0)), ((1, 2 * RING + 1), (0, RING))):
                near = max_pool2d(near, kernel, stride=1, padding=padding)
            ring = (near[0] > 0) & ~plane[down, across]
            if ring.any():
                found.append(((down, across), target, ring))
    return images


@metric("noise", higher_is_better=False, bounds=(0, 1), smallest=3)
def noise_score(fused: Tensor, infrared: Tensor, visible: Tensor) -> Tensor:
    """Share of the fused image's finest detail that comes from neither source (own design).

    The Laplacian of the fused image is fitted by least squares with those of both sources in each
    window of 8x8 px; the score is the energy left over, over the whole. It rises where noise has
    raised EN, SD, SF or AG. Rounding to 8 bits is such noise too: in smooth images it dominates.

    Returns:
        (N,) in [0, 1]; lower is better; 0 for any mixture of the sources whose weights are constant in
        each window, and for a flat image; about 0.95 for white noise, which two free numbers fit a little.
    """
    f, i, v = _laplacian(fused), _laplacian(infrared), _laplacian(visible)
    energy = _window_sums(f * f)
    ii, vv = _window_energies(infrared), _window_energies(visible)
    fi, fv, iv = _window_sums(f * i), _window_sums(f * v), _window_sums(i * v)
    # Gram-Schmidt, the stronger source first; what the weaker adds is ignored where it is but a multiple.
    swap = vv > ii
    strong, weak = torch.where(swap, vv, ii), torch.where(swap, ii, vv)
    with_strong, with_weak = torch.where(swap, fv, fi), torch.where(swap, fi, fv)
    rest = weak - ratio(iv.square(), strong)
    with_rest = with_weak - ratio(with_strong * iv, strong)
    explained = ratio(with_strong.square(), strong)
    explained = explained + torch.where(rest > 1e-9 * weak, ratio(with_rest.square(), rest), 0)
    residual = (energy - explained).clamp_min(0).sum((1, 2, 3))
    whole = energy.sum((1, 2, 3))
    return ratio(residual, whole)


@shared
def _laplacian(plane: Tensor) -> Tensor:
    rows, columns = plane[..., 1:-1, :], plane[..., 1:-1]
    across = rows[..., :-2] + rows[..., 2:]
    return across + columns[..., :-2, :] + columns[..., 2:, :] - 4 * rows[..., 1:-1]


@shared
def _window_energies(plane: Tensor) -> Tensor:
    return _window_sums(_laplacian(plane).square())


def _window_sums(plane: Tensor) -> Tensor:
    """Sum over windows of 8x8 px; those at the right and lower end may be smaller."""
    height, width = plane.shape[2:]
    plane = pad(plane, (0, -width % WINDOW, 0, -height % WINDOW))
    return plane.unflatten(3, (-1, WINDOW)).sum(4).unflatten(2, (-1, WINDOW)).sum(3)
