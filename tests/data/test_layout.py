"""Pairs found by the names of folders and files: the layouts of docs/data.md, and those that are refused."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data.folder import PairedFolder
from clipfuse.data.layout import find_pairs, pair_folders
from clipfuse.data.matching import EQUAL, MARKED, SINGLE

Refusal = Callable[..., str]
DOCUMENT = Path(__file__).parents[2] / "docs/data.md"


def expand(text: str) -> list[str]:
    """Write out braces as a shell does."""
    if (found := re.search(r"\{([^{}]*)\}", text)) is None:
        return [text]
    before, after = text[: found.start()], text[found.end() :]
    return [name for option in found[1].split(",") for name in expand(before + option + after)]


def build(root: Path, *layouts: str) -> Path:
    for name in (name for layout in layouts for name in expand(layout)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def documented() -> list[tuple[str, list[str], str]]:
    section = DOCUMENT.read_text(encoding="utf-8").split("### Layouts of published sets")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")][1:]
    return [(name.strip(), re.findall("`([^`]+)`", files), pairs.strip()) for name, files, pairs in rows]


def test_fifty_sets_are_documented_and_at_most_two_are_refused() -> None:
    rows = documented()
    assert len(rows) == len({name for name, _, _ in rows}) == 50
    assert [name for name, _, pairs in rows if pairs == "refused"] == [
        "OSU, thermal and visible",
        "MFNet, RGBA",
    ]


def as_published(name: str) -> str:
    return name


def loud(name: str) -> str:
    """The marks in capitals and another suffix: what copies of a set on other systems look like."""
    stem, _ = os.path.splitext(name)
    marks = r"(?<![A-Za-z])(ir|vi|vis|thermal|visible|infrared|rgb|train|test|val)(?![A-Za-z])"
    return re.sub(marks, lambda mark: mark[0].upper(), stem) + ".JPG"


def quiet(name: str) -> str:
    return name.lower()


@pytest.mark.parametrize("change", [as_published, loud, quiet])
@pytest.mark.parametrize(("name", "layouts", "pairs"), documented(), ids=[row[0] for row in documented()])
def test_a_published_layout_opens(
    tmp_path: Path,
    user_error: Refusal,
    name: str,
    layouts: list[str],
    pairs: str,
    change: Callable[[str], str],
) -> None:
    files = [each for layout in layouts for each in expand(layout) if not each.endswith((".xml", ".txt"))]
    if change is quiet and any("PreviewData" in each or "FramesPos" in each for each in files):
        files = [each.replace("FramesPos", "frames") for each in files]
    build(tmp_path, *map(change, files))
    if pairs == "refused":
        assert "data.pairs" in user_error(find_pairs, tmp_path) or "four channels" in user_error(
            find_pairs, tmp_path
        )
        return
    found = find_pairs(tmp_path)
    assert len(found.pairs) == int(pairs)
    assert found.summary().startswith(f"{pairs} pairs: ")
    used = {path for pair in found.pairs.values() for path in (pair.infrared, pair.visible)}
    assert len(used) == 2 * int(pairs)  # no file is in two pairs
    assert len(files) == len(used) + sum(found.left_out.values())  # and none is lost without a word


@pytest.mark.parametrize(
    ("layouts", "ids", "rule"),
    [
        (["IR{1,2}.bmp", "VIS{1,2}.bmp"], ["1", "2"], MARKED),
        (["{IR,VIS}_x.bmp"], ["x"], MARKED),
        (["x_{ir,vis}.png", "y_{ir,vis}.png"], ["x", "y"], MARKED),
        (["x-{thermal,rgb}.png"], ["x"], MARKED),
        (["x_{lwir,visible}.png"], ["x"], MARKED),
        (["ir/ir_1.tif", "vi/vi_1.tif"], ["1"], MARKED),
        (["ir/x.tif", "vis/x_vis.png"], ["x"], MARKED),
        (["ir/1.png", "vis/1.jpg"], ["1"], EQUAL),
        (["s1/{ir,vis}.png", "s2/{ir,vis}.png"], ["s1", "s2"], MARKED),
        (["s1/{IR,VIS}/1.png", "s2/{IR,VIS}/1.png"], ["s1-1", "s2-1"], EQUAL),
        (["s1/IR_a_g.png", "s1/VIS_a_r.png"], ["s1"], SINGLE),
        (["{day,night}_{ir,vis}/1.png"], ["day-1", "night-1"], EQUAL),
        (["day_{ir,vis}/1.png", "night_{ir,vis}/2.png"], ["1", "2"], EQUAL),
        (["ir/ir_{1,2}.png", "vi/ir_{1,2}.png"], ["ir_1", "ir_2"], EQUAL),
        (["{i,v}/{1,2}.png"], ["1", "2"], EQUAL),
        (["{ir,vis}.png"], ["pair"], MARKED),
        (["1/IR_{7,8}.png", "2/VIS_{7,8}.png"], ["7", "8"], MARKED),
        (["train/a/IR1.png", "train/b/VIS1.png"], ["1"], MARKED),
    ],
)
def test_ids_and_rules(tmp_path: Path, layouts: list[str], ids: list[str], rule: str) -> None:
    found = find_pairs(build(tmp_path, *layouts))
    assert list(found.pairs) == ids
    assert {pair.rule for pair in found.pairs.values()} == {rule}
    for pair in found.pairs.values():
        assert re.search(r"ir|i/|thermal", str(pair.infrared.relative_to(tmp_path)).lower())
        assert re.search(r"v|rgb", str(pair.visible.relative_to(tmp_path)).lower())


def test_two_scenes_of_one_name_in_the_same_place_are_no_guess(tmp_path: Path, user_error: Refusal) -> None:
    build(tmp_path, "{ir,infrared}/1.png", "vi/1.png")
    message = user_error(find_pairs, tmp_path)
    assert "infrared and ir could all be the infrared folder" in message
    assert find_pairs(tmp_path, ["ir"]).pairs["1"].infrared == tmp_path / "ir/1.png"
    assert find_pairs(tmp_path, ["gone", "infrared"]).pairs["1"].infrared == tmp_path / "infrared/1.png"
    assert "no infrared folder; expected gone" in user_error(find_pairs, tmp_path, ["gone"])


@pytest.mark.parametrize(
    ("layouts", "words"),
    [
        (["{ir,vi}/{IR1,VIS1}.png"], ["two ways to pair", "IR1.png with", "data.pairs"]),
        (["crop{infrared,_visible}/1.png", "{infrared,visible}/1.png"], ["could all be the"]),
        (["s/{LWIR,NIR,Vis}.tif"], ["LWIR.tif and NIR.tif could both be the infrared file", "data.infrared"]),
        (["{ir,vi}/1.png", "ir/1.jpg"], ["1.jpg and 1.png have one name but for the suffix"]),
        (["{ir,vi,Vis_Y}/1.png"], ["Vis_Y and vi could all be the visible folder"]),
        (
            ["{MSRS,RoadScene,TNO}/{ir,vi}/1.png"],
            ["data sets MSRS, RoadScene, TNO; take a deeper folder, as in data.root="],
        ),
        (["MSRS-main/{train,test}/{ir,vi}/1.png"], ["data set MSRS-main; take a deeper folder"]),
        (["{ir,vi}/{1,2,3}.png", "ir/{4,5}.png"], ["2 of 5 images have no visible file", "4, 5"]),
        (["{IR,VIS}{1,2}.png", "IR3.png"], ["1 of 3 images have no visible file whose name", ": 3;"]),
        (["train/{ir,vi}/1.png", "test/ir/2.png"], ["test: no visible folder", "sub-folders found: ir"]),
        (["{a,b}.png"], ["no infrared folder", "cropinfrared", "data.pairs"]),
        (["notes.txt"], ["holds no image file", "check the path"]),
        (["A-B/{ir,vi}/C.png", "A/{ir,vi}/B-C.png"], ["would both be called 'A-B-C'"]),
    ],
)
def test_what_is_not_clear_is_refused(
    tmp_path: Path, user_error: Refusal, layouts: list[str], words: list[str]
) -> None:
    message = user_error(find_pairs, build(tmp_path, *layouts))
    for word in words:
        assert word in message
    assert str(tmp_path) in message


def test_a_choice_among_three_bands_of_one_scene(tmp_path: Path) -> None:
    build(tmp_path, "s1/{LWIR,NIR,Vis}.tif", "s2/{LWIR,NIR,Vis}.tif")
    found = find_pairs(tmp_path, infrared=["lwir"])
    assert [pair.infrared.name for pair in found.pairs.values()] == ["LWIR.tif"] * 2
    assert sum(found.left_out.values()) == 2


def test_a_deeper_root_is_advised_and_works(tmp_path: Path, user_error: Refusal) -> None:
    build(tmp_path, "{MSRS,RoadScene,TNO}/{ir,vi}/1.png")
    advised = user_error(find_pairs, tmp_path).rpartition("data.root=")[2]
    assert list(find_pairs(Path(advised)).pairs) == ["1"]


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path) -> None:
    build(
        tmp_path,
        "{ir,vi}/{1,2}.png",
        "{ir,vi}/{a,b}.gif",
        "ir/c.avi",
        "labels/1.png",
        ".hidden/ir.png",
        "ir/x.txt",
    )
    for band in ("ir", "vi"):
        (tmp_path / band / "lost.png").symlink_to(tmp_path / "nowhere.png")
    found = find_pairs(tmp_path)
    assert found.left_out == {".gif": 4, "broken link": 2, ".avi": 1, "other in labels": 1}
    text = found.summary()
    assert text.startswith("2 pairs: 2 by equal names in two folders; left out 8 files: ")
    assert "4 .gif" in text
    assert "2 broken link" in text


@pytest.mark.parametrize("suffix", [".webp", ".jfif", ".WEBP"])
def test_kinds_that_are_read_are_paired(tmp_path: Path, suffix: str) -> None:
    build(tmp_path, "{ir,vi}/1.png", f"{{ir,vi}}/2{suffix}")
    assert list(find_pairs(tmp_path).pairs) == ["1", "2"]


def test_links_into_themselves_end(tmp_path: Path) -> None:
    build(tmp_path, "{ir,vi}/1.png")
    for place in ("ir", "vi", "."):
        (tmp_path / place / "loop").symlink_to(tmp_path)
    assert list(find_pairs(tmp_path).pairs) == ["1"]


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    build(tmp_path / "far", "{a,b}/1.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/ir").symlink_to(tmp_path / "far/a")
    (tmp_path / "set/vi").symlink_to(tmp_path / "far/b")
    assert list(find_pairs(tmp_path / "set").pairs) == ["1"]


def test_pairs_outside_of_parts_are_left_out_and_counted(tmp_path: Path) -> None:
    build(tmp_path, "{train,test}/{ir,vi}/1.png", "detection/{ir,vi}/{8,9}.png")
    found = find_pairs(tmp_path)
    assert list(found.pairs) == ["test-1", "train-1"]
    assert found.left_out == {"in detection, beside the parts": 4}


def test_four_channels_are_explained(tmp_path: Path, user_error: Refusal) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGBA", (4, 4)).save(tmp_path / "images/1.png")
    assert "have four channels" in user_error(find_pairs, tmp_path)


# Two folders, as commands name them


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (("{1,2}.png", "{1,2}.jpg"), ["1", "2"]),
        (("{1,10,2}.png", "{1,10,2}.BMP"), ["1", "2", "10"]),
        (("IR{1,2}.png", "VIS{1,2}.png"), ["1", "2"]),
        (("x_IR.png", "x_VIS.png"), ["x"]),
        (("0001i.png", "0001v.png"), ["0001"]),
        (("x.png", "x_vis.png"), ["x"]),
        (("{IR1,VIS1}.png", "VIS1.png"), ["1"]),
        (("vi_{1,2}.png", "vi_{1,2}.png"), ["vi_1", "vi_2"]),
    ],
)
def test_two_folders_given_by_name(tmp_path: Path, names: tuple[str, str], ids: list[str]) -> None:
    build(tmp_path, f"A/{names[0]}", f"B/{names[1]}")
    assert list(pair_folders(tmp_path / "A", tmp_path / "B").pairs) == ids


def test_folders_that_do_not_fit(tmp_path: Path, user_error: Refusal) -> None:
    build(tmp_path, "A/{1,2}.png", "B/{2,3}.png", "C/{IR1,VIS1}.png", "D/{IR1,VIS1}.png", "E/a.txt")
    message = user_error(pair_folders, tmp_path / "A", tmp_path / "B")
    assert message.startswith(f"{tmp_path}/A: 1 of 3 images have no infrared file of the same name: 3;")
    build(tmp_path, "G/{0,1,2,3,4,5,6,7,8}.png", "H/{0,8}.png")
    message = user_error(pair_folders, tmp_path / "G", tmp_path / "H")
    assert message.startswith(f"{tmp_path}/H: 7 of 9 images have no visible file of the same name: ")
    assert ": 1, 2, 3, 4, 5, ...; add" in message
    assert "two ways to pair" in user_error(pair_folders, tmp_path / "C", tmp_path / "D")
    assert "holds no image file" in user_error(pair_folders, tmp_path / "A", tmp_path / "E")
    assert "no such folder" in user_error(pair_folders, tmp_path / "A", tmp_path / "F")


def test_one_folder_for_both_bands(tmp_path: Path, user_error: Refusal) -> None:
    build(tmp_path, "A/{IR,VIS}{1,2}.bmp", "B/{1,2}.bmp")
    (tmp_path / "link").symlink_to(tmp_path / "A")
    for other in ("A", "link"):
        found = pair_folders(tmp_path / "A", tmp_path / other)
        assert list(found.pairs) == ["1", "2"]
        assert {pair.infrared.name[:2] for pair in found.pairs.values()} == {"IR"}
    assert "was given as the folder of both bands" in user_error(pair_folders, tmp_path / "B", tmp_path / "B")


# Through the data set


def fill(root: Path, *layouts: str) -> Path:
    generator = np.random.default_rng(0)
    for path in (root / name for layout in layouts for name in expand(layout)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 9)).astype(np.uint8)).save(path)
    return root


def test_roadscene_as_its_publisher_ships_it(tmp_path: Path) -> None:
    from hydra import compose, initialize_config_dir

    from clipfuse.cli.options import conf_dir
    from clipfuse.runs.build import build as build_object

    fill(tmp_path, "{cropinfrared,crop_LR_visible,crop_HR_visible,infrared}/{1,2,3}.png")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        data = compose("train", ["data=roadscene", f"data.root={tmp_path}", "data.split=hash"]).data
    source = build_object(data, "data")
    assert sum(map(len, source.parts().values())) == 3
    assert {files[0].parent.name for files in source._files.values()} == {"cropinfrared"}
    assert "left out 6 files" in source.summary()


def test_a_train_part_alone_is_said_to_be_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train/{ir,vi}/{1,2,3,4,5,6}.png")
    source = PairedFolder(str(tmp_path), name="msrs")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("msrs: there is a train folder but no test folder")
    assert "no official parts" in message
    assert source.summary().endswith("val and test cut from train by a hash")


def test_official_parts_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "train/{ir,vi}/{1,2,3,4}.png", "test/{ir,vi}/5.png")
    source = PairedFolder(str(tmp_path))
    assert not caplog.records
    assert source.summary().endswith("val cut from train by a hash, the rest by folders")
