"""Splits: which pair is in which part, by a hash or by a split file. The shipped files lie in this folder."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clipfuse.data.pairs import PARTS
from clipfuse.decoding.reading import SUFFIXES
from clipfuse.errors import UserError, did_you_mean
from clipfuse.files import is_there, read_json, read_text
from clipfuse.images import natural_order

_MOST_BYTES = 2**25  # some million names
_LISTS = {"train.txt": "train", "val.txt": "val", "test.txt": "test", "pred.txt": "test"}
_SUFFIX = "|".join(rf"\{suffix}$" for suffix in SUFFIXES)
_FORM = 'not a split file; expected JSON of the form {"train": [names], "val": [names], "test": [names]}'


def hash_split(
    samples: Collection[str], val: float, test: float, scenes: Mapping[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Cut samples into parts by their ids alone, so that a new pair never moves an old one.

    Each id has a number u in [0, 1): the first 8 bytes of its SHA-256, divided by 2^64. It is in "test" if
    u < test, else in "val" if u < test + val, else in "train". If that leaves a part empty whose share is
    above 0, as in a tiny set, the borders move by as few ids as needed in the order of u. Where scenes are
    known, u is that of the scene's name, so that no scene is in two parts; the shares are then of scenes.

    Args:
        samples: the ids.
        val: share of "val".
        test: share of "test".
        scenes: the scene of each id that shares one with others.

    Raises:
        UserError: a share is negative or both exceed 1, or there are fewer samples (scenes) than parts.
    """
    members: dict[str, list[str]] = {}
    for sample in samples:
        members.setdefault((scenes or {}).get(sample, sample), []).append(sample)
    cut = _cut(members, val, test, "scenes" if len(members) < len(samples) else "pairs")
    whole = {part: [sample for scene in chosen for sample in members[scene]] for part, chosen in cut.items()}
    return {part: tuple(sorted(ids, key=natural_order)) for part, ids in whole.items()}


def _cut(samples: Collection[str], val: float, test: float, kind: str) -> dict[str, list[str]]:
    if min(val, test) < 0 or val + test > 1:
        raise UserError(f"data.val={val} and data.test={test}: expected shares >= 0 whose sum is at most 1")
    wanted = [part for part, share in zip(PARTS, (1 - val - test, val, test), strict=True) if share > 0]
    if samples and len(samples) < len(wanted):
        raise UserError(
            f"{len(samples)} {kind} ({', '.join(samples)}) cannot be cut into {', '.join(wanted)}: add "
            f"{kind}, or take all of them for one part, as in data.val=0 data.test=1"
        )
    place = {sample: _hash_place(sample) for sample in samples}
    order = sorted(samples, key=lambda sample: (place[sample], sample))
    tests = sum(u < test for u in place.values())
    tests = max(min(tests, len(order) - ("train" in wanted) - ("val" in wanted)), int("test" in wanted))
    held_out = sum(u < test + val for u in place.values())
    held_out = max(min(held_out, len(order) - ("train" in wanted)), tests + ("val" in wanted))
    return {"train": order[held_out:], "val": order[tests:held_out], "test": order[:tests]}


def _hash_place(sample: str) -> float:
    return int.from_bytes(hashlib.sha256(sample.encode()).digest()[:8], "big") / 2**64


def split_fingerprint(parts: Mapping[str, Iterable[str]]) -> str:
    """Return the SHA-256 (hex) over the canonical JSON of {part: sorted ids}."""
    plain = {part: sorted(ids) for part, ids in parts.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_split(split: str) -> dict[str, tuple[str, ...]]:
    """Read a split file: JSON with "train", "val" and "test", each a list of ids or {scene: ids}.

    Args:
        split: name of a file in `clipfuse/data/splits`, or a path ending in ".json".

    Raises:
        UserError: the file is missing or has another form, names an id twice, or states a "sha256" (which
            is optional) that is not that of its ids.
    """
    source, content = _content(split)
    try:
        parts = {part: _flat(content[part]) for part in PARTS}
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{source}: {_FORM}") from None
    ids = [sample for part in PARTS for sample in parts[part]]
    if twice := [sample for sample, count in Counter(ids).items() if count > 1]:
        raise UserError(
            f"{source}: {len(twice)} names occur twice ({', '.join(twice[:5])}); keep one of each"
        )
    if content.get("sha256", actual := split_fingerprint(parts)) != actual:
        raise UserError(f"{source}: its names were changed; restore the file, or set its sha256 to {actual}")
    return parts


def find_lists(split: str, root: Path) -> dict[str, tuple[str, ...]] | None:
    """Return the names in the text files of a data set's own parts, as MFNet and TarDAL ship them.

    The files are `train.txt`, `val.txt` and `test.txt` (or `pred.txt`), one name per line, of which folders
    and the suffix of an image do not count; one of them may be missing.

    Args:
        split: "lists", for `root` or its folder `meta`; or the path of a folder.
        root: folder of the data set.

    Returns:
        The names by part; None where `split` is neither.

    Raises:
        UserError: there is no such file, one cannot be read, or a name is listed twice.
    """
    if split != "lists" and not (split not in ("auto", "hash") and Path(split).expanduser().is_dir()):
        return None
    places = [root, root / "meta"] if split == "lists" else [Path(split).expanduser()]
    files = [
        (_LISTS[file.name], file)
        for place in places
        for file in sorted(place.glob("*.txt"))
        if file.name in _LISTS
    ]
    if not files:
        raise UserError(
            f"data.split={split}: neither {' nor '.join(map(str, places))} holds a list of names; expected "
            f"some of {', '.join(_LISTS)}, or set data.split=hash"
        )
    listed: dict[str, tuple[str, ...]] = {}
    seen: dict[str, Path] = {}
    for part, file in files:
        lines = [line.strip() for line in read_text(file, most=_MOST_BYTES).splitlines()]
        names = [re.sub(_SUFFIX, "", line.rpartition("/")[2]) for line in lines if line]
        for name in names:
            if name in seen:
                raise UserError(f"{file}: '{name}' is listed twice, before in {seen[name]}; keep one line")
            seen[name] = file
        listed[part] = (*listed.get(part, ()), *names)
    return listed


def read_scenes(split: str) -> dict[str, str]:
    """Return the scene of each id of a split file, for the parts that are {scene: ids}.

    Raises:
        UserError: as `read_split`.
    """
    parts = (_content(split)[1].get(part) for part in PARTS)
    named = (part.items() for part in parts if isinstance(part, dict))
    return {sample: scene for scenes in named for scene, samples in scenes for sample in samples}


def _content(split: str) -> tuple[Any, dict[str, Any]]:
    shipped = {
        Path(entry.name).stem: entry
        for entry in resources.files("clipfuse.data.splits").iterdir()
        if entry.name.endswith(".json")
    }
    source = Path(split).expanduser() if split.endswith(".json") else shipped.get(split)
    if source is None or not is_there(source):
        raise UserError(
            f"data.split={split}: no such split; expected auto, hash, lists, {', '.join(sorted(shipped))}, "
            "or the path of a .json file or of a folder of lists."
            f"{did_you_mean(split, ['auto', 'hash', 'lists', *shipped])}"
        )
    return source, read_json(source, most=_MOST_BYTES, remedy=_FORM)


def _flat(names: list[str] | dict[str, list[str]]) -> tuple[str, ...]:
    flat = names if isinstance(names, list) else [sample for scene in names.values() for sample in scene]
    if not all(isinstance(sample, str) for sample in flat):
        raise TypeError("names are text")
    return tuple(flat)
