"""Texts about one pair of sources: what is wrong with it, and what a fused image should have instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError
from clipfuse.files import read_csv
from clipfuse.ops.degradations import DEGRADATIONS, degradations

WORDS: Mapping[str, tuple[str, str]] = {
    "under": ("too dark", "well exposed"),
    "over": ("too bright", "well exposed"),
    "low_contrast": ("low contrast", "good contrast"),
    "blur": ("blurred", "sharp"),
    "noise": ("noisy", "clean"),
    "stripes": ("stripes", "clean"),
    "blocks": ("compression artifacts", "without defects"),
}
"""Words for each of `DEGRADATIONS` and their counterparts, all known to the bundled CLIP."""
COLUMNS = ("name", "positive", "negative")


@dataclass(frozen=True)
class Description:
    """Two texts about one pair; empty where there is nothing of its own to state.

    Attributes:
        positive: what the fused image should have, such as "well exposed, clean".
        negative: what is wrong with the sources, such as "too dark, noisy".
    """

    positive: str = ""
    negative: str = ""


def measured_descriptions(infrared: Tensor, visible: Tensor) -> list[Description]:
    """Return the words for the defects that either band has, by `degradations`, each word once.

    Args:
        infrared: (N, 1, H, W) float in [0, 1].
        visible: the same shape.
    """
    return [description_of(code) for code in defect_codes(infrared, visible).tolist()]


def defect_codes(infrared: Tensor, visible: Tensor) -> Tensor:
    """Return which defects either band has, (N,) int64 on its device: the sum of 2^k over `DEGRADATIONS`.

    Args:
        infrared: (N, 1, H, W) float in [0, 1].
        visible: the same shape.
    """
    either = degradations(infrared) | degradations(visible)
    return sum(each.long() << place for place, each in enumerate(either.unbind(1)))  # type: ignore[return-value]


def description_of(code: int) -> Description:
    """Return the words for the defects in a code of `defect_codes`."""
    words = [WORDS[kind] for place, kind in enumerate(DEGRADATIONS) if code >> place & 1]
    negative, positive = (", ".join(dict.fromkeys(pair[side] for pair in words)) for side in (0, 1))
    return Description(positive, negative)


def embed_measured(
    clip: FrozenClip, infrared: Tensor, visible: Tensor, general: tuple[str, str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the embeddings of `measured_descriptions` without reading what was measured.

    The rows are chosen on the device, from those of all 128 descriptions, which CLIP embeds once.

    Args:
        clip: embeds the texts.
        infrared: (N, 1, H, W) float in [0, 1].
        visible: the same shape.
        general: the positive and the negative text of a pair without defects.

    Returns:
        Positive and negative embeddings, (N, D), and the share of pairs with defects.
    """
    codes = defect_codes(infrared, visible)
    every = [description_of(code) for code in range(2 ** len(DEGRADATIONS))]
    positive, negative = (
        clip.encode_text([getattr(each, side) or text for each in every])[codes]
        for side, text in zip(("positive", "negative"), general, strict=True)
    )
    return positive, negative, (codes > 0).to(positive.dtype).mean()


def read_descriptions(path: str) -> dict[str, Description]:
    """Return the texts of a table by the names of the pairs.

    Args:
        path: a CSV file with the columns `name`, `positive` and `negative`; the last two may both be empty.

    Raises:
        UserError: the file is missing or has another form, a name is in two lines, or one of the two texts is
            missing; names the line.
    """
    remedy = f"give a file with the columns {','.join(COLUMNS)}"
    rows = read_csv(Path(path).expanduser(), COLUMNS, remedy=remedy)
    known: dict[str, Description] = {}
    for line, row in enumerate(rows, start=2):
        name, positive, negative = (row[column].strip() for column in COLUMNS)
        if name in known:
            raise UserError(f"{path}: line {line} is the second about '{name}'; keep one")
        if bool(positive) != bool(negative):
            empty = "negative" if positive else "positive"
            raise UserError(f"{path}: line {line}, '{name}', has no {empty} text; give both, or none")
        known[name] = Description(positive, negative)
    if not known:
        raise UserError(f"{path}: has no line below its columns; {remedy}")
    return known


def descriptions_of(known: Mapping[str, Description], names: Sequence[str], path: str) -> list[Description]:
    """Return the texts of some pairs.

    Raises:
        ValueError: a pair is not in the table; names it and the table.
    """
    if missing := [name for name in names if name not in known]:
        raise ValueError(
            f"{path} has no line for the image '{missing[0]}'; add one for each image, its texts may be empty"
        )
    return [known[name] for name in names]
