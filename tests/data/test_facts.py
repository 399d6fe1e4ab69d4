"""What is remembered of files, and the fingerprint that is made of it."""

import hashlib
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data import facts
from clipfuse.data.facts import digests, thumbnails
from clipfuse.data.folder import PairedFolder
from clipfuse.errors import UserError
from clipfuse.images import read_thumbnail

CACHE_FILE = facts.cache_file  # before the suite puts it elsewhere


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "files.sqlite"
    monkeypatch.setattr(facts, "cache_file", lambda: path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{place}.bin" for place in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
        os.utime(path, (1e9, 1e9))
    return paths


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose bytes were read."""
    read: list[Path] = []
    original = facts._digest
    monkeypatch.setattr(facts, "_digest", lambda path: (read.append(path), original(path))[1])
    return read


def expected(paths: list[Path]) -> list[str]:
    return [hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for path in paths]


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CACHE_FILE() == tmp_path / "clipfuse/files.sqlite"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert CACHE_FILE() == tmp_path / "home/.cache/clipfuse/files.sqlite"


def test_a_file_is_read_once(cache: Path, files: list[Path], hashed: list[Path]) -> None:
    assert digests(files) == expected(files)
    assert hashed == files
    assert digests(files) == expected(files)
    assert hashed == files
    cache.unlink()
    assert digests(files) == expected(files)
    assert hashed == files * 2


def test_a_file_that_changed_is_read_again(cache: Path, files: list[Path], hashed: list[Path]) -> None:
    digests(files)
    hashed.clear()
    data = bytearray(files[1].read_bytes())
    data[5] ^= 1
    files[1].write_bytes(data)
    os.utime(files[1], (1e9, 1e9 + 1))  # its size is the same
    files[2].write_bytes(b"shorter")
    os.utime(files[2], (1e9, 1e9))  # its time is the same
    assert digests(files) == expected(files)
    assert hashed == files[1:]


def test_a_file_that_may_still_change_is_not_remembered(
    cache: Path, files: list[Path], hashed: list[Path]
) -> None:
    files[0].touch()
    digests(files[:1])
    digests(files[:1])
    assert hashed == files[:1] * 2


@pytest.mark.parametrize(
    "damage", [b"", b"no database at all" * 1000, b"SQLite format 3\x00" + b"\x13" * 9000]
)
def test_a_damaged_cache_is_made_anew(
    cache: Path, files: list[Path], hashed: list[Path], damage: bytes
) -> None:
    cache.parent.mkdir()
    cache.write_bytes(damage)
    assert digests(files) == expected(files)
    assert digests(files) == expected(files)
    assert hashed == files


def test_another_table_and_odd_values_are_passed_by(cache: Path, files: list[Path]) -> None:
    digests(files)
    with sqlite3.connect(cache) as database:
        database.execute("UPDATE facts SET value = ?", (b"short",))
    assert digests(files) == expected(files)
    with sqlite3.connect(cache) as database:
        database.execute("DROP TABLE facts")
        database.execute("CREATE TABLE facts (other TEXT)")
    assert digests(files) == expected(files)


def test_without_a_place_for_it(tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(facts, "cache_file", lambda: tmp_path / "file/files.sqlite")
    assert digests(files) == expected(files)
    (tmp_path / "files.sqlite").mkdir()
    monkeypatch.setattr(facts, "cache_file", lambda: tmp_path / "files.sqlite")
    assert digests(files) == expected(files)


def test_a_cache_in_use_is_not_waited_for_long(cache: Path, files: list[Path]) -> None:
    digests(files[:1])
    with sqlite3.connect(cache) as database:
        database.execute("BEGIN IMMEDIATE")
        assert digests(files[:1]) == expected(files[:1])  # reading goes on beside a writer


def test_a_file_that_is_gone(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file"):
        digests([tmp_path / "gone.png"])


@pytest.mark.parametrize("kind", ["gray.png", "color.png", "gray.jpg", "wide.png", "float.tif"])
def test_thumbnails_are_means_over_areas(cache: Path, tmp_path: Path, kind: str) -> None:
    luma = np.kron(np.arange(1024).reshape(32, 32) % 200, np.ones((4, 6)))
    luma += np.random.default_rng(0).uniform(-5, 5, luma.shape) + 20
    path = tmp_path / kind
    if kind.startswith("float"):
        Image.fromarray((luma / 255).astype(np.float32)).save(path)
    elif kind.startswith("wide"):
        Image.fromarray((luma * 257).astype(np.uint16)).save(path)
    else:
        picture = Image.fromarray(luma.round().astype(np.uint8))
        (picture.convert("RGB") if kind.startswith("color") else picture).save(path, quality=95)
    slow = luma.reshape(32, 4, 32, 6).mean(axis=(1, 3))
    slow = (slow - slow.min()) / (slow.max() - slow.min()) * 255
    # Rounding of the pixels and of the result; JPEG decoded at half its size smooths the edges of areas.
    tolerance = 1.5 if not kind.endswith("jpg") else 20
    assert np.abs(read_thumbnail(path, 32) - slow).max() <= tolerance
    assert np.array_equal(thumbnails([path, path])[1], read_thumbnail(path, 32))


def test_a_flat_picture_has_a_black_thumbnail(tmp_path: Path) -> None:
    Image.new("L", (50, 40), 77).save(tmp_path / "flat.png")
    assert not read_thumbnail(tmp_path / "flat.png", 32).any()


def fill(root: Path, value: int = 0) -> str:
    for band in ("ir", "vi"):
        (root / band).mkdir(parents=True)
        for place in range(6):
            Image.new("L", (8, 8), 10 * place + value).save(root / band / f"p{place}.png")
    return str(root)


def test_equal_names_with_other_pictures_are_other_data(tmp_path: Path) -> None:
    one, same = PairedFolder(fill(tmp_path / "a")), PairedFolder(fill(tmp_path / "b"))
    other = PairedFolder(fill(tmp_path / "c", 1))
    assert one.names_fingerprint() == same.names_fingerprint() == other.names_fingerprint()
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    before = one.fingerprint()
    Image.new("L", (8, 8), 200).save(tmp_path / "a/vi/p3.png")
    assert one.fingerprint() not in (before, other.fingerprint())


def test_swapped_bands_and_other_scenes_are_other_data(tmp_path: Path) -> None:
    root = Path(fill(tmp_path / "a"))
    Image.new("L", (8, 8), 99).save(root / "ir/p0.png")
    one = PairedFolder(str(root))
    swapped = PairedFolder(str(root), infrared="vi", visible="ir")
    assert one.fingerprint() != swapped.fingerprint()
    assert PairedFolder(str(root), scenes=r"p\d").fingerprint() == one.fingerprint()  # each its own
    official = {"split": str(tmp_path / "split.json")}
    (tmp_path / "split.json").write_text('{"train": ["p0", "p1"], "val": ["p2"], "test": ["p3", "p4"]}')
    plain, joined = PairedFolder(str(root), **official), PairedFolder(str(root), scenes="p", **official)
    assert plain.parts() == joined.parts()
    assert plain.fingerprint() != joined.fingerprint()
    before = plain.fingerprint()
    Image.new("L", (8, 8), 1).save(root / "vi/p5.png")  # which the split does not name
    assert plain.fingerprint() == before


def test_colours_are_kept_and_a_damaged_entry_is_found_anew(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "map.png"
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[1], pixels[2] = (64, 0, 128), (255, 255, 255)
    Image.fromarray(pixels).save(path)
    os.utime(path, (1e9, 1e9))
    expected = [frozenset({0, 64 << 16 | 128, 0xFFFFFF})]
    assert facts.image_colors([path]) == expected
    with sqlite3.connect(cache) as stored:
        assert stored.execute("SELECT length(value) FROM facts WHERE kind = 'colors'").fetchall() == [(12,)]
        stored.execute("UPDATE facts SET value = x'0000000000' WHERE kind = 'colors'")
    assert facts.image_colors([path]) == expected
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(facts.image_colors([tmp_path / "noise.png"])[0]) == facts.MOST_COLORS
