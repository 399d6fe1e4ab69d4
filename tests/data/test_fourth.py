"""Pairs of one file each, whose fourth channel is the infrared one."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.data.folder import PairedFolder
from clipfuse.data.fourth import RULE, check_fourth, find_fourth, load_fourth

VALUES = np.random.default_rng(0).integers(0, 65536, (24, 32, 4)).astype(np.uint16)


@pytest.mark.parametrize("writer", ["pillow", "opencv"])
@pytest.mark.parametrize("bits", [8, 16])
def test_all_four_channels_are_read_at_their_depth(bits: int, writer: str, tmp_path: Path) -> None:
    values = VALUES if bits == 16 else (VALUES >> 8).astype(np.uint8)
    if writer == "opencv" or bits == 16:  # Pillow writes no colour of 16 bits
        cv2.imwrite(str(tmp_path / "a.png"), values[:, :, [2, 1, 0, 3]])
    else:
        Image.fromarray(values).save(tmp_path / "a.png")
    check_fourth([tmp_path / "a.png"])
    pair = load_fourth(tmp_path / "a.png")
    assert torch.equal(pair.infrared, torch.from_numpy(values[None, :, :, 3]))
    assert torch.equal(pair.visible, torch.from_numpy(values[:, :, :3].transpose(2, 0, 1).copy()))


def test_pairs_are_found_in_folders_of_that_name(tmp_path: Path) -> None:
    for place in ("train/Images/1.png", "test/Images/2.png", "train/labels/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((VALUES >> 8).astype(np.uint8)).save(tmp_path / place)
    found = find_fourth(tmp_path, "images")
    assert [(name, pair.part, pair.rule) for name, pair in found.pairs.items()] == [
        ("1", "train", RULE),
        ("2", "test", RULE),
    ]
    assert found.left_out == {"other in labels": 1}
    source = PairedFolder(str(tmp_path), fourth="images", val=0)
    assert source.parts() == {"train": ("1",), "val": (), "test": ("2",)}
    assert source.scene_notes()["warning"] is None


def test_what_is_no_such_folder_or_file_is_named(tmp_path: Path, user_error: Callable[..., str]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "images/a.png")
    found = user_error(PairedFolder, str(tmp_path), fourth="images", val=0, test=0)
    assert "images/a.png: an image of 3 channels (RGB) as a pair in one file is not read" in found
    assert "no folder 'rgba' of images with four channels" in user_error(
        PairedFolder, str(tmp_path), fourth="rgba"
    )
    found = user_error(PairedFolder, str(tmp_path), fourth="images", infrared="ir")
    assert "leave out infrared, visible, pairs and range" in found
