"""The scene buffer from which both bands are computed, and the methods that paint on it.

A pixel of the buffer holds reflectance, emitted light, apparent temperature, distance, and whether it belongs
to a hot target. Both bands are computed from this one buffer: they are registered exactly, and an edge shows
in a band only where the materials differ in that band.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from clipfuse.data.synthetic.labels import Shares

Floats = NDArray[Any]  # float32; the stubs of cv2 lose the kind
RGB = tuple[float, float, float]

ALBEDO, LIGHT, HEAT, DEPTH, TARGET = slice(0, 3), slice(3, 6), 6, 7, 8
CHANNELS = 9
TILE = 256
FAR = 400.0  # metres; the distance of the sky


def f32(values: ArrayLike) -> Floats:
    """Return values as a float32 array, so that nothing is computed in float64."""
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera above a road that may bend; world coordinates follow the road.

    World x is metres right of the centre line, y metres above ground, z metres ahead. `size` is in
    pixels; `focal`, `horizon` (row) and `vanish` (column) are fractions of it; `height` above ground and
    `lateral` right of the centre line are in metres; `bend` is metres sideways per metre squared.
    """

    size: int
    focal: float
    horizon: float
    vanish: float
    height: float
    lateral: float
    bend: float

    def scale(self, z: float) -> float:
        """Return pixels per metre at distance z."""
        return self.size * self.focal / max(z, 0.5)

    def project(self, points: ArrayLike) -> Floats:
        """Project (N, 3) world points to (N, 2) pixels (column, row)."""
        x, y, z = f32(points).T
        scale = self.size * self.focal / np.maximum(z, 0.5)
        pixels = np.empty((len(x), 2), np.float32)
        pixels[:, 0] = self.size * self.vanish + (x + self.bend * z * z - self.lateral) * scale
        pixels[:, 1] = self.size * self.horizon + (self.height - y) * scale
        return np.clip(pixels, -4000, 4000, out=pixels)

    def unproject(self, depth: Floats, top: int = 0) -> tuple[Floats, Floats]:
        """Return world x and y of the pixels whose distances are given, (H, W), from row `top` down."""
        rows, columns = (np.arange(n, dtype=np.float32) for n in depth.shape)
        metres = depth / (self.size * self.focal)
        x = (columns[None] - self.size * self.vanish) * metres - self.bend * depth * depth + self.lateral
        return x, self.height - (rows[:, None] + (top - self.size * self.horizon)) * metres


@dataclass(frozen=True)
class Material:
    """The material of a surface.

    `albedo` and `light` (emitted) are linear RGB, where 1 is white paper in full light; `temperature` is in
    degrees Celsius; the share 1 - `emissivity` mirrors the cold sky, so glass looks dark in infrared;
    `grain` is the relative standard deviation of fine texture, which only the visible camera sees.
    """

    albedo: RGB
    temperature: float
    emissivity: float = 0.95
    light: RGB = (0.0, 0.0, 0.0)
    grain: float = 0.0


class Canvas:
    """An (S, S, 9) float32 `buffer`; things are painted from far to near.

    Each thing begins with `shares.begin`, which gives its class and whether it is a hot target.
    """

    def __init__(self, camera: Camera, sky_temperature: float, rng: np.random.Generator) -> None:
        """Start empty; `rng` draws the noise from which all textures are cut."""
        self.camera, self.sky_temperature, self.rng = camera, sky_temperature, rng
        self.buffer = np.zeros((camera.size, camera.size, CHANNELS), np.float32)
        self.shares = Shares(camera.size)
        white = rng.standard_normal((TILE, TILE), dtype=np.float32)
        self.fine = cv2.copyMakeBorder(white, 0, TILE, 0, TILE, cv2.BORDER_WRAP)
        cloud = np.zeros_like(white)
        for octave in (4, 8, 16, 32, 64):
            patch = cv2.copyMakeBorder(white[:octave, -octave:], 2, 2, 2, 2, cv2.BORDER_WRAP)
            large = cv2.resize(patch, None, fx=TILE // octave, fy=TILE // octave)
            skip = 2 * TILE // octave
            cloud += large[skip : skip + TILE, skip : skip + TILE] * octave**-0.8
        self.cloud = (cloud - cloud.mean()) / cloud.std()

    def sees(self, x: float, z: float, reach: float) -> bool:
        """Return whether something within `reach` metres of x at distance z can be in view."""
        column, margin = self.camera.project([(x, 0, z)])[0, 0], reach * self.camera.scale(z)
        return bool(-margin < column < self.camera.size + margin)

    def texture(self, height: int, width: int) -> Floats:
        """Return a (height, width) field of blotches at all scales, of unit variance."""
        top, left = self.rng.integers(0, TILE // 2, 2)
        return cv2.resize(self.cloud[top : top + TILE // 2, left : left + TILE // 2], (width, height))

    def speckle(self, height: int, width: int) -> Floats:
        """Return a (height, width) field of white noise, of unit variance."""
        top, left = self.rng.integers(0, TILE, 2)
        crop = self.fine[top : top + min(height, TILE), left : left + min(width, TILE)]
        return crop if crop.shape == (height, width) else cv2.resize(crop, (width, height))

    def vector(self, material: Material, depth: float) -> Floats:
        """Return the nine channels of a material at a distance."""
        mirrored = (1 - material.emissivity) * self.sky_temperature
        heat = material.emissivity * material.temperature + mirrored
        return np.array([*material.albedo, *material.light, heat, depth, self.shares.target], np.float32)

    def stamp(self, left: int, top: int, alpha: Floats, values: Floats) -> None:
        """Blend (h, w, 9) values over the buffer with coverage (h, w); parts may lie outside."""
        size, (height, width) = self.camera.size, alpha.shape
        y0, y1, x0, x1 = max(top, 0), min(top + height, size), max(left, 0), min(left + width, size)
        if y0 < y1 and x0 < x1:
            cut = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
            region = self.buffer[y0:y1, x0:x1]
            region += alpha[cut][..., None] * (values[cut] - region)
            self.shares.stroke(y0, y1, x0, x1, alpha[cut])

    def coverage(self, pixels: Floats, margin: int = 1) -> tuple[int, int, Floats] | None:
        """Return left, top and antialiased coverage of a polygon's visible box; None if out of view."""
        size = self.camera.size
        (x0, y0), (x1, y1) = pixels.min(0).tolist(), pixels.max(0).tolist()
        left, top = max(int(x0) - margin, 0), max(int(y0) - margin, 0)
        width, height = min(int(x1) + margin + 2, size) - left, min(int(y1) + margin + 2, size) - top
        if width <= 0 or height <= 0:
            return None
        mask = np.zeros((height, width), np.uint8)
        corners = np.rint((pixels - f32((left, top))) * 16).astype(np.int32)
        cv2.fillPoly(mask, [corners], 255, cv2.LINE_AA, 4)
        return left, top, np.multiply(mask, f32(1 / 255), dtype=np.float32)

    def fill(
        self,
        points: ArrayLike,
        material: Material,
        tone: float = 1,
        fade: float = 0,
        round: float = 0,
    ) -> None:
        """Fill a polygon of (N, 3) world points with `tone` times the material's albedo.

        `fade` is how much darker its bottom is, `round` how much darker its flanks are.
        """
        points = f32(points)
        if (covered := self.coverage(self.camera.project(points))) is None:
            return
        left, top, alpha = covered
        height, width = alpha.shape
        shade: Floats = np.full((height, 1), tone, np.float32)
        if fade:
            shade[:, 0] = np.linspace(tone, tone * (1 - fade), height, dtype=np.float32)
        if round:
            shade = shade * (1 - round * np.linspace(-1, 1, width, dtype=np.float32) ** 2)
        if material.grain:
            shade = shade * (1 + material.grain * self.speckle(height, width))
        values = np.empty((height, width, CHANNELS), np.float32)
        values[:] = self.vector(material, float(points[0, 2] + points[-1, 2]) / 2)
        values[..., ALBEDO] *= shade[..., None]
        self.stamp(left, top, alpha, values)

    def plate(self, z: float, points: ArrayLike, material: Material, round: float = 0) -> None:
        """Fill a polygon of (N, 2) world (x, y) points that faces the camera at distance z."""
        points = f32(points)
        self.fill(np.insert(points, 2, z, axis=1), material, fade=0.15, round=round)

    def shadow(self, points: ArrayLike, strength: float, softness: float, cooling: float = 0.0) -> None:
        """Darken by `strength`, and cool, the convex hull of (N, 3) points; `softness` is in metres."""
        points = f32(points)
        sigma = max(self.camera.scale(float(points[:, 2].mean())) * softness, 0.4)
        hull = f32(cv2.convexHull(self.camera.project(points))[:, 0])
        if (covered := self.coverage(hull, int(2 * sigma) + 1)) is None:
            return
        left, top, alpha = covered
        alpha = cv2.GaussianBlur(alpha, (0, 0), min(sigma, 6))
        region = self.buffer[top : top + alpha.shape[0], left : left + alpha.shape[1]]
        region[..., ALBEDO] *= 1 - strength * alpha[..., None]
        region[..., HEAT] -= cooling * alpha

    def warp(self, texture: Floats, corners: ArrayLike) -> None:
        """Map an (h, w, 9) texture onto the quad of (4, 3) world corners: its TL, TR, BR, BL."""
        quad = self.camera.project(corners)
        if (covered := self.coverage(quad)) is None:
            return
        left, top, alpha = covered
        height, width = texture.shape[:2]
        source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32) - f32(0.5)
        matrix = cv2.getPerspectiveTransform(source, quad - f32((left, top)))
        triples = (np.ascontiguousarray(texture[..., first : first + 3]) for first in (0, 3, 6))
        shape, edge = alpha.shape[::-1], cv2.BORDER_REPLICATE
        parts = [cv2.warpPerspective(triple, matrix, shape, borderMode=edge) for triple in triples]
        self.stamp(left, top, alpha, np.concatenate(parts, axis=2))


def tint(color: RGB, share: float, gray: float = 0) -> RGB:
    """Return `share` of a colour plus gray."""
    red, green, blue = color
    return red * share + gray, green * share + gray, blue * share + gray


def box(x0: float, x1: float, y0: float, y1: float) -> list[tuple[float, float]]:
    """Return the four corners of an upright rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def smooth(points: ArrayLike) -> Floats:
    """Round the corners of a closed (N, D) polygon by cutting each (Chaikin's scheme): (2 N, D)."""
    points = f32(points)
    following = np.concatenate([points[1:], points[:1]])
    cuts = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1)
    return cuts.reshape(-1, points.shape[1])
