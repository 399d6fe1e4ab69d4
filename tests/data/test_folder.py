import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.data.folder import PairedFolder, load_pair
from clipfuse.data.splits import hash_split, read_split, split_fingerprint

REPOSITORY = Path(__file__).parents[2]
NAMES = [f"scene{i}" for i in range(30)]


def fill(folder, names, suffix=".png", size=(7, 5), mode="L"):
    folder.mkdir(parents=True)
    for value, name in enumerate(names):
        Image.new(mode, size, value if mode == "L" else (value, 0, 0)).save(folder / f"{name}{suffix}")


def fill_pairs(infrared, visible, names=NAMES):
    fill(infrared, names)
    fill(visible, names, suffix=".jpg", mode="RGB")


def all_ids(source):
    return [sample for part in source.parts().values() for sample in part]


# Layouts


@pytest.mark.parametrize(
    ("infrared", "visible"),
    [
        ("ir", "vi"),
        ("IR", "Vis"),
        ("Infrared", "Visible"),
        ("thermal", "RGB"),
        ("cropinfrared", "crop_LR_visible"),
    ],
)
def test_two_folders(tmp_path, infrared, visible):
    fill_pairs(tmp_path / infrared, tmp_path / visible)
    (tmp_path / "labels").mkdir()
    source = PairedFolder(str(tmp_path))
    assert sorted(all_ids(source)) == sorted(NAMES)
    pair = source.load("scene7")
    assert pair.infrared.shape == (1, 5, 7)
    assert pair.infrared.unique().tolist() == [7]
    assert pair.visible.shape == (3, 5, 7)
    assert pair.target_mask is None
    assert pair.reference is None


@pytest.mark.parametrize("part_first", [True, False])
@pytest.mark.parametrize("with_val", [True, False])
def test_official_parts(tmp_path, part_first, with_val):
    names = {"train": NAMES[:20], "test": NAMES[20:26]} | ({"val": NAMES[26:]} if with_val else {})
    for part, members in names.items():
        folders = [tmp_path / part / band if part_first else tmp_path / band / part for band in ("ir", "vi")]
        fill_pairs(*folders, names=members)
    parts = PairedFolder(str(tmp_path), val=0.2).parts()
    assert list(parts) == ["train", "val", "test"]
    assert parts["test"] == tuple(NAMES[20:26])
    if with_val:
        assert parts["train"] == tuple(NAMES[:20])
        assert parts["val"] == tuple(NAMES[26:])
    else:
        assert parts == {**hash_split(NAMES[:20], 0.2, 0), "test": parts["test"]}
        assert parts["val"]
    assert PairedFolder(str(tmp_path), split="hash").parts() == hash_split(all_ids_of(names), 0.1, 0.2)


def all_ids_of(names):
    return [name for members in names.values() for name in members]


def test_one_name_in_two_parts_gets_its_part_as_prefix(tmp_path):
    fill_pairs(tmp_path / "train" / "ir", tmp_path / "train" / "vi", NAMES[:6])
    fill_pairs(tmp_path / "test" / "ir", tmp_path / "test" / "vi", NAMES[3:6])
    source = PairedFolder(str(tmp_path))
    assert source.parts()["test"] == ("test-scene3", "test-scene4", "test-scene5")
    assert len(set(all_ids(source))) == 9
    assert source.load("test-scene3").infrared.max() == 0
    assert source.load("train-scene3").infrared.max() == 3


def test_a_test_folder_alone_has_no_training_part(tmp_path):
    fill_pairs(tmp_path / "test" / "ir", tmp_path / "test" / "vi", NAMES[:2])
    assert PairedFolder(str(tmp_path)).parts() == {"train": (), "val": (), "test": tuple(NAMES[:2])}


def test_folders_given_by_name(tmp_path, user_error):
    fill_pairs(tmp_path / "FLIR", tmp_path / "Camera")
    message = user_error(PairedFolder, str(tmp_path))
    assert f"{tmp_path}: no infrared folder" in message
    assert "cropinfrared" in message
    assert "Camera, FLIR" in message
    assert "infrared=NAME" in message
    assert len(all_ids(PairedFolder(str(tmp_path), infrared="FLIR", visible="camera"))) == 30


# Mistakes


def test_missing_root(tmp_path, user_error):
    assert str(tmp_path / "nowhere") in user_error(PairedFolder, str(tmp_path / "nowhere"))


def test_missing_band(tmp_path, user_error):
    fill(tmp_path / "ir", NAMES)
    message = user_error(PairedFolder, str(tmp_path))
    assert "no visible folder" in message
    assert "sub-folders found: ir;" in message


def test_two_candidates_for_a_band(tmp_path, user_error):
    fill_pairs(tmp_path / "ir", tmp_path / "vi")
    fill(tmp_path / "thermal", NAMES)
    assert "ir and thermal" in user_error(PairedFolder, str(tmp_path))
    assert PairedFolder(str(tmp_path), infrared="thermal").parts()


def test_part_in_one_band_only(tmp_path, user_error):
    fill_pairs(tmp_path / "ir" / "train", tmp_path / "vi" / "train")
    fill(tmp_path / "ir" / "test", ["x"])
    assert "the folder test is in only one of ir and vi" in user_error(PairedFolder, str(tmp_path))


def test_unmatched_names(tmp_path, user_error):
    fill(tmp_path / "ir", NAMES)
    fill(tmp_path / "vi", NAMES[7:])
    message = user_error(PairedFolder, str(tmp_path))
    assert message.startswith(f"{tmp_path / 'vi'}: 7 of 30 images have no visible file")
    assert "scene0, scene1, scene2, scene3, scene4, ..." in message


def test_empty_band(tmp_path, user_error):
    fill(tmp_path / "ir", NAMES)
    (tmp_path / "vi").mkdir()
    assert f"{tmp_path / 'vi'}: holds no image" in user_error(PairedFolder, str(tmp_path))


def test_unequal_sizes(tmp_path, user_error):
    fill(tmp_path / "ir", NAMES, size=(7, 5))
    fill(tmp_path / "vi", NAMES, size=(14, 10))
    message = user_error(PairedFolder, str(tmp_path), split="hash", val=0, test=1)
    assert message.startswith("30 of 30 pairs cannot be used: ")
    assert message.endswith("; nor can scene1, scene2, scene3, scene4, scene5, ...")
    assert f"{tmp_path / 'ir' / 'scene0.png'} is 7 x 5" in message
    assert f"{tmp_path / 'vi' / 'scene0.png'} is 14 x 10" in message


# Infrared stored as colour


def test_colour_infrared_is_reduced_to_luma_in_its_depth(tmp_path):
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(np.dstack([gray] * 3)).save(tmp_path / "ir8.png")
    wide = (
        (np.arange(256, dtype=np.uint16) * 257 - 3 * (np.arange(256) > 0)).reshape(16, 16).astype(np.uint16)
    )
    cv2.imwrite(str(tmp_path / "ir16.png"), np.dstack([wide] * 3))
    Image.fromarray(gray).save(tmp_path / "vi.png")
    pair = load_pair(tmp_path / "ir8.png", tmp_path / "vi.png")
    assert pair.infrared.dtype == torch.uint8
    assert torch.equal(pair.infrared, torch.from_numpy(gray)[None])
    assert torch.equal(pair.visible, pair.infrared)
    pair = load_pair(tmp_path / "ir16.png", tmp_path / "vi.png")
    assert pair.infrared.dtype == torch.uint16
    assert torch.equal(pair.infrared.int(), torch.from_numpy(wide)[None].int())


def test_colour_infrared_uses_the_luma_weights(tmp_path):
    Image.new("RGB", (3, 3), (200, 100, 50)).save(tmp_path / "ir.png")
    Image.new("L", (3, 3)).save(tmp_path / "vi.png")
    expected = int(0.299 * 200 + 0.587 * 100 + 0.114 * 50 + 0.5)
    assert load_pair(tmp_path / "ir.png", tmp_path / "vi.png").infrared.unique().tolist() == [expected]


# Split files


def write_split(path, **content):
    path.write_text(json.dumps({"train": NAMES[:10], "val": ["scene10"], "test": ["scene11"]} | content))
    return str(path)


def test_split_file_by_path(tmp_path, caplog):
    fill_pairs(tmp_path / "ir", tmp_path / "vi", NAMES[:14])
    split = write_split(tmp_path / "mine.json", test={"one scene": ["scene11"], "another": ["scene12"]})
    with caplog.at_level(logging.WARNING):
        source = PairedFolder(str(tmp_path), split=split)
    assert source.parts() == {"train": tuple(NAMES[:10]), "val": ("scene10",), "test": ("scene11", "scene12")}
    assert source.scenes() == {"scene11": "one scene", "scene12": "another"}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: left out 1 pairs that split '{split}' does not name"
    ]
    assert source.names_fingerprint() == split_fingerprint(read_split(split))


def test_split_names_that_the_folder_lacks(tmp_path, user_error):
    fill_pairs(tmp_path / "ir", tmp_path / "vi", NAMES[:4])
    message = user_error(PairedFolder, str(tmp_path), split=write_split(tmp_path / "mine.json"))
    assert "8 of the 12 pairs" in message
    assert "scene4, scene5, scene6, scene7, scene8, ..." in message
    assert "split=hash" in message


# RoadScene


def test_shipped_roadscene_is_what_its_rule_gives(roadscene):
    script = REPOSITORY / "experiments/splits/make_roadscene.py"
    spec = importlib.util.spec_from_file_location("make_roadscene", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    names = all_ids(PairedFolder(str(roadscene), split="hash"))
    shipped = json.loads((REPOSITORY / "src/clipfuse/data/splits/roadscene.json").read_text())
    assert module.make_split(names) == shipped


def test_real_roadscene_pairs_are_read(roadscene, caplog):
    source = PairedFolder(str(roadscene), split="roadscene", name="roadscene")
    assert source.name == "roadscene"
    assert not caplog.records  # its split names every pair
    for sample in source.parts()["val"]:
        pair = source.load(sample)
        assert pair.infrared.shape[1:] == pair.visible.shape[1:]
        assert (pair.infrared.shape[0], pair.visible.shape[0]) == (1, 3)
        assert pair.infrared.dtype == pair.visible.dtype == torch.uint8
        assert pair.infrared.float().std() > 5


def test_import_is_light():
    slow = {"lightning", "hydra", "kornia", "torchvision"}
    code = f"import sys, clipfuse.data.folder; print({slow} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
