"""Degraded pairs: nine kinds at three strengths, by which it is measured how a fusion bears bad sources."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from clipfuse.data.names import BANDS
from clipfuse.errors import did_you_mean
from clipfuse.ops.seeding import derived_seed

PROTOCOL = "degraded-1"
RECORD = "degradation.json"
STRENGTHS = (1, 2, 3)
_DISPLAY = 2.2  # exponent between stored levels and light
_STREAKS = ((1.0, 1), (0.55, 3), (0.3, 10), (0.16, 36))  # of each distance: size, and how many for one near

Floats = np.ndarray  # (H, W) or (H, W, 3) float32, in [0, 1] but for what `degrade` cuts off
Draw = np.random.Generator


def _noise(image: Floats, draw: Draw, sigma: float) -> Floats:
    """Add white Gaussian noise of the standard deviation `sigma`, as of a sensor without cooling."""
    return image + sigma * draw.standard_normal(image.shape, np.float32)


def _stripes(image: Floats, draw: Draw, offset: float, gain: float) -> Floats:
    """Give each column j its own response, a_j x + b_j.

    The linear model of fixed-pattern noise whose amplifiers are shared by columns (Cao and Tisse, IEEE TCSVT
    2016): a_j ~ N(1, gain^2), b_j ~ N(0, offset^2).
    """
    response = draw.standard_normal((2, 1, image.shape[1]), np.float32)
    return image * (1 + gain * response[0]) + offset * response[1]


def _blur(image: Floats, draw: Draw, sigma: float) -> Floats:
    """Blur by a Gaussian of `sigma` pixels: a lens out of focus."""
    return cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _low_light(image: Floats, draw: Draw, exposure: float, electrons: float, read: float) -> Floats:
    """Take a share of the light, with the noise of a sensor.

    x = I^(1/2.2); I' = exposure I + sqrt(exposure I / electrons + read^2) n, n white: shot and read noise as
    in the Poissonian-Gaussian model of Foi et al. (IEEE TIP 2008), of a pixel that `electrons` fill.
    """
    light = exposure * np.power(image, _DISPLAY)
    light = light + np.sqrt(light / electrons + read**2) * draw.standard_normal(image.shape, np.float32)
    return np.power(light.clip(0, 1), 1 / _DISPLAY)


def _overexposed(image: Floats, draw: Draw, saturated: float, most: float) -> Floats:
    """Take so much light that a share of the pixels is white: (g I)^(1/2.2), I = x^2.2, cut off at white.

    The gain g, from 1 to `most`, brings the luma's quantile of 1 - `saturated` to white. A fixed gain would
    leave nothing of a bright scene (own design).
    """
    level = float(np.quantile(_luma(image), 1 - saturated))
    gain = max(level**_DISPLAY, 1 / most) ** -1
    return np.power((gain * np.power(image, _DISPLAY)).clip(0, 1), 1 / _DISPLAY)


def _haze(image: Floats, draw: Draw, extinction: float) -> Floats:
    """Mix airlight in: x t + A (1 - t), t = exp(-extinction d).

    Koschmieder's law (Narasimhan and Nayar, IJCV 2002). The distance d in (0, 1] is that of `_distance`,
    thicker and thinner in patches by a tenth (own design).
    """
    patches = draw.standard_normal((4, 5), np.float32)
    height, width = image.shape[:2]
    thickness = 1 + 0.1 * cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC)
    through = np.exp(-extinction * _distance(image) * thickness)
    return _mixed(image, 1 - through, _airlight(image))


def _rain(image: Floats, draw: Draw, density: float, opacity: float, dim: float, veil: float) -> Floats:
    """Draw streaks of rain under an overcast sky, and the veil of drops too far to be seen.

    x (1 - m) + A m: a falling drop covers a pixel for a share m of the exposure, and is as bright as what it
    gathers of the whole view (Garg and Nayar, IJCV 2007); the veil is haze (Hu et al., CVPR 2019). Drops of
    four distances: the size of a streak falls with the distance, their number grows with its square, near
    ones are out of focus. The wind of an image is N(0, 7^2) degrees off upright, and varies by 1.5 degrees.
    The numbers are own design.

    Args:
        image: the image.
        draw: draws.
        density: near streaks for each megapixel.
        opacity: the largest m.
        dim: the share of the levels that the overcast sky takes.
        veil: extinction of the veil.
    """
    height, width = image.shape[:2]
    scale = max(height, width) / 640
    wind = draw.normal(0, 7)
    cover = np.zeros((height, width), np.float32)
    for size, many in _STREAKS:
        layer = np.zeros((height, width), np.uint8)
        count = round(density * many * 640 * 640 * (height * width) / max(height, width) ** 2 / 1e6)
        places = draw.uniform(0, 1, (count, 2)) * (width, 1.2 * height) - (0, 0.1 * height)
        lengths = (130 * scale * size * draw.uniform(0.5, 1.1, count)).clip(8)
        angles = np.radians(wind + draw.normal(0, 1.5, count))
        shades = 255 * draw.uniform(0.35, 1, count)
        ends = places + lengths[:, None] * np.stack((np.sin(angles), np.cos(angles)), 1)
        thick = max(1, round(2.4 * scale * size))
        for start, end, shade in zip(places, ends, shades, strict=True):
            first, last = ([int(16 * value) for value in point] for point in (start, end))
            cv2.line(layer, first, last, float(shade), thick, cv2.LINE_AA, 4)
        soft = cv2.GaussianBlur(layer.astype(np.float32) / 255, (0, 0), 0.35 + 1.2 * scale * size**2)
        cover = 1 - (1 - cover) * (1 - opacity * soft)
    airlight = _airlight(image)
    through = np.exp(-veil * _distance(image))
    return _mixed(_mixed((1 - dim) * image, 1 - through, airlight), cover, airlight)


def _low_contrast(image: Floats, draw: Draw, share: float) -> Floats:
    """Leave a share of the RMS contrast (Peli, J. Opt. Soc. Am. A 1990): mean + share (x - mean)."""
    mean = image.mean(dtype=np.float64)
    return (mean + share * (image - mean)).astype(np.float32)


def _misaligned(image: Floats, draw: Draw, pixels: int) -> Floats:
    """Shift by whole pixels to the left, right, top or bottom; what is missing is mirrored."""
    place = np.array((1, 1)) * pixels
    place[draw.integers(2)] += pixels * (2 * draw.integers(2) - 1)
    padded = cv2.copyMakeBorder(image, pixels, pixels, pixels, pixels, cv2.BORDER_REFLECT_101)
    return padded[place[0] :, place[1] :][: image.shape[0], : image.shape[1]]


def _luma(image: Floats) -> Floats:
    return image if image.ndim == 2 else image @ np.array((0.299, 0.587, 0.114), np.float32)


def _mixed(image: Floats, share: Floats, light: float) -> Floats:
    share = share if image.ndim == 2 else share[..., None]
    return image + share * (light - image)


def _airlight(image: Floats) -> float:
    """Return how bright mist is: as the brightest tenth of the scene, in [0.25, 0.92] (own design)."""
    return float(np.quantile(cv2.blur(_luma(image), (15, 15)), 0.9).clip(0.25, 0.92))


def _distance(image: Floats) -> Floats:
    """Return a map that is like distance, in (0, 1]; 1 is far.

    Own design, for images without depth: a level ground seen by a camera whose horizon lies at 0.4 of the
    height, d = 0.12 / (row - 0.4); brought to the edges of the image by a guided filter (He, Sun and Tang,
    IEEE TPAMI 2013), so that mist ends where things do.
    """
    height, width = image.shape[:2]
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height
    ground = np.broadcast_to((0.12 / (rows - 0.4).clip(0.12)).clip(0.15, 1)[:, None], (height, width))
    luma, side = _luma(image), max(3, max(height, width) // 12)
    mean = lambda values: cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT_101)  # noqa: E731
    middle, level = mean(luma), mean(ground)
    slope = (mean(luma * ground) - middle * level) / (mean(luma * luma) - middle * middle + 3e-3)
    return (mean(slope) * luma + mean(level - slope * middle)).clip(0.1, 1)


@dataclass(frozen=True)
class Kind:
    """A degradation.

    Attributes:
        bands: which it changes.
        change: returns the changed image; of (image, draws, parameters).
        parameters: names of the parameters and their values at each strength.
    """

    bands: Sequence[str]
    change: Callable[..., Floats]
    parameters: Mapping[str, Sequence[float]]

    def at(self, strength: int) -> dict[str, float]:
        """Return the parameters at a strength."""
        return {name: values[STRENGTHS.index(strength)] for name, values in self.parameters.items()}


KINDS: Mapping[str, Kind] = {
    "noise": Kind(["infrared"], _noise, {"sigma": (0.08, 0.12, 0.18)}),
    "stripes": Kind(["infrared"], _stripes, {"offset": (0.04, 0.07, 0.11), "gain": (0.06, 0.1, 0.15)}),
    "blur": Kind(BANDS, _blur, {"sigma": (1, 2, 3)}),
    "low_light": Kind(
        ["visible"],
        _low_light,
        {"exposure": (1 / 4, 1 / 8, 1 / 16), "electrons": (1000,) * 3, "read": (0.002,) * 3},
    ),
    "overexposed": Kind(["visible"], _overexposed, {"saturated": (0.15, 0.3, 0.5), "most": (4, 8, 16)}),
    "rain": Kind(
        ["visible"],
        _rain,
        {
            **{"density": (20, 40, 70), "opacity": (0.4, 0.5, 0.6)},
            **{"dim": (0.1, 0.2, 0.3), "veil": (0.1, 0.2, 0.3)},
        },
    ),
    "haze": Kind(["visible"], _haze, {"extinction": (0.6, 1.1, 1.8)}),
    "low_contrast": Kind(BANDS, _low_contrast, {"share": (0.4, 0.3, 0.2)}),
    "misaligned": Kind(["infrared"], _misaligned, {"pixels": (2, 4, 8)}),
}
"""The kinds of `degraded-1`. A kind or a number that changes makes a new version of the protocol."""


def degrade(kind: str, strength: int, infrared: Tensor, visible: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Return a degraded pair.

    Whatever is random is drawn by (protocol, kind, name, band), not by the strength: what grows with it is
    one pattern.

    Args:
        kind: one of `KINDS`.
        strength: 1, 2 or 3.
        infrared: (1, H, W) float in [0, 1].
        visible: (1 or 3, H, W) float in [0, 1].
        name: of the pair.

    Returns:
        Infrared and visible image of the same shapes, float32 in [0, 1]; a band that the kind leaves alone is
        the given tensor.

    Raises:
        ValueError: there is no such kind or strength.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind '{kind}'.{did_you_mean(kind, KINDS)} Kinds: {', '.join(KINDS)}")
    if strength not in STRENGTHS:
        raise ValueError(f"the strength is {strength}; expected 1, 2 or 3")
    images = {"infrared": infrared, "visible": visible}
    for band in KINDS[kind].bands:
        image = np.ascontiguousarray(images[band].float().permute(1, 2, 0).numpy())
        draw = np.random.default_rng(derived_seed(PROTOCOL, kind, name, band))
        flat = image[..., 0] if image.shape[2] == 1 else image
        changed = KINDS[kind].change(flat, draw, **KINDS[kind].at(strength))
        changed = np.asarray(changed, np.float32).clip(0, 1).reshape(image.shape)
        images[band] = torch.from_numpy(changed.transpose(2, 0, 1).copy())
    return images["infrared"], images["visible"]


def describe(kind: str, strength: int) -> dict[str, Any]:
    """Return the content of `degradation.json`: protocol, kind, strength, bands and parameters."""
    chosen = KINDS[kind]
    head = {"protocol": PROTOCOL, "kind": kind, "strength": strength}
    return {**head, "bands": list(chosen.bands), "parameters": chosen.at(strength)}
