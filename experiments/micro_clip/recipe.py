"""What is done to an image: cameras, fusions and defects. Every function maps float32 (H, W) to (H, W).

Lengths are in pixels of the final 112 x 112 image; `scale` says how many pixels of the image at hand are
one of those.
"""

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32
Draw = np.random.Generator
LEVELS = 4
QUALITIES = ("blur", "noise", "low contrast", "over", "under", "harsh", "artifact")  # what `spoil` can do


def soften(image: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def laplacian(image: Floats, levels: int = LEVELS) -> list[Floats]:
    """Return the details, fine to coarse, and the base of a Laplacian pyramid."""
    bands = []
    for _ in range(levels):
        small = cv2.pyrDown(image)
        bands.append(image - cv2.pyrUp(small, dstsize=image.shape[::-1]))
        image = small
    return [*bands, image]


def collapse(bands: list[Floats]) -> Floats:
    """Undo `laplacian`."""
    image = bands[-1]
    for band in bands[-2::-1]:
        image = cv2.pyrUp(image, dstsize=band.shape[::-1]) + band
    return image


def camera(image: Floats, rng: Draw, scale: float, strength: float = 1) -> Floats:
    """Look through another camera: gamma, gain, offset, vignetting, sharpness, noise, compression."""
    uniform = rng.uniform
    height, width = image.shape
    image = np.clip(image, 0, 1) ** np.exp(strength * uniform(-0.45, 0.45))
    mean = float(image.mean())
    image = (image - mean) * np.exp(strength * uniform(-0.25, 0.3)) + mean + strength * uniform(-0.1, 0.1)
    if rng.random() < 0.4:
        down = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
        image = image * (1 - strength * uniform(0, 0.15) * (down + np.linspace(-1, 1, width) ** 2))
    image = image.astype(np.float32)
    if rng.random() < 0.3:
        image = soften(image, scale * uniform(0.2, 0.55))
    elif rng.random() < 0.25:
        image = image + uniform(0.1, 0.5) * (image - soften(image, scale))
    if rng.random() < 0.5:
        image = image + scale * uniform(0, 0.015) * rng.standard_normal(image.shape, np.float32)
    image = np.clip(image, 0, 1)
    return compress(image, int(uniform(45, 96))) if rng.random() < 0.35 else image


def compress(image: Floats, quality: int) -> Floats:
    """Write and read a JPEG file."""
    _, data = cv2.imencode(".jpg", np.rint(image * 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.float32) / 255


def hot(infrared: Floats, scale: float) -> Floats:
    """Guess a soft mask of hot targets where none is given: bright, and brighter than what surrounds it."""
    stands_out = 1 / (1 + np.exp(-(infrared - soften(infrared, 10 * scale) - 0.14) / 0.04))
    return soften((stands_out / (1 + np.exp(-(infrared - 0.55) / 0.05))).astype(np.float32), 0.6 * scale)


def emphasise(image: Floats, infrared: Floats, visible: Floats, mask: Floats, scale: float) -> Floats:
    """Lift targets as the renderer's ideal fusion does."""
    texture = 0.3 * (visible - soften(visible, scale))
    target = np.maximum(image, 0.3 * visible + 0.7 * np.maximum(infrared, 0.75) + texture)
    return image + mask * (target - image)


def strongest(first: Floats, second: Floats) -> Floats:
    """Take the greater magnitude at each pixel."""
    return np.where(np.abs(first) >= np.abs(second), first, second)


def ideal(infrared: Floats, visible: Floats, mask: Floats, rng: Draw, scale: float) -> Floats:
    """Fuse so that the detail of both bands and the hot targets stay: for pairs without a reference."""
    uniform = rng.uniform
    thermal, color = laplacian(infrared), laplacian(visible)
    gain = uniform(1, 1.45)
    if rng.random() < 0.6:
        details = [gain * strongest(a, b) for a, b in zip(thermal[:-1], color[:-1], strict=True)]
    else:
        details = [uniform(0.75, 1.1) * gain * (a + b) for a, b in zip(thermal[:-1], color[:-1], strict=True)]
    if rng.random() < 0.5:
        seen = np.clip(color[-1] * 3.2 - 0.3, 0, 1)
        base = color[-1] + (1 - seen) * 0.8 * (thermal[-1] - color[-1])
    else:
        weight = uniform(0.35, 0.8)
        base = weight * color[-1] + (1 - weight) * thermal[-1]
    fused = collapse([*details, base])
    return emphasise(fused, infrared, visible, mask * uniform(0.5, 1), scale)


def fuse(kind: str, infrared: Floats, visible: Floats, mask: Floats, rng: Draw, scale: float) -> Floats:
    """Fuse in the way that `kind` names."""
    if kind == "ideal":
        return ideal(infrared, visible, mask, rng, scale)
    if kind == "average":
        weight = rng.uniform(0.42, 0.58)
        return weight * infrared + (1 - weight) * visible
    if kind == "maximum":
        return np.maximum(infrared, visible)
    thermal, color = laplacian(infrared), laplacian(visible)
    if kind == "odd":  # weights that no one would choose: some details inverted, some exaggerated
        gains = rng.uniform(0.4, 1.3, 2 * LEVELS)
        wrong = rng.permutation(2 * LEVELS)[: rng.integers(3, 7)]
        gains[wrong] = np.where(rng.random(len(wrong)) < 0.5, rng.uniform(-1, 0.1), rng.uniform(1.8, 3))
        weight = rng.uniform(0.1, 0.9)
        details = [a * thermal[i] + b * color[i] for i, (a, b) in enumerate(gains.reshape(-1, 2))]
        return collapse([*details, weight * thermal[-1] + (1 - weight) * color[-1]]).astype(np.float32)
    if kind == "detail":  # all texture, but the targets are left as the visible camera sees them
        keep = 1 - mask
        details = [
            strongest(a * cv2.resize(keep, a.shape[::-1], interpolation=cv2.INTER_AREA), b)
            for a, b in zip(thermal[:-1], color[:-1], strict=True)
        ]
        return collapse([*details, color[-1]])
    weak = rng.uniform(0, 0.4)  # "target": bright targets in front of a smooth background
    smooth = collapse([*(weak * band for band in color[:-1]), color[-1]])
    return smooth + mask * (np.maximum(infrared, 0.75) - smooth)


def _blur(image: Floats, rng: Draw, scale: float) -> Floats:
    way = rng.integers(4)
    if way == 0:  # motion
        length = max(int(rng.uniform(6, 15) * scale), 3)
        turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), rng.uniform(0, 180), 1)
        line: Floats = np.zeros((length, length), np.float32)
        line[length // 2] = 1
        line = cv2.warpAffine(line, turn, (length, length))
        return cv2.filter2D(image, -1, line / line.sum(), borderType=cv2.BORDER_REFLECT_101)
    if way == 1:  # a small image enlarged
        factor = rng.uniform(3, 6) * scale
        small = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        return cv2.resize(small, image.shape[::-1], interpolation=cv2.INTER_CUBIC)
    return soften(image, rng.uniform(1.2, 4) * scale)


def _noise(image: Floats, rng: Draw, scale: float) -> Floats:
    grain, level = rng.standard_normal(image.shape, np.float32), scale * rng.uniform(0.05, 0.2)
    way = rng.integers(5)
    if way == 0:  # shot noise
        return image + grain * level * 1.4 * np.sqrt(np.clip(image, 0.05, 1))
    if way == 1:  # coarse grain
        return image + soften(grain, 0.7 * scale) * level * 2
    if way == 2:  # dead and hot pixels
        dots = rng.random(image.shape)
        share = rng.uniform(0.01, 0.06)
        return np.where(dots < share, np.float32(0), np.where(dots > 1 - share, np.float32(1), image))
    return image + grain * level


def _low_contrast(image: Floats, rng: Draw, scale: float) -> Floats:
    factor = rng.uniform(0.02, 0.055) / max(float(image.std()), 0.03)
    return (image - image.mean()) * min(factor, 0.5) + np.float32(rng.uniform(0.15, 0.85))


def _over(image: Floats, rng: Draw, scale: float) -> Floats:
    return (image - image.mean()) * np.float32(rng.uniform(1.2, 2)) + np.float32(rng.uniform(0.85, 1.1))


def _under(image: Floats, rng: Draw, scale: float) -> Floats:
    return image * np.float32(rng.uniform(0.04, 0.11) / max(float(image.mean()), 0.05))


def _harsh(image: Floats, rng: Draw, scale: float) -> Floats:
    *details, base = laplacian(image)
    gain, fine = rng.uniform(2.2, 4.5), int(rng.integers(1, LEVELS + 1))
    return collapse([*((gain if i < fine else 1) * band for i, band in enumerate(details)), base])


def _artifact(image: Floats, rng: Draw, scale: float) -> Floats:
    way, level = rng.integers(5), rng.uniform(0.06, 0.2)
    height, width = image.shape
    if way == 0:
        return compress(np.clip(image, 0, 1), int(rng.uniform(3, 12)))
    if way == 1:  # stripes
        along = (1, width) if rng.random() < 0.5 else (height, 1)
        return image + level * rng.standard_normal(along, np.float32)
    if way == 2:  # gratings
        y, x = np.mgrid[:height, :width].astype(np.float32) / np.float32(scale)
        angle, period = rng.uniform(0, np.pi), rng.uniform(2.2, 9)
        return image + level * np.sin(2 * np.pi / period * (np.cos(angle) * x + np.sin(angle) * y))
    if way == 3:  # blocks
        cells = rng.standard_normal((height // int(4 * scale) + 1, width // int(4 * scale) + 1), np.float32)
        return image + level * cv2.resize(cells, (width, height), interpolation=cv2.INTER_NEAREST)
    fine = rng.uniform(0.6, 1.6) * scale  # a band of random texture
    grain = rng.standard_normal(image.shape, np.float32)
    texture = soften(grain, fine) - soften(grain, 1.8 * fine)
    return image + level * texture / texture.std()


def spoil(quality: str, image: Floats, rng: Draw, scale: float) -> Floats:
    """Give an image the defect that `quality` names."""
    defects: tuple[Callable[[Floats, Draw, float], Floats], ...]
    defects = (_blur, _noise, _low_contrast, _over, _under, _harsh, _artifact)
    done = dict(zip(QUALITIES, defects, strict=True))[quality](image, rng, scale)
    return np.clip(done, 0, 1).astype(np.float32)


def shift(image: Floats, rng: Draw, scale: float) -> Floats:
    """Misregister: move by 3 to 9 pixels, turn by up to 3 degrees."""
    height, width = image.shape
    move: Floats = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-3, 3), 1)
    angle = rng.uniform(0, 2 * np.pi)
    move[:, 2] += scale * rng.uniform(3, 9) * np.array([np.cos(angle), np.sin(angle)])
    return cv2.warpAffine(image, move, (width, height), borderMode=cv2.BORDER_REFLECT_101)
