"""Videos of some frames, written by OpenCV: read back exactly, or refused by name."""

from pathlib import Path

import numpy as np
import pytest

from clipfuse.decoding.clips import (
    Clip,
    ClipWriter,
    check_alike,
    check_codec,
    is_video,
    look_through,
    read_frames,
)
from clipfuse.errors import UserError


def frames(count: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def write(path: Path, images: np.ndarray, codec: str = "FFV1", rate: float = 25.0) -> Path:
    writer = ClipWriter(path, codec, Clip(path, images.shape[2], images.shape[1], rate, len(images)))
    for image in images:
        writer.write(image)
    writer.close()
    return path


def test_what_is_written_without_loss_is_read_back(tmp_path: Path) -> None:
    images = frames(5)
    path = write(tmp_path / "a.mkv", images, rate=29.97)
    seen: list[int] = []
    clip = look_through(path, seen.append)
    assert (clip.width, clip.height, clip.frames, len(seen)) == (48, 32, 5, 5)
    assert clip.rate == pytest.approx(29.97, rel=1e-4)
    assert np.array_equal(np.stack(list(read_frames(path))), images)
    assert [is_video(Path(name)) for name in ("a.MP4", "a.png", "a")] == [True, False, False]


def test_files_that_are_no_whole_video(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.avi", frames(12), "MJPG").read_bytes()
    cut, junk, gone = (tmp_path / f"{name}.avi" for name in ("cut", "junk", "gone"))
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    junk.write_bytes(b"no video" * 100)
    for path, message in (
        (junk, "cannot be read as a video; expected a video"),
        (gone, "no such file"),
        (cut, "cut.avi: (is damaged or truncated: . frames of the 12|cannot be read as a video)"),
    ):
        with pytest.raises(UserError, match=message):
            look_through(path)


def test_a_truncated_video_that_still_opens_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mkv", frames(12)).read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"cut\.mkv: is damaged or truncated: \d frames of the 12"):
        look_through(cut)


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile secret.avi\n", "#EXTM3U\n#EXTINF:1,\nsecret.avi\n#EXT-X-ENDLIST\n"]
)
def test_a_list_of_other_files_is_no_video(text: str, tmp_path: Path) -> None:
    write(tmp_path / "secret.avi", frames(2), "MJPG")
    path = tmp_path / "list.avi"
    path.write_text(text)
    with pytest.raises(UserError, match="cannot be read as a video"):
        look_through(path)


def test_what_cannot_be_written_is_found_before(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    like = Clip(Path("a.avi"), 48, 32, 25.0, 9)
    check_codec("MJPG", ".avi", like)
    for codec, clip, message in (
        ("XXXX", like, "codec XXXX cannot write frames of 48x32 into .avi files here: it cannot be opened"),
        ("MJPG", Clip(Path("a.avi"), 47, 33, 25.0, 9), "frames of 46x32; crop videos to even sides"),
    ):
        with pytest.raises(UserError, match=message):
            check_codec(codec, ".avi", clip)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_frames_that_did_not_arrive_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.avi"
    writer = ClipWriter(path, "MJPG", Clip(path, 48, 32, 25.0, 3))
    for image in frames(3):
        writer.write(image)
    writer._count += 1  # as if the disk had swallowed one
    with pytest.raises(UserError, match="3 of 4 frames were written; is there room left"):
        writer.close()


def test_unlike_videos_are_named_with_both_values() -> None:
    one = Clip(Path("ir.avi"), 48, 32, 25.0, 9)
    check_alike(one, Clip(Path("vi.avi"), 48, 32, 25.001, 9))
    for other, message in (
        (
            Clip(Path("vi.avi"), 48, 34, 25.0, 9),
            "ir.avi is 48x32, vi.avi is 48x34; bring both videos to one size",
        ),
        (
            Clip(Path("vi.avi"), 48, 32, 30.0, 9),
            "ir.avi has 25 frames per second, vi.avi has 30 frames per sec",
        ),
        (Clip(Path("vi.avi"), 48, 32, 25.0, 8), "ir.avi has 9 frames, vi.avi has 8 frames; cut both"),
    ):
        with pytest.raises(UserError, match=message):
            check_alike(one, other)
