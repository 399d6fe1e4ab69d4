"""The images of the board: a few of each set, of every method at hand, beside their sources."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from clipfuse.board.matching import with_one_name
from clipfuse.board.results import Entry
from clipfuse.comparison.album import Album, encode
from clipfuse.errors import UserError
from clipfuse.images import image_files, read_image
from clipfuse.ops.depth import to_bytes, to_unit

BANDS = ("infrared", "visible")
PER_SET = 6
BUDGET = 4_000_000  # bytes of all images in base64

Load = Callable[[], Image.Image]
Shown = dict[str, dict[str, dict[str, Load]]]  # set -> band or method -> image -> what reads it


def slug(name: str) -> str:
    """Return the name of the folder of a set or a method: letters, digits, "_", ".", "+" and "-" alone."""
    return re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "-"


def slugs(names: Iterable[str]) -> dict[str, str]:
    """Return the folder of each of several sets or methods, as `slug` but each of its own.

    A name that is its own folder's keeps it; of others that would share one the second in the alphabet gets
    "-2" behind it, the third "-3". "infrared" and "visible" are the sources'.
    """
    found: dict[str, str] = {}
    taken = set(BANDS)
    for name in sorted(set(names), key=lambda name: (slug(name) != name, name)):
        folders = (slug(name), *(f"{slug(name)}-{count}" for count in range(2, len(taken) + 3)))
        found[name] = next(folder for folder in folders if folder not in taken)
        taken.add(found[name])
    return found


def load(path: Path, values: Any = None) -> Image.Image:
    """Read an image file as 8 bits.

    Args:
        path: the file.
        values: its range, as for `read_image`.

    Raises:
        UserError: it cannot be read.
    """
    levels = to_bytes(to_unit(read_image(path, values)))
    return Image.fromarray(levels.permute(1, 2, 0).squeeze(-1).numpy())


def find_images(roots: Sequence[Path], entries: Sequence[Entry]) -> Shown:
    """Return the images to show: `ROOT/SET/METHOD/NAME.png`, and those that run folders hold.

    Names of sets and methods are written as by `slugs`; "infrared" and "visible" are the sources. Images that
    a result has under other names than the first result of the same images are shown under these.
    """
    found: Shown = {}
    sets = slugs(entry.set for entry in entries)
    methods = slugs(entry.method for entry in entries) | {band: band for band in BANDS}
    for entry, named in zip(entries, with_one_name(entries), strict=True):
        names = dict(zip(entry.pairs, named.pairs, strict=True))
        if entry.degradation is not None:
            continue
        for root in roots:
            for word in (*BANDS, entry.method):
                folder = root / sets[entry.set] / methods[word]
                if folder.is_dir():
                    _add(found, entry.set, names, word, folder)
        test = Path(entry.source) / "test"
        if entry.scenes_from == "run folder" and test.is_dir():
            kinds = [kind for kind in ("color", "fused") if (test / kind).is_dir()]
            for word, kind in (
                *zip(BANDS, BANDS, strict=True),
                *((entry.method, kind) for kind in kinds[:1]),
            ):
                if (test / kind).is_dir():
                    _add(found, entry.set, names, word, test / kind)
    return found


def _add(found: Shown, title: str, names: Mapping[str, str], word: str, folder: Path) -> None:
    shown = found.setdefault(title, {}).setdefault(word, {})
    for name, path in image_files(folder).items():
        if name in names:
            shown.setdefault(names[name], partial(load, path))


def make_album(shown: Mapping[str, Mapping[str, Mapping[str, Load]]], methods: Sequence[str]) -> Album:
    """Return some images of each set as data URIs, by "SET: IMAGE"; a file that cannot be read is left out.

    Args:
        shown: what reads the images.
        methods: the order in which they are shown.
    """
    images: dict[str, dict[str, Image.Image]] = {}
    unreadable: list[str] = []
    for title, words in shown.items():
        names = list(dict.fromkeys(name for word in words if word not in BANDS for name in words[word]))
        count = min(PER_SET, len(names))
        for name in [names[place * len(names) // count] for place in range(count)]:
            row: dict[str, Image.Image] = {}
            for word in (*BANDS, *methods):
                reader = words.get(word, {}).get(name)
                try:
                    row |= {word: reader()} if reader else {}
                except UserError as error:
                    unreadable.append(str(error))
            images[f"{title}: {name}"] = row
    uris, side, quality = encode(images, BUDGET)
    note = f"{len(uris)} images, chosen evenly; at most {side} px wide or high, WebP of quality {quality}"
    if unreadable:
        note += f"; {len(unreadable)} images cannot be read, the first: {unreadable[0]}"
    return Album(uris, note)
