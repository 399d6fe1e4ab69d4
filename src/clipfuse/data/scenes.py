"""Scenes given by the user: by a regular expression over names, or by a file; and scenes that parts share."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from clipfuse.errors import UserError
from clipfuse.files import read_csv
from clipfuse.images import natural_order

EXPECTED = "null, auto, a regular expression over the names, or the path of a .csv file of name,scene"


def given_scenes(scenes: str, ids: Collection[str], word: str = "data.scenes") -> tuple[dict[str, str], str]:
    """Return the scene of each id, and where the scenes are from: "file" or "regular expression".

    Args:
        scenes: the path of a ".csv" file with the columns `name` and `scene`, or a regular expression that
            matches a part of each id; the scene is its first group, or the whole match if it has no group.
        ids: the images.
        word: the setting's name, for messages.

    Raises:
        UserError: the file is missing or has another form, the expression is not valid, or an id has no
            scene; the first such id is named.
    """
    if scenes.endswith(".csv"):
        return _from_file(Path(scenes).expanduser(), ids, word), "file"
    try:
        expression = re.compile(scenes)
    except re.error as error:
        raise UserError(f"{word}={scenes}: no regular expression ({error}); expected {EXPECTED}") from None
    found = {}
    for name in ids:
        match = expression.search(name)
        scene = None if match is None else match[1] if expression.groups else match[0]
        if not scene:
            raise UserError(
                f"{word}={scenes}: '{name}' does not match, so its scene is unknown; mend the "
                f"expression, or set {word}=auto or null"
            )
        found[name] = scene
    return found, "regular expression"


def _from_file(path: Path, ids: Collection[str], word: str) -> dict[str, str]:
    remedy = f"give {word} a file with the columns name,scene"
    rows = read_csv(path, ["name", "scene"], remedy=remedy)
    known: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        name, scene = row.get("name"), row.get("scene")
        if not name or not scene:
            raise UserError(f"{word}={path}: line {line} has no name or no scene; expected name,scene")
        if known.setdefault(name, scene) != scene:
            raise UserError(
                f"{word}={path}: line {line} puts '{name}' into '{scene}', an earlier one into "
                f"'{known[name]}'; keep one"
            )
    if missing := [name for name in ids if name not in known]:
        raise UserError(
            f"{word}={path}: has no line for {len(missing)} of {len(ids)} images, the first is "
            f"'{missing[0]}'; add them"
        )
    return {name: known[name] for name in ids}


def beside_training(parts: Mapping[str, Collection[str]], scenes: Mapping[str, str]) -> int:
    """Return how many test images have a training image as their neighbour.

    Neighbours are images of one scene between which no other image of it lies, in natural order of the names,
    such as frames of one drive. Own design: of MSRS, whose official test part is every fourth frame of the
    training drives, it is nearly every test image, of blocks of frames it is those at the borders.

    Args:
        parts: the sample ids of "train", "val" and "test".
        scenes: the scene of each sample that shares one with others.
    """
    part_of = {sample: part for part, samples in parts.items() for sample in samples}
    members: dict[str, list[str]] = {}
    for sample in sorted(part_of, key=natural_order):
        members.setdefault(scenes.get(sample, sample), []).append(sample)
    return sum(
        part_of[sample] == "test"
        and any(part_of[other] == "train" for other in (*every[max(0, at - 1) : at], *every[at + 1 : at + 2]))
        for every in members.values()
        for at, sample in enumerate(every)
    )
