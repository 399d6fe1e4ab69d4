"""From the scene buffer to the images of the two cameras, and to their ideal fusion."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from clipfuse.data.synthetic.canvas import ALBEDO, DEPTH, FAR, HEAT, LIGHT, TARGET, Floats, f32
from clipfuse.data.synthetic.scene import Scene
from clipfuse.data.synthetic.surroundings import Post
from clipfuse.data.synthetic.targets import SIZES, Car

LUMA = f32((0.299, 0.587, 0.114))


def blur(image: Floats, sigma: float) -> Floats:
    """Blur by a Gaussian; a wide one runs on a reduced copy, which is faster and looks the same."""
    height, width = image.shape[:2]
    step = int(sigma / 2)
    if step <= 1:
        return cv2.GaussianBlur(image, (0, 0), sigma)
    small = cv2.resize(image, (max(width // step, 2), max(height // step, 2)), interpolation=cv2.INTER_AREA)
    return cv2.resize(cv2.GaussianBlur(small, (0, 0), sigma / step), (width, height))


def illuminate(scene: Scene, buffer: Floats) -> Floats:
    """Return the (S, S, 3) linear light that falls on each pixel: sky, sun, lamps and headlights."""
    camera, weather, depth = scene.camera, scene.weather, buffer[..., DEPTH].copy()
    everywhere = 1.6 * (f32(weather.ambient) + f32(weather.direct))
    if weather.name == "day":
        return np.broadcast_to(everywhere, (*depth.shape, 3))
    x, y = camera.unproject(depth)
    lamps, beams, low = np.zeros_like(depth), np.zeros_like(depth), (1 - y).clip(0, 1)
    for thing in scene.layers:
        if isinstance(thing, Post) and thing.glow[0] and thing.z < 50:
            away = (x - thing.x * 0.8) ** 2 + (depth - thing.z) ** 2 + (y - thing.height) ** 2
            lamps += 1.1 / (away + 2)
        elif isinstance(thing, Car) and thing.lights and abs(facing := math.cos(thing.yaw)) > 0.5:
            ahead = (depth - thing.z) * facing - SIZES[thing.kind][0] / 2
            spread: Floats = ((x - thing.x) / (1 + 0.2 * np.abs(ahead))) ** 2
            beams += 0.4 * cv2.exp(-spread) * (ahead > 0) / (1 + (ahead / 5) ** 2) * low
    if scene.headlights:
        spread = cv2.exp(-(((x - camera.lateral) / (1.2 + 0.16 * depth)) ** 2))
        reach = (depth / 5).clip(0, 1) ** 2 / (1 + (depth / 10) ** 2) * (1.4 - 0.7 * y).clip(0.06, 1)
        beams += 0.48 * scene.headlights * spread * reach
    lamps *= (1.4 - y / 5.8).clip(0, 1)
    return everywhere + lamps[..., None] * f32(scene.glow) + beams[..., None] * f32((1, 0.94, 0.82))


def expose(scene: Scene, buffer: Floats) -> tuple[Floats, float]:
    """Return the visible image without noise, (S, S, 3) in [0, 1], and the automatic exposure's gain."""
    size, foggy = scene.camera.size, 3 if scene.weather.name == "fog" else 1
    through = cv2.exp(-scene.extinction * buffer[..., DEPTH])[..., None]
    radiance: Floats = buffer[..., ALBEDO] * illuminate(scene, buffer) + buffer[..., LIGHT]
    haze = f32(scene.weather.skyline)
    radiance = (radiance - haze) * through + haze
    half = buffer[::2, ::2]
    halo = np.minimum(half[..., LIGHT], 8) * (through[::2, ::2] * (half[..., DEPTH, None] < FAR * 0.7))
    glare: Floats = 0.12 * blur(halo, size * 0.006) + 0.06 * blur(halo, size * 0.025)
    radiance += foggy * f32(cv2.resize(glare, (size, size)))
    np.maximum(radiance, 0, out=radiance)
    brightness = float(np.exp(np.log(radiance[::4, ::4] @ LUMA + 1e-3).mean()))
    gain = min(scene.weather.key / brightness, 8.0) ** 0.85
    tone = cv2.GaussianBlur(1 - cv2.exp(-1.25 * gain * radiance), (0, 0), 0.45 * size / 224)
    level = cv2.pow(tone, 1 / 2.2)
    return level + 0.9 * level * (1 - level) * (level - 0.5), gain  # an S-curve, as cameras apply


def develop(clean: Floats, gain: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add the visible camera's vignetting and noise, which grows with the gain; return (S, S, 3) uint8."""
    size = clean.shape[0]
    shot = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), 0.5) * 1.4
    blotches = rng.standard_normal((size // 2, size // 2, 3), dtype=np.float32)
    grain = shot[..., None] + 0.7 * cv2.resize(blotches, (size, size))
    level = 0.003 + 0.006 * gain**0.7
    ramp = np.linspace(-1, 1, size, dtype=np.float32)[:, None, None] ** 2
    noisy = clean * (1 - 0.08 * (ramp + ramp.transpose(1, 0, 2))) + level * np.sqrt(0.15 + clean) * grain
    return np.rint(noisy.clip(0, 1) * 255).astype(np.uint8)


def thermal(scene: Scene, buffer: Floats) -> Floats:
    """Return the infrared image without noise, (S, S) in [0, 1], after the camera's automatic gain.

    Fog hardly dims 8-14 micrometres. The gain mixes a linear stretch with an equalisation of the clipped
    histogram and lifts local contrast, as thermal cameras do, so that a cold sky does not eat the range.
    """
    size = scene.camera.size
    through = cv2.exp(-0.12 * scene.extinction * np.minimum(buffer[..., DEPTH], 150))
    heat = scene.air + (buffer[..., HEAT] - scene.air) * through
    heat = f32(cv2.GaussianBlur(heat, (0, 0), 1.1 * size / 224))
    low, high = scene.air - 16, max(scene.air + 16, 34.0)
    scaled = ((heat - low) / (high - low)).clip(0, 1)
    bins = (scaled * 1023).astype(np.uint16)
    counts = cv2.blur(np.bincount(bins[::2, ::2].ravel(), minlength=1024).astype(np.float32), (1, 9))
    ranks = np.cumsum(np.minimum(counts, size * size / 1280) + 0.1, dtype=np.float32)
    level = 0.55 * scaled + 0.45 * (ranks / ranks[-1])[bins]
    return (0.02 + 0.94 * (level + 0.4 * (level - blur(level, size * 0.03)))).clip(0, 1)


def read_out(clean: Floats, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add the infrared camera's noise and the fixed pattern of its rows and columns; return (S, S) uint8."""
    size = clean.shape[0]
    pixels = cv2.GaussianBlur(rng.standard_normal((size, size), dtype=np.float32), (0, 0), 0.5) * 0.018
    pattern = 0.005 * rng.standard_normal((1, size), dtype=np.float32)
    pattern = pattern + 0.002 * rng.standard_normal((size, 1), dtype=np.float32)
    ramp = np.linspace(-1, 1, size, dtype=np.float32) ** 2
    noisy = clean * (1 - 0.05 * (ramp[:, None] + ramp)) + pixels + pattern
    return np.rint(noisy.clip(0, 1) * 255).astype(np.uint8)


def ideal(scene: Scene, buffer: Floats, visible: Floats, infrared: Floats) -> NDArray[np.uint8]:
    """Return the ideal fused luma, (S, S) uint8, from the images without noise and the scene buffer.

    With V and I the visible luma and the infrared image without noise, D = V - blur(V) the visible texture,
    m the soft target mask and q in [0, 1] how well the visible camera sees a pixel (fog transmittance x
    brightness; 1 in the sky):

        background = q V + (1 - q) (0.2 V + 0.8 I) + 0.3 D
        target     = max(background, 0.3 V + 0.7 max(I, 0.75) + 0.3 D)
        fused      = (1 - m) background + m target

    Own design: brightness and texture come from the visible image wherever it has them, infrared structure
    fills what fog or darkness hides, and hot targets stand out with their visible texture. As q and m are
    known, not estimated, skies stay smooth and noise has no influence.
    """
    size = scene.camera.size
    luma = visible @ LUMA
    texture = luma - blur(luma, size * 0.008)
    through = cv2.exp(-scene.extinction * buffer[..., DEPTH])
    bright = (blur(luma, size * 0.02) * 3.2 - 0.3).clip(0, 1)
    seen: Floats = np.where(buffer[..., DEPTH] > FAR * 0.7, f32(1), through * bright)
    weight: Floats = cv2.GaussianBlur(seen, (0, 0), 0.7 * size / 224)
    background = luma + (1 - weight) * 0.8 * (infrared - luma) + 0.3 * texture
    target = np.maximum(background, 0.3 * luma + 0.7 * np.maximum(infrared, 0.75) + 0.3 * texture)
    mask = cv2.GaussianBlur(buffer[..., TARGET], (0, 0), 0.5 * size / 224)
    return np.rint((background + mask * (target - background)).clip(0, 1) * 255).astype(np.uint8)
