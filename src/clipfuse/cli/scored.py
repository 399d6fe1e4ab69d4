"""What `clipfuse score` reads for each image, found and checked before the first score, and the scores."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.cli.own import look_in
from clipfuse.data.listed import given_pairs
from clipfuse.data.masks import check_masks, files_of_pairs, find_masks, read_target_mask
from clipfuse.data.matching import ImageFile
from clipfuse.decoding.ranges import Ranges
from clipfuse.errors import UserError
from clipfuse.images import check_sizes, image_files, read_image
from clipfuse.metrics import Scorer, trivial_fusions
from clipfuse.metrics.protocols import protocol_named
from clipfuse.ops.color import rgb_to_luma_chroma
from clipfuse.ops.depth import to_unit
from clipfuse.processes import packed, workers

if TYPE_CHECKING:
    from torch import Tensor

    Files = tuple[dict[str, Tensor], dict[str, Tensor], Tensor | None]

Scores = dict[str, dict[str, dict[str, float]]]  # method -> image -> metric -> score
FEW = 8  # images for which a further process is not worth its start, which takes as long as some of them


@dataclass(frozen=True)
class Metrics:
    """Metrics under a protocol, as words: another process makes its own of them.

    Attributes:
        protocol: its name.
        names: of metrics and sets.
        own: paths of the user's metrics.
        lpips_weights: the file of LPIPS, which is computed where there is one.
    """

    protocol: str
    names: tuple[str, ...]
    own: tuple[str, ...] = ()
    lpips_weights: str | None = None

    def scorer(self) -> Scorer:
        """Return what computes them, made once; metrics of the user's are looked for in the current folder.

        Raises:
            ValueError: as `Scorer`.
        """
        return _scorer(self, os.getcwd())


@lru_cache(maxsize=16)
def _scorer(metrics: Metrics, folder: str) -> Scorer:
    if metrics.own:
        look_in(folder, metrics.own)
    protocol = protocol_named(metrics.protocol)
    if metrics.lpips_weights:
        protocol = protocol.with_lpips(metrics.lpips_weights)
    protocol = protocol.with_own(metrics.own)
    named = ["LPIPS"] if metrics.lpips_weights else []  # who names its weights wants its scores
    return Scorer(protocol, [*metrics.names, *protocol.own, *named])


@dataclass(frozen=True)
class Job:
    """What is done with the files of each image.

    Attributes:
        words: what they are, as for `read_files`.
        classes: of the masks that are targets.
        ranges: of the sources.
        metrics: each of them scores all methods.
        with_trivial: score the trivial fusions, too.
    """

    words: tuple[str, ...]
    classes: Sequence[int] | None
    ranges: Ranges
    metrics: tuple[Metrics, ...]
    with_trivial: bool

    def scores(self, name: str, paths: Sequence[Path]) -> list[dict[str, dict[str, float]]]:
        """Return by each scorer {method: {metric: score}} of one image.

        Raises:
            UserError: a file cannot be read, or a metric cannot take the image.
        """
        colors, planes, mask = read_files(paths, self.words, self.classes, self.ranges)
        methods = [word for word in self.words if word not in ("infrared", "visible", "masks")]
        found = []
        for metrics in self.metrics:
            scorer = metrics.scorer()
            images = colors if scorer.protocol.channels else planes
            infrared, visible = images["infrared"], images["visible"]
            candidates = {label: images[label] for label in methods}
            if self.with_trivial:
                candidates |= trivial_fusions(infrared, visible)
            try:
                found.append(scorer.score_all(candidates, infrared, visible, mask))
            except ValueError as error:
                raise UserError(f"{name}: {error}; leave the image or the metric out") from None
        return found


def score_images(files: Mapping[str, tuple[Path, ...]], job: Job, processes: int | None) -> list[Scores]:
    """Return the scores by each scorer, as many images at a time as there are processes.

    Each process computes with one thread: sums over an image do not depend on how many there are.

    Args:
        files: of each image.
        job: what is done with them.
        processes: how many; None: one per core, and fewer for few images.

    Raises:
        UserError: as `Job.scores`, for the first such image; or a process was killed.
    """
    from tqdm import tqdm

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(processes, len(files)) if processes else max(1, min(cores, len(files) // FEW))
    scores: list[Scores] = [{} for _ in job.metrics]
    lost = "a process that scored images was killed, perhaps for want of memory; lower --workers"
    with workers(processes, lost) as call, _one_thread():
        if call is None:
            found = (job.scores(name, paths) for name, paths in files.items())
        else:
            handed = packed((job,))
            jobs = [call.submit(_scored, handed, name, paths) for name, paths in files.items()]
            found = (call.result(each) for each in jobs)
        for name, rows in tqdm(zip(files, found, strict=True), "scoring", len(files), unit="image"):
            for methods, row in zip(scores, rows, strict=True):
                for method, values in row.items():
                    methods.setdefault(method, {})[name] = values
    return scores


def _scored(job: Job, name: str, paths: Sequence[Path]) -> list[dict[str, dict[str, float]]]:
    with _one_thread():
        return job.scores(name, paths)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def find_files(
    infrared: Path,
    visible: Path,
    pairs: str | None,
    masks: Path | None,
    classes: Sequence[int] | None,
    fused: Mapping[str, Path],
) -> tuple[dict[str, tuple[Path, ...]], str, dict[str, list[str]], dict[str, str]]:
    """Return for each image the infrared and the visible file, its mask, and that of each method.

    Only images that every method has are scored. The second value is the sentence how the pairs were found;
    the third names what is left out: of the pairs those that a method lacks, of a method what belongs to no
    scored pair; the fourth holds the scenes that the table of the pairs states.

    Args:
        infrared: folder of the infrared images.
        visible: folder of the visible images, which may be the same.
        pairs: as for `listed_pairs`.
        masks: folder of target masks or maps of classes; None: there are none.
        classes: the classes that are targets.
        fused: the folder of each method; a fused image has the id of its pair, or the name of a file of it.

    Raises:
        UserError: files cannot be read, differ in size, or are no masks; or all methods have fewer than half
            of the images of the smallest folder, which looks like other names rather than missing images.
    """
    found = given_pairs(infrared, visible, pairs)
    files = {"infrared": {sample: pair.infrared for sample, pair in found.pairs.items()}}
    files["visible"] = {sample: pair.visible for sample, pair in found.pairs.items()}
    fewest, expected = "source", len(found.pairs)
    stems: dict[str, dict[str, Path]] = {}
    common = list(found.pairs)
    for label, folder in fused.items():
        stems[label] = image_files(folder)
        files[label] = files_of_pairs(found.pairs, [ImageFile(path, ()) for path in stems[label].values()])
        common = [sample for sample in common if sample in files[label]]
        if len(stems[label]) < expected:
            fewest, expected = label, len(stems[label])
    if 2 * len(common) < expected:
        first = {"source": found.pairs, **stems}
        examples = ", ".join(f"{label} {next(iter(names))}" for label, names in first.items())
        raise UserError(
            f"{fused.get(fewest, infrared)}: {len(common)} of {expected} {fewest} images have a name that "
            f"all folders have; expected half or more ({examples}); rename files, or check the folders"
        )
    left_out = {"source": [sample for sample in found.pairs if sample not in common]}
    for label, own in stems.items():
        used = {files[label][sample] for sample in common}
        left_out[label] = [stem for stem, path in own.items() if path not in used]
    order = ["infrared", "visible", *fused]
    if masks is not None:
        files["masks"] = find_masks(infrared, str(masks), {name: found.pairs[name] for name in common})
        check_masks(list(files["masks"].values()), classes)
        order.insert(2, "masks")
    elif classes:
        raise UserError("--mask-classes has no effect without --masks; name the folder of the maps")
    together = {sample: tuple(files[word][sample] for word in order) for sample in common}
    check_sizes(together)
    scenes = {sample: scene for sample in common if (scene := found.pairs[sample].scene)}
    return together, found.summary(), {word: names for word, names in left_out.items() if names}, scenes


def read_files(
    paths: Sequence[Path], words: Sequence[str], classes: Sequence[int] | None, ranges: Ranges
) -> "Files":
    """Read the files of one image.

    Args:
        paths: infrared, visible, the mask if there is one, and the fused image of each method.
        words: what each of them is: "infrared", "visible", "masks", labels of methods.
        classes: the classes that are targets.
        ranges: of infrared and visible images; fused ones have the full range.

    Returns:
        By these words (1, 1 or 3, H, W) images in [0, 1], their luma (1, 1, H, W), and the mask or None.

    Raises:
        UserError: a file cannot be read.
    """
    mask, read = None, {}
    for word, path in zip(words, paths, strict=True):
        if word == "masks":
            mask = read_target_mask(path, classes)[None]
        else:
            read[word] = read_image(path, getattr(ranges, word, None))
    colors = {word: to_unit(image)[None] for word, image in read.items()}
    return colors, {word: rgb_to_luma_chroma(image)[0] for word, image in colors.items()}, mask
