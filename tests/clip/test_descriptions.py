from pathlib import Path

import pytest
import torch

from clipfuse.clip.descriptions import (
    WORDS,
    Description,
    descriptions_of,
    measured_descriptions,
    read_descriptions,
)
from clipfuse.clip.encoder import FrozenClip
from clipfuse.errors import UserError
from clipfuse.ops.degradations import DEGRADATIONS


def test_each_defect_has_words_that_the_bundled_clip_knows() -> None:
    assert list(WORDS) == list(DEGRADATIONS)
    tokens = FrozenClip.load("micro").tokens
    assert [word for pair in WORDS.values() for word in pair if tokens.unseen_words(word)] == []


def test_words_are_those_of_either_band_and_once_each() -> None:
    across = torch.arange(64) / 2
    good = 0.5 + 0.2 * torch.sin(across[:, None] + across).view(1, 1, 64, 64)
    dark, bright = 0.2 * good, 0.9 + 0.1 * good
    found = measured_descriptions(torch.cat([good, dark, dark]), torch.cat([good, good, bright]))
    assert found[0] == Description()
    assert found[1] == Description("well exposed, good contrast", "too dark, low contrast")
    assert found[2] == Description("well exposed, good contrast", "too dark, too bright, low contrast")


def write(folder: Path, *lines: str) -> str:
    path = folder / "texts.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_table_gives_texts_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "name,negative,positive", 'a,"too dark, noisy",bright', "b, ,", "c,grün,”hell”")
    known = read_descriptions(path)
    assert known == {
        "a": Description("bright", "too dark, noisy"),
        "b": Description(),
        "c": Description("”hell”", "grün"),
    }
    assert descriptions_of(known, ["b", "a"], path) == [known["b"], known["a"]]
    with pytest.raises(ValueError, match=r"here has no line for the image 'd'; add one for each image"):
        descriptions_of(known, ["a", "d"], "here")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["name,caption", "a,b"], "no column 'positive'.*columns name,positive,negative"),
        (["name,positive,negative", "a,b,c", "a,d,e"], "line 3 is the second about 'a'; keep one"),
        (["name,positive,negative", "a,b,"], "line 2, 'a', has no negative text; give both, or none"),
        (["name,positive,negative", "a,,b"], "line 2, 'a', has no positive text"),
        (["name,positive,negative"], "has no line below its columns"),
    ],
)
def test_a_wrong_table_is_refused_by_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_descriptions(write(tmp_path, *lines))


def test_a_table_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none.csv: cannot be read .*columns name,positive,negative"):
        read_descriptions(str(tmp_path / "none.csv"))
