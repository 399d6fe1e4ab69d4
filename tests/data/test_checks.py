"""Headers, sizes, equal files, and bands that look swapped."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data import checks
from clipfuse.data.checks import COLOR, check_different, check_pairs, color_spread, header_of, look_at_bands
from clipfuse.data.facts import headers
from clipfuse.data.folder import PairedFolder

Refusal = Callable[..., str]
Pairs = dict[str, tuple[Path, Path]]


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    """Nine pairs of noise, gray and colour."""
    generator = np.random.default_rng(0)
    for band in ("ir", "vi"):
        (tmp_path / band).mkdir()
    for number in range(9):
        shape = (40, 50)
        Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(
            tmp_path / f"ir/{number}.png"
        )
        color = generator.integers(0, 256, (5, 6, 3)).astype(np.uint8)
        Image.fromarray(color).resize(shape[::-1]).save(tmp_path / f"vi/{number}.jpg")
    return {str(n): (tmp_path / f"ir/{n}.png", tmp_path / f"vi/{n}.jpg") for n in range(9)}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def narrow(path: Path) -> None:
    Image.open(path).crop((0, 0, 49, 40)).save(path)


def cut_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut, "cannot be read"),
        (cut_at_the_end, "cannot be read"),
        (nothing, "empty file"),
        (narrow, "is 50 x 40 pixels but"),
    ],
)
@pytest.mark.parametrize("cached", [False, True])
def test_spoiled_files_are_named(
    pairs: Pairs, user_error: Refusal, spoil: Callable[[Path], None], words: str, cached: bool
) -> None:
    read = {"headers": headers} if cached else {}
    check_pairs(pairs, **read)
    spoil(pairs["3"][1])
    message = user_error(check_pairs, pairs, **read)
    assert words in message
    assert str(pairs["3"][1]) in message
    for number in ("4", "5", "8"):
        spoil(pairs[number][1])
    message = user_error(check_pairs, pairs, **read)
    assert message.startswith("4 of 9 pairs cannot be used: ")
    assert message.endswith("; nor can 4, 5, 8")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_copy_that_was_cut_off_is_found_by_its_end(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(path)
    assert header_of(path) == (50, 40, 1)
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(200))  # padded, but complete
    assert header_of(path) == (50, 40, 1)
    for length in (len(whole) - 60, len(whole) // 2):
        path.write_bytes(whole[:length])
        assert "cannot be read" in str(header_of(path))


def test_headers_are_read_once(pairs: Pairs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for path in (path for files in pairs.values() for path in files):
        os.utime(path, (1e9, 1e9))
    read: list[Path] = []

    def counting(path: Path) -> checks.Head:
        read.append(path)
        head = header_of(path)
        assert isinstance(head, tuple)
        return head

    monkeypatch.setattr("clipfuse.data.facts.header_of", counting)
    for _ in range(3):
        PairedFolder(str(tmp_path))
    assert len(read) == len(set(read)) == 18


def test_the_cache_forgets_a_changed_file(pairs: Pairs) -> None:
    path = pairs["0"][0]
    os.utime(path, (1e9, 1e9))
    assert headers([path]) == [(50, 40, 1)]
    narrow(path)
    assert headers([path]) == [(49, 40, 1)]


def test_equal_images_in_both_bands(pairs: Pairs, user_error: Refusal, tmp_path: Path) -> None:
    infrared, visible = pairs["0"]
    copy, link, hard = (tmp_path / f"{name}.png" for name in ("copy", "link", "hard"))
    copy.write_bytes(infrared.read_bytes())
    link.symlink_to(infrared)
    os.link(infrared, hard)
    assert check_different(infrared, visible) is None
    assert "hold the same bytes" in str(check_different(infrared, copy))
    for same in (infrared, link, hard):
        assert "are one file" in str(check_different(infrared, same))
    assert "hold the same bytes" in user_error(check_pairs, {**pairs, "x": (infrared, copy)})


def test_two_black_frames_are_no_mistake(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (20, 10)).save(tmp_path / name)
    assert check_different(tmp_path / "a.png", tmp_path / "b.png") is None


def test_orientations_that_differ(pairs: Pairs, user_error: Refusal) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    path = pairs["0"][1]
    Image.open(path).save(path, exif=exif)
    assert "orientation tag" in user_error(check_pairs, pairs)


def swap(pairs: Pairs) -> Pairs:
    return {name: (visible, infrared) for name, (infrared, visible) in pairs.items()}


def test_bands_in_order_get_no_warning_and_swapped_ones_do(pairs: Pairs) -> None:
    assert look_at_bands(pairs) is None
    assert "the bands look swapped: the infrared images" in str(look_at_bands(swap(pairs)))
    both = {name: (visible, visible) for name, (_, visible) in pairs.items()}
    assert "have real colour" in str(look_at_bands(both))
    assert look_at_bands({}) is None


def test_names_of_gray_bands(pairs: Pairs) -> None:
    gray = {name: (infrared, infrared) for name, (infrared, _) in pairs.items()}
    assert look_at_bands(gray) is None
    for path in (path for files in pairs.values() for path in files):
        Image.open(path).convert("L").save(path)
    assert look_at_bands(pairs) is None
    assert "look swapped by their names" in str(look_at_bands(swap(pairs)))


@pytest.mark.parametrize(("suffix", "quality"), [("png", 0), ("jpg", 30), ("jpg", 95), ("webp", 40)])
def test_gray_stored_as_colour_has_no_colour(tmp_path: Path, suffix: str, quality: int) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (60, 80)).astype(np.uint8)
    Image.fromarray(gray).convert("RGB").save(tmp_path / f"a.{suffix}", quality=quality)
    assert color_spread(tmp_path / f"a.{suffix}") < COLOR / 2


def test_the_spread_is_that_of_a_slow_mean(tmp_path: Path) -> None:
    color = np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    Image.fromarray(color).save(tmp_path / "a.png")
    small = color.astype(float).reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    # Area resampling of OpenCV in float32.
    assert color_spread(tmp_path / "a.png") == pytest.approx(np.ptp(small, axis=2).mean(), rel=1e-5)


def spread_of(folders: Sequence[Path]) -> list[float]:
    return [color_spread(path) for folder in folders for path in sorted(folder.iterdir())[::3]]


def test_no_real_image_is_judged_wrongly_by_its_colour(roadscene: Path) -> None:
    sets = [roadscene, roadscene.parent / "msrs/train", roadscene.parent / "msrs/test"]
    infrared, visible = (spread_of([root / band for root in sets]) for band in ("ir", "vi"))
    assert len(infrared) == len(visible) > 350
    assert max(infrared) == 0
    assert min(visible) > 1.5 * COLOR
