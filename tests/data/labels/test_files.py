"""Labels of published layouts: found beside the images, checked before the work, read with the pairs."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image

from clipfuse.data.datamodule import FusionDataModule
from clipfuse.data.folder import PairedFolder
from clipfuse.data.labels.files import require_labels
from clipfuse.data.mixed import MixedPairs
from clipfuse.files import conf_dir
from clipfuse.runs.build import build
from clipfuse.types import IGNORED

SIZE = (24, 32)
MSRS = ("data=msrs", "data.val=0")
Refusal = Callable[..., str]


def opened(root: Path, *overrides: str) -> PairedFolder:
    with initialize_config_dir(str(conf_dir().absolute()), version_base=None):
        config = compose("train", [f"data.root={root}", *overrides])
    source = build(config.data, "data")
    assert isinstance(source, PairedFolder)
    return source


def image(path: Path, seed: int, channels: int = 1) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 256, (*SIZE, channels)).astype(np.uint8)
    Image.fromarray(values.squeeze(2) if channels == 1 else values).save(path)
    return values


def classes(path: Path, seed: int, count: int) -> torch.Tensor:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, count, SIZE).astype(np.uint8)
    Image.fromarray(values).save(path)
    return torch.from_numpy(values)


def pairs(root: Path, pattern: str, names: tuple[str, ...], bands: tuple[str, str]) -> None:
    for seed, name in enumerate(names):
        for band, channels in zip(bands, (1, 3), strict=True):
            image(root / pattern.format(band=band, name=name), 10 * seed + channels, channels)


def voc(path: Path, name: str, *edges: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tags = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{tag}>{edge}</{tag}>" for tag, edge in zip(tags, edges, strict=False))
    found = f"<object><name>{name}</name><bndbox>{box}</bndbox></object>" if edges else ""
    path.write_text(f"<annotation>{found}</annotation>")


@pytest.fixture
def msrs(tmp_path: Path) -> Path:
    """Six training pairs of one drive, of which the official test part has every fourth frame."""
    for part, names in (("train", (1, 2, 3, 5, 6, 7)), ("test", (4, 8))):
        ids = tuple(f"0000{number}{'N' if number > 5 else 'D'}" for number in names)
        pairs(tmp_path, f"{part}/{{band}}/{{name}}.png", ids, ("ir", "vi"))
        for seed, name in enumerate(ids):
            classes(tmp_path / part / "Segmentation_labels" / f"{name}.png", seed, 9)
    return tmp_path


def test_msrs(msrs: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = opened(msrs, *MSRS)
    labels = source.labels()
    assert labels is not None
    assert (len(labels), labels.names[2], labels.palette[1], labels.background) == (
        9,
        "person",
        (64, 0, 128),
        0,
    )
    assert labels.groups == (("day", "D$"), ("night", "N$"))
    for name, seed, part in (("00003D", 2, "train"), ("00008N", 1, "test")):
        found = source.load(name).classes
        assert found is not None
        assert torch.equal(found, classes(msrs / part / "Segmentation_labels" / f"{name}.png", seed, 9))
    assert "8 maps of 9 classes" in source.summary()
    assert "left out" not in source.summary()
    assert not caplog.records
    for part, folder in (("train", 2), ("test", 3)):  # two more drives, so that whole scenes can be cut
        pairs(msrs, f"{part}/{{band}}/{{name}}.png", (f"00{folder}01D",), ("ir", "vi"))
        classes(msrs / part / "Segmentation_labels" / f"00{folder}01D.png", 0, 9)
    apart = opened(msrs, "data=msrs", "data.split=hash")
    scenes = [{name[:3] for name in names} for names in apart.parts().values()]
    assert sorted(each for part in scenes for each in part) == ["000", "002", "003"]
    assert apart.scene_notes()["warning"] is None
    assert "val and test cut from all pairs by a hash" in apart.summary()
    assert not caplog.records
    warning = source.scene_notes()["warning"]
    assert warning.startswith("2 of 2 test images of 'msrs' are neighbours of training images in one scene")
    assert "data.split=hash cuts between whole scenes" in warning


def test_mfnet_as_published(tmp_path: Path) -> None:
    names = {"train": ("00001D", "00002N"), "val": ("00103D",), "test": ("00204N",)}
    stored, maps = {}, {}
    for seed, name in enumerate(name for each in names.values() for name in each):
        stored[name] = torch.from_numpy(image(tmp_path / "images" / f"{name}.png", seed, 4))
        maps[name] = classes(tmp_path / "labels" / f"{name}.png", seed, 9)
    for part, each in names.items():
        (tmp_path / f"{part}.txt").write_text("".join(f"{name}\n" for name in each))
    source = opened(tmp_path, "data=mfnet")
    assert source.parts() == names
    for name, values in stored.items():
        pair = source.load(name)
        assert torch.equal(pair.infrared[0], values[:, :, 3])
        assert torch.equal(pair.visible, values[:, :, :3].permute(2, 0, 1))
        assert pair.classes is not None
        assert torch.equal(pair.classes, maps[name])
    assert source.summary() == (
        "4 pairs: 4 by the fourth channel of one file; 4 maps of 9 classes; parts by their lists"
    )
    assert len(source.fingerprint()) == 64


def test_fmb_with_15_and_14_classes(tmp_path: Path) -> None:
    for part, names in (("train", ("00001", "00002")), ("test", ("00003",))):
        pairs(tmp_path, f"{part}/{{band}}/{{name}}.png", names, ("Infrared", "Visible"))
        for name in names:
            image(tmp_path / part / "color" / f"{name}.png", 5, 3)
            stored = classes(tmp_path / part / "Label" / f"{name}.png", 6, 15)
    whole, fewer = (
        opened(tmp_path, "data=fmb", "data.val=0.5", *more) for more in ((), ("data.labels.ignore=0",))
    )
    found, without = (source.load("00003").classes for source in (whole, fewer))
    assert found is not None
    assert without is not None
    assert torch.equal(found, stored)
    assert torch.equal(without, torch.where(stored == 0, IGNORED, stored))
    labels = whole.labels()
    assert labels is not None
    assert (labels.names[0], labels.names[13], labels.names[14], len(labels.palette)) == (
        *("background", "bicycle", "pole", 15),
    )


def test_m3fd_by_its_xml_and_in_the_layout_of_tardal(tmp_path: Path) -> None:
    published, tardal = tmp_path / "M3FD_Detection", tmp_path / "tardal"
    names = ("00000", "00001", "00002")
    pairs(published, "{band}/{name}.png", names, ("Ir", "Vis"))
    pairs(tardal, "{band}/{name}.png", names, ("ir", "vi"))
    for name in names:
        voc(published / "Annotation" / f"{name}.xml", "Car", *((5, 3, 12, 10) if name == "00001" else ()))
        (tardal / "labels").mkdir(exist_ok=True)
        line = f"1 {8 / 32} {6 / 24} {8 / 32} {8 / 24}\n" if name == "00001" else ""
        (tardal / "labels" / f"{name}.txt").write_text(line)
    (tardal / "meta").mkdir()
    for file, listed in (("train", names[:1]), ("val", names[1:2]), ("pred", names[2:])):
        (tardal / "meta" / f"{file}.txt").write_text("".join(f"{name}.png\n" for name in listed))
    yolo = ("data.labels.folder=labels", "data.labels.kind=yolo", "data.split=lists")
    sources = opened(published, "data=m3fd", "data.scenes=null"), opened(tardal, "data=m3fd", *yolo)
    for source in sources:
        boxes = source.load("00001").boxes
        assert boxes is not None
        assert boxes.xyxy.tolist() == [[4, 2, 12, 10]]
        assert boxes.classes.tolist() == [1]
        empty = source.load("00002").boxes
        assert empty is not None
        assert len(empty) == 0
        assert "3 files of boxes of 6 classes" in source.summary()
    assert sources[1].parts() == {"train": ("00000",), "val": ("00001",), "test": ("00002",)}


def test_llvip_keeps_its_xml_outside_of_the_parts(tmp_path: Path) -> None:
    for part, names in (("train", ("010001", "020001")), ("test", ("190001",))):
        pairs(tmp_path, f"{{band}}/{part}/{{name}}.png", names, ("infrared", "visible"))
        for name in names:
            voc(tmp_path / "Annotations" / f"{name}.xml", "person", 1, 1, 10, 20)
    source = opened(tmp_path, "data=llvip")
    for name in ("010001", "190001"):
        boxes = source.load(name).boxes
        assert boxes is not None
        assert boxes.xyxy.tolist() == [[0, 0, 10, 20]]


def test_any_folder_with_a_class_list(tmp_path: Path) -> None:
    pairs(tmp_path, "{band}/{name}.png", ("a", "b", "c"), ("ir", "vi"))
    (tmp_path / "labels").mkdir()
    for name in "abc":
        (tmp_path / "labels" / f"{name}.txt").write_text("1 0.5 0.5 0.25 0.5\n")
    (tmp_path / "labels/classes.txt").write_text("person\ncar\n")  # where labelling programs put it
    given = "data.labels={folder: labels, kind: yolo, classes: labels/classes.txt}"
    source = opened(tmp_path, "data=folder", given)
    labels, boxes = source.labels(), source.load("b").boxes
    assert labels is not None
    assert labels.names == ("person", "car")
    assert boxes is not None
    assert (boxes.xyxy.tolist(), boxes.classes.tolist()) == ([[12, 6, 20, 18]], [1])


def test_labels_move_through_the_loader_and_its_processes(msrs: Path) -> None:
    for file in sorted(msrs.glob("train/ir/*.png")):  # the infrared image is 20 times its class
        label = np.asarray(Image.open(msrs / "train/Segmentation_labels" / file.name))
        Image.fromarray(20 * label).save(file)
    data = FusionDataModule(opened(msrs, *MSRS), crop_size=16)
    for position in range(6):
        batch = data._crops()[position, position]
        assert batch.classes is not None
        assert torch.equal(batch.classes, (batch.infrared[:, 0] * 255 / 20).round().long())


def test_without_the_folder_pairs_open_and_what_needs_labels_is_refused(
    msrs: Path, user_error: Refusal
) -> None:
    labelled = opened(msrs, *MSRS)
    without = opened(msrs, *MSRS, "data.labels=null")
    root = msrs / "copy"
    for part in ("train", "test"):
        shutil.copytree(msrs / part, root / part, ignore=lambda *_: ["Segmentation_labels"])
    source = opened(root, *MSRS)
    assert source.labels() is None
    assert source.load("00001D").classes is None
    assert source.labels_fingerprint() is None
    # Trainings that see no labels compare, whether the labels are there or not.
    assert source.fingerprint() == without.fingerprint() == labelled.fingerprint()
    need = {"classes": "the loss task"}
    require_labels(labelled, need)
    assert user_error(require_labels, source, need) == (
        f"the loss task needs classes, which the data set 'msrs' does not have: in {root} no folder "
        "'Segmentation_labels' of maps of classes, one number per class, whose files are named as the pairs, "
        "lies beside the folders of the bands; add it, or name another by data.labels.folder"
    )
    assert "describe its labels by data.labels" in user_error(require_labels, without, need)
    assert "describe files of boxes instead" in user_error(require_labels, labelled, {"boxes": "the loss x"})
    assert "by data.captions=FILE.csv" in user_error(require_labels, labelled, {"captions": "the loss x"})
    mixed = MixedPairs({"a": labelled, "b": without})
    assert "its data sets have no labels in common" in user_error(require_labels, mixed, need)
    require_labels(MixedPairs({"a": labelled}), need)


def test_the_fingerprint_of_labels_follows_what_they_mean(msrs: Path) -> None:
    def found(*overrides: str) -> str:
        fingerprint = opened(msrs, *MSRS, *overrides).labels_fingerprint()
        assert fingerprint is not None
        return fingerprint

    first = found()
    assert first == found("data.labels.groups=null")  # which change no training
    renamed = found("data.labels.classes=[a,b,c,d,e,f,g,h,i]", "data.labels.objects=null")
    assert len({first, found("data.labels.ignore=0"), renamed}) == 3
    classes(msrs / "train/Segmentation_labels/00001D.png", 77, 9)
    assert first != found()


def test_captions_come_with_the_pairs(msrs: Path, user_error: Refusal) -> None:
    names = [file.stem for file in sorted(msrs.glob("*/ir/*.png"))]
    table = msrs / "captions.csv"
    table.write_text("name,caption\n" + "".join(f"{name},a car by {name[-1]}\n" for name in names))
    source = opened(msrs, *MSRS, "data.captions=captions.csv")
    assert source.load("00008N").caption == "a car by N"
    assert "8 captions" in source.summary()
    assert source.labels_fingerprint() != opened(msrs, *MSRS).labels_fingerprint()
    require_labels(source, {"captions": "the loss x"})
    table.write_text("name,caption\n" + "".join(f"{name},x\n" for name in names[1:]))
    assert "has no text for 1 of 8 pairs" in user_error(opened, msrs, *MSRS, "data.captions=captions.csv")


def _drop(root: Path) -> None:
    (root / "test/Segmentation_labels/00004D.png").unlink()


def _shrink(root: Path) -> None:
    Image.new("L", (16, 12)).save(root / "train/Segmentation_labels/00002D.png")


def _tenth_class(root: Path) -> None:
    Image.new("L", SIZE[::-1], 9).save(root / "train/Segmentation_labels/00005D.png")


def _second(root: Path) -> None:
    Image.new("L", SIZE[::-1]).save(root / "train/Segmentation_labels/00005D.bmp")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            _drop,
            "1 of 8 pairs have no label in 'Segmentation_labels' (maps of classes, one number per "
            "class): 00004D",
        ),
        (_drop, "leave the labels out by data.labels=null"),
        (_shrink, "00002D.png is 16 x 12 pixels, but its pair 32 x 24"),
        (_tenth_class, "00005D.png: holds the class 9 in 768 pixels; expected 0 to 8"),
        (_second, "both belong to the pair '00005D' by name; keep one"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_at_the_start(
    change: Callable[[Path], Any], expected: str, msrs: Path, user_error: Refusal
) -> None:
    change(msrs)
    assert expected in user_error(opened, msrs, *MSRS)


def test_an_empty_box_is_refused_at_the_start(tmp_path: Path, user_error: Refusal) -> None:
    pairs(tmp_path, "{band}/{name}.png", ("a", "b", "c"), ("ir", "vi"))
    for name in "abc":
        voc(tmp_path / "Annotation" / f"{name}.xml", "Car", 5, 5, 4 if name == "b" else 9, 9)
    found = user_error(opened, tmp_path, "data=m3fd")
    assert "b.xml: object 1 (Car) is empty" in found
    (tmp_path / "Annotation/b.xml").unlink()
    assert "an image without objects needs an empty one" in user_error(opened, tmp_path, "data=m3fd")


def test_real_labels_as_published_and_at_half_resolution(roadscene: Path) -> None:
    """The share of each class is that of a count of the files by Pillow alone."""
    original = opened(roadscene.parent / "msrs_original", "data=msrs", "data.val=0", "data.test=1")
    assert len(original.parts()["test"]) == 4
    for name in original.parts()["test"]:
        found = original.load(name).classes
        assert found is not None
        assert (tuple(found.shape), found.dtype) == ((480, 640), torch.uint8)
        assert found.max() <= 8
    root = roadscene.parent / "msrs"
    source = opened(root, "data=msrs")
    names = source.parts()["test"][::20]
    read, stored = torch.zeros(256, dtype=torch.int64), np.zeros(256, np.int64)
    for name in names:
        found = source.load(name).classes
        assert found is not None
        read += torch.bincount(found.flatten().long(), minlength=256)
        with Image.open(root / "test/Segmentation_labels" / f"{name}.png") as file:
            stored += np.bincount(np.asarray(file).ravel(), minlength=256)
    assert read.tolist() == stored.tolist()
    assert 0.85 < read[0] / read.sum() < 0.97
    assert read[9:].sum() == 0
    assert source.scene_notes()["warning"] is None  # blocks of frames


def test_each_row_of_the_documented_table_has_its_tests() -> None:
    folder = Path(__file__).parent
    text = (folder.parents[2] / "docs/data.md").read_text().partition("| what is read | tests |")[2]
    rows = [line for line in text.partition("\n\n")[0].splitlines() if line.startswith("| ")]
    known = "".join(file.read_text() for file in folder.glob("test_*.py"))
    assert len(rows) == 8
    for row in rows:
        names = re.findall(r"`(test_\w+)`", row)
        assert names, row
        assert not [name for name in names if f"def {name}(" not in known], row
