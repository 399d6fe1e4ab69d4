"""Checks of all pairs before the work begins: headers, sizes, and whether the bands are the right ones."""

import filecmp
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clipfuse.data.names import Words
from clipfuse.decoding.reading import decode, palette_numbers, read_header
from clipfuse.errors import UserError
from clipfuse.images import check_turned, read_image, read_thumbnail

Head = tuple[int, int, int]

COLOR = 2.0  # levels of 255: a median `color_spread` above this is real colour
SAMPLED = 8  # pairs whose colours are looked at
_SHOWN = 5


def read_mask(path: str | Path) -> Tensor:
    """Read a mask or a map of classes: of an image with a palette the numbers, not the colours.

    Returns:
        As `read_image`.

    Raises:
        UserError: as `read_image`.
    """
    numbers = palette_numbers(Path(path))
    return read_image(path) if numbers is None else torch.from_numpy(numbers)[None]


def read_colors(path: Path) -> np.ndarray:
    """Return the colours of a map, red * 65536 + green * 256 + blue, (H, W) int32.

    Raises:
        UserError: as `read_image`, or it has more than 8 bits.
    """
    stored = read_image(path)
    if stored.dtype != torch.uint8:
        raise UserError(f"{path}: has more than 8 bits; expected colours of 8 bits, one for each class")
    red, green, blue = stored.expand(3, -1, -1).numpy().astype(np.int32)
    return np.asarray(red << 16 | green << 8 | blue)


def color_spread(path: Path, side: int = 32) -> float:
    """Return how far the channels of an image lie apart, in levels of 255.

    The mean of the largest minus the smallest channel, after averaging over areas to `side` x `side`, which
    removes the noise of JPEG. Of gray images stored as colour it is 0, of visible images seldom below 4.

    Raises:
        UserError: as `decode`.
    """
    stored = decode(path)
    return spread_of(stored.values, stored.white or max(1, stored.values.max()), side)


def spread_of(values: np.ndarray, white: float = 255, side: int = 32) -> float:
    """Return the `color_spread` of stored values, (H, W) or (H, W, 3), of which `white` is the largest."""
    if values.ndim == 2:
        return 0.0
    values = values.astype(np.float32) * (255 / white)
    import cv2

    small = cv2.resize(values, (side, side), interpolation=cv2.INTER_AREA)
    return float((small.max(axis=2) - small.min(axis=2)).mean())


def header_of(path: Path) -> Head | UserError:
    """Return upright width, height and orientation of an image by its header, or why it cannot be read.

    A file that seems to have been cut off is decoded to find out.
    """
    try:
        head = read_header(path)
        if _seems_cut(path):
            decode(path)
    except UserError as error:
        return error
    return head.width, head.height, head.orientation


def _seems_cut(path: Path) -> bool:
    """Return whether a file lacks the end that its format has; some complete files do as well."""
    with path.open("rb") as file:
        start, size = file.read(12), file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 64))
        end = file.read()
    if start.startswith(b"\x89PNG"):
        return b"IEND" not in end
    if start.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in end
    if start.startswith(b"RIFF"):  # WebP
        return int.from_bytes(start[4:8], "little") + 8 > size
    return start.startswith(b"BM") and int.from_bytes(start[2:6], "little") > size


def check_pairs(
    pairs: Mapping[str, Sequence[Path]],
    headers: Callable[[Sequence[Path]], Sequence[Head | UserError]] = lambda paths: [*map(header_of, paths)],
) -> None:
    """Require readable headers, one size in each pair, and two different files.

    Args:
        pairs: for each id the infrared and the visible file, and perhaps a mask; or one file with both bands.
        headers: returns the `header_of` each file, perhaps from a cache.

    Raises:
        UserError: names the pairs that cannot be used, and why the first cannot.
    """
    paths = list(dict.fromkeys(path for files in pairs.values() for path in files))
    known = dict(zip(paths, headers(paths), strict=True))
    problems = {sample: problem for sample, files in pairs.items() if (problem := _problem(files, known))}
    if problems:
        (_, first), *others = problems.items()
        count = f"{len(problems)} of {len(pairs)} pairs cannot be used: " if others else ""
        more = "; nor can " + ", ".join(name for name, _ in others[:_SHOWN]) if others else ""
        raise UserError(f"{count}{first}{more}{', ...' if len(others) > _SHOWN else ''}")


def _problem(files: Sequence[Path], known: Mapping[Path, Head | UserError]) -> str | None:
    heads = []
    for path in files:
        head = known[path]
        if isinstance(head, UserError):
            return str(head)
        heads.append(head)
    (wide, high, _), *others = heads
    for path, (width, height, _) in zip(files[1:], others, strict=True):
        if (width, height) != (wide, high):
            return (
                f"{files[0]} is {wide} x {high} pixels but {path} is {width} x {height}; a pair must be "
                "registered and of one size: resample one of the two to the grid of the other"
            )
    if len(files) == 1:
        return None
    try:
        check_turned(files[0], files[1], heads[0][2], heads[1][2])
    except UserError as error:
        return str(error)
    return check_different(files[0], files[1])


def check_different(infrared: Path, visible: Path, kind: Literal["image", "video"] = "image") -> str | None:
    """Return what is wrong with a pair whose files are one file, or hold the same bytes; else None.

    Equal images without any content, such as two black frames, are no mistake.
    """
    if infrared.samefile(visible):
        return f"{infrared} and {visible} are one file; name an infrared and a visible {kind}"
    if filecmp.cmp(infrared, visible, shallow=False) and (
        kind == "video" or read_thumbnail(infrared, 8).any()
    ):
        return (
            f"{infrared} and {visible} hold the same bytes: one {kind} was taken for both bands; "
            f"give the infrared {kind} and its visible partner"
        )
    return None


def look_at_bands(
    pairs: Mapping[str, Sequence[Path]],
    spreads: Callable[[Sequence[Path]], Sequence[float]] = lambda paths: [*map(color_spread, paths)],
) -> str | None:
    """Return a warning if the infrared images have real colour, or if the bands look swapped.

    The median `color_spread` of up to eight pairs spread over the set is compared with two levels. On the 171
    pairs of RoadScene and 884 of MSRS no single infrared image is above it, and no visible one below: the
    lowest has 3.5. Bands that are both gray cannot be told apart by colour: there the names of their
    folders alone count.

    Args:
        pairs: for each id the infrared and the visible file.
        spreads: returns the `color_spread` of each file, perhaps from a cache.

    Raises:
        UserError: an image cannot be read.
    """
    every = list(pairs.values())
    if not every:
        return None
    chosen = every[:: max(1, len(every) // SAMPLED)][:SAMPLED]
    if median(spreads([files[0] for files in chosen])) > COLOR:
        if median(spreads([files[1] for files in chosen])) <= COLOR:
            return (
                f"the bands look swapped: the infrared images, such as {chosen[0][0]}, are in colour and the "
                "visible ones are gray; if they are, exchange the two"
            )
        return (
            f"the infrared images, such as {chosen[0][0]}, have real colour, of which only the luma is used: "
            "a colour palette is no temperature; export them in gray"
        )
    named = [Words().of_folder(path.parent.name)[0] for path in every[0][:2]]
    if named == ["visible", "infrared"]:
        return (
            f"the bands look swapped by their names: {every[0][0].parent} is taken as infrared and "
            f"{every[0][1].parent} as visible; if they are, exchange the two"
        )
    return None
