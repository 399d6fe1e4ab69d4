"""Several data sets as one."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipfuse.data.folder import PairedFolder
from clipfuse.data.mixed import MixedPairs
from clipfuse.data.pairs import PARTS, Pair
from clipfuse.data.splits import split_fingerprint
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.types import Boxes, LabelSet


def test_the_union_holds_every_pair_of_every_set_once(pairs_folder: Path) -> None:
    real, rendered = PairedFolder(str(pairs_folder)), SyntheticPairs(train=3, val=1, test=2, size=64)
    mixed = MixedPairs({"real": real, "rendered": rendered})
    for part in PARTS:
        wanted = [f"real-{name}" for name in real.parts()[part]]
        assert [*mixed.parts()[part]] == wanted + [f"rendered-{name}" for name in rendered.parts()[part]]
    one, other = real.parts()["test"][0], rendered.parts()["test"][0]
    assert torch.equal(mixed.load(f"real-{one}").visible, real.load(one).visible)
    assert torch.equal(mixed.load(f"rendered-{other}").infrared, rendered.load(other).infrared)
    assert mixed.load(f"real-{one}").target_mask is None
    assert mixed.load(f"rendered-{other}").target_mask is not None


def test_scenes_of_two_sets_are_different_scenes(roadscene: Path) -> None:
    real = PairedFolder(str(roadscene), split="roadscene")
    scenes = MixedPairs({"a": real, "b": real}).scenes()
    assert len(scenes) == 2 * len(real.scenes())
    assert len(set(scenes.values())) == 2 * len(set(real.scenes().values()))


def test_the_fingerprint_is_that_of_all_sets() -> None:
    def mixed(seed: int) -> str:
        return MixedPairs({"rendered": SyntheticPairs(train=3, val=1, test=2, seed=seed)}).fingerprint()

    assert mixed(0) == mixed(0) != mixed(1)


def test_older_runs_know_a_mixture_by_its_names(pairs_folder: Path) -> None:
    real, rendered = PairedFolder(str(pairs_folder)), SyntheticPairs(train=3, val=1, test=2)
    known = {"real": split_fingerprint(real.parts()), "rendered": rendered.fingerprint()}
    mixed = MixedPairs({"rendered": rendered, "real": real})
    text = json.dumps(known, sort_keys=True).encode()
    assert mixed.names_fingerprint() == hashlib.sha256(text).hexdigest() != mixed.fingerprint()


def test_nothing_to_mix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.sources is empty"):
        MixedPairs({})


class Named:
    """A data set with these names."""

    name = "named"

    def __init__(self, **parts: tuple[str, ...]) -> None:
        self._parts = {part: parts.get(part, ()) for part in PARTS}

    def parts(self) -> dict[str, tuple[str, ...]]:
        return self._parts

    def fingerprint(self) -> str:
        return str(self._parts)


def test_two_pairs_of_one_name_are_refused() -> None:
    sources = {"msrs": Named(train=("night-1",)), "msrs-night": Named(test=("1",))}
    with pytest.raises(ValueError, match="two pairs get one name"):
        MixedPairs(sources)  # type: ignore[arg-type]


class _Labelled(SyntheticPairs):
    def __init__(self, names: tuple[str, ...] | None) -> None:
        super().__init__(train=1, val=1, test=1, size=64)
        self.names = names

    def labels(self) -> LabelSet | None:
        return LabelSet(self.names) if self.names else None

    def load(self, sample_id: str) -> Pair:
        boxes = Boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        return replace(super().load(sample_id), classes=torch.ones(64, 64), boxes=boxes, caption="x")


def test_labels_are_kept_where_a_number_means_the_same_in_all_sets() -> None:
    road, ground = _Labelled(("none", "road")), _Labelled(("none", "ground"))
    for sources, kept in (((road, road), True), ((road, ground), False), ((road, _Labelled(None)), False)):
        mixed = MixedPairs(dict(zip("ab", sources, strict=True)))
        assert mixed.labels() == (road.labels() if kept else None)
        pair = mixed.load(mixed.parts()["train"][0])
        assert (pair.classes is not None, pair.boxes is not None) == (kept, kept)
        assert pair.caption == "x"


def test_groups_of_images_are_kept_where_they_are_those_of_all_sets() -> None:
    """Those of rendered scenes list ids, which mean other scenes in a set of another seed."""
    first, other = (SyntheticPairs(train=1, val=1, test=3, size=64, seed=seed) for seed in (0, 1))
    assert first.labels().groups != other.labels().groups
    assert MixedPairs({"a": first, "b": first}).labels() == first.labels()
    assert MixedPairs({"a": first, "b": other}).labels() == replace(first.labels(), groups=())
