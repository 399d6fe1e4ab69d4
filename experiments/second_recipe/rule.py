"""The rule that chooses the second recipe. It was committed before the search began.

1. Candidates fuse the validation scenes of three sets: MSRS (whole blocks of its training drives), RoadScene
   and rendered scenes. The trivial fusions and every untrained start are candidates.
2. On each set candidates are ranked by the mean over scenes of each family of `balanced-1`; ranks are
   averaged over families, then over the sets. The lowest wins. For finalists mIoU (`retrained-1`, on MSRS's
   validation blocks) is one more family of MSRS.
3. Before that are rejected, on any set: noise (more than `NOISE` times that of the maximum); overshoot (more
   than `OVERSHOOT` of the pixels lie over 8 grey levels outside of what either band shows within 3 pixels).
   And on the days of MSRS: a mean luma more than `LUMA` from that of the visible image, or a sky that is no
   longer flat (`SKY` grey levels above the standard deviation of the smoother band).
4. The images of what is left are looked at: day, night, people, vehicles, texture, hard light.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import torch
from experiments.best_recipe.rule import Fuse, Scores, average_ranks
from torch import Tensor
from torch.nn.functional import max_pool2d, unfold

from clipfuse.metrics import FusionMetrics
from clipfuse.metrics.verdict import FAMILIES
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.types import FusionBatch

BALANCED = tuple(name for names in FAMILIES.values() for name in names)
NOISE, OVERSHOOT, LUMA, SKY = 2.0, 0.01, 0.05, 2.0
MAXIMUM = "trivial:maximum"
PATCH = 32  # side of the patch of sky


def overshoot(fused: Tensor, infrared: Tensor, visible: Tensor, reach: int = 3, margin: float = 8) -> Tensor:
    """Return the share of pixels outside of the range of both bands in their neighbourhood, (N,) in [0, 1].

    Args:
        fused: (N, 1, H, W) in [0, 1], as the bands.
        infrared: of the same shape.
        visible: of the same shape.
        reach: of the neighbourhood, in pixels to each side.
        margin: grey levels of 255 that do not count.
    """
    size, both = 2 * reach + 1, torch.cat([infrared, visible])
    high = max_pool2d(both, size, 1, reach).view(2, *fused.shape).amax(0)
    low = -max_pool2d(-both, size, 1, reach).view(2, *fused.shape).amax(0)
    return ((fused > high + margin / 255) | (fused < low - margin / 255)).float().mean((1, 2, 3))


def sky(infrared: Tensor, visible: Tensor) -> tuple[slice, slice] | None:
    """Return the place of the flattest bright patch in the upper third of a pair, None where there is none.

    It is found by the bands alone: of the patches whose visible mean is above 100 grey levels the one whose
    standard deviations in both bands have the least sum, if that of neither is above 6.
    """
    rows = visible.shape[-2] // 3
    if rows < PATCH:
        return None
    patches = unfold(torch.cat([infrared, visible])[..., :rows, :], PATCH, stride=8)  # (2, P * P, places)
    deviations, level = 255 * patches.std(1), 255 * patches[1].mean(0)
    cost = deviations.sum(0)
    cost[(level < 100) | (deviations.amax(0) > 6)] = torch.inf
    best = int(cost.argmin())
    if not torch.isfinite(cost[best]):
        return None
    columns = (visible.shape[-1] - PATCH) // 8 + 1
    top, left = 8 * (best // columns), 8 * (best % columns)
    return slice(top, top + PATCH), slice(left, left + PATCH)


def look(fused: Tensor, scene: FusionBatch, day: bool) -> Scores:
    """Return what the vetoes need of a fused image (1, 1, H, W) in [0, 1]."""
    infrared, visible = scene.infrared, scene.visible
    found = {"overshoot": float(overshoot(fused, infrared, visible))}
    if day:
        found["luma"] = float(fused.mean() / visible.mean())
        if (place := sky(infrared, visible)) is not None:
            spreads = [255 * float(image[..., *place].std()) for image in (fused, infrared, visible)]
            found["sky"] = spreads[0] - min(spreads[1:])
    return found


def score(
    scenes: Sequence[FusionBatch], candidates: Mapping[str, Fuse], days: Sequence[str] = ()
) -> dict[str, Scores]:
    """Return each candidate's means over the scenes, of those of them for which a number is defined.

    Args:
        scenes: of one set.
        candidates: by name; each maps (infrared, visible) to a fused luma.
        days: ids of the scenes by day on which the visible image sets the level.
    """
    metrics = FusionMetrics("strict", (*BALANCED, "noise"))
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in candidates}
    for scene in scenes:
        infrared, visible = scene.infrared, scene.visible
        with torch.no_grad():
            fused = {name: to_unit(to_bytes(fuse(infrared, visible))) for name, fuse in candidates.items()}
        found = metrics.score_all(fused, infrared, visible, scene.target_mask)
        for name, image in fused.items():
            for key, value in (found[name] | look(image, scene, scene.sample_ids[0] in days)).items():
                rows[name].setdefault(key, []).append(value)
    defined = {
        name: {key: [each for each in values if each == each] for key, values in row.items()}
        for name, row in rows.items()
    }
    return {
        name: {key: fmean(values) for key, values in row.items() if values} for name, row in defined.items()
    }


def rejection(name: str, scores: Mapping[str, Scores]) -> str | None:
    """Return why a candidate is out of the race by one set of scenes, or None."""
    own, maximum = scores[name], scores[MAXIMUM]
    if name.startswith("trivial:"):
        return None
    if own["noise"] > NOISE * maximum["noise"]:
        return f"noise {own['noise']:.3f}, the maximum has {maximum['noise']:.3f}"
    if own["overshoot"] > OVERSHOOT:
        return f"{100 * own['overshoot']:.1f} % of the pixels overshoot"
    if abs(own.get("luma", 1) - 1) > LUMA:
        return f"mean luma by day {own['luma']:.2f} of the visible image's"
    if own.get("sky", 0) > SKY:
        return f"the sky's standard deviation is {own['sky']:.1f} grey levels above the smoother band's"
    return None


def decide(sets: Mapping[str, Mapping[str, Scores]]) -> dict[str, tuple[float, str | None]]:
    """Return of each candidate its mean rank over the sets and why it is rejected, the best first.

    Ranks are among those that are not rejected; a rejected one has that of the last place.
    """
    names = list(next(iter(sets.values())))
    reasons = {
        name: next((why for rows in sets.values() if (why := rejection(name, rows))), None) for name in names
    }
    kept = [name for name in names if reasons[name] is None]
    found = [average_ranks({name: rows[name] for name in kept}, BALANCED) for rows in sets.values()]
    total = {
        name: fmean(each[name] for each in found) if name in kept else float(len(names)) for name in names
    }
    return {name: (total[name], reasons[name]) for name in sorted(names, key=total.__getitem__)}
