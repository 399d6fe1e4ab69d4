"""Masks of real sets: found, checked, and moved with the pixels."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from clipfuse.data.datamodule import FusionDataModule
from clipfuse.data.folder import PairedFolder
from clipfuse.data.masks import check_masks, files_of_pairs, parse_classes, read_target_mask
from clipfuse.data.matching import EQUAL, ImageFile, PairFiles
from clipfuse.losses.pixel import PixelLoss
from clipfuse.ops.masks import target_mask
from clipfuse.runs.train import train
from clipfuse.types import LossInputs, LossOutput

Refusal = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six pairs in two parts; the infrared image is 80 times its class."""
    generator = np.random.default_rng(0)
    for number in range(6):
        part = tmp_path / ("test" if number > 3 else "train")
        classes = generator.integers(0, 4, (6, 8)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        visible = generator.integers(0, 256, (48, 64, 3)).astype(np.uint8)
        for name, image in (("ir", 80 * classes), ("vi", visible), ("labels", classes)):
            (part / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(part / name / f"{number}.png")
    return tmp_path


def test_masks_of_classes_come_with_the_pairs(root: Path) -> None:
    source = PairedFolder(str(root), masks="Labels", mask_classes=[1, 2])
    pair = source.load("4")
    assert pair.target_mask is not None
    assert torch.equal(pair.target_mask, (pair.infrared == 80) | (pair.infrared == 160))
    assert "left out" not in source.summary()
    assert "6 masks of targets" in source.summary()
    assert "left out 6 files: 6 other in labels" in PairedFolder(str(root)).summary()
    assert PairedFolder(str(root)).load("4").target_mask is None
    elsewhere = PairedFolder(str(root / "train"), masks=str(root / "train/labels"), mask_classes=[1, 2])
    assert elsewhere.load("1").target_mask is not None


def test_crops_move_masks_with_the_pixels(root: Path) -> None:
    source = PairedFolder(str(root), masks="labels", mask_classes=[3], val=0.25)
    data = FusionDataModule(source, crop_size=24)
    for position in range(12):
        batch = data._crops()[position, position % 3]
        assert batch.target_mask is not None
        assert torch.equal(batch.target_mask, batch.infrared > 200 / 255)
    (whole, *_) = data.test_dataloader()
    assert torch.equal(whole.target_mask, whole.infrared > 200 / 255)


def test_the_fingerprint_holds_masks_and_classes(root: Path) -> None:
    plain, masked = PairedFolder(str(root)), PairedFolder(str(root), masks="labels", mask_classes=[1])
    other = PairedFolder(str(root), masks="labels", mask_classes=[2])
    assert len({source.fingerprint() for source in (plain, masked, other)}) == 3
    path = root / "train/labels/0.png"
    Image.fromarray(255 - np.array(Image.open(path))).save(path)
    assert masked.fingerprint() != PairedFolder(str(root)).fingerprint() == plain.fingerprint()


def test_losses_and_the_test_get_the_masks(
    root: Path, tiny_config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor | None, torch.Tensor]] = []
    forward = PixelLoss.forward

    def spy(self: PixelLoss, inputs: LossInputs) -> LossOutput:
        seen.append((inputs.target_mask, inputs.infrared))
        return forward(self, inputs)

    monkeypatch.setattr(PixelLoss, "forward", spy)
    masks = ["data.masks=labels", "data.mask_classes=[2,3]", "data.val=0.3"]
    config = tiny_config("loss=pixel", f"data.root={root}", *masks, "steps=2", "validate_every=2")
    train(config)
    for mask, infrared in seen:
        assert mask is not None
        assert torch.equal(mask, infrared > 100 / 255)
    assert seen
    rows = list(csv.DictReader((Path(config.run_dir) / "test/per_image.csv").open()))
    assert len(rows) == 2
    assert all(float(row["target-contrast"]) > 0 for row in rows)


# What is refused


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"masks": "labels"}, "labels/0.png: holds the values 0, 1, 2, 3; expected a mask of two values"),
        ({"masks": "labels", "mask_classes": [9]}, "no mask holds the class 9; they hold 0, 1, 2, 3"),
        ({"masks": "none"}, "no folder 'none' of masks"),
        ({"mask_classes": [1]}, "data.mask_classes has no effect without masks"),
        ({"masks": "labels", "mask_classes": ["person"]}, "expected numbers of classes"),
        ({"masks": "labels", "mask_classes": []}, "expected numbers of classes"),
        ({"masks": "vi"}, "vi/0.png: is in colour"),
    ],
)
def test_masks_that_are_none(root: Path, user_error: Refusal, options: dict[str, object], words: str) -> None:
    assert words in user_error(PairedFolder, str(root), **options)


def test_a_mask_that_is_missing_or_of_another_size(root: Path, user_error: Refusal) -> None:
    options = {"masks": "labels", "mask_classes": [1]}
    Image.new("L", (64, 40), 1).save(root / "train/labels/1.png")
    assert "labels/1.png is 64 x 40" in user_error(PairedFolder, str(root), **options)
    (root / "train/labels/1.png").unlink()
    assert "1 of 6 pairs have no mask in 'labels': 1" in user_error(PairedFolder, str(root), **options)


def test_a_palette_is_read_by_its_numbers(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 3, (9, 7)).astype(np.uint8)
    image = Image.fromarray(numbers, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    for suffix in ("png", "bmp", "tif"):
        image.save(tmp_path / f"a.{suffix}")
        check_masks([tmp_path / f"a.{suffix}"], [1])
        found = read_target_mask(tmp_path / f"a.{suffix}", [1])
        assert np.array_equal(found[0].numpy(), numbers == 1)


def test_masks_of_all_numbers_are_the_slow_ones(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 256, (16, 16)).astype(np.uint8)
    Image.fromarray(stored).save(tmp_path / "a.png")
    slow = [[int(value) in (3, 200, 255) for value in row] for row in stored]
    assert read_target_mask(tmp_path / "a.png", [3, 200, 255])[0].tolist() == slow
    assert torch.equal(target_mask(torch.from_numpy(stored)[None], [3, 200, 255])[0], torch.tensor(slow))


@pytest.mark.parametrize("given", ["1,2", " 1 , 2 ", [1, 2], ["1", "2"], (1, 2)])
def test_classes_are_parsed(given: object) -> None:
    assert parse_classes(given, "x") == [1, 2]


@pytest.mark.parametrize("given", ["", "a", "1,", "-1", "1.5", "256", 3, [1.5], {"a": 1}, "²"])
def test_what_is_no_class(given: object, user_error: Refusal) -> None:
    assert "x is" in user_error(parse_classes, given, "x")


def test_files_of_pairs(user_error: Refusal) -> None:
    pairs = {
        "1": PairFiles(Path("a/IR1.png"), Path("a/VIS1.png"), (), "1", EQUAL),
        "2": PairFiles(Path("a/IR2.png"), Path("a/VIS2.png"), (), "2", EQUAL),
    }
    files = [ImageFile(Path(f"m/{name}.png"), ()) for name in ("VIS1", "2", "other")]
    assert files_of_pairs(pairs, files) == {"1": Path("m/VIS1.png"), "2": Path("m/2.png")}
    files.append(ImageFile(Path("m/IR1.png"), ()))
    assert "both belong to the pair '1'" in user_error(files_of_pairs, pairs, files)
