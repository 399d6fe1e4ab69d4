import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from clipfuse.ops.balance import GradientNormWeights, UncertaintyWeights

SHARES = {"near": 1, "far": 2}  # whole numbers, as a command line gives them


def test_uncertainty_finds_the_noise_of_each_part() -> None:
    """Of a mean square error the optimum is s = log of the noise's variance: of what cannot be explained."""
    draws = torch.Generator().manual_seed(0)
    noise = torch.stack([0.1 * torch.randn(1000, generator=draws), 0.5 * torch.randn(1000, generator=draws)])
    level = torch.zeros((), requires_grad=True)
    module = UncertaintyWeights({"quiet": 1.0, "loud": 1.0})
    optimizer = torch.optim.Adam([level, *module.parameters()], lr=0.08)
    for step in range(300):
        totals = list((0.7 + noise - level).square().mean(1))
        weights = module(totals, level, step)
        total = (weights * torch.stack(totals)).sum() + module.regularization()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    # Adam at this rate stays within 0.01 of the optimum of a smooth function.
    assert float(level.detach()) == pytest.approx(0.7, abs=0.01)
    variances = [float(row.var(correction=0)) for row in noise]
    found = module.log_variances.tolist()
    assert found == pytest.approx([math.log(each) for each in variances], abs=0.02)


def test_uncertainty_counts_the_shares_and_stays_finite() -> None:
    module = UncertaintyWeights(SHARES)
    ones = [torch.ones(()), torch.ones(())]
    torch.testing.assert_close(module(ones, ones[0], 0), torch.tensor([1.0, 2.0]))
    with torch.no_grad():
        module.log_variances.fill_(-1000.0)
    torch.testing.assert_close(module(ones, ones[0], 0), torch.tensor([1e4, 2e4]))
    # A loss below 0 gets that factor, and the total stays bounded.
    module = UncertaintyWeights({"below": 1.0})
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    for step in range(40):
        total = module(-ones[0][None], ones[0], step)[0] * -ones[0] + module.regularization()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert total.item() == pytest.approx(-1e4 - math.log(1e4), rel=1e-5)


def quadratics(fused: Tensor) -> list[Tensor]:
    return [300 * fused.square().mean(), 0.01 * (fused - 2).square().mean()]


def norms(weights: Tensor, totals: Callable[[Tensor], list[Tensor]], fused: Tensor) -> Tensor:
    found = [torch.autograd.grad(total, fused)[0].norm() for total in totals(fused)]
    return weights * torch.stack(found)


def test_gradnorm_makes_norms_equal_in_the_proportion_of_the_shares() -> None:
    fused = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module = GradientNormWeights(SHARES, alpha=0.0).train()
    weights = module(quadratics(fused), fused, 0)
    found = norms(weights, quadratics, fused)
    # float32 sums of 128 squares
    torch.testing.assert_close(found[1] / found[0], torch.tensor(2.0), rtol=1e-5, atol=0)
    torch.testing.assert_close(weights.sum(), torch.tensor(3.0))
    assert bool((weights > 0).all())


def test_gradnorm_is_the_zero_of_the_published_loss() -> None:
    """|w_i g_i - mean_j(w_j g_j) r_i^alpha|, of Chen et al., written out: 0 up to a common factor."""
    fused = torch.full((1, 1, 4, 4), 1.0, requires_grad=True)
    module = GradientNormWeights({"near": 1.0, "far": 1.0}, alpha=1.5, memory=0.0).train()
    first = [float(each.detach()) for each in quadratics(fused)]
    module(quadratics(fused), fused, 0)
    later = torch.full((1, 1, 4, 4), 0.6, requires_grad=True)
    weights = module(quadratics(later), later, 1)
    ratios = [float(each.detach()) / start for each, start in zip(quadratics(later), first, strict=True)]
    rates = [ratio / (sum(ratios) / 2) for ratio in ratios]
    found = norms(weights, quadratics, later).tolist()
    assert found[0] / found[1] == pytest.approx((rates[0] / rates[1]) ** 1.5, rel=1e-4)
    assert rates[0] < rates[1]  # the first falls: it gets less


def test_gradnorm_moves_once_an_update_in_training_alone_and_is_restored() -> None:
    fused = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module = GradientNormWeights(SHARES).train()
    kept = module(quadratics(fused), fused, 3).clone()
    moved = (fused.detach() * 0.5).requires_grad_()
    assert torch.equal(module(quadratics(moved), moved, 3), kept)
    with torch.no_grad():
        assert torch.equal(module(quadratics(moved), moved, 4), kept)
    assert torch.equal(module.eval()(quadratics(moved), moved, 4), kept)
    again = GradientNormWeights(SHARES).train()
    again.load_state_dict(module.state_dict())
    module.train()
    assert torch.equal(again(quadratics(moved), moved, 4), module(quadratics(moved), moved, 4))
    assert not torch.equal(module.weights, kept)


def test_gradnorm_bears_parts_without_gradient_and_what_is_not_finite() -> None:
    fused = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    module = GradientNormWeights(SHARES).train()
    weights = module([fused.square().mean(), torch.tensor(1.0)], fused, 0).clone()
    assert bool(weights.isfinite().all())
    assert float(weights.sum()) == pytest.approx(3.0)
    module([fused.mean() * torch.nan, fused.mean()], fused, 1)
    assert torch.equal(module.weights, weights)
