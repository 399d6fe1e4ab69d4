"""Frames of video are found by their names and their likeness."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.data.folder import PairedFolder
from clipfuse.data.splits import read_scenes
from clipfuse.data.video import blocks, features, find_scenes, likeness, looks_like_video

Read = Callable[[Sequence[str]], Mapping[str, np.ndarray]]


def pictures(scenes: int, frames: int, seed: int = 0, noise: float = 10) -> np.ndarray:
    """(scenes * frames, 2, 32, 32) uint8: each scene its own pattern, its frames noisy and shifting."""
    generator = np.random.default_rng(seed)
    patterns = generator.integers(40, 200, (scenes, 2, 16, 16)).repeat(2, axis=2).repeat(2, axis=3)
    shifted = [np.roll(each, frame % 2, axis=-1) for each in patterns for frame in range(frames)]
    return (np.stack(shifted) + generator.normal(0, noise, (scenes * frames, 2, 32, 32))).astype(np.uint8)


def reader(ids: Sequence[str], small: np.ndarray) -> Read:
    known = dict(zip(ids, features(small), strict=True))
    return lambda asked: {name: known[name] for name in asked}


def rand_index(one: Mapping[str, str], other: Mapping[str, str]) -> float:
    """Adjusted Rand index (Hubert and Arabie, 1985)."""

    def pairs(labels: Sequence[object]) -> float:
        return sum(n * (n - 1) / 2 for n in Counter(labels).values())

    ids = list(one)
    first, second = pairs([one[i] for i in ids]), pairs([other[i] for i in ids])
    chance = first * second / pairs([0] * len(ids))
    return (pairs([(one[i], other[i]) for i in ids]) - chance) / ((first + second) / 2 - chance)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["a10", "a2", "a1"], [["a1", "a2", "a10"]]),  # steps 1 and 8: at most three times their median
        (["a1", "a2", "a3", "a7"], [["a1", "a2", "a3"], ["a7"]]),
        (["a0", "a20", "a40", "a60", "a120", "a181"], [["a0", "a20", "a40", "a60", "a120"], ["a181"]]),
        (["00001D", "00002N", "00003D"], [["00001D", "00003D"], ["00002N"]]),
        (["s1_f1", "s2_f1", "s1_f2"], [["s1_f1", "s1_f2"], ["s2_f1"]]),
        (["left", "right"], [["left"], ["right"]]),
    ],
)
def test_numbers_make_runs(ids: list[str], expected: list[list[str]]) -> None:
    assert sorted(blocks(ids)) == sorted(expected)
    assert blocks(ids[::-1]) == blocks(ids)


def test_likeness_is_the_mean_correlation_of_the_logarithms() -> None:
    small = pictures(2, 1)
    slow = np.mean(
        [np.corrcoef(*np.log(small[:, band].reshape(2, -1).astype(np.float64) + 8))[0, 1] for band in (0, 1)]
    )
    # float32 sums of 1024 numbers
    assert likeness(*features(small)) == pytest.approx(slow, abs=1024 * 2**-24)
    assert likeness(features(small)[0], features(small * 0)[0]) == pytest.approx(0, abs=1e-6)


def test_the_statistic_is_that_of_mann_and_whitney() -> None:
    ids = [f"f{place:03d}" for place in range(30)]
    read = reader(ids, pictures(10, 3, noise=60))
    known = read(ids)
    alike = [likeness(known[a], known[b]) for a, b in pairwise(ids)]
    first = ids[:-1]
    strange = [
        likeness(known[a], known[b])
        for place, a in enumerate(first)
        for b in first[place + len(first) // 3 :]
    ]
    won = np.mean([(a > b) + (a == b) / 2 for a in alike for b in strange])
    errors = (won - 0.5) * np.sqrt(12 * len(alike))
    assert errors > 1
    assert looks_like_video(ids, read, sure=errors - 1e-3)
    assert not looks_like_video(ids, read, sure=errors + 1e-3)


def test_sequences_are_video_and_single_pictures_are_not() -> None:
    ids = [f"{place:03d}" for place in range(200)]
    assert looks_like_video(ids, reader(ids, pictures(10, 20)))
    still = pictures(1, 1) + np.random.default_rng(0).integers(0, 20, (200, 2, 32, 32), dtype=np.uint8)
    assert looks_like_video(ids, reader(ids, still))
    assert len(set(find_scenes(ids, reader(ids, still)).values())) == 1
    for seed in range(5):
        assert not looks_like_video(ids, reader(ids, pictures(200, 1, seed)))
    unnumbered = ["".join(chr(97 + int(digit)) for digit in name) for name in ids]
    assert not looks_like_video(unnumbered, reader(unnumbered, pictures(10, 20)))


def test_few_pictures_are_read_for_the_warning() -> None:
    ids = [f"{place:05d}" for place in range(5000)]
    asked: list[str] = []
    look = dict(zip(ids[:400], features(pictures(20, 20)), strict=True))

    def read(names: Sequence[str]) -> dict[str, np.ndarray]:
        asked.extend(names)
        return {name: look[f"{int(name) % 400:05d}"] for name in names}

    assert looks_like_video(ids, read)
    assert len(asked) <= 100
    asked.clear()
    assert not looks_like_video(ids[:8], read)  # seven neighbours say nothing
    assert not asked


@pytest.mark.parametrize("frames", [1, 2, 10])
def test_scenes_are_found(frames: int) -> None:
    """Ten scenes of twenty frames, numbered through, every one or every tenth frame."""
    ids = [f"drive_{place * frames:04d}" for place in range(200)]
    found = find_scenes(ids, reader(ids, pictures(10, 20)))
    assert found == {name: ids[20 * (place // 20)] for place, name in enumerate(ids)}


def test_pictures_that_numbers_say_nothing_of_stay_single() -> None:
    ids = [f"{place}" for place in range(40)]
    assert find_scenes(ids, reader(ids, pictures(40, 1))) == {name: name for name in ids}


def test_a_frame_that_stands_out_does_not_cut_its_scene() -> None:
    ids = [f"{place:02d}" for place in range(40)]
    small = pictures(2, 20)
    small[7] = 255 - pictures(1, 1, seed=9)[0]
    assert Counter(find_scenes(ids, reader(ids, small)).values()) == {"00": 20, "20": 20}


def test_scenes_of_roadscene_are_found(roadscene: Path) -> None:
    """The rule of its split file goes by names alone (gaps of at most 60); thresholds were chosen here."""
    source, known = PairedFolder(str(roadscene), split="roadscene"), read_scenes("roadscene")
    ids = [*source.parts()["train"], *source.parts()["val"]]
    found = find_scenes(ids, source._features)
    assert rand_index({name: known[name] for name in ids}, found) > 0.9
    assert len(set(found.values())) == 30


def test_blocks_of_msrs(roadscene: Path) -> None:
    root = roadscene.parent / "msrs"
    source = PairedFolder(str(root), scenes=r"^(\d\d\d)\d\d[DN]$", name="msrs")
    scenes = source.scenes()
    assert scenes["00152D"] == scenes["00199D"] == "001" != scenes["00401D"]
    of_part = {part: {scenes[name] for name in ids} for part, ids in source.parts().items()}
    assert of_part["val"]
    assert not of_part["val"] & of_part["train"]
    assert source.scene_notes() == {"source": "regular expression", "warning": None}
    warning = PairedFolder(str(root), name="msrs").scene_notes()["warning"]
    assert warning.startswith("the test images of 'msrs' look like video")
    found = PairedFolder(str(root), name="msrs", scenes="auto")
    assert found.scene_notes() == {"source": "auto", "warning": None}
    sizes = Counter(found.scenes()[name] for name in found.parts()["test"])
    assert 5 < len(sizes) < 40


def write(root: Path, ids: Sequence[str], small: np.ndarray) -> str:
    for band, folder in enumerate(("ir", "vi")):
        (root / folder).mkdir(parents=True)
        for name, picture in zip(ids, small, strict=True):
            path = root / folder / f"{name}.png"
            Image.fromarray(picture[band]).resize((64, 48), Image.Resampling.NEAREST).save(path)
            os.utime(path, (1e9, 1e9))
    return str(root)


def test_no_scene_is_in_two_parts(tmp_path: Path) -> None:
    ids = [f"{place:03d}" for place in range(200)]
    root = write(tmp_path, ids, pictures(10, 20))
    source = PairedFolder(root, scenes="auto", val=0.2, test=0.3)
    assert source.scenes() == {name: ids[20 * (place // 20)] for place, name in enumerate(ids)}
    parts = [{source.scenes()[name] for name in names} for names in source.parts().values()]
    assert all(parts)
    assert sum(map(len, parts)) == 10
    assert sum(map(len, source.parts().values())) == 200
    plain = PairedFolder(root, val=0.2, test=0.3)
    assert plain.scenes() == {}
    assert "look like video" in plain.scene_notes()["warning"]


def test_only_the_pictures_that_matter_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part, seed in {"train": 0, "test": 1}.items():
        ids = [f"{part}{place:03d}" for place in range(20)]
        write(tmp_path / part, ids, pictures(2, 10, seed))
    read: list[Path] = []
    from clipfuse.data import facts

    original = facts._thumbnail
    monkeypatch.setattr(facts, "_thumbnail", lambda path: (read.append(path), original(path))[1])
    source = PairedFolder(str(tmp_path), scenes="auto", val=0)
    assert {path.parents[1].name for path in read} == {"test"}
    assert set(source.scenes()) == set(source.parts()["test"])
