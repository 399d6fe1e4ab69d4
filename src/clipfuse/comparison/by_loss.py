"""What each loss makes of some pairs, as one HTML page that needs no other file and no network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from PIL import Image

from clipfuse.comparison.album import LADDER, Album, encode
from clipfuse.comparison.report import render
from clipfuse.metrics.definition import Definition

BUDGET = 9_500_000  # bytes of all images in base64: the page stays below 10 MB
STEPS = ((1280, 92), *LADDER)  # longest side in pixels, quality


@dataclass(frozen=True)
class Fused:
    """One pair and what was made of it.

    Attributes:
        images: both bands, the plain fusions, then each loss, by their names.
        scores: name -> metric -> score; of all images but those that have none.
    """

    images: Mapping[str, Image.Image]
    scores: Mapping[str, Mapping[str, float]]


def by_loss_page(
    pairs: Mapping[str, Fused],
    losses: Mapping[str, str],
    metrics: Sequence[Definition],
    of: int,
    command: str,
    budget: int = BUDGET,
) -> tuple[str, str]:
    """Return the page, and how its images were made.

    Args:
        pairs: by their names.
        losses: name -> what it does, in one line; the names are keys of `Fused.images`.
        metrics: of the table.
        of: number of pairs from which these were taken.
        command: the command line that writes this page.
        budget: the most bytes of all images; they become smaller, and pairs are left out, to fit.
    """
    uris, side, quality = encode({name: pair.images for name, pair in pairs.items()}, budget, STEPS)
    spread = ", evenly spread" if len(uris) == len(pairs) < of else ""  # else the last ones did not fit
    note = (
        f"{len(uris)} of {of} {'pair' if of == 1 else 'pairs'}{spread}; "
        f"at most {side} px wide or high, WebP of quality {quality}, which loses the finest noise"
    )
    rows = {
        name: {each.name: fmean(pair.scores[name][each.name] for pair in pairs.values()) for each in metrics}
        for name in next(iter(pairs.values())).scores
    }
    best = {
        each.name: (max if each.higher_is_better else min)(rows[name][each.name] for name in losses)
        for each in metrics
    }
    page = render(
        "by_loss.html.j2",
        album=Album(uris, note),
        data={"images": uris, "losses": list(losses)},
        pairs=pairs,
        losses=losses,
        metrics=metrics,
        rows=rows,
        best=best,
        command=command,
        parts=(),
    )
    return page, note
