"""The rule that chooses the recipe. It was committed before the search began, and knows no recipe.

1. Every candidate fuses the validation scenes: whole real scenes nobody trained on, and rendered ones. Its
   luma is scored as a file would be, under protocol `cddfuse` by EN, SD, SF, AG, SCD, VIF, Qabf and SSIM;
   by the noise score (lower is better); and on rendered scenes by target contrast.
2. The trivial fusions are candidates: infrared, visible, average, maximum, the sum of both bands'
   deviations from their means, and the Laplacian pyramid.
3. By each score candidates are ranked on their mean over scenes; ranks are averaged over the scores of the
   real scenes, over those of the rendered ones, and over both. The lowest wins.
4. Before that are rejected: noise (more than `NOISE` times that of the maximum), over-sharpening (AG above
   `SHARPNESS` times that of the Laplacian pyramid, which has the stronger detail of both bands everywhere),
   and copies of the maximum (nearer to it than `COPY` grey levels on average).
5. The images of what is left are looked at: halos, patterns, smooth skies, people, faces of buildings.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from scipy.stats import rankdata
from torch import Tensor

from clipfuse.data.pairs import PairSource
from clipfuse.data.transforms import whole
from clipfuse.metrics import FusionMetrics, trivial_fusions
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.ops.pyramid import pyramid_fusion
from clipfuse.types import FusionBatch

METRICS = ("EN", "SD", "SF", "AG", "SCD", "VIF", "Qabf", "SSIM")
OWN = ("noise", "target-contrast")
LOWER = frozenset(("noise",))
NOISE, SHARPNESS, COPY = 2.0, 1.25, 4.0
FROM_MAXIMUM = "from maximum"
LAPLACIAN = "trivial:laplacian"

Fuse = Callable[[Tensor, Tensor], Tensor]
Scores = dict[str, float]


def load_scenes(source: PairSource, part: str) -> list[FusionBatch]:
    """Return the pairs of a part as batches of one."""
    return [whole(source.load(name), name) for name in source.parts()[part]]


def trivial(infrared: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Return the fusions that are in every race, by name."""
    deviations = [plane - plane.mean((2, 3), keepdim=True) for plane in (infrared, visible)]
    level = (infrared.mean((2, 3), keepdim=True) + visible.mean((2, 3), keepdim=True)) / 2
    return {
        **trivial_fusions(infrared, visible),
        "trivial:sum": (level + deviations[0] + deviations[1]).clamp(0, 1),
        LAPLACIAN: pyramid_fusion(infrared, visible).clamp(0, 1),
    }


def score(
    scenes: Sequence[FusionBatch], candidates: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
) -> dict[str, Scores]:
    """Return the mean scores of several fusions over the scenes that define them, by the candidate's name.

    Beside the scores of the rule, `FROM_MAXIMUM` is the mean distance from the brighter pixel in grey levels.
    """
    published, own = FusionMetrics("cddfuse", METRICS), FusionMetrics("strict", OWN)
    found: dict[str, dict[str, list[float]]] = {}
    for scene in scenes:
        infrared, visible, mask = scene.infrared, scene.visible, scene.target_mask
        fused = {name: to_unit(to_bytes(plane)) for name, plane in candidates(infrared, visible).items()}
        brighter = to_unit(to_bytes(infrared.maximum(visible)))
        rows = published.score_all(fused, infrared, visible, None)
        for name, row in own.score_all(fused, infrared, visible, mask).items():
            distance = 255 * float((fused[name] - brighter).abs().mean())
            for key, value in {**rows[name], **row, FROM_MAXIMUM: distance}.items():
                found.setdefault(name, {}).setdefault(key, []).append(value)
    return {
        name: {key: fmean(value for value in values if value == value) for key, values in row.items()}
        for name, row in found.items()
    }


def average_ranks(scores: Mapping[str, Scores], among: Sequence[str] = (*METRICS, *OWN)) -> dict[str, float]:
    """Return each candidate's mean rank over the scores that all have; 1 is best, equals share one."""
    names = list(scores)
    keys = [key for key in among if all(key in scores[name] for name in names)]
    table = [rankdata([scores[name][key] * (1 if key in LOWER else -1) for name in names]) for key in keys]
    return {name: fmean(float(ranks[index]) for ranks in table) for index, name in enumerate(names)}


def rejection(name: str, scores: Mapping[str, Scores]) -> str | None:
    """Say why a candidate is out of the race on one set of scenes, or None."""
    own, sharpest, maximum = scores[name], scores[LAPLACIAN], scores["trivial:maximum"]
    if name.startswith("trivial:"):
        return None
    if own["noise"] > NOISE * maximum["noise"]:
        return f"noise {own['noise']:.3f}, the maximum has {maximum['noise']:.3f}"
    if own["AG"] > SHARPNESS * sharpest["AG"]:
        return f"AG {own['AG']:.2f}, the Laplacian pyramid has {sharpest['AG']:.2f}"
    if own[FROM_MAXIMUM] < COPY:
        return f"{own[FROM_MAXIMUM]:.1f} grey levels from the maximum"
    return None
