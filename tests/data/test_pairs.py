"""The shape of a data set: what every source of pairs must offer."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

from clipfuse.data.folder import PairedFolder
from clipfuse.data.mixed import MixedPairs
from clipfuse.data.pairs import PARTS, Pair, PairSource
from clipfuse.data.synthetic import SyntheticPairs


@pytest.mark.parametrize("kind", ["folder", "synthetic", "mixed"])
def test_every_source_has_the_shape_of_a_data_set(kind: str, pairs_folder: Path) -> None:
    folder, rendered = PairedFolder(str(pairs_folder)), SyntheticPairs(train=2, val=1, test=1, size=64)
    sets = {"folder": folder, "synthetic": rendered, "mixed": MixedPairs({"a": folder, "b": rendered})}
    source: PairSource = sets[kind]
    assert isinstance(source, PairSource)
    assert tuple(source.parts()) == PARTS
    ids = [name for part in PARTS for name in source.parts()[part]]
    assert len(ids) == len(set(ids))
    assert source.scenes().keys() <= set(ids)
    assert len(source.fingerprint()) == 64
    one, again = source.load(ids[-1]), source.load(ids[-1])
    assert torch.equal(one.infrared, again.infrared)
    assert torch.equal(one.visible, again.visible)
    assert one.infrared.shape[1:] == one.visible.shape[1:]
    assert (one.infrared.shape[0], one.visible.shape[0] in (1, 3)) == (1, True)


def test_a_source_that_lacks_a_method_is_none() -> None:
    class Half:
        name = "half"

        def parts(self) -> dict[str, list[str]]:
            return {}

    assert not isinstance(Half(), PairSource)


def test_a_pair_is_frozen_and_knows_its_planes_alone() -> None:
    pair = Pair(torch.zeros(1, 2, 2), torch.zeros(3, 2, 2))
    with pytest.raises(FrozenInstanceError):
        pair.infrared = pair.visible  # type: ignore[misc]
    with pytest.raises(TypeError, match="infrarot"):
        Pair(infrarot=pair.infrared, visible=pair.visible)  # type: ignore[call-arg]
