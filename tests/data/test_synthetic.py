"""The rendered pairs: determinism, and the physics that the fusion studies lean on."""

import subprocess
import sys
from hashlib import sha256

import cv2
import numpy as np
import pytest
import torch

from clipfuse.data.pairs import PARTS, Pair
from clipfuse.data.synthetic import SyntheticPairs, render
from clipfuse.data.synthetic.source import sample_scene
from clipfuse.errors import UserError

COUNT = 60
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def planes_of(pair: Pair) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return infrared, visible, target mask and reference, all there."""
    assert pair.target_mask is not None
    assert pair.reference is not None
    return pair.infrared, pair.visible, pair.target_mask, pair.reference


def digest(pair: Pair) -> str:
    """Return a hash of every byte of a pair."""
    assert pair.classes is not None
    assert pair.boxes is not None
    planes = (*planes_of(pair), pair.classes, pair.boxes.xyxy, pair.boxes.classes)
    return sha256(b"".join(plane.numpy().tobytes() for plane in planes)).hexdigest()


class Planes:
    """One scene as float planes in [0, 1], with the ring around its targets."""

    def __init__(self, index: int) -> None:
        infrared, visible, mask, reference = (plane.numpy() for plane in planes_of(render(0, index)))
        self.condition = sample_scene(0, index)[0].weather.name
        self.infrared = infrared[0] / np.float32(255)
        self.visible = np.tensordot(LUMA, visible / np.float32(255), 1)
        self.reference = reference[0] / np.float32(255)
        self.average = (self.infrared + self.visible) / 2
        self.mask = mask[0]
        # Two pixels are skipped: optics blur the outline of a target into them.
        grown = [cv2.dilate(self.mask.astype(np.uint8), np.ones((n, n))) > 0 for n in (5, 19)]
        self.ring = grown[1] & ~grown[0]

    def contrast(self, plane: np.ndarray) -> float:
        """Return how much brighter the targets are than their 7-pixel ring."""
        return float(plane[self.mask].mean() - plane[self.ring].mean())

    def gradient(self, plane: np.ndarray) -> float:
        """Return the gradient energy outside the targets, without the single-pixel noise."""
        calm = cv2.GaussianBlur(plane, (0, 0), 1.0)
        energy = cv2.Sobel(calm, cv2.CV_32F, 1, 0) ** 2 + cv2.Sobel(calm, cv2.CV_32F, 0, 1) ** 2
        return float(energy[~self.mask].mean())


@pytest.fixture(scope="module")
def scenes() -> list[Planes]:
    return [Planes(index) for index in range(COUNT)]


@pytest.fixture(scope="module")
def masked(scenes: list[Planes]) -> list[Planes]:
    return [scene for scene in scenes if scene.mask.sum() >= 60 and scene.ring.any()]


def test_kinds_and_shapes() -> None:
    infrared, visible, mask, reference = planes_of(render(3, 5, size=96))
    assert (infrared.shape, infrared.dtype) == ((1, 96, 96), torch.uint8)
    assert (visible.shape, visible.dtype) == ((3, 96, 96), torch.uint8)
    assert (mask.shape, mask.dtype) == ((1, 96, 96), torch.bool)
    assert (reference.shape, reference.dtype) == ((1, 96, 96), torch.uint8)


@pytest.mark.filterwarnings("error")
def test_both_bands_use_their_range(scenes: list[Planes]) -> None:
    for scene in scenes:
        assert np.quantile(scene.infrared, 0.99) - np.quantile(scene.infrared, 0.01) > 0.3
        assert scene.visible.std() > 0.02
        assert scene.reference.std() > 0.03
        for plane in (scene.infrared, scene.visible, scene.reference):
            assert (plane == 1).mean() < 0.2


def test_same_bytes_whatever_the_global_state_and_order() -> None:
    first = [digest(render(1, index, 96)) for index in range(4)]
    np.random.seed(99)
    torch.manual_seed(99)
    again = [digest(render(1, index, 96)) for index in (3, 1, 0, 2)]
    assert again == [first[index] for index in (3, 1, 0, 2)]
    assert len(set(first)) == 4
    assert digest(render(2, 0, 96)) != first[0]


def test_same_bytes_in_another_process_with_other_threads() -> None:
    code = (
        "import cv2; cv2.setNumThreads(3)\n"
        "from hashlib import sha256\n"
        "from clipfuse.data.synthetic import render\n"
        "p = render(1, 2, 96)\n"
        "planes = (p.infrared, p.visible, p.target_mask, p.reference, p.classes)\n"
        "planes += (p.boxes.xyxy, p.boxes.classes)\n"
        "print(sha256(b''.join(x.numpy().tobytes() for x in planes)).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest(render(1, 2, 96))


def test_parts_are_disjoint_and_growing_train_leaves_the_others_alone() -> None:
    small, large = (SyntheticPairs(train=n, val=2, test=2, size=64) for n in (2, 9))
    assert tuple(small.parts()) == PARTS
    ids = [name for names in large.parts().values() for name in names]
    assert len(ids) == len(set(ids)) == 13
    pictures = {name: digest(large.load(name)) for name in ids}
    assert len(set(pictures.values())) == 13
    for names in small.parts().values():
        for name in names:
            assert digest(small.load(name)) == pictures[name]


def test_fingerprint_depends_on_every_argument() -> None:
    base = {"train": 5, "val": 3, "test": 2, "size": 64, "seed": 0}
    prints = [SyntheticPairs(**(base | {name: base[name] + 1})).fingerprint() for name in base]
    prints.append(SyntheticPairs(**base).fingerprint())
    assert len(set(prints)) == 6
    assert prints[-1] == SyntheticPairs(**base).fingerprint()
    assert all(len(text) == 64 and int(text, 16) >= 0 for text in prints)


@pytest.mark.parametrize(
    "bad", [{"train": 0}, {"val": 0}, {"test": -1}, {"size": 63}, {"seed": -1}, {"train": 2.5}, {"val": True}]
)
def test_bad_arguments_are_named(bad: dict[str, int]) -> None:
    ((field, value),) = bad.items()
    with pytest.raises(ValueError, match=rf"{field} is {value!r}, expected a whole number >= "):
        SyntheticPairs(**bad)


@pytest.mark.parametrize(
    "unknown", ["train-000002", "train-2", "dev-000000", "val-00000x", "", "train-0000001"]
)
def test_unknown_ids_are_named(unknown: str) -> None:
    with pytest.raises(UserError, match=repr(unknown)):
        SyntheticPairs(train=2, val=1, test=1, size=64).load(unknown)


def test_most_scenes_have_a_target_and_every_condition_occurs(scenes: list[Planes]) -> None:
    assert sum(scene.mask.any() for scene in scenes) >= 0.9 * COUNT
    assert {scene.condition for scene in scenes} == {"day", "dusk", "night", "fog"}


def test_targets_are_hotter_than_their_ring(masked: list[Planes]) -> None:
    hot = [scene.contrast(scene.infrared) > 0.05 for scene in masked]
    assert len(hot) >= 45
    assert np.mean(hot) >= 0.9


def test_at_night_targets_show_in_infrared_rather_than_in_visible(masked: list[Planes]) -> None:
    night = [scene for scene in masked if scene.condition == "night"]
    infrared = np.mean([abs(scene.contrast(scene.infrared)) for scene in night])
    visible = np.mean([abs(scene.contrast(scene.visible)) for scene in night])
    assert infrared > 2 * visible
    assert infrared > visible + 0.1


def test_fog_hides_the_distance_in_visible_only(scenes: list[Planes]) -> None:
    fog, day = ([s for s in scenes if s.condition == name] for name in ("fog", "day"))
    assert np.mean([s.visible.std() for s in fog]) < 0.75 * np.mean([s.visible.std() for s in day])
    assert np.mean([s.infrared.std() for s in fog]) > 0.6 * np.mean([s.infrared.std() for s in day])


def test_fine_texture_is_visible_by_day(scenes: list[Planes]) -> None:
    def fine(scene: Planes, plane: np.ndarray) -> float:
        band = cv2.GaussianBlur(plane, (0, 0), 0.8) - cv2.GaussianBlur(plane, (0, 0), 2.0)
        return float((band[~scene.mask] ** 2).mean())

    day = [scene for scene in scenes if scene.condition == "day"]
    ratios = [fine(scene, scene.visible) / fine(scene, scene.infrared) for scene in day]
    assert np.median(ratios) > 1.1


def test_sky_is_cold(scenes: list[Planes]) -> None:
    clear = [scene for scene in scenes if scene.condition != "fog"]
    colder = [np.median(scene.infrared[:12]) < np.median(scene.infrared[150:]) for scene in clear]
    assert np.mean(colder) >= 0.9


def test_reference_keeps_targets_and_detail_better_than_the_average(masked: list[Planes]) -> None:
    contrast = [scene.contrast(scene.reference) > scene.contrast(scene.average) for scene in masked]
    detail = [scene.gradient(scene.reference) > scene.gradient(scene.average) for scene in masked]
    assert np.mean(contrast) >= 0.9
    assert np.mean(detail) >= 0.9


def test_reference_is_free_of_noise(scenes: list[Planes]) -> None:
    def noise(plane: np.ndarray) -> float:
        patch = plane[2:14]
        return float(np.median(np.abs(patch - cv2.GaussianBlur(patch, (0, 0), 1.5))))

    night = [scene for scene in scenes if scene.condition == "night"]
    assert np.median([noise(s.reference) for s in night]) < 0.5 * np.median([noise(s.visible) for s in night])
