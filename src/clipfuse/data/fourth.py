"""Pairs that lie in one file each: images of four channels, of which the fourth is the infrared one."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from clipfuse.data.layout import Found, walk, with_ids
from clipfuse.data.matching import PairFiles
from clipfuse.data.pairs import Pair
from clipfuse.decoding.reading import four_channels
from clipfuse.errors import UserError

RULE = "the fourth channel of one file"


def find_fourth(root: Path, name: str) -> Found:
    """Return the pairs of a folder of images of four channels, as MFNet is published.

    Args:
        root: folder of the data set.
        name: of the folders of images, in any case.

    Raises:
        UserError: there is no image in such a folder.
    """
    files, left_out = walk(root)
    pairs = []
    others: Counter[str] = Counter()
    for file in files:
        folders = tuple(each for each in file.folders if each.lower() != name.lower())
        if len(folders) < len(file.folders):
            pairs.append(PairFiles(file.path, file.path, folders, file.path.stem, RULE))
        else:
            others[f"other in {file.folders[-1] if file.folders else '.'}"] += 1
    if not pairs:
        raise UserError(
            f"{root}: no folder '{name}' of images with four channels; expected its name in data.fourth"
        )
    return with_ids(pairs, left_out + others, root)


def check_fourth(paths: Sequence[Path]) -> None:
    """Require images of four channels, by their headers.

    Raises:
        UserError: names the first that is none.
    """
    for path in paths:
        four_channels(path, pixels=False)


def load_fourth(path: Path) -> Pair:
    """Read a file as one pair, the fourth channel as infrared, at its full depth.

    Raises:
        UserError: as `four_channels`.
    """
    values = four_channels(path)
    assert values is not None
    return Pair(
        torch.from_numpy(values[None, :, :, 3].copy()),
        torch.from_numpy(values[:, :, :3].transpose(2, 0, 1).copy()),
    )
