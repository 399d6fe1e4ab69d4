import math
from dataclasses import replace

import pytest
import torch
from tests.downstream.tiny import LABELS, TinyPairs, TinyTask

from clipfuse.downstream.base import Example
from clipfuse.downstream.protocols import frozen, retrained, scored
from clipfuse.errors import UserError
from clipfuse.types import LabelSet


def examples(*names: str, band: str = "infrared") -> list[Example]:
    pairs = {name: TinyPairs().load(name) for name in names}
    return [
        Example(
            name,
            "s",
            {
                "infrared": pair.infrared.expand(3, -1, -1),
                "visible": pair.visible,
                "both": torch.cat([pair.visible, pair.infrared]),
            }[band],
            pair.classes,
        )
        for name, pair in pairs.items()
    ]


TRAIN, TEST = ("0D", "1N", "2D", "3N"), ("5D", "6N", "7D")


def test_retrained_judges_each_test_image_and_repeats() -> None:
    task, seen = TinyTask(), list[tuple[int, int]]()
    train, test = examples(*TRAIN), examples(*TEST)
    judgements = retrained(task, LABELS, train, test, 3, lambda done, total: seen.append((done, total)))
    assert list(judgements) == list(TEST)
    assert seen == [(i, 15) for i in range(1, 16)]
    again = retrained(task, LABELS, train, test, 3)
    assert [each["confusion"] for each in again.values()] == [
        each["confusion"] for each in judgements.values()
    ]


def test_frozen_trains_once_on_the_mix_and_judges_all_sources() -> None:
    mix = {band: examples(*TRAIN, band=band) for band in ("infrared", "visible")}
    tests = {band: examples(*TEST, band=band) for band in ("infrared", "visible", "visible")}
    tests["fused"] = examples("5D", "6N")
    seen: list[int] = []

    class Counting(TinyTask):
        def prepare(self, network: torch.nn.Module, examples: object) -> None:
            assert isinstance(examples, list)
            seen.append(len(examples))
            assert [each.name for each in examples[:2]] == ["0D", "0D"]

    found = frozen(Counting(), LABELS, mix, tests, 0)
    assert seen == [8]
    assert {name: list(each) for name, each in found.items()} == {
        "infrared": list(TEST),
        "visible": list(TEST),
        "fused": ["5D", "6N"],
    }
    # What is judged beside a source changes nothing.
    alone = frozen(TinyTask(), LABELS, mix, {"fused": tests["fused"]}, 0)
    assert [each["confusion"] for each in alone["fused"].values()] == [
        each["confusion"] for each in found["fused"].values()
    ]
    with pytest.raises(UserError, match="image 5D of 'both' has 4 channels, those of 'infrared' have 3"):
        frozen(TinyTask(), LABELS, mix, {"both": examples("5D", band="both")}, 0)
    with pytest.raises(UserError, match=r"as many training images .* \{'infrared': 4, 'visible': 1\}"):
        frozen(TinyTask(), LABELS, {**mix, "visible": mix["visible"][:1]}, tests, 0)


def test_no_images() -> None:
    with pytest.raises(UserError, match="no images in 'test'"):
        retrained(TinyTask(), LABELS, examples("0D"), [], 0)


def test_groups_are_scored_apart() -> None:
    judgements = {
        "1D": {"confusion": [[5, 0], [0, 5]]},
        "2N": {"confusion": [[5, 5], [5, 5]]},
    }
    scores = scored(TinyTask(), LABELS, judgements)
    assert scores["mIoU/day"] == pytest.approx(100.0)
    assert scores["mIoU/night"] == pytest.approx(100 / 3)
    assert scores["mIoU"] == pytest.approx(50.0)
    assert [name for name in scores if name.startswith("IoU/")] == ["IoU/ground", "IoU/person"]
    only_day = scored(TinyTask(), replace(LABELS), {"1D": judgements["1D"]})
    assert math.isnan(only_day["mIoU/night"])
    assert "mIoU/day" not in scored(TinyTask(), LabelSet(LABELS.names), judgements)
