"""Buildings, vegetation, lamps, signs and wires along the road."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from clipfuse.data.synthetic.canvas import (
    ALBEDO,
    CHANNELS,
    DEPTH,
    HEAT,
    RGB,
    Canvas,
    Floats,
    Material,
    box,
    f32,
    tint,
)

FINEST = 6.0  # texels of a facade per metre


@dataclass(frozen=True)
class Building:
    """A block beside the road; its facade stands at x and runs from z to z + length (metres).

    `depth` reaches away from the road, `height` is the wall's, `roof` the ridge's above it (0: flat).
    `bright` are the shares of light on (facade, end wall), `lit` the probability of a lit window.
    """

    x: float
    z: float
    length: float
    depth: float
    height: float
    roof: float
    wall: Material
    bright: tuple[float, float]
    lit: float

    def paint(self, canvas: Canvas) -> None:
        """Paint roof, facade and end wall."""
        if not canvas.sees(self.x, self.z + self.length, 1.5 * self.length):
            return
        canvas.shares.begin("building")
        away = float(np.sign(self.x))
        near, far, outer, top = self.z, self.z + self.length, self.x + away * self.depth, self.height
        if self.roof:
            tiles = Material((0.17, 0.1, 0.075), self.wall.temperature + 1, grain=0.2)
            ridge, middle, eaves = top + self.roof, (self.x + outer) / 2, self.x - away * 0.4
            low = top - 0.1
            slope = [(eaves, low, near), (eaves, low, far), (middle, ridge, far), (middle, ridge, near)]
            canvas.fill(slope, tiles)
            gable = [(self.x, low, near), (outer, low, near), (middle, ridge, near)]
            canvas.fill(gable, self.wall, self.bright[1])
        side = [(self.x, top, near), (self.x, top, far), (self.x, 0, far), (self.x, 0, near)]
        canvas.warp(self._wall(canvas, self.length, near, far, self.bright[0]), side)
        if self.z > 3:
            end = [(outer, top, near), (self.x, top, near), (self.x, 0, near), (outer, 0, near)]
            canvas.warp(self._wall(canvas, self.depth, near, near, self.bright[1]), end)

    def _wall(self, canvas: Canvas, length: float, near: float, far: float, bright: float) -> Floats:
        """Return the flat (h, w, 9) texture of one wall: masonry, rows of windows, shops."""
        rng, texels = canvas.rng, min(FINEST, max(canvas.camera.scale((near + far) / 2), 3))
        floors, bays = max(int(self.height / 3.1), 1), max(int(length / rng.uniform(2.2, 3.6)), 1)
        storey, bay = int(self.height * texels / floors), int(length * texels / bays)
        height, width = floors * storey, bays * bay
        row, column = np.arange(height) % storey / storey, np.abs(np.arange(width) % bay / bay - 0.48)
        sill, half = np.full(height, rng.uniform(0.6, 0.8)), rng.uniform(0.17, 0.3)
        if rng.random() < 0.4:
            sill[-storey:] = 0.96
        panes = ((row > 0.22) & (row < sill))[:, None] & (column < half) & (column > 0.03)
        frames = ((row > 0.16) & (row < sill + 0.06))[:, None] & (column < half + 0.07) & ~panes
        frame = replace(self.wall, albedo=tint(self.wall.albedo, 0.5, 0.2))
        glass = Material((0.07, 0.08, 0.09), self.wall.temperature - 1, 0.82)
        palette = np.stack([canvas.vector(material, near) for material in (self.wall, frame, glass)])
        face = palette.take(frames + 2 * panes, axis=0)
        shine, glow = f32(rng.uniform(0.4, 2, (floors, bays))), f32(rng.uniform(0.06, 0.5, (floors, bays)))
        glow *= rng.random((floors, bays)) < self.lit
        shine, glow = (cells.repeat(storey, 0).repeat(bay, 1) * panes for cells in (shine, glow))
        blotches = canvas.texture(height, width)
        tone = 1 + 0.08 * blotches + self.wall.grain * canvas.speckle(height, width)
        tone *= bright * np.linspace(1.05, 0.8, height, dtype=np.float32)[:, None]
        face[..., ALBEDO] *= np.where(panes, shine, tone)[..., None]
        face[..., 3:7] += glow[..., None] * f32((1, rng.uniform(0.6, 0.85), rng.uniform(0.25, 0.6), 4))
        face[..., HEAT] += 0.6 * blotches
        face[..., DEPTH] = np.linspace(near, far, width, dtype=np.float32)
        return face


@dataclass(frozen=True)
class Plant:
    """A tree or bush at (x, z) metres; `trunk` metres are bare below the crown, 0 makes it a bush.

    `spread` is the crown's width in metres, `taper` how much narrower it is at its top, in [0, 1];
    `sun` as in `Car`.
    """

    x: float
    z: float
    height: float
    spread: float
    trunk: float
    taper: float
    leaves: Material
    sun: tuple[float, float] | None = None

    def paint(self, canvas: Canvas) -> None:
        """Paint shadow, trunk and crown."""
        if not canvas.sees(self.x, self.z, self.spread):
            return
        canvas.shares.begin("vegetation")
        angles, half, middle = np.linspace(0, 5.5, 8), self.spread / 2, (self.height + self.trunk) / 2
        drift = (self.sun[0] * middle, self.sun[1] * middle) if self.sun else (0.0, 0.0)
        x, z = self.x + drift[0] + half * np.cos(angles), self.z + drift[1] + half * np.sin(angles)
        canvas.shadow(np.stack([x, 0 * x, z.clip(2)], 1), 0.5 if self.sun else 0.25, 0.3, 1.5)
        if self.trunk:
            bark = Material((0.085, 0.07, 0.055), self.leaves.temperature + 1.5, grain=0.2)
            girth = 0.03 * self.height**0.8
            canvas.plate(self.z, box(self.x - girth, self.x + girth, 0, middle), bark, 0.4)
        corners = [(self.x - half, self.height, self.z), (self.x + half, self.trunk * 0.9, self.z)]
        (left, top), (right, bottom) = np.rint(canvas.camera.project(corners)).astype(int).tolist()
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(right, canvas.camera.size), min(bottom, canvas.camera.size)
        if x1 - x0 > 2 and y1 - y0 > 2:
            u = (np.arange(x0, x1, dtype=np.float32)[None] - left) / (right - left) * 2 - 1
            v = (np.arange(y0, y1, dtype=np.float32)[:, None] - top) / (bottom - top) * 2 - 1
            self._crown(canvas, x0, y0, u, v)

    def _crown(self, canvas: Canvas, left: int, top: int, u: Floats, v: Floats) -> None:
        """Paint the crown's visible part: columns u and rows v run from -1 to 1 over the whole crown."""
        height, width = len(v), u.shape[1]
        lump, leaf = canvas.texture(height, width), canvas.speckle(height, width)
        if min(width, height) > 40:  # leaves of near trees are clusters of several pixels
            leaf = 0.6 * leaf + 0.8 * cv2.resize(canvas.speckle(height // 3, width // 3), (width, height))
        body = 1 - (u / (1 - self.taper * (1 - v) / 2)) ** 2 - v**2 * 0.9
        alpha = ((body + 0.28 * lump + 0.16 * leaf - 0.12) * 5).clip(0, 1)
        lean = 0.18 * u * float(np.sign(self.sun[0])) if self.sun else 0
        values = np.empty((height, width, CHANNELS), np.float32)
        values[:] = canvas.vector(self.leaves, self.z)
        values[..., ALBEDO] *= (0.85 - 0.3 * v + 0.2 * lump - lean + 0.4 * leaf).clip(0.12, 2)[..., None]
        values[..., HEAT] += 1.1 * lump + 0.15 * leaf - 0.6 * v
        canvas.stamp(left, top, alpha, values)


@dataclass(frozen=True)
class Post:
    """A pole `height` metres tall at (x, z) metres that carries a "lamp", a "sign" or "wires".

    `glow` is the linear RGB light of a lamp's head, `gap` the metres to the next pole of a wire.
    """

    x: float
    z: float
    height: float
    kind: str
    metal: Material
    glow: RGB = (0.0, 0.0, 0.0)
    gap: float = 0.0

    def paint(self, canvas: Canvas) -> None:
        """Paint the pole and what it carries."""
        girth = {"lamp": 0.08, "sign": 0.04, "wires": 0.14}[self.kind]
        canvas.shares.begin("pole")
        canvas.plate(self.z, box(self.x - girth, self.x + girth, 0, self.height), self.metal, 0.3)
        {"lamp": self._lamp, "sign": self._sign, "wires": self._wires}[self.kind](canvas)

    def _lamp(self, canvas: Canvas) -> None:
        reach, top = self.x - float(1.3 * np.sign(self.x)), self.height
        warmth = self.metal.temperature + 6 * (self.glow[0] > 0)
        warm = replace(self.metal, light=self.glow, temperature=warmth)
        arm = [(self.x, top - 0.12), (reach, top + 0.12), (reach, top + 0.2), (self.x, top)]
        canvas.plate(self.z, arm, self.metal)
        canvas.shares.begin("lamp")
        canvas.plate(self.z, box(reach - 0.35, reach + 0.35, top, top + 0.2), warm)

    def _sign(self, canvas: Canvas) -> None:
        sides = int(canvas.rng.choice([3, 4, 8, 12]))
        angles = np.arange(sides) * 2 * np.pi / sides + np.pi / 2
        paints = ((0.55, 0.45, 0.05), (0.4, 0.03, 0.04), (0.04, 0.12, 0.35), (0.5, 0.5, 0.5))
        rim, inner = (paints[i] for i in canvas.rng.choice(4, 2, replace=False))
        canvas.shares.begin("sign")
        for radius, paint in ((0.4, rim), (0.31, inner), (0.11, rim)):
            outline = np.stack([self.x + radius * np.cos(angles), self.height + radius * np.sin(angles)], 1)
            canvas.plate(self.z, outline, Material(paint, self.metal.temperature, 0.85))

    def _wires(self, canvas: Canvas) -> None:
        top = self.height - 0.4
        canvas.plate(self.z, box(self.x - 1, self.x + 1, top - 0.1, top + 0.05), self.metal)
        steps, thread = np.linspace(0, 1, 9), 0.3 / canvas.camera.scale(self.z)
        for across in (-0.9, 0.9):
            sag = top - 3.2 * steps * (1 - steps)
            line = np.stack([np.full(9, self.x + across), sag, self.z + self.gap * steps], 1)
            below = line - np.stack([0 * steps, thread + 0.02 * steps, 0 * steps], 1)
            canvas.fill(np.concatenate([line, below[::-1]]), replace(self.metal, albedo=(0.05, 0.05, 0.05)))
