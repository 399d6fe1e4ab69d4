"""Videos: looked through, read frame by frame, and written whole or not at all, by OpenCV and its FFmpeg."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from clipfuse.decoding.reading import MAX_PIXELS
from clipfuse.errors import UserError

VIDEO_SUFFIXES = (".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ts")
CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".m4v": "mp4v", ".mov": "mp4v", ".mkv": "FFV1", ".webm": "VP80"}
"""What is written by default, by the suffix; FFV1 is without loss."""
# A playlist would have FFmpeg open other files or addresses.
_READ = (
    "protocol_whitelist;file|format_whitelist;avi,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mpeg,mpegts,mpegvideo"
)
_FASTEST = 1000.0  # frames per second
_SLACK = 0.02  # by this share, or one frame, a header may promise more frames than there are


@dataclass(frozen=True)
class Clip:
    """A video that has been looked through.

    Attributes:
        path: the file.
        width: of its frames, upright.
        height: the same.
        rate: frames per second.
        frames: the number of frames that can be decoded.
    """

    path: Path
    width: int
    height: int
    rate: float
    frames: int


def is_video(path: Path) -> bool:
    """Return whether a name has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def look_through(path: Path, advance: Callable[[int], object] = lambda count: None) -> Clip:
    """Decode a whole video once, and return what it holds.

    Args:
        path: the file.
        advance: called with 1 after each frame.

    Raises:
        UserError: it is no video, is damaged or truncated, or states no rate.
    """
    with _opened(path) as capture:
        cv2 = _cv2()
        rate, promised = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        read, first = capture.read()
        if not read:
            raise UserError(f"{path}: holds no frame that can be decoded; {_EXPECTED}")
        height, width = first.shape[:2]
        frames = 1
        advance(1)
        while capture.grab():
            frames += 1
            advance(1)
    if not isfinite(rate) or not 0 < rate <= _FASTEST:
        raise UserError(
            f"{path}: states a rate of {rate:g} frames per second; expected one up to {_FASTEST:g}"
        )
    if frames < promised - max(1, _SLACK * promised):
        raise UserError(
            f"{path}: is damaged or truncated: {frames} frames of the {promised:.0f} that it promises can be "
            "decoded; copy it again, or cut it to what is whole"
        )
    return Clip(path, width, height, rate, frames)


def read_frames(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video, upright, each (H, W, 3) RGB uint8.

    Raises:
        UserError: it cannot be opened.
    """
    with _opened(path) as capture:
        while True:
            read, frame = capture.read()
            if not read:
                return
            yield np.ascontiguousarray(frame[:, :, ::-1])


class ClipWriter:
    """Writes frames into a video file; `close` finds out whether they are there.

    Args:
        path: the file, whose suffix names the container.
        codec: four characters, such as MJPG.
        like: size and rate of the frames.

    Raises:
        UserError: this codec cannot be written into such a file here.
    """

    def __init__(self, path: Path, codec: str, like: Clip) -> None:
        cv2 = _cv2()
        self.path, self._codec, self._like, self._count = path, codec, like, 0
        with _silent():
            self._writer = cv2.VideoWriter(
                str(path),
                cv2.CAP_FFMPEG,
                cv2.VideoWriter.fourcc(*codec),
                like.rate,
                (like.width, like.height),
            )
        if not self._writer.isOpened():
            raise self._refusal("it cannot be opened")

    def write(self, frame: np.ndarray) -> None:
        """Add a frame, (H, W, 3) RGB uint8."""
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
        self._count += 1

    def close(self) -> None:
        """Finish the file, and read it back.

        Raises:
            UserError: it holds another number of frames than were written, or another size.
        """
        self._writer.release()
        try:
            found = look_through(self.path)
        except UserError as error:
            raise self._refusal("what was written cannot be read back") from error
        if (found.width, found.height) != (self._like.width, self._like.height):
            raise self._refusal(f"it makes frames of {found.width}x{found.height}; crop videos to even sides")
        if found.frames != self._count:
            raise self._refusal(f"{found.frames} of {self._count} frames were written; is there room left?")

    def release(self) -> None:
        """Let the file go, whole or not."""
        self._writer.release()

    def _refusal(self, reason: str) -> UserError:
        like = self._like
        known = ", ".join(f"{codec} in {suffix}" for suffix, codec in CODECS.items())
        return UserError(
            f"codec {self._codec} cannot write frames of {like.width}x{like.height} into {self.path.suffix} "
            f"files here: {reason}; usual: {known}"
        )


def check_codec(codec: str, suffix: str, like: Clip) -> None:
    """Find out, by a file of two gray frames, whether a video can be written, before hours of work.

    Args:
        codec: as for `ClipWriter`.
        suffix: of the video.
        like: size and rate of its frames.

    Raises:
        UserError: as `ClipWriter`.
    """
    with TemporaryDirectory() as folder:
        writer = ClipWriter(Path(folder, f"probe{suffix}"), codec, like)
        try:
            for level in (64, 192):
                writer.write(np.full((like.height, like.width, 3), level, np.uint8))
        finally:
            writer.release()
        writer.close()


def check_alike(infrared: Clip, visible: Clip) -> None:
    """Require that two videos have one size, rate and number of frames.

    Raises:
        UserError: names both values and what to do.
    """
    both = infrared.path, visible.path
    if (infrared.width, infrared.height) != (visible.width, visible.height):
        sizes = (f"{clip.path} is {clip.width}x{clip.height}" for clip in (infrared, visible))
        raise UserError(f"{', '.join(sizes)}; bring both videos to one size, registered")
    if abs(infrared.rate - visible.rate) > 5e-4 * visible.rate:
        rates = _differ(both, (infrared.rate, visible.rate), "frames per second")
        raise UserError(f"{rates}; bring both to one rate")
    if infrared.frames != visible.frames:
        counts = _differ(both, (infrared.frames, visible.frames), "frames")
        raise UserError(f"{counts}; cut both to the same moments")


def _differ(paths: Sequence[Path], values: Sequence[float], unit: str) -> str:
    return ", ".join(f"{path} has {value:.6g} {unit}" for path, value in zip(paths, values, strict=True))


_EXPECTED = f"expected a video ({' '.join(VIDEO_SUFFIXES)})"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a video file, and none that it may name."""
    cv2 = _cv2()
    if not path.is_file():  # nor a pipe, an address or a pattern, which OpenCV would take too
        raise UserError(f"{path}: no such file; {_EXPECTED}")
    before = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = _READ
    try:
        with _silent():
            capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
    finally:
        if before is None:
            del os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"]
        else:
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = before
    try:
        if not capture.isOpened():
            raise UserError(f"{path}: cannot be read as a video; {_EXPECTED}")
        width, height = (capture.get(key) for key in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{path}: frames of {width:.0f}x{height:.0f} pixels; expected {MAX_PIXELS} at most"
            )
        yield capture
    finally:
        capture.release()


def _cv2() -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # none: what is wrong is one line of ours
    import cv2  # here: it takes long to import

    return cv2


@contextmanager
def _silent() -> Iterator[None]:
    """Let no library below write on the screen: it prints beside every log level."""
    logging = _cv2().utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
        logging.setLogLevel(level)
