"""The test pairs of the runs that are compared: as tensors, as images, and their trivial fusions."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipfuse.comparison.album import Sources as PictureSources
    from clipfuse.comparison.collect import Run
    from clipfuse.comparison.compute import TrivialScores
    from clipfuse.metrics.protocols import Protocol
    from clipfuse.types import FusionBatch

    Sources = Callable[[str], FusionBatch]


def find_sources(runs: Sequence["Run"]) -> tuple["Sources | None", str | None]:
    """Find the test pairs: the data set of the runs if it is here, else the images that a run has saved."""
    from clipfuse.comparison.zips import read_image_in
    from clipfuse.data.pairs import Pair
    from clipfuse.data.transforms import whole
    from clipfuse.networks.load import check_targets
    from clipfuse.ops.depth import to_unit
    from clipfuse.runs.build import build

    run = runs[0]
    try:
        check_targets(run.config["data"], ("clipfuse.data",), str(run.folder / "config.yaml"))
        source = build(run.config["data"], "data")
        names = getattr(source, "names_fingerprint", source.fingerprint)
        if (source.fingerprint if run.knows_content else names)() == run.split:
            return lambda image: whole(source.load(image), image), None
        problem = "the data set has changed since"
    except UserError as error:
        problem = str(error)
    saved = next((r.folder / "test" for r in runs if (r.folder / "test/infrared").is_dir()), None)
    if saved is None:
        return (
            None,
            f"The trivial fusions and the sources are missing, as the test pairs are not here ({problem}).",
        )

    def read(image: str) -> "FusionBatch":
        infrared, visible = (read_image_in(saved / band / f"{image}.png") for band in ("infrared", "visible"))
        mask = saved / "masks" / f"{image}.png"
        target = to_unit(read_image_in(mask)) > 0.5 if mask.is_file() else None
        return whole(Pair(infrared, visible, target), image)

    return read, None


def as_pictures(sources: "Sources | None") -> "PictureSources | None":
    """Return a function that gives infrared and visible image of a pair, the visible one in colour."""
    from clipfuse.ops.color import luma_chroma_to_rgb
    from clipfuse.tracking.pictures import to_picture

    if sources is None:
        return None

    def pictures(image: str) -> "dict[str, Image]":
        batch = sources(image)
        color = luma_chroma_to_rgb(batch.visible, batch.chroma)
        return {"infrared": to_picture(batch.infrared[0]), "visible": to_picture(color[0])}

    return pictures


def score_trivial(
    runs: Sequence["Run"], protocol: "Protocol", names: Sequence[str], *, sources: "Sources"
) -> "TrivialScores":
    """Score the trivial fusions of the test pairs."""
    from tqdm import tqdm

    from clipfuse.metrics import Scorer, trivial_fusions
    from clipfuse.ops.color import luma_chroma_to_rgb

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
