import pytest
import torch

from clipfuse.ops.pyramid import detail_maximum, energy_fusion
from clipfuse.rewards.network import SCORES
from clipfuse.rewards.pairs import KINDS, make_pair
from clipfuse.testing.loss_contract import example_inputs


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_drawn_from_its_seed_and_differs_where_it_is_marked(kind: str) -> None:
    inputs = example_inputs(1, 64)
    state = torch.random.get_rng_state()
    for seed in range(4):
        made, again = (
            make_pair(kind, inputs.infrared, inputs.visible, inputs.reference, seed) for _ in range(2)
        )
        assert torch.equal(made.bad, again.bad)
        assert set(made.scores) <= set(SCORES)
        assert "overall" in made.scores
        for image in (made.good, made.bad):
            assert image.shape == inputs.fused.shape
            assert bool(((image >= 0) & (image <= 1)).all())
        difference = (made.good - made.bad).abs()
        assert float(difference.mean()) > 1e-4
        if KINDS[kind].local:
            assert made.where is not None
            # The change is a share `where` of one that is 4 at most.
            assert bool((difference <= 4 * made.where + 1e-6).all())
        else:
            assert made.where is None
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_copy_is_made_of_a_good_fusion() -> None:
    inputs = example_inputs(1, 64)
    good = [detail_maximum(inputs.infrared, inputs.visible), energy_fusion(inputs.infrared, inputs.visible)]
    for seed in range(6):
        made = make_pair("visible", inputs.infrared, inputs.visible, None, seed)
        assert any(torch.equal(made.good, each.clamp(0, 1)) for each in good)
        nearer = (made.bad - inputs.visible).abs().mean() < (made.good - inputs.visible).abs().mean()
        assert bool(nearer)


def test_without_warm_targets_a_cold_image_is_a_copy() -> None:
    planes = torch.rand(2, 1, 1, 64, 64, generator=torch.Generator().manual_seed(0)) / 4
    made, copy = (make_pair(kind, *planes, None, 3) for kind in ("cold", "visible"))
    assert torch.equal(made.bad, copy.bad)
