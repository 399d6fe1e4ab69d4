"""The test pairs of the runs that are compared: as tensors, as images, and their trivial fusions."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from clipfuse.comparison.album import Sources as PictureSources
    from clipfuse.comparison.collect import Run
    from clipfuse.comparison.compute import TrivialScores
    from clipfuse.comparison.overlays import Truth
    from clipfuse.metrics.protocols import Protocol
    from clipfuse.types import FusionBatch

    Sources = Callable[[str], FusionBatch]


def find_sources(runs: Sequence["Run"]) -> tuple["Sources | None", str | None]:
    """Find the test pairs: the data set of the runs if it is here, else the images that a run has saved."""
    from clipfuse.comparison.zips import read_image_in
    from clipfuse.data.pairs import Pair
    from clipfuse.data.transforms import whole
    from clipfuse.files import is_there
    from clipfuse.networks.load import check_targets
    from clipfuse.ops.depth import to_unit
    from clipfuse.runs.build import build

    run = runs[0]
    try:
        node = run.config.get("data") or {}
        check_targets(node, ("clipfuse.data",), str(run.folder / "config.yaml"))
        source = build(node, "data")
        names = getattr(source, "names_fingerprint", source.fingerprint)
        if (source.fingerprint if run.knows_content else names)() == run.split:
            return lambda image: whole(source.load(image), image), None
        problem = "the data set has changed since"
    except Exception as error:  # the settings are a stranger's
        problem = " ".join(str(error).split()) or type(error).__name__
    saved = next((r.folder for r in runs if (r.folder / "test/infrared").is_dir()), None)
    if saved is None:
        return (
            None,
            f"The trivial fusions and the sources are missing, as the test pairs are not here ({problem}).",
        )

    def read(image: str) -> "FusionBatch":
        files = [saved / "test" / band / f"{image}.png" for band in ("infrared", "visible", "masks")]
        planes = [read_image_in(file, saved) for file in files if is_there(file)]
        sizes = {plane.shape[1:] for plane in planes}
        if len(planes) < 2 or len(sizes) > 1 or 3 in (len(planes[0]), *map(len, planes[2:])):
            raise UserError(
                f"{files[0]}, {files[1]}: one is missing, or they are not gray and of one size; copy the run "
                "folder again"
            )
        target = to_unit(planes[2]) > 0.5 if len(planes) > 2 else None
        return whole(Pair(planes[0], planes[1], target), image)

    return read, None


def as_pictures(sources: "Sources | None") -> "PictureSources | None":
    """Return a function that gives infrared and visible image of a pair, the visible one in colour.

    It gives none where they cannot be read.
    """
    from clipfuse.ops.color import luma_chroma_to_rgb
    from clipfuse.tracking.pictures import to_picture

    if sources is None:
        return None

    def pictures(image: str) -> "dict[str, Image]":
        try:
            batch = sources(image)
        except UserError:
            return {}
        color = luma_chroma_to_rgb(batch.visible, batch.chroma)
        return {"infrared": to_picture(batch.infrared[0]), "visible": to_picture(color[0])}

    return pictures


def as_truth(sources: "Sources | None") -> "Truth | None":
    """Return a function that gives the true classes of a pair's pixels, (H, W); None where there are none."""
    if sources is None:
        return None

    def truth(image: str) -> "Tensor | None":
        try:
            classes = sources(image).classes
        except UserError:
            return None
        return None if classes is None else classes[0]

    return truth


def score_trivial(
    runs: Sequence["Run"], protocol: "Protocol", names: Sequence[str], *, sources: "Sources"
) -> "TrivialScores":
    """Score the trivial fusions of the test pairs; not by LPIPS where its weights are not here."""
    from tqdm import tqdm

    from clipfuse.metrics import Scorer, trivial_fusions
    from clipfuse.ops.color import luma_chroma_to_rgb

    names = [name for name in names if name != "LPIPS" or name in protocol.options]
    if not names:
        return {}
    metrics = Scorer(protocol, names)
    images = [image for image in runs[0].scenes if all(image in run.scenes for run in runs)]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    quiet = not sys.stderr.isatty()
    for image in tqdm(images, desc="scoring trivial fusions", unit="image", disable=quiet):
        batch = sources(image)
        color = luma_chroma_to_rgb(batch.visible, batch.chroma)
        visible = color if protocol.channels else batch.visible
        trivial = trivial_fusions(batch.infrared, visible)
        rows = metrics.score_all(trivial, batch.infrared, visible, batch.target_mask)
        for name, row in rows.items():
            for metric, value in row.items():
                scores.setdefault(name, {}).setdefault(metric, {})[image] = value
    return scores
