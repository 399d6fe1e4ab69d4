"""`clipfuse fuse` of two videos: each frame as an image is fused, or one clear error and no file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.cli.fuse_video import _next
from clipfuse.decoding.clips import Clip, ClipWriter, look_through, read_frames
from clipfuse.errors import UserError
from clipfuse.images import read_image
from clipfuse.networks.weights import write_safetensors

Clipfuse = Callable[..., tuple[int, str, str]]


def write(path: Path, images: np.ndarray, codec: str = "FFV1", rate: float = 10.0) -> Path:
    writer = ClipWriter(path, codec, Clip(path, images.shape[2], images.shape[1], rate, len(images)))
    for image in images:
        writer.write(image)
    writer.close()
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two videos without loss of four frames, the frames as images, and a network that is not trivial."""
    random = np.random.default_rng(0)
    for band in ("ir", "vi"):
        images = random.integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
        if band == "ir":
            images[:] = images[..., :1]
        write(tmp_path / f"{band}.mkv", images)
        (tmp_path / band).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / band / f"{index}.png")
    torch.manual_seed(0)
    network = ConvTiny(width=4, depth=1)
    torch.nn.init.normal_(network.project.weight, std=0.3)
    node = {"_target_": "clipfuse.backbones.conv_tiny.ConvTiny", "width": 4, "depth": 1, "chroma": False}
    write_safetensors(tmp_path / "net.safetensors", node, network)
    return tmp_path


def words(place: Path, out: str, infrared: str = "ir.mkv", visible: str = "vi.mkv") -> list[str]:
    files = {"checkpoint": "net.safetensors", "infrared": infrared, "visible": visible, "out": out}
    return ["fuse", *(word for key, name in files.items() for word in (f"--{key}", str(place / name)))]


def test_frames_are_fused_as_images_are(clipfuse: Clipfuse, place: Path) -> None:
    code, printed, errors = clipfuse(*words(place, "fused.mkv"))
    assert code == 0, errors
    assert "4 fused frames, 10 per second, by FFV1" in printed
    assert clipfuse(*words(place, "images", "ir", "vi"))[0] == 0
    frames = list(read_frames(place / "fused.mkv"))
    for index, frame in enumerate(frames):
        expected = read_image(place / f"images/{index}.png")
        assert np.array_equal(frame, expected.movedim(0, -1).numpy())
    # In gray, by another codec, in the place of the first; not without leave.
    again = [*words(place, "fused.mkv"), "--luma"]
    code, _, errors = clipfuse(*again)
    assert (code, "is there already" in errors) == (2, True)
    assert clipfuse(*again, "--overwrite", "--codec", "HFYU")[0] == 0
    frame = next(read_frames(place / "fused.mkv")).astype(int)
    assert np.abs(frame - frame[..., :1]).max() <= 2  # HFYU's colour differences are rounded
    assert look_through(place / "fused.mkv").frames == 4
    assert not list(place.glob(".*"))


def test_mistakes_are_one_line_and_leave_nothing(clipfuse: Clipfuse, place: Path) -> None:
    images = np.zeros((3, 32, 48, 3), np.uint8)
    write(place / "short.avi", images, "MJPG")
    write(place / "fast.mkv", np.concatenate([images, images[:1]]), rate=25)
    (place / "broken.avi").write_bytes((place / "short.avi").read_bytes()[:900])
    (place / "junk.mp4").write_bytes(b"junk" * 99)
    (place / "copy.mkv").write_bytes((place / "vi.mkv").read_bytes())
    before = sorted(place.iterdir())
    for given, message in (
        (words(place, "x.avi", "short.avi"), "short.avi has 3 frames, "),
        (words(place, "x.avi", "fast.mkv"), "fast.mkv has 25 frames per second, "),
        (words(place, "x.avi", "broken.avi"), "broken.avi: "),
        (words(place, "x.avi", "junk.mp4"), "junk.mp4: cannot be read as a video"),
        (words(place, "x.avi", "gone.mp4"), "gone.mp4: no such file"),
        (words(place, "x.avi", "vi.mkv"), "are one file"),
        (words(place, "x.avi", "copy.mkv"), "hold the same bytes"),
        ([*words(place, "vi.mkv"), "--overwrite"], "vi.mkv is read here, so it cannot be written too"),
        (words(place, "new/folder/x.avi", "short.avi"), "short.avi has 3 frames, "),
        (words(place, "x.avi", "ir"), "of videos name an infrared and a visible one"),
        (words(place, "out"), "of videos name an infrared and a visible one"),
        ([*words(place, "x.avi"), "--codec", "XXXX"], "codec XXXX cannot write frames of 48x32 into .avi"),
        ([*words(place, "x.avi"), "--codec", "H264!"], "--codec H264!: expected four characters"),
        ([*words(place, "x.avi"), "--range", "bits:14"], "--range is for images"),
        ([*words(place, "out", "ir", "vi"), "--codec", "MJPG"], "--codec is for videos"),
    ):
        code, _, errors = clipfuse(*given)
        line = errors.strip().splitlines()[-1]
        assert (code, message in line, line.startswith("clipfuse: error: ")) == (2, True, True), errors
        assert sorted(place.iterdir()) == before


def test_swapped_videos_get_one_warning(clipfuse: Clipfuse, place: Path) -> None:
    code, _, errors = clipfuse(*words(place, "fused.mkv", "vi.mkv", "ir.mkv"))
    assert code == 0
    (line,) = [line for line in errors.splitlines() if line.startswith("warning: ")]
    assert "the bands look swapped: the infrared images, such as" in line
    assert f"{place / 'vi.mkv'}, are in colour" in line


def test_a_video_that_shrinks_in_the_meantime() -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    frames = zip([frame], [frame, frame], strict=True)
    assert _next(frames)[0].shape == (1, 2, 2)
    for left in (frames, iter(())):
        with pytest.raises(UserError, match="has changed while it was read"):
            _next(left)
