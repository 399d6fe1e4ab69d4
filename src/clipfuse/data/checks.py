"""Checks of all pairs before the work begins: headers, sizes, and whether the bands are the right ones."""

import filecmp
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from clipfuse.data.facts import color_spreads, headers
from clipfuse.data.names import Words
from clipfuse.errors import UserError
from clipfuse.images import check_turned, read_thumbnail

COLOR = 2.0  # levels of 255: a median `color_spread` above this is real colour
SAMPLED = 8  # pairs whose colours are looked at
_SHOWN = 5


def check_pairs(pairs: Mapping[str, Sequence[Path]]) -> None:
    """Require readable headers, one size in each pair, and two different files; headers are cached.

    Args:
        pairs: for each id the infrared and the visible file, and perhaps a mask.

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


def _problem(files: Sequence[Path], known: Mapping[Path, tuple[int, int, int] | UserError]) -> str | None:
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
    try:
        check_turned(*files[:2], *(head[2] for head in heads[:2]))
    except UserError as error:
        return str(error)
    return check_different(*files[:2])


def check_different(infrared: Path, visible: Path) -> str | None:
    """Return what is wrong with a pair whose files are one file, or hold the same bytes; else None.

    Equal images without any content, such as two black frames, are no mistake.
    """
    if infrared.samefile(visible):
        return f"{infrared} and {visible} are one file; name an infrared and a visible image"
    if filecmp.cmp(infrared, visible, shallow=False) and read_thumbnail(infrared, 8).any():
        return (
            f"{infrared} and {visible} hold the same bytes: one image was taken for both bands; "
            "give the infrared image and its visible partner"
        )
    return None


def look_at_bands(pairs: Mapping[str, Sequence[Path]]) -> str | None:
    """Return a warning if the infrared images have real colour, or if the bands look swapped.

    The median `color_spread` of up to eight pairs spread over the set is compared with two levels. On the 171
    pairs of RoadScene and 884 of MSRS no single infrared image is above it, and no visible one below: the
    lowest has 3.5. Bands that are both gray cannot be told apart by colour: there the names of their
    folders alone count.

    Raises:
        UserError: an image cannot be read.
    """
    every = list(pairs.values())
    if not every:
        return None
    chosen = every[:: max(1, len(every) // SAMPLED)][:SAMPLED]
    if median(color_spreads([files[0] for files in chosen])) > COLOR:
        if median(color_spreads([files[1] for files in chosen])) <= COLOR:
            return (
                f"the bands look swapped: the infrared images, such as {chosen[0][0]}, are in colour and the "
                "visible ones are gray; if they are, exchange the two folders"
            )
        return (
            f"the infrared images, such as {chosen[0][0]}, have real colour, of which only the luma is used: "
            "a colour palette is no temperature; export them in gray"
        )
    named = [Words().of_folder(path.parent.name)[0] for path in every[0][:2]]
    if named == ["visible", "infrared"]:
        return (
            f"the bands look swapped by their names: {every[0][0].parent} is taken as infrared and "
            f"{every[0][1].parent} as visible; if they are, exchange the two folders"
        )
    return None
