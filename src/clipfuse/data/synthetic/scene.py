"""Samples a street: which thing stands where, in metres and degrees Celsius."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from clipfuse.data.synthetic.backdrop import Ground, Ridge, Sky
from clipfuse.data.synthetic.canvas import RGB, Camera, Material, tint
from clipfuse.data.synthetic.surroundings import Building, Plant, Post
from clipfuse.data.synthetic.targets import SIZES, Car, Person

Thing = Building | Plant | Post | Car | Person


@dataclass(frozen=True)
class Weather:
    """Light and heat of one condition, drawn with probability `share`.

    `direct` (sun), `ambient`, `zenith` and `skyline` are linear RGB light; `extinction` of the visible light
    is per metre, `air` in degrees Celsius, `warmth` the sun's heating in [0, 1]: scenes vary around these.
    `cold` is how many degrees the zenith is colder than the air; `key` the mean brightness the visible
    camera exposes for; `lit` the share of lit windows (lamps are on if it is above 0).
    """

    name: str
    share: float
    direct: RGB
    ambient: RGB
    zenith: RGB
    skyline: RGB
    extinction: float
    air: float
    warmth: float
    cold: float
    key: float
    lit: float


NONE = (0.0, 0.0, 0.0)
DAY = ((0.8, 0.74, 0.64), (0.34, 0.38, 0.44), (0.3, 0.45, 0.72), (0.8, 0.86, 0.92))
DUSK = (NONE, (0.12, 0.115, 0.14), (0.05, 0.09, 0.21), (0.4, 0.25, 0.16))
NIGHT = (NONE, (0.007, 0.0075, 0.011), (0.003, 0.004, 0.008), (0.013, 0.012, 0.012))
FOG = (NONE, (0.42, 0.44, 0.46), (0.55, 0.57, 0.59), (0.6, 0.61, 0.62))
CONDITIONS = (
    Weather("day", 0.4, *DAY, extinction=0.0015, air=14, warmth=0.65, cold=32, key=0.33, lit=0),
    Weather("dusk", 0.15, *DUSK, extinction=0.0015, air=12, warmth=0.3, cold=28, key=0.16, lit=0.3),
    Weather("night", 0.3, *NIGHT, extinction=0.002, air=8, warmth=0.12, cold=26, key=0.07, lit=0.25),
    Weather("fog", 0.15, *FOG, extinction=0.07, air=7, warmth=0.12, cold=9, key=0.42, lit=0),
)


@dataclass(frozen=True)
class Scene:
    """One street: `layers` are painted in their order, far to near; `air` and `extinction` as in `Weather`.

    `glow` is the linear RGB light of every street lamp, `headlights` the strength of the beam of the car that
    carries the camera, 0 if it is off.
    """

    weather: Weather
    camera: Camera
    layers: tuple[Sky | Ridge | Ground | Thing, ...]
    air: float
    extinction: float
    glow: RGB
    headlights: float


class Sampler:
    """Draws one scene; the order of its draws is part of the renderer's version."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        """Draw the condition, and the camera of an image of `size` x `size` pixels."""
        self.rng, uniform = rng, rng.uniform
        self.weather = CONDITIONS[rng.choice(len(CONDITIONS), p=[weather.share for weather in CONDITIONS])]
        self.air = self.weather.air + uniform(-4, 4)
        self.warmth = self.weather.warmth * uniform(0.6, 1.4)
        self.half, self.pavement = uniform(3.4, 5.6), uniform(1.6, 3.2)
        bend, lateral = (rng.normal(0, 0.0015) if self.chance(0.5) else 0.0), uniform(0, 0.6) * self.half
        frame = uniform(1.05, 1.5), uniform(0.36, 0.52), uniform(0.36, 0.64), uniform(1.35, 1.9)
        self.camera = Camera(size, *frame, lateral, bend)
        dim = uniform(0.5, 1) if self.weather.lit else 0.0
        self.glow = tint((5, 3.4, 1.3) if self.chance(0.65) else (4, 4.2, 4.3), dim)
        sunny = self.weather.name == "day" and self.chance(0.7)
        self.clouds = uniform(0.1, 0.55) if sunny else uniform(0.3, 0.95)
        self.sun = (uniform(-1.4, 1.4), uniform(-0.7, 0.7)) if sunny else None

    def chance(self, probability: float) -> bool:
        """Return True with the probability."""
        return bool(self.rng.random() < probability)

    def side(self) -> float:
        """Return -1 (left) or 1 (right)."""
        return 1.0 if self.chance(0.5) else -1.0

    def color(self, low: float, high: float, tint: float) -> RGB:
        """Return a muted colour of brightness in [low, high]; `tint` spreads its channels."""
        red, green, blue = (self.rng.uniform(low, high) * (1 + tint * self.rng.uniform(-1, 1, 3))).tolist()
        return red, green, blue

    def material(
        self, albedo: RGB, offset: float, gain: float, grain: float = 0, shiny: float = 0.05
    ) -> Material:
        """Return a material `offset` degrees above the air, plus `gain` in full sun."""
        return Material(albedo, self.air + offset + gain * self.warmth, 1 - shiny, grain=grain)

    def visible_x(self, z: float, reach: float) -> float:
        """Return an x in view at distance z and at most `reach` from the centre line."""
        camera = self.camera
        left = camera.lateral - camera.bend * z * z - camera.vanish * z / camera.focal
        low, high = left + 0.08 * z / camera.focal, left + 0.92 * z / camera.focal
        return float(np.clip(self.rng.uniform(max(low, -reach), max(min(high, reach), -reach)), low, high))

    def scene(self) -> Scene:
        """Draw everything."""
        weather, uniform = self.weather, self.rng.uniform
        cars: list[Thing] = [*self._traffic()]
        people = [person for person in self._people() if not any(_collide(person, car) for car in cars)]
        if not cars and not people and self.chance(0.95):
            people.append(self._person(uniform(6, 16)))
        beside = [thing for side in (-1, 1) for thing in (*self._blocks(side), *self._kerbside(side))]
        things = [*(t for t in beside if not any(_collide(t, o) for o in (*cars, *people))), *cars, *people]
        cold = weather.cold * (1 - 0.4 * self.clouds)
        glare = (uniform(0.1, 0.9), uniform(0.02, 0.25)) if self.sun and self.chance(0.35) else None
        stars = weather.name == "night" and self.clouds < 0.6
        sky = Sky(weather.zenith, weather.skyline, self.clouds, self.air, cold, glare, stars)
        hills = self.material((0.11, 0.12, 0.08), 0.5, 3, 0.2)
        town = self.material(self.color(0.15, 0.3, 0.1), 2, 4, 0.15)
        trees = self.material((0.055, 0.075, 0.04), 1, 2, 0.35)
        roofs = self.chance(0.35)
        far = Ridge(uniform(140, 250), uniform(8, 30), False, hills)
        near = Ridge(uniform(70, 110), uniform(7, 13), roofs, town if roofs else trees)
        order = sorted(things, key=lambda thing: -thing.z - getattr(thing, "length", 0))
        extinction = weather.extinction * uniform(0.5, 1.5)
        beam = uniform(0.4, 1) if weather.name == "night" and self.chance(0.6) else 0.0
        layers = (sky, far, near, self._ground(), *order)
        return Scene(weather, self.camera, layers, self.air, extinction, self.glow, beam)

    def _ground(self) -> Ground:
        uniform = self.rng.uniform
        asphalt = self.material(self.color(0.09, 0.17, 0.04), 3, 5, uniform(0.1, 0.2))
        paving = self.material(self.color(0.2, 0.32, 0.06), 1.5, 6, 0.08)
        grass = self.material((0.085, 0.1, 0.05), -1, 4, 0.3)
        dirt = self.material(self.color(0.14, 0.24, 0.08), 2, 6, 0.12)
        marking = (0.6, 0.58, 0.54) if self.chance(0.65) else (0.55, 0.42, 0.14)
        centre = str(self.rng.choice(["dashed", "double", "none"], p=[0.5, 0.3, 0.2]))
        crossing = uniform(7, 22) if self.chance(0.3) else None
        surfaces = (asphalt, paving, grass if self.chance(0.5) else dirt)
        return Ground(self.half, self.pavement, *surfaces, marking, centre, crossing, uniform(0.2, 1))

    def _blocks(self, side: int) -> Iterator[Thing]:
        """Yield the houses and gardens behind the pavement."""
        uniform, edge = self.rng.uniform, self.half + self.pavement
        urban, z = uniform(0, 1), uniform(2, 9)
        sunward = self.sun is not None and self.sun[0] * side > 0
        while z < 55:
            length = uniform(8, 18)
            if self.chance(urban):
                height = uniform(3.5, 7) if self.chance(0.6) else uniform(7, 13)
                roof = uniform(1.2, 2.6) if self.chance(0.5) else 0
                wall = self.material(self.color(0.16, 0.5, 0.14), 3, 5, uniform(0.03, 0.14))
                x, bright = side * (edge + uniform(0.3, 4)), (1.0, 0.75) if sunward else (0.7, 0.95)
                yield Building(x, z, length, uniform(7, 12), height, roof, wall, bright, self.weather.lit)
            else:
                for at in np.arange(z, z + length, uniform(4.5, 9)).tolist():
                    yield self._plant(side * (edge + uniform(1.5, 8)), at)
            z += length + uniform(0, 6)

    def _kerbside(self, side: int) -> Iterator[Thing]:
        """Yield street trees, lamps, wires, signs and parked cars."""
        uniform = self.rng.uniform
        planted = uniform(0, 0.6)
        for at in np.arange(uniform(8, 16), 50, uniform(7, 13)).tolist():
            if self.chance(planted):
                yield self._plant(side * (self.half + uniform(0.7, self.pavement)), at)
        metal = self.material((0.14, 0.14, 0.14), 1, 5, 0.02, 0.15)
        wood = self.material((0.12, 0.09, 0.07), 2, 4, 0.2)
        if self.chance(0.6 if self.weather.lit else 0.35):
            for at in np.arange(uniform(7, 20), 60, uniform(17, 28)).tolist():
                yield Post(side * (self.half + 0.5), at, 5.8, "lamp", metal, self.glow)
        elif self.chance(0.5):
            gap = uniform(16, 26)
            for at in np.arange(uniform(5, 14), 60, gap).tolist():
                yield Post(side * (self.half + 0.7), at, 8, "wires", wood, gap=gap)
        if self.chance(0.45):
            yield Post(side * (self.half + 0.6), uniform(8, 25), uniform(2.1, 2.7), "sign", metal)
        if self.half > 4.2 and self.chance(0.5):
            for at in np.arange(uniform(6, 12), 45, uniform(6, 8)).tolist():
                if self.chance(0.6):
                    yield self._car(side * (self.half - 1.05), at, 0.0 if side > 0 else np.pi, False)

    def _plant(self, x: float, z: float) -> Plant:
        uniform, kind, green = self.rng.uniform, self.rng.random(), self.rng.uniform(0.6, 1.4)
        leaves = self.material((0.062 * green * uniform(0.85, 1.35), 0.075 * green, 0.036 * green), 2, 2.5)
        if kind < 0.3:
            return Plant(x, z, uniform(0.8, 1.8), uniform(1.5, 3.5), 0, 0, leaves, self.sun)
        height = uniform(4, 9)
        spread, taper = height * uniform(0.5, 0.85), 0.7 if kind > 0.85 else uniform(0, 0.3)
        return Plant(x, z, height, spread, height * uniform(0.2, 0.4), taper, leaves, self.sun)

    def _car(self, x: float, z: float, yaw: float, running: bool) -> Car:
        color = self.color(0.03, 0.5, 0.05) if self.chance(0.7) else self.color(0.05, 0.2, 0.5)
        kind, cold = str(self.rng.choice(list(SIZES), p=[0.45, 0.4, 0.15])), self.air + 2 + 6 * self.warmth
        lights = running and self.weather.name != "day"
        return Car(x, z, yaw + self.rng.normal(0, 0.03), kind, color, cold, running, lights, self.sun)

    def _traffic(self) -> Iterator[Car]:
        """Yield moving cars, at least 7 m apart."""
        rng, used = self.rng, list[float]()
        for _ in range(rng.choice(4, p=[0.3, 0.4, 0.2, 0.1])):
            z = rng.uniform(7, 14) if self.chance(0.6) else rng.uniform(12, 40)
            if all(abs(z - other) > 7 for other in used):
                used.append(z)
                if z > 9 and self.chance(0.25):
                    yield self._car(self.visible_x(z, self.half), z, self.side() * np.pi / 2, True)
                else:
                    lane = self.side()
                    x = lane * 0.42 * self.half + rng.normal(0, 0.2)
                    yield self._car(x, z, 0.0 if lane > 0 else np.pi, True)

    def _people(self) -> Iterator[Person]:
        """Yield people alone and in pairs."""
        for _ in range(self.rng.choice(4, p=[0.3, 0.35, 0.25, 0.1])):
            first = self._person(self.rng.uniform(5, 12) if self.chance(0.5) else self.rng.uniform(10, 32))
            yield first
            if self.chance(0.35):
                yield replace(self._person(first.z + 0.3), x=first.x + self.rng.uniform(0.55, 0.9))

    def _person(self, z: float) -> Person:
        uniform, walking = self.rng.uniform, self.chance(0.65)
        turn = uniform(-1, 1) if walking else uniform(-0.4, 0.4)
        stride = uniform(0.07, 0.15) if walking else uniform(0.025, 0.05)
        x, clothes = self.visible_x(z, self.half + self.pavement), 0.4 * self.air + 20 + uniform(-1, 1)
        coat, trousers = self.color(0.03, 0.4, 0.35), self.color(0.02, 0.16, 0.2)
        return Person(x, z, uniform(1.58, 1.9), turn, stride, coat, trousers, clothes, self.sun)


def _collide(a: Thing, b: Thing) -> bool:
    reach = 2.8 if isinstance(a, Car) or isinstance(b, Car) else 0.6
    beside = abs(a.x - b.x) < max(reach - 0.8, 0.6) and abs(a.z - b.z) < reach + 0.6
    return beside and not isinstance(a, Building)
