"""The rules of pairing, against a slow second implementation on random names."""

import random
from pathlib import Path

import pytest

from clipfuse.data.matching import EQUAL, MARKED, ImageFile, Mark, PairFiles, pair_all
from clipfuse.data.names import Words
from clipfuse.errors import UserError


def files(*names: str) -> list[ImageFile]:
    return [ImageFile(Path("/r") / name, Path(name).parent.parts) for name in names]


def found(*names: str) -> set[tuple[str, str]]:
    pairs, _ = pair_all(files(*names), Words())
    return {(str(p.infrared.relative_to("/r")), str(p.visible.relative_to("/r"))) for p in pairs}


def test_random_names_are_paired_as_they_were_made() -> None:
    draw = random.Random(0)
    for _ in range(200):
        infrared, visible = draw.choice(["ir", "IR", "thermal", "lwir"]), draw.choice(["vi", "VIS", "rgb"])
        keys = [f"{draw.choice('abcd')}{number}" for number in range(draw.randint(2, 8))]
        form = draw.choice(["{}/{}.png", "s/{}_{}.png", "{}_{}.png", "s/{}/t/{}.png", "s{}/{}.png"])
        if form == "s{}/{}.png":  # one folder per scene
            wanted = {(f"s{key}/{infrared}.png", f"s{key}/{visible}.png") for key in keys}
        else:
            wanted = {(form.format(infrared, key), form.format(visible, key)) for key in keys}
        names = [name for pair in wanted for name in pair]
        draw.shuffle(names)
        assert found(*names) == wanted


def test_the_deepest_marked_folder_counts() -> None:
    assert found("RGB set/ir/1.png", "RGB set/vis/1.png") == {("RGB set/ir/1.png", "RGB set/vis/1.png")}
    mark = Mark.of(files("ir/train/1.png")[0], Words())
    assert mark is not None
    assert (mark.folder, mark.folder_band) == (Path("/r/ir"), "infrared")


def test_a_file_whose_folder_and_name_contradict_each_other_is_no_pair_by_marks() -> None:
    assert found("ir/VIS1.png", "vi/IR1.png") == set()


def test_equal_names_go_before_marks_unless_both_rules_find_pairs() -> None:
    pairs, rest = pair_all(files("ir/vis_1.png", "vi/vis_1.png"), Words())
    assert (pairs[0].rule, rest) == (EQUAL, [])
    pairs, _ = pair_all(files("ir/ir_1.png", "vi/vi_1.png"), Words())
    assert (pairs[0].rule, pairs[0].key) == (MARKED, "1")
    with pytest.raises(UserError, match="two ways to pair the images"):
        pair_all(files("ir/IR1.png", "ir/VIS1.png", "vi/IR1.png", "vi/VIS1.png"), Words())


def test_places_are_paired_by_themselves() -> None:
    names = ["a/ir/1.png", "a/vi/1.png", "b/IR1.png", "b/VIS1.png", "c/ir_x_g.png", "c/vis_x_r.png"]
    assert found(*names) == {tuple(names[:2]), tuple(names[2:4]), tuple(names[4:])}


@pytest.mark.parametrize(
    ("folders", "key", "part", "name"),
    [
        ((), "1", None, "1"),
        (("Train",), "1", "train", "1"),
        (("validation", "seq"), "1", "val", "seq-1"),
        (("s1",), "", None, "s1"),
        ((), "", None, "pair"),
    ],
)
def test_part_and_name_of_a_pair(folders: tuple[str, ...], key: str, part: str | None, name: str) -> None:
    pair = PairFiles(Path("a"), Path("b"), folders, key, EQUAL)
    assert (pair.part, pair.name) == (part, name)
