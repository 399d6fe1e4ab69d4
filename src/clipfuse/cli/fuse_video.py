"""Two videos to one, for `clipfuse fuse`: each frame is fused as an image is."""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


def takes_videos(options: argparse.Namespace) -> bool:
    """Return whether `clipfuse fuse` was given two videos, by their suffixes.

    Raises:
        UserError: one of --infrared, --visible and --out is a video and another one is not, or an option
            was given that has no meaning here.
    """
    from clipfuse.decoding.clips import CODECS, VIDEO_SUFFIXES, is_video

    given = {f"--{name}": Path(getattr(options, name)) for name in ("infrared", "visible", "out")}
    videos = [is_video(path) and not path.is_dir() for path in given.values()]
    if not any(videos[:2]):
        if options.codec:
            raise UserError("--codec is for videos: name two of them, or leave it out")
        return False
    if not all(videos) or given["--out"].suffix.lower() not in CODECS:
        words = ", ".join(f"{option} {path}" for option, path in given.items())
        raise UserError(
            f"{words}: of videos name an infrared and a visible one ({' '.join(VIDEO_SUFFIXES)}), and a "
            f"file to write ({' '.join(CODECS)})"
        )
    for name in ("pairs", "range"):
        if getattr(options, name):
            raise UserError(f"--{name} is for images; leave it out for videos")
    if options.codec is not None and (len(options.codec) != 4 or not options.codec.isascii()):
        raise UserError(f"--codec {options.codec}: expected four characters, such as MJPG or FFV1")
    return True


def fuse_videos(network: "nn.Module", network_file: Path, options: argparse.Namespace) -> None:
    """Fuse the frames of two videos, and write one video, whole or not at all.

    Args:
        network: ready to be used.
        network_file: for messages.
        options: of `clipfuse fuse`, for which `takes_videos` is true.

    Raises:
        UserError: a video is damaged, both differ in size, rate or length, or the result cannot be written.
    """
    import os

    from tqdm import tqdm

    from clipfuse.cli.finished import stop_on_signals
    from clipfuse.data.checks import check_different, look_at_bands
    from clipfuse.data.overlap import Overlap
    from clipfuse.decoding.clips import (
        CODECS,
        ClipWriter,
        check_alike,
        check_codec,
        look_through,
        read_frames,
    )
    from clipfuse.files import check_output, replace_when_whole
    from clipfuse.networks.apply import apply_in_color
    from clipfuse.ops.color import eight_bit_rgb, rgb_to_luma_chroma
    from clipfuse.ops.depth import to_bytes, to_unit

    infrared, visible, out = Path(options.infrared), Path(options.visible), Path(options.out)
    check_output(out, options.overwrite, (infrared, visible))
    there = infrared.is_file() and visible.is_file()  # what is missing is named when it is read
    if there and (problem := check_different(infrared, visible, "video")):
        raise UserError(problem)
    clips = []
    for path in (infrared, visible):
        with tqdm(desc=f"reading {path.name}", unit=" frames") as bar:
            clips.append(look_through(path, bar.update))
    check_alike(*clips)
    if warning := look_at_bands({"": (infrared, visible)}, lambda paths: [*map(_color_spread, paths)]):
        print(f"warning: {warning}", file=sys.stderr)
    clip, codec = clips[1], options.codec or CODECS[out.suffix.lower()]
    check_codec(codec, out.suffix, clip)
    frames = zip(read_frames(infrared), read_frames(visible), strict=True)

    with stop_on_signals(), replace_when_whole(out, overwrite=options.overwrite) as temporary:
        staged = temporary.with_name(temporary.name + out.suffix)  # the suffix names the container
        writer = ClipWriter(staged, codec, clip)

        def write(fused: "Tensor", chroma: "Tensor") -> None:
            image = fused.expand(3, -1, -1) if options.luma else eight_bit_rgb(fused, chroma)
            writer.write(to_bytes(image).movedim(0, -1).cpu().numpy())

        try:
            with Overlap(_next, [(frames,)] * clip.frames, write) as overlap:
                for thermal, color in tqdm(overlap, "fusing", clip.frames, unit=" frames"):
                    luma, chroma = rgb_to_luma_chroma(to_unit(color))
                    what = f"{visible} with {network_file}"
                    fused, chroma = apply_in_color(
                        network, to_unit(thermal)[None], luma[None], chroma[None], what
                    )
                    overlap.write(fused[0], chroma[0])
            writer.close()
            os.replace(staged, temporary)
        finally:
            writer.release()
            staged.unlink(missing_ok=True)
    print(f"{clip.frames} fused frames, {clip.rate:g} per second, by {codec} in {out}; sound is left out")


def _color_spread(path: Path) -> float:
    """Return the median `color_spread` of the first frames of a video, in levels of 255."""
    from clipfuse.data.checks import SAMPLED, spread_of
    from clipfuse.decoding.clips import read_frames

    return median(map(spread_of, islice(read_frames(path), SAMPLED)))


def _next(frames: "Iterator[tuple[np.ndarray, np.ndarray]]") -> "tuple[Tensor, Tensor]":
    """Return the next infrared frame (1, H, W) and visible one (3, H, W), uint8.

    Raises:
        UserError: there is none, though both videos were looked through.
    """
    import torch

    from clipfuse.images import gray

    try:
        pair = next(frames)
    except (StopIteration, ValueError):
        raise UserError("a video has changed while it was read; run the command again") from None
    thermal, color = (torch.from_numpy(frame).movedim(-1, 0) for frame in pair)
    return gray(thermal), color
