"""Rendered pairs as a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from clipfuse.data.pairs import PARTS, Pair
from clipfuse.data.synthetic import sensor
from clipfuse.data.synthetic.canvas import TARGET, Canvas
from clipfuse.data.synthetic.labels import LABELS
from clipfuse.data.synthetic.scene import CONDITIONS, Sampler, Scene
from clipfuse.errors import UserError
from clipfuse.files import json_sha256
from clipfuse.types import LabelSet

VERSION = 1  # raise it whenever an image changes; it is part of the fingerprint
SMALLEST = 64


def sample_scene(seed: int, index: int, size: int = 224) -> tuple[Scene, np.random.Generator]:
    """Return the scene that `render` draws, and the generator in the state after drawing it."""
    rng = np.random.default_rng([seed, index])
    return Sampler(rng, size).scene(), rng


def render(seed: int, index: int, size: int = 224) -> Pair:
    """Render one registered pair from its seed and index alone.

    Own design: everything is drawn once into a buffer of reflectance, emitted light, temperature and
    distance; both bands, the target mask, the labels and the ideal fusion are computed from that buffer, so
    that they agree to the pixel. Conditions are day 40 %, dusk 15 %, night 30 %, fog 15 %.

    Args:
        seed: seed of the data set, >= 0.
        index: number of the scene, >= 0.
        size: side of the square images in pixels, >= 64.

    Returns:
        infrared (1, S, S) uint8, visible (3, S, S) uint8 RGB, target_mask (1, S, S) bool (people and
        cars with a warm engine), reference (1, S, S) uint8: the ideal fused luma of `sensor.ideal`, classes
        (S, S) uint8 and boxes of people and cars: see `labels.Shares` and `labels.LABELS`.
    """
    scene, rng = sample_scene(seed, index, size)
    canvas = Canvas(scene.camera, scene.air - scene.weather.cold, rng)
    for layer in scene.layers:
        layer.paint(canvas)
    visible, gain = sensor.expose(scene, canvas.buffer)
    infrared = sensor.thermal(scene, canvas.buffer)
    reference = sensor.ideal(scene, canvas.buffer, visible, infrared)
    classes, boxes = canvas.shares.labels(canvas.buffer[..., TARGET])
    return Pair(
        infrared=torch.from_numpy(sensor.read_out(infrared, rng)[None]),
        visible=torch.from_numpy(np.ascontiguousarray(sensor.develop(visible, gain, rng).transpose(2, 0, 1))),
        target_mask=torch.from_numpy(canvas.buffer[None, ..., TARGET] > 0.5),
        reference=torch.from_numpy(reference[None]),
        classes=classes,
        boxes=boxes,
    )


class SyntheticPairs:
    """Rendered street scenes as a `PairSource`.

    The k-th id of a part is rendered from index 3 k + (0, 1, 2 for train, val, test): the parts never share
    a scene, and another size of one part does not change the scenes of the others.

    Args:
        train: number of training pairs, >= 1.
        val: number of validation pairs, >= 1.
        test: number of test pairs, >= 1.
        size: side of the square images in pixels, >= 64.
        seed: seed of the data set, >= 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    name = "synthetic"

    def __init__(
        self, train: int = 400, val: int = 16, test: int = 24, size: int = 224, seed: int = 0
    ) -> None:
        """Check the arguments; nothing is rendered yet."""
        self.counts = {"train": train, "val": val, "test": test}
        least = {**dict.fromkeys(PARTS, 1), "size": SMALLEST, "seed": 0}
        for field, value in {**self.counts, "size": size, "seed": seed}.items():
            if type(value) is not int or value < least[field]:
                expected = f"expected a whole number >= {least[field]}"
                raise ValueError(f"SyntheticPairs: {field} is {value!r}, {expected}")
        self.size = size
        self.seed = seed

    def parts(self) -> Mapping[str, Sequence[str]]:
        """Return the ids of each part, such as "train-000012"."""
        return {part: [f"{part}-{i:06d}" for i in range(count)] for part, count in self.counts.items()}

    def load(self, sample_id: str) -> Pair:
        """Render one pair; see `render`.

        Raises:
            UserError: the data set has no such id.
        """
        return render(self.seed, self._index(sample_id), self.size)

    def _index(self, sample_id: str) -> int:
        part, _, digits = sample_id.partition("-")
        known = part in self.counts and digits.isdecimal() and sample_id == f"{part}-{int(digits):06d}"
        if not known or int(digits) >= self.counts[part]:
            sizes = ", ".join(f"{name}-000000 to {name}-{n - 1:06d}" for name, n in self.counts.items())
            raise UserError(f"The synthetic data has no sample {sample_id!r}; it has {sizes}.")
        return len(PARTS) * int(digits) + PARTS.index(part)

    def scenes(self) -> Mapping[str, str]:
        """Return no names: every image is a scene of its own."""
        return {}

    def labels(self) -> LabelSet:
        """Return the classes, and the conditions of the test pairs as groups.

        An id does not contain its condition, therefore the expression of a group lists its ids.
        """
        found: dict[str, list[str]] = {weather.name: [] for weather in CONDITIONS}
        for sample_id in self.parts()["test"]:
            rng = np.random.default_rng([self.seed, self._index(sample_id)])
            found[Sampler(rng, self.size).weather.name].append(sample_id)
        groups = tuple((name, f"({'|'.join(ids)})$") for name, ids in found.items() if ids)
        return replace(LABELS, groups=groups)

    def fingerprint(self) -> str:
        """Return the SHA-256 (hex) of renderer version, seed, size and counts, which fix every byte."""
        return json_sha256({"version": VERSION, "seed": self.seed, "size": self.size, **self.counts})
