"""`clipfuse.score`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from clipfuse.api.kinds import Images, Stack, check_alike, check_files, take
from clipfuse.data.checks import read_mask
from clipfuse.data.masks import parse_classes
from clipfuse.decoding.ranges import read_ranges
from clipfuse.errors import UserError
from clipfuse.metrics.protocols import Protocol, protocol_named
from clipfuse.metrics.scoring import Scorer
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.ops.masks import target_mask as find_targets


@dataclass(frozen=True)
class ScoreTable:
    """Scores of several images under one protocol.

    Attributes:
        images: for each image its scores by metric; NaN where a metric is not defined for the image.
        protocol: whose conventions the scores follow.
    """

    images: Sequence[Mapping[str, float]]
    protocol: Protocol

    @property
    def means(self) -> dict[str, float]:
        """The mean of each metric over the images it is defined for; NaN where there are none."""
        return {name: fmean(kept) if (kept := self._defined(name)) else nan for name in self.images[0]}

    def _defined(self, name: str) -> list[float]:
        return [row[name] for row in self.images if isfinite(row[name])]

    def __str__(self) -> str:
        """Return mean and standard deviation of each metric as a table of text, with the protocol."""
        from clipfuse.metrics.table import score_table

        columns = {name: [row[name] for row in self.images] for name in self.images[0]}
        return score_table(self.protocol, {f"fused ({len(self.images)} images)": columns})


def score(
    fused: Images,
    infrared: Images,
    visible: Images,
    protocol: str | Protocol = "strict",
    metrics: str | Iterable[str] = "full",
    target_mask: Images | None = None,
    range: Any = None,
    mask_classes: Sequence[int] | None = None,
    lpips_weights: str | Path | None = None,
) -> dict[str, float] | ScoreTable:
    """Score fused images of any method, as the command `clipfuse score` does.

    Colour images are scored by their luma (BT.601), or by the mean over their channels where the protocol
    does so, all rounded to 8 bits.

    Args:
        fused: one image or several; see `clipfuse.api.kinds.Images` for kinds, shapes and ranges.
        infrared: the same kind, number and size.
        visible: the same.
        protocol: convention of the metrics, such as "strict"; numbers of two protocols must not be compared.
        metrics: names, or the sets "fast" and "full"; a list, or a text joined by commas.
        target_mask: masks of two values (0 and 1, or 0 and 255), or maps of classes; without them metrics
            that need one are left out.
        range: of infrared and visible images, as for `fuse`; the fused ones have the full range.
        mask_classes: the classes of the maps that are targets.
        lpips_weights: file of VGG16's or AlexNet's weights; the set "full" then has LPIPS, too.

    Returns:
        Of one image {metric: score}, NaN where the image is too small for the metric. Of a batch or a list a
        `ScoreTable`: `.images`, `.means`, and the table of text as `str`.

    Raises:
        UserError: the images differ in kind, number or size, or are of another type, shape or range; an
            unknown protocol or metric, or one that needs a mask; a file of weights that cannot be used.
    """
    ranges = read_ranges(range, "range")
    stacks = [take("fused", fused), take("infrared", infrared, ranges.infrared)]
    stacks.append(take("visible", visible, ranges.visible))
    if target_mask is not None:
        stacks.append(_take_masks(target_mask))
    check_alike(*stacks)
    check_files(infrared, visible, ranges)
    classes = parse_classes(mask_classes, "mask_classes")
    names = metrics.split(",") if isinstance(metrics, str) else list(metrics)
    names = [name.strip() for name in names]
    try:
        if lpips_weights is not None:
            protocol = protocol_named(protocol).with_lpips(str(lpips_weights))
        scorer = Scorer(protocol, names)
        for name in names:
            if target_mask is None and name in scorer.names and scorer.protocol.definition(name).needs_mask:
                raise ValueError(f"metric '{name}' needs a target_mask")
        rows = []
        for parts in zip(*(stack.parts for stack in stacks), strict=True):
            planes = [to_unit(part) for part in parts[:3]]
            if not scorer.protocol.channels:
                planes = [rgb_to_luma_chroma(plane)[0] for plane in planes]
            planes += [find_targets(part, classes) for part in parts[3:]]
            for images in zip(*(plane.split(1) for plane in planes), strict=True):
                mask = images[3] if len(images) == 4 else None
                rows.append(scorer.score_all({"": images[0]}, images[1], images[2], mask)[""])
    except ValueError as error:
        raise UserError(str(error)) from None
    return rows[0] if stacks[0].form == "one image" else ScoreTable(rows, scorer.protocol)


def _take_masks(given: Images) -> Stack:
    """Take masks as images, but of files with a palette the numbers."""
    stack = take("target_mask", given)
    if stack.kind != "path":
        return stack
    paths = [given] if isinstance(given, str | Path) else given
    return replace(stack, parts=[read_mask(path)[None] for path in paths])
