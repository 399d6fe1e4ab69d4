"""Scenes that the user gives: an expression or a file."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from clipfuse.cli.config import conf_dir
from clipfuse.data.folder import PairedFolder
from clipfuse.data.mixed import MixedPairs
from clipfuse.data.scenes import beside_training, given_scenes
from clipfuse.data.splits import hash_split
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.errors import UserError
from clipfuse.runs.build import build

IDS = ["a_1", "a_2", "b_1"]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for band in ("ir", "vi"):
        (tmp_path / "set" / band).mkdir(parents=True)
        for place in "abcdefgh":
            for frame in (1, 2, 3):
                Image.new("L", (8, 8), frame).save(tmp_path / "set" / band / f"{place}_{frame}.png")
    return str(tmp_path / "set")


@pytest.mark.parametrize("expression", ["^([a-z])_", "^[a-z]", "(?:^)(a|b)"])
def test_an_expression(expression: str) -> None:
    found, source = given_scenes(expression, IDS)
    assert (found, source) == ({"a_1": "a", "a_2": "a", "b_1": "b"}, "regular expression")


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("^(a)_", r"data\.scenes=\^\(a\)_: 'b_1' does not match"),
        ("(c)?", "'a_1' does not match"),
        ("^[a", "no regular expression .*expected null, auto"),
    ],
)
def test_an_expression_that_does_not_fit(expression: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        given_scenes(expression, IDS)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("name,scene,place\na_1,x,1\nother,z,1\na_2,x,2\nb_1,y,2\n")
    assert given_scenes(str(path), IDS) == ({"a_1": "x", "a_2": "x", "b_1": "y"}, "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"mine\.csv: cannot be read \(No such file"),
        ("name,scene\na_1,x\n", r"no line for 2 of 3 images, the first is 'a_2'"),
        ("", r"it is empty"),
        ("name,scene\n", r"the first is 'a_1'"),
        ("picture,scene\na_1,x\n", r"it has no column 'name'"),
        ("name,scene\na_1\n", r"line 2 is cut off or too long"),
        ("name,scene\na_1,\n", r"line 2 has no name or no scene"),
        ("name,scene\na_1,x\na_1,y\n", r"line 3 puts 'a_1' into 'y', an earlier one into 'x'"),
        ("name,scene\n\xff,\x00", r"mine\.csv"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.csv"
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        given_scenes(str(path), IDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scenes", ["", 3, True])
def test_what_is_no_choice(folder: str, scenes: object) -> None:
    with pytest.raises(UserError, match=r"data\.scenes is .*expected null, auto"):
        PairedFolder(folder, scenes=scenes)  # type: ignore[arg-type]


def test_scenes_are_cut_whole() -> None:
    names = [f"{scene}-{frame}" for scene in range(60) for frame in range(5)]
    scenes = {name: name.partition("-")[0] for name in names}
    parts = hash_split(names, 0.1, 0.2, scenes)
    by_scene = hash_split(sorted(set(scenes.values())), 0.1, 0.2)
    for part, ids in parts.items():
        assert {scenes[name] for name in ids} == set(by_scene[part])
        assert len(ids) == 5 * len(by_scene[part])
    assert hash_split(names, 0.1, 0.2, {}) == hash_split(names, 0.1, 0.2)
    with pytest.raises(UserError, match=r"2 scenes \(0, 1\) cannot be cut into train, val, test: add scenes"):
        hash_split(names[:10], 0.1, 0.2, scenes)


def test_a_folder_is_cut_between_scenes(folder: str, tmp_path: Path) -> None:
    source = PairedFolder(folder, scenes="^([a-z])", test=0.4)
    of_part = [{source.scenes()[name] for name in ids} for ids in source.parts().values()]
    assert sum(map(len, of_part)) == 8
    table = tmp_path / "mine.csv"
    rows = [f"{place}_{frame},{place}" for place in "abcdefgh" for frame in (1, 2, 3)]
    table.write_text("\n".join(["name,scene", *rows]))
    same = PairedFolder(folder, scenes=str(table), test=0.4)
    assert (same.parts(), same.scenes()) == (source.parts(), source.scenes())
    assert same.fingerprint() == source.fingerprint()
    assert PairedFolder(folder).scene_notes() == {"source": "names", "warning": None}


def test_what_the_user_gives_goes_before_the_split_file(folder: str, tmp_path: Path) -> None:
    split = tmp_path / "split.json"
    split.write_text('{"train": {"one": ["a_1", "a_2"]}, "val": ["b_1"], "test": ["c_1"]}')
    told = PairedFolder(folder, split=str(split))
    assert told.scenes() == {"a_1": "one", "a_2": "one"}
    assert told.scene_notes()["source"] == "split file"
    given = PairedFolder(folder, split=str(split), scenes="^[a-z]")
    assert given.scenes() == {"a_1": "a", "a_2": "a", "b_1": "b", "c_1": "c"}
    assert given.parts() == told.parts()
    assert given.fingerprint() != told.fingerprint()
    assert given.names_fingerprint() == told.names_fingerprint()


def test_a_mixture_has_the_scenes_of_its_sets(folder: str) -> None:
    sets = {"real": PairedFolder(folder, scenes="^[a-z]"), "rendered": SyntheticPairs(train=1, val=1, test=1)}
    mixed = MixedPairs(sets)
    assert mixed.scenes()["real-a_1"] == "real-a"
    assert mixed.scene_notes() == {"source": "real: regular expression", "warning": None}
    other = MixedPairs({**sets, "real": PairedFolder(folder)})
    assert other.fingerprint() != mixed.fingerprint()


@pytest.mark.parametrize(
    ("data", "ids", "scenes"),
    [
        ("msrs", ["00001D", "00099N", "01444N"], ["000", "000", "014"]),
        ("llvip", ["010001", "019999", "260536"], ["01", "01", "26"]),
    ],
)
def test_shipped_expressions(data: str, ids: list[str], scenes: list[str]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        expression = compose("train", [f"data={data}", "data.root=x", "name=x"]).data.scenes
    assert list(given_scenes(expression, ids)[0].values()) == scenes
    with pytest.raises(UserError, match="'renamed' does not match"):
        given_scenes(expression, ["renamed"])


def test_the_option_reaches_the_folder(folder: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        words = ["data=mixed", f"data.sources.roadscene.root={folder}", "name=x"]
        words += ["data.sources.roadscene.split=hash", "data.sources.roadscene.scenes='^([a-z])_'"]
        config = compose("train", words)
    assert build(config.data, "data").scenes()["roadscene-b_2"] == "roadscene-b"


def test_test_images_beside_training_images_of_their_scene() -> None:
    """Every fourth frame lies between training frames; a block has such neighbours at its borders alone."""
    frames = [f"{number:05d}" for number in range(1, 41)]
    scenes = dict.fromkeys(frames, "drive")
    fourth = {"test": frames[3::4], "train": [name for name in frames if name not in frames[3::4]], "val": ()}
    blocks = {"train": frames[:15], "test": frames[15:30], "val": frames[30:]}
    assert beside_training(fourth, scenes) == 10
    assert beside_training(blocks, scenes) == 1
    assert beside_training(fourth, {}) == 0
    assert beside_training({"train": ["9"], "test": ["10"], "val": ()}, {"9": "a", "10": "a"}) == 1
