"""Sky, horizon and ground, painted before all that stands on the ground."""

from dataclasses import dataclass

import cv2
import numpy as np

from clipfuse.data.synthetic.canvas import (
    ALBEDO,
    DEPTH,
    FAR,
    HEAT,
    LIGHT,
    RGB,
    Canvas,
    Floats,
    Material,
    f32,
    tint,
)


@dataclass(frozen=True)
class Sky:
    """A sky of linear RGB light `zenith` to `skyline`.

    `clouds` is their cover in [0, 1], `air` the temperature of the air in degrees Celsius, `cold` how many
    degrees the zenith is colder; `sun` is its (column, row) in image sides, or None.
    """

    zenith: RGB
    skyline: RGB
    clouds: float
    air: float
    cold: float
    sun: tuple[float, float] | None
    stars: bool

    def paint(self, canvas: Canvas) -> None:
        """Fill the rows above the horizon, and the far ground below it, with sky."""
        camera, size = canvas.camera, canvas.camera.size
        bottom = int(camera.horizon * size) + 2
        rows, columns = np.mgrid[0:bottom, 0:size].astype(np.float32) / f32(size)
        up = ((camera.horizon - rows[:, :1]) / camera.focal).clip(0.004, 1)
        blend = (1 - np.exp(-6 * up))[..., None]
        light = f32(self.skyline) * (1 - blend) + f32(self.zenith) * blend
        # Clouds lie in a plane above, so they crowd together towards the horizon.
        spread = 30 / (up + 0.12)
        u, v = (columns - camera.vanish) * spread * 1.2 + 40, np.broadcast_to(spread * 2.2, columns.shape)
        field = cv2.remap(canvas.cloud, u, v, cv2.INTER_LINEAR, None, cv2.BORDER_WRAP)
        cloud = ((field + 3.2 * self.clouds - 1.8) * 0.8).clip(0, 1) * (up / 0.05).clip(0, 1)
        light = light + cloud[..., None] * (f32(self.skyline) * (1 + 0.1 * field[..., None]) - light)
        if self.sun is not None:
            away = (columns - self.sun[0]) ** 2 + (rows - self.sun[1]) ** 2
            glare = 1.6 * np.exp(-away / 0.004) + 0.5 * np.exp(-away / 0.06)
            light += glare[..., None] * f32((1, 0.85, 0.6))
        if self.stars:
            light += ((canvas.speckle(bottom, size) > 3.2) * (1 - cloud) * 0.12)[..., None]
        canvas.buffer[:bottom, :, LIGHT] = light
        chill = self.cold * (1 - np.exp(-9 * up - 0.15)) * (1 - 0.4 * cloud)
        canvas.buffer[:bottom, :, HEAT] = self.air - 2 - chill
        canvas.buffer[..., DEPTH] = FAR


@dataclass(frozen=True)
class Ridge:
    """A silhouette `height` metres tall, `distance` metres away: hills or trees, or `blocky` roofs."""

    distance: float
    height: float
    blocky: bool
    material: Material

    def paint(self, canvas: Canvas) -> None:
        """Paint the silhouette."""
        camera, count = canvas.camera, 60
        metres = self.distance / camera.focal
        x = np.linspace(-camera.vanish - 0.02, 1.02 - camera.vanish, count) * metres
        x += camera.lateral - camera.bend * self.distance**2
        line = canvas.texture(8, count)[4]
        line = np.repeat(line[::5], 5) if self.blocky else line + 0.3 * canvas.speckle(1, count)[0]
        x[4::5] += (x[1] - x[0]) * 0.98 * self.blocky
        y = self.height * (0.62 + 0.2 * line).clip(0.1, 1.2)
        canvas.shares.begin("building" if self.blocky else "vegetation")
        crest = np.stack([x, y, np.full(count, self.distance)], 1)
        outline = np.concatenate([crest, crest[::-1] * (1, 0, 1)])
        canvas.fill(outline, self.material, 1.1, 0.4)


@dataclass(frozen=True)
class Ground:
    """Road, kerbs, pavements and verges.

    `half` is the metres from the centre line to the kerb, `pavement` the pavement's width; `marking` the
    linear RGB reflectance of lane paint, `centre` one of "dashed", "double", "none"; `crossing` the metres
    ahead of a zebra crossing or None; `wear` in [0, 1] scales wheel tracks, stains and cracks.
    """

    half: float
    pavement: float
    asphalt: Material
    paving: Material
    verge: Material
    marking: RGB
    centre: str
    crossing: float | None
    wear: float

    def paint(self, canvas: Canvas) -> None:
        """Paint all rows below the horizon as a function of the place on the ground."""
        camera, size = canvas.camera, canvas.camera.size
        top = int(camera.horizon * size) + 1
        drop = np.arange(top, size, dtype=np.float32)[:, None] - camera.horizon * size
        z = (camera.height * camera.focal * size / drop).clip(0, FAR * 0.7)
        x, _ = camera.unproject(np.broadcast_to(z, (len(z), size)), top)
        across = z / (camera.focal * size)  # metres per pixel, sideways and ahead
        along = z * across / camera.height
        aside = np.abs(x)

        def inside(distance: Floats, pixel: Floats) -> Floats:
            return (distance / pixel + 0.5).clip(0, 1)

        def field(source: Floats, per_metre: float, stretch: float) -> Floats:
            reach = (1.6 - along * per_metre * stretch * 0.5).clip(0, 1)
            v = np.broadcast_to(z * (per_metre * stretch), x.shape)
            return cv2.remap(source, x * per_metre, v, cv2.INTER_LINEAR, None, cv2.BORDER_WRAP) * reach

        def facts(material: Material, gain: float = 1) -> Floats:
            heat = canvas.vector(material, 0)[HEAT]
            return f32([*tint(material.albedo, gain), heat, material.grain])

        plane = np.empty((*x.shape, 5), np.float32)  # albedo, heat, grain
        plane[:] = facts(self.verge)
        layers = ((self.pavement, self.paving, 1), (0.18, self.paving, 1.25), (0, self.asphalt, 1))
        for beyond, material, gain in layers:
            part = inside(self.half + beyond - aside, across)
            plane += part[..., None] * (facts(material, gain) - plane)
        broad, patch = field(canvas.cloud, 14, 1), field(canvas.cloud, 4, 0.4)
        grit = field(canvas.fine, 45, 0.35)
        wear = self.wear * inside(self.half - aside, across)
        crack = ((0.05 - np.abs(broad + 0.5 * patch - 0.4)) * 20).clip(0, 1) * (along < 0.5)
        lane = aside - self.half / 2
        track, stain = cv2.exp(-(((np.abs(lane) - 0.75) / 0.3) ** 2)), cv2.exp(-((lane / 0.35) ** 2))
        tone = 1 + plane[..., 4] * (grit + 0.7 * broad) + 0.09 * patch
        tone -= wear * (0.1 * stain - 0.07 * track + 0.3 * crack) + self._joints(z, aside, along)
        plane[..., :3] *= tone.clip(0.25, 2)[..., None]
        plane[..., 3] += 0.8 * patch + 0.3 * broad + wear * (1.1 * track - 0.6 * crack)

        marks = inside(0.08 - np.abs(aside - self.half + 0.5), across) * 0.8
        if self.centre == "dashed":
            marks = np.maximum(marks, inside(0.08 - aside, across) * inside(1.5 - np.abs(z % 6 - 3), along))
        elif self.centre == "double":
            marks = np.maximum(marks, inside(0.06 - np.abs(aside - 0.14), across))
        if self.crossing:
            away = np.abs(z - self.crossing)
            bars = inside(0.28 - np.abs(x % 1.1 - 0.55), across) * inside(self.half - 0.2 - aside, across)
            marks = np.maximum(marks * (away > 2.6), bars * inside(1.5 - away, along))
        marks = marks * (0.85 + 0.25 * broad - 0.4 * self.wear * (patch > 0.8)).clip(0, 1)
        plane[..., :3] += marks[..., None] * (f32(self.marking) - plane[..., :3])
        plane[..., 3] -= 0.8 * marks
        which = np.where(aside < self.half, 0, np.where(aside < self.half + self.pavement, 1, 2))
        canvas.shares.surface(top, ("road", "pavement", "ground"), which)
        below = canvas.buffer[top:]
        below[..., ALBEDO], below[..., LIGHT] = plane[..., :3], 0
        below[..., HEAT], below[..., DEPTH] = plane[..., 3], z

    def _joints(self, z: Floats, aside: Floats, along: Floats) -> Floats:
        """Return the dark joints between the slabs of the pavement."""
        joint = (0.5 - (np.abs((z + 0.6) % 1.5 - 0.75) - 0.02) / along).clip(0, 1) * (along < 0.7)
        return 0.3 * joint * ((aside > self.half + 0.18) & (aside < self.half + self.pavement))
