"""The test pairs of the runs that are compared: as tensors, as images, and their trivial fusions."""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from clipfuse.comparison.collect import Run
    from clipfuse.comparison.compute import TrivialScores
    from clipfuse.comparison.pictures import Sources as PictureSources
    from clipfuse.metrics.protocols import Protocol

    Sources = Callable[[str], dict[str, Tensor | None]]


def find_sources(runs: Sequence["Run"]) -> tuple["Sources | None", str | None]:
    """Find the test pairs: the data set of the runs if it is here, else the images that a run has saved."""
    from clipfuse.data.transforms import whole
    from clipfuse.images import read_image
    from clipfuse.networks.load import check_targets
    from clipfuse.ops.color import rgb_to_luma_chroma
    from clipfuse.ops.depth import to_unit
    from clipfuse.runs.build import build

    run = runs[0]
    try:
        check_targets(run.config["data"], ("clipfuse.data",), run.folder / "config.yaml")
        source = build(run.config["data"], "data")
        names = getattr(source, "names_fingerprint", source.fingerprint)
        if (source.fingerprint if run.knows_content else names)() == run.split:
            return lambda image: whole(source.load(image)), None
        problem = "the data set has changed since"
    except UserError as error:
        problem = str(error)
    saved = next((r.folder / "test" for r in runs if (r.folder / "test/infrared").is_dir()), None)
    if saved is None:
        return (
            None,
            f"The trivial fusions and the sources are missing, as the test pairs are not here ({problem}).",
        )

    def read(image: str) -> "dict[str, Tensor | None]":
        planes = {
            kind: to_unit(read_image(saved / kind / f"{image}.png")) for kind in ("infrared", "visible")
        }
        luma, chroma = rgb_to_luma_chroma(planes["visible"])
        mask = saved / "masks" / f"{image}.png"
        target = to_unit(read_image(mask)) > 0.5 if mask.is_file() else None
        return {"infrared": planes["infrared"], "visible": luma, "chroma": chroma, "target_mask": target}

    return read, None


def as_pictures(sources: "Sources | None") -> "PictureSources | None":
    """Return a function that gives infrared and visible image of a pair, the visible one in colour."""
    from clipfuse.ops.color import luma_chroma_to_rgb
    from clipfuse.tracking.pictures import to_picture

    if sources is None:
        return None

    def pictures(image: str) -> "dict[str, Image]":
        planes = sources(image)
        infrared, visible, chroma = (planes[key] for key in ("infrared", "visible", "chroma"))
        assert infrared is not None
        assert visible is not None
        assert chroma is not None
        return {"infrared": to_picture(infrared), "visible": to_picture(luma_chroma_to_rgb(visible, chroma))}

    return pictures


def score_trivial(
    runs: Sequence["Run"], protocol: "Protocol", names: Sequence[str], *, sources: "Sources"
) -> "TrivialScores":
    """Score the trivial fusions of the test pairs."""
    from tqdm import tqdm

    from clipfuse.metrics import Scorer, baselines

    metrics = Scorer(protocol, names)
    images = [image for image in runs[0].scenes if all(image in run.scenes for run in runs)]
    scores: dict[str, dict[str, dict[str, float]]] = {}
    quiet = not sys.stderr.isatty()
    for image in tqdm(images, desc="scoring trivial fusions", unit="image", disable=quiet):
        planes = {key: None if plane is None else plane[None] for key, plane in sources(image).items()}
        infrared, visible, mask = planes["infrared"], planes["visible"], planes.get("target_mask")
        assert infrared is not None
        assert visible is not None
        rows = metrics.score_all(baselines(infrared, visible), infrared, visible, mask)
        for name, row in rows.items():
            for metric, value in row.items():
                scores.setdefault(name, {}).setdefault(metric, {})[image] = value
    return scores
