"""People and cars: the targets that a fused image must keep."""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from clipfuse.data.synthetic.canvas import RGB, Canvas, Floats, Material, box, f32, smooth

# Outlines from rear to front bumper, in tenths of the length and of the height.
ALONG = {
    "sedan": (0, 0, 0.3, 1.6, 3, 6, 7.6, 9.7, 10, 10),
    "estate": (0, 0, 0.2, 0.3, 1.2, 6, 7.5, 9.7, 10, 10),
    "van": (0, 0, 0.1, 0.1, 0.4, 7.2, 8.8, 9.8, 10, 10),
}
UP = {
    "sedan": (2, 6, 6.6, 6.8, 10, 10, 6.6, 5.5, 4.5, 1.8),
    "estate": (2, 5, 6, 6.3, 10, 10, 6.4, 5.4, 4.4, 1.8),
    "van": (1.6, 4.5, 5, 5.5, 10, 10, 5.6, 4.6, 4, 1.4),
}
SIZES = {"sedan": (4.5, 1.8, 1.45), "estate": (4.6, 1.85, 1.65), "van": (5.0, 1.95, 2.1)}
REAR_GLASS, WINDSCREEN = 3, 5
CIRCLE = np.linspace(0, 2 * np.pi, 17)[:-1]


@dataclass(frozen=True)
class Car:
    """A car with its centre at (x, z) metres; yaw 0 drives away, pi comes closer, pi/2 drives right.

    `kind` is a key of `SIZES`, `color` its linear RGB reflectance, `cold` its temperature when parked in
    degrees Celsius. Only a `running` car is warm and so a target. `lights` is whether its lamps are on,
    `sun` how far shadows drift in x and z per metre of height (None: no sun).
    """

    x: float
    z: float
    yaw: float
    kind: str
    color: RGB
    cold: float
    running: bool
    lights: bool
    sun: tuple[float, float] | None = None

    def place(self, points: ArrayLike) -> Floats:
        """Turn (N, 3) points (along, right, up) in metres from the rear bumper to world points."""
        along, right, up = f32(points).T
        along = along - SIZES[self.kind][0] / 2
        cosine, sine = math.cos(self.yaw), math.sin(self.yaw)
        placed = np.empty((len(up), 3), np.float32)
        placed[:, 0] = self.x + right * cosine + along * sine
        placed[:, 1] = up
        placed[:, 2] = self.z - right * sine + along * cosine
        return placed

    def paint(self, canvas: Canvas) -> None:
        """Paint shadow, tyres, body, glass and lamps."""
        if not canvas.sees(self.x, self.z, 3):
            return
        canvas.shares.begin("car", target=self.running)
        length, width, height = SIZES[self.kind]
        base = self.cold + 9 * self.running
        body = Material(self.color, base, 0.9, grain=0.015)
        hood = replace(body, temperature=base + 5 * self.running)
        glass = Material((0.03, 0.035, 0.04), base - 4, 0.85, grain=0.1)
        rubber = Material((0.02, 0.02, 0.02), base + 9 * self.running, grain=0.1)
        self._shadow(canvas, length, width / 2, height)
        away = math.cos(self.yaw) > 0
        along = 0.14 if away else 0.86
        for right in (-width / 2 + 0.02, width / 2 - 0.24):
            tread = [(along * length, right + w, y) for w, y in ((0, 0), (0.22, 0), (0.22, 0.5), (0, 0.5))]
            self._panel(canvas, tread, rubber)
        profile = f32((ALONG[self.kind], UP[self.kind])).T * f32((length / 10, height / 10))
        half = width / 2 * (1 - 0.2 * ((profile[:, 1] / height - 0.62) / 0.38).clip(0, 1))
        for right in (-1, 1):
            side = np.column_stack([profile[:, 0], right * half, profile[:, 1]])[::-right]
            if self._faces(canvas, side[[0, 4, -1]]):
                self._panel(canvas, smooth(side), body, 0.45)
                self._side(canvas, profile, half * right, glass, rubber)
        order = range(len(profile) - 1)
        for i in reversed(order) if away else order:
            (a, low), (b, high), near, far = profile[i], profile[i + 1], half[i], half[i + 1]
            quad = f32([(a, -near, low), (a, near, low), (b, far, high), (b, -far, high)])
            if self._faces(canvas, quad):
                self._panel(canvas, quad, hood if i > WINDSCREEN else body)
                if i in (REAR_GLASS, WINDSCREEN):
                    self._panel(canvas, smooth(0.1 * quad.mean(0) + 0.9 * quad), glass)
        self._ends(canvas, length, width / 2, height, base)

    def _shadow(self, canvas: Canvas, length: float, half: float, height: float) -> None:
        ground = self.place([(a * length, r * half, 0) for a, r in box(0, 1, -1.05, 1.05)])
        if self.sun is not None:
            cast = ground + f32((self.sun[0] * height, 0, self.sun[1] * height))
            canvas.shadow(np.concatenate([ground, cast]), 0.5, 0.1, 2)
        canvas.shadow(ground, 0.85, 0.15, -2.0 * self.running)

    def _faces(self, canvas: Canvas, points: Floats) -> bool:
        a, b, c = canvas.camera.project(self.place(points[:3])).tolist()
        return (b[0] - a[0]) * (c[1] - a[1]) < (b[1] - a[1]) * (c[0] - a[0])

    def _panel(self, canvas: Canvas, points: ArrayLike, material: Material, fade: float = 0.15) -> None:
        world = self.place(points)
        (_, y0, z0), (_, y1, z1) = world[0].tolist(), world[2].tolist()
        upward = abs(z1 - z0) / (abs(z1 - z0) + abs(y1 - y0) + 0.01) if fade < 0.2 else 0.2
        light = 0.6 + 0.55 * upward
        canvas.fill(world, material, light, fade)

    def _side(self, canvas: Canvas, profile: Floats, half: Floats, glass: Material, rubber: Material) -> None:
        cabin = profile[3:7]
        (a, low), (b, high), (c, _), (d, _) = cabin.mean(0) + (cabin - cabin.mean(0)) * f32((0.86, 0.76))
        pillar = 0.52 * b + 0.48 * c
        for window in ((a, b, pillar - 0.05, pillar - 0.05), (pillar + 0.05, pillar + 0.05, c, d)):
            corners = zip(window, (low, high, high, low), strict=True)
            self._panel(canvas, [(along, half[3] if y == low else half[4], y) for along, y in corners], glass)
        arch = Material((0.01, 0.01, 0.01), rubber.temperature - 5)
        hub = Material((0.22, 0.22, 0.23), rubber.temperature - 4, 0.85)
        rings = [(0.4, arch), (0.33, rubber), (0.19, hub)]
        rings = rings if canvas.camera.scale(self.z) > 12 else rings[1:2]
        for along in (0.19 * profile[-1, 0], 0.81 * profile[-1, 0]):
            for radius, material in rings:
                x, y = along + radius * np.cos(CIRCLE), 0.33 + radius * np.sin(CIRCLE)
                self._panel(canvas, np.stack([x, np.full(16, half[0]), y], 1), material)

    def _ends(self, canvas: Canvas, length: float, half: float, height: float, base: float) -> None:
        hot, on = base + 9 * self.running, float(self.lights)
        grille = Material((0.03, 0.03, 0.03), hot)
        plate = Material((0.5, 0.5, 0.46), base, 0.85)
        tail = Material((0.25, 0.02, 0.02), base + 2, light=(1.3 * on, 0.05 * on, 0.03 * on))
        head = Material((0.5, 0.5, 0.5), base + 4, light=(8 * on, 7.4 * on, 6 * on))
        bumper = (grille, -0.92, 0.92, 0.12, 0.24)
        rear = [bumper, (plate, -0.25, 0.25, 0.38, 0.46)]
        rear += [(tail, 0.62, 0.95, 0.44, 0.56), (tail, -0.95, -0.62, 0.44, 0.56)]
        front = [bumper, (grille, -0.5, 0.5, 0.32, 0.42), (plate, -0.25, 0.25, 0.25, 0.3)]
        front += [(head, 0.6, 0.95, 0.36, 0.46), (head, -0.95, -0.6, 0.36, 0.46)]
        for at, turn, parts in ((-0.01, 1, rear), (length + 0.01, -1, front)):
            for material, r0, r1, y0, y1 in parts:
                points = f32([(at, r * half, y * height) for r, y in box(r0, r1, y0, y1)[::turn]])
                if material is grille and not self._faces(canvas, points):
                    break
                self._panel(canvas, points, material)


@dataclass(frozen=True)
class Person:
    """A person `height` metres tall at (x, z) metres.

    `turn` in [-1, 1]: 0 faces the camera, +-1 is seen from the side; `stride` is half the distance of the
    feet as a fraction of the height; `coat` and `trousers` are linear RGB reflectances; `clothes` is their
    temperature in degrees Celsius; `sun` as in `Car`.
    """

    x: float
    z: float
    height: float
    turn: float
    stride: float
    coat: RGB
    trousers: RGB
    clothes: float
    sun: tuple[float, float] | None = None

    def paint(self, canvas: Canvas) -> None:
        """Paint shadow, legs, arms, torso and head; lengths are fractions of the height."""
        canvas.shares.begin("person", target=True)
        self._shadow(canvas)
        skin = Material((0.34, 0.21, 0.15), 33.5)
        hair = Material((0.035, 0.028, 0.022), 29.0, grain=0.2)
        coat = Material(self.coat, self.clothes, grain=0.1)
        trousers = Material(self.trousers, self.clothes - 0.5, grain=0.08)
        shoe = Material((0.03, 0.03, 0.03), self.clothes - 3)
        broad = 1 - 0.35 * abs(self.turn)
        step, hip, shoulder = self.stride * (0.35 + 0.65 * abs(self.turn)), 0.042 * broad, 0.112 * broad
        close = self.height * canvas.camera.scale(self.z) > 35
        for foot, root, tone in ((-step, -hip, 0.7), (step, hip, 1.0)):
            knee = 0.5 * (foot + root) + 0.25 * step * abs(self.turn)
            lift = 0.03 * (tone < 1) * (step > 0.05)
            if close:
                sole = [(foot - 0.02, 0.014 + lift), (foot + 0.05, 0.012 + lift)]
                self._part(canvas, sole, [0.02, 0.014], shoe)
            leg = [(foot, 0.02 + lift), (knee, 0.27), (root, 0.52)]
            self._part(canvas, leg, [0.024, 0.035, 0.054], trousers, tone)
        for swing, at, tone in ((0.8 * step, -shoulder, 0.75), (-0.8 * step, shoulder, 0.85)):
            hand, elbow = (1.05 * at + swing, 0.46), (1.12 * at + 0.3 * swing, 0.63)
            self._part(canvas, [hand, elbow, (at * 0.92, 0.8)], [0.018, 0.026, 0.032], coat, tone)
            if close:
                self._part(canvas, [(hand[0], 0.435), (hand[0], 0.475)], [0.018, 0.02], skin)
        waist = 0.085 * broad
        chest = [waist + 0.012, waist, 0.118 * broad, 0.1 * broad, 0.04]
        self._part(canvas, [(0, 0.44), (0, 0.58), (0, 0.74), (0, 0.805), (0, 0.845)], chest, coat)
        look = 0.012 * abs(self.turn)
        head = [(0, 0.83), (look, 0.87), (look, 0.93), (look, 1.0)]
        self._part(canvas, head, [0.028, 0.036, 0.05, 0.03], skin)
        self._part(canvas, [(-look, 0.93), (-look, 0.97), (0, 1.005)], [0.046, 0.054, 0.03], hair)

    def _part(
        self, canvas: Canvas, spine: ArrayLike, widths: ArrayLike, cloth: Material, tone: float = 1
    ) -> None:
        line = f32(spine)
        tangent = np.empty_like(line)
        tangent[0], tangent[-1], tangent[1:-1] = line[1] - line[0], line[-1] - line[-2], line[2:] - line[:-2]
        normal = tangent[:, ::-1] * f32((-1, 1)) / np.hypot(tangent[:, :1], tangent[:, 1:])
        offset = normal * f32(widths)[:, None]
        outline = smooth(np.concatenate([line + offset, (line - offset)[::-1]])) * self.height
        x = self.x + outline[:, 0] * (1 if self.turn >= 0 else -1)
        world = np.stack([x, outline[:, 1], np.full_like(x, self.z)], 1)
        canvas.fill(world, cloth, 1.05 * tone, 0.25, round=0.35)

    def _shadow(self, canvas: Canvas) -> None:
        feet = [(-0.3, -0.15), (0.3, -0.15), (0.3, 0.2), (-0.3, 0.2)]
        canvas.shadow([(self.x + dx, 0, self.z + dz) for dx, dz in feet], 0.55, 0.12)
        if self.sun is not None:
            outline = [(-0.15, 0), (0.15, 0), (0.2, 0.7), (0.08, 1), (-0.08, 1), (-0.2, 0.7)]
            right, ahead = self.sun[0] * self.height, self.sun[1] * self.height
            cast = [(self.x + dx + up * right, 0, self.z + up * ahead) for dx, up in outline]
            canvas.shadow(cast, 0.5, 0.06, 1)
