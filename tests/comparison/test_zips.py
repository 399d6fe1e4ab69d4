"""A zip of run folders is read as the folders are, and a bad one is refused by name."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.comparison.collect import SPOILED, find_runs
from clipfuse.comparison.zips import children, open_folder, read_image_in
from clipfuse.errors import UserError

Factory = Callable[..., Path]
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def root(sweep: Factory) -> Path:
    """Two losses with two seeds, one a folder deeper than the other."""
    for seed in (0, 1):
        sweep(seed=seed, folder=f"pixel/{seed}", pictures=16)
        root = sweep("ldfusion", seed=seed, level=1.0, folder=f"more/ldfusion/{seed}", pictures=16)
    (root / "pixel/sweep.yaml").write_text("jobs:\n  1: [loss=pixel, seed=1]\n  2: [loss=pixel, seed=2]\n")
    return root


def pack(root: Path, name: str, top: str | None = None) -> Path:
    """Zip a folder as any program does."""
    return Path(shutil.make_archive(str(root.parent / name), "zip", root.parent if top else root, top))


@pytest.mark.parametrize("top", [None, "sweep"])
def test_runs_in_a_zip_are_those_in_the_folder(root: Path, top: str | None) -> None:
    runs, packed = find_runs([root]), find_runs([pack(root, "packed", top)])
    assert [run.label for run in packed] == [run.label for run in runs]
    assert len(packed) == 5  # one has not started
    for run, same in zip(runs, packed, strict=True):
        for key in ("config", "status", "scores", "scenes", "curves", "overrides", "fit"):
            assert getattr(run, key) == getattr(same, key)
    inner = "" if top is None else "/sweep"
    assert str(packed[0].folder) == f"{root.parent}/packed.zip{inner}/more/ldfusion/0"


def test_zips_and_folders_are_compared_together(clipfuse: Command, root: Path, tmp_path: Path) -> None:
    one = pack(root / "pixel", "pixel")
    outputs = [tmp_path / "folders.csv", tmp_path / "zips.csv"]
    for sources, output in zip(([root], [root / "more", one]), outputs, strict=True):
        words = [*map(str, sources), "--csv", str(output), "--html", str(output.with_suffix(".html"))]
        code, _, error = clipfuse("compare", *words, "--metrics", "SSIM")
        assert code == 0, error
    # A note names the run that has not started by its path.
    assert outputs[0].read_text() == outputs[1].read_text().replace(str(one), str(root / "pixel"))
    pages = [output.with_suffix(".html").read_text() for output in outputs]
    assert pages[0].count("data:image/webp") == pages[1].count("data:image/webp") == 6 * 4
    assert "maximum" in outputs[1].read_text()  # scored from the images in the zip
    assert len(find_runs([one, one, root / "pixel"])) == 6  # a zip counts once, beside the folder


def test_a_folder_in_a_zip_can_be_named(root: Path) -> None:
    packed = pack(root, "packed")
    assert [run.label for run in find_runs([packed / "more"])] == ["ldfusion/0", "ldfusion/1"]
    with pytest.raises(UserError, match=r"packed.zip/less: no such folder in .*packed.zip; name the zip"):
        find_runs([packed / "less"])
    with pytest.raises(UserError, match=r"packed.zip/pixel/0/test: holds no run folder"):
        find_runs([packed / "pixel/0/test"])


def test_an_edited_table_in_a_zip_is_refused(root: Path) -> None:
    (root / "pixel/0/test/metrics.json").write_text('{"images": 6, "per_image_sha256": "00"}')
    (spoiled,) = (run for run in find_runs([pack(root, "packed")]) if run.status == SPOILED)
    assert "packed.zip/pixel/0/test/per_image.csv was changed after the test" in str(spoiled.reason)


@pytest.mark.parametrize("damage", ["no zip", "cut", "a bit"])
def test_a_damaged_zip_is_named(root: Path, damage: str) -> None:
    packed = pack(root, "packed")
    content = bytearray(packed.read_bytes())
    if damage == "a bit":
        with zipfile.ZipFile(packed) as archive:
            info = archive.getinfo("pixel/0/config.yaml")
        content[info.header_offset + 30 + len(info.filename) + 20] ^= 64
    packed.write_bytes({"no zip": b"status.json", "cut": content[:-40], "a bit": content}[damage])
    with pytest.raises(UserError, match=r"packed.zip.*: the zip cannot be read \(.+\); copy it again"):
        find_runs([packed / "pixel/0" if damage == "a bit" else packed])


@pytest.mark.parametrize("name", ["../out/status.json", "/out/status.json", "a\\..\\b", "a/" * 70 + "b"])
def test_a_zip_with_names_outside_of_it_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "{}")
    with pytest.raises(UserError, match=r"bad.zip: holds '.*', which does not lie in a folder of the zip"):
        open_folder(tmp_path / "bad.zip")


def test_a_file_that_unpacks_to_too_much_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(root.parent / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0/status.json", b" " * 2**25)
    with pytest.raises(UserError, match=r"bomb.zip/0/status.json: unpacks to 33554432 bytes, too many"):
        find_runs([root.parent / "bomb.zip"])
    packed = pack(root, "packed")
    monkeypatch.setattr("clipfuse.comparison.zips.MOST_RESULTS", 300)
    with pytest.raises(UserError, match=r"unpacks to \d+ bytes, too many"):
        find_runs([packed])


def test_an_encrypted_zip_is_refused(root: Path) -> None:
    packed = pack(root, "packed")
    content = bytearray(packed.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # a flag in each header
        start = content.find(mark)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(mark, start + 4)
    packed.write_bytes(content)
    with pytest.raises(UserError, match=r"packed.zip/.*encrypted"):
        find_runs([packed])


def test_nothing_is_left_of_an_image(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = open_folder(pack(root, "packed"))
    path = folder / "pixel/0/test/color/test-000000.png"
    assert read_image_in(path, folder).equal(read_image_in(root / "pixel/0/test/color/test-000000.png", root))
    with pytest.raises(UserError, match=r"packed.zip/pixel/0/config.yaml"):
        read_image_in(folder / "pixel/0/config.yaml", folder)
    assert not list((tmp_path / "temporary").iterdir())


def test_what_lies_in_a_folder_is_in_natural_order(tmp_path: Path) -> None:
    for name in ("10", "2", ".hidden"):
        (tmp_path / name).mkdir()
    assert [each.name for each in children(tmp_path)] == ["2", "10"]
