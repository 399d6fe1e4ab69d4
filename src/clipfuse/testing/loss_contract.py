"""The contract of a loss plugin as tests: subclass `LossContract` and define the fixture `node`.

class TestMyLoss(LossContract):
    @pytest.fixture
    def node(self):
        return {"_target_": "my_loss.MyLoss", "weight": 2.0}
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.testing.ranks import Ranks
from clipfuse.types import IGNORED, Boxes, LossInputs

Node = Mapping[str, Any]


def build_loss(node: Node) -> FusionLoss:
    """Build a loss as a run does, in training mode."""
    from clipfuse.runs.build import build

    torch.manual_seed(0)
    loss = build(node, "loss")
    assert isinstance(loss, FusionLoss), f"{type(loss).__name__} is no FusionLoss"
    return loss.train()


def example_inputs(
    count: int = 4, side: int = 48, features: Mapping[str, Tensor] | None = None
) -> LossInputs:
    """Return smooth noise with a warm square in the infrared band, its mask and an ideal fused image.

    Its labels: the square is an object of class 1 on class 0, below a row without a label.
    """
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(3, count, 1, side + 4, side + 4, generator=generator)
    fused, infrared, visible = torch.nn.functional.avg_pool2d(noise.flatten(0, 1), 5, 1).view(
        3, count, 1, side, side
    )
    mask = torch.zeros(count, 1, side, side, dtype=torch.bool)
    mask[..., side // 4 : side // 2, side // 3 : side // 2] = True
    infrared = torch.where(mask, 0.95, infrared)
    classes = mask[:, 0].long()
    classes[:, 0] = IGNORED
    edges = torch.tensor([[side // 3, side // 4, side // 2, side // 2]], dtype=torch.float32)
    return LossInputs(
        fused=fused.clone().requires_grad_(),
        infrared=infrared,
        visible=visible.clone(),
        features=features or {},
        sample_ids=tuple(f"sample-{index}" for index in range(count)),
        target_mask=mask,
        reference=infrared.maximum(visible),
        classes=classes,
        boxes=tuple(Boxes(edges.clone(), torch.ones(1, dtype=torch.int64)) for _ in range(count)),
        captions=tuple(f"a warm square, image {index}" for index in range(count)),
    )


def part_of(inputs: LossInputs, samples: Sequence[int]) -> LossInputs:
    """Return some of the samples, in the order asked for."""
    chosen = list(samples)
    parts: dict[str, Any] = {
        name: value[chosen] for name, value in vars(inputs).items() if isinstance(value, Tensor)
    }
    parts |= {
        name: tuple(getattr(inputs, name)[index] for index in chosen)
        for name in ("sample_ids", "boxes", "captions")
        if getattr(inputs, name) is not None
    }
    return replace(inputs, **parts, features={name: value[chosen] for name, value in inputs.features.items()})


class LossContract:
    """Checks that hold for every plugin; override `node`, and `inputs` where the loss needs features."""

    @pytest.fixture
    def node(self) -> Node:
        """Return what conf/loss/<name>.yaml holds."""
        raise NotImplementedError("give a fixture 'node': the loss as in its configuration")

    @pytest.fixture
    def inputs(self) -> LossInputs:
        """Return a batch of two samples or more, `fused` with gradient."""
        return example_inputs()

    @pytest.fixture
    def loss(self, node: Node, inputs: LossInputs) -> FusionLoss:
        """Return the loss as a run builds it and sets it up."""
        loss = build_loss(node)
        loss.setup(part_of(inputs, [0]))
        return loss

    def test_returns_a_finite_scalar_and_detached_terms(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """`total` is what is minimised; `terms` are for the log."""
        output = loss(inputs)
        assert output.total.shape == ()
        assert output.total.requires_grad
        assert output.total.isfinite()
        assert output.terms, "no terms for the log"
        for name, term in output.terms.items():
            assert (term.shape, term.requires_grad) == ((), False), name

    def test_gradient_reaches_each_fused_image(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """Each sample changes the loss."""
        (gradient,) = torch.autograd.grad(loss(inputs).total, inputs.fused)
        assert gradient.isfinite().all()
        assert gradient.flatten(1).abs().amax(dim=1).min() > 0

    def test_leaves_its_inputs_and_the_global_state_alone(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """A loss changes neither its inputs nor the global random state."""
        kept = copy.deepcopy(replace(inputs, fused=inputs.fused.detach()))
        state = torch.random.get_rng_state()
        loss(inputs)
        assert torch.equal(torch.random.get_rng_state(), state), "drew from the global random state"
        for name, before in vars(kept).items():
            if isinstance(before, Tensor):
                assert torch.equal(before, getattr(inputs, name)), name
        for one, other in zip(kept.boxes or (), inputs.boxes or (), strict=True):
            assert torch.equal(one.xyxy, other.xyxy), "boxes"
            assert torch.equal(one.classes, other.classes), "boxes"

    def test_the_same_seed_step_and_samples_give_the_same(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """A resumed run continues exactly because of it."""
        first = loss(inputs).total
        torch.manual_seed(12345)
        assert torch.equal(loss(inputs).total, first)

    def test_falls_in_twenty_steps_of_descent(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """A step against its gradient lowers it."""
        free = torch.logit(inputs.fused.detach().clamp(0.01, 0.99)).requires_grad_()
        optimizer = torch.optim.Adam([free], lr=0.02)
        values = []
        for _ in range(21):
            total = loss(replace(inputs, fused=torch.sigmoid(free))).total
            values.append(float(total.detach()))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        assert values[-1] < values[0]

    @pytest.mark.parametrize("kind", ["black", "white", "all equal", "fused is infrared", "fused is visible"])
    def test_odd_images_are_finite(self, loss: FusionLoss, inputs: LossInputs, kind: str) -> None:
        """Neither value nor gradient may become NaN or infinite."""
        names = ("fused", "infrared", "visible")
        if kind.startswith("fused is "):
            images = {"fused": getattr(inputs, kind.removeprefix("fused is ")).clone()}
        elif kind == "all equal":
            images = {name: inputs.visible.clone() for name in names}
        else:
            level = torch.zeros_like if kind == "black" else torch.ones_like
            images = {name: level(inputs.visible) for name in names}
        images["fused"].requires_grad_()
        total = loss(replace(inputs, **images)).total
        (gradient,) = torch.autograd.grad(total, images["fused"], allow_unused=True)
        assert total.isfinite()
        assert gradient is None or gradient.isfinite().all()

    def test_the_order_of_samples_does_not_matter(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """The loss of a reversed batch is the same."""
        turned = part_of(inputs, range(len(inputs.sample_ids))[::-1])
        torch.testing.assert_close(loss(turned).total, loss(inputs).total, rtol=1e-4, atol=1e-6)

    def test_state_round_trips(self, node: Node, loss: FusionLoss, inputs: LossInputs) -> None:
        """A checkpoint restores the value, and holds no frozen network: less than 32 MB."""
        state = copy.deepcopy(loss.state_dict())
        assert sum(value.nbytes for value in state.values()) < 2**25, "a frozen network in the checkpoint?"
        again = build_loss(node)
        again.setup(part_of(inputs, [0]))
        again.load_state_dict(state)
        assert torch.equal(again(inputs).total, loss(inputs).total)

    def test_a_lower_level_moves_its_own_parameters(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """The losses of a `BilevelLoss` depend on the lower values they are given, and on no others."""
        if not isinstance(loss, BilevelLoss) or not loss.lower_parameters():
            return
        state, lower = loss.prepare(inputs), list(loss.lower_parameters())
        other = [torch.randn_like(value).requires_grad_() for value in lower]
        gradients = torch.autograd.grad(loss.lower_loss(state, other).total, other, allow_unused=True)
        assert any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)
        before = [value.detach().clone() for value in lower]
        loss.upper_loss(state, other).total.backward()
        assert all(torch.equal(old, new) for old, new in zip(before, lower, strict=True))
        assert all(value.grad is None for value in lower), (
            "the upper loss used other lower values than it was given"
        )

    def test_two_ranks_agree_with_one(self, node: Node, inputs: LossInputs, ranks: Ranks) -> None:
        """The mean of two ranks' gradients, as DDP takes it, is the gradient of the whole batch.

        Needs a fixture `ranks` that gives `clipfuse.testing.ranks.Ranks(2)`, best for the whole session.
        """
        still = replace(inputs, fused=inputs.fused.detach())
        expected = gradient_of_shift(node, still)
        for found in ranks.run(_mean_of_ranks, dict(node), still):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def gradient_of_shift(node: Node, inputs: LossInputs) -> Tensor:
    """Return the gradient to one level that is added to all fused images."""
    loss = build_loss(node)
    loss.setup(part_of(inputs, [0]))
    shift = torch.zeros((), requires_grad=True)
    total = loss(replace(inputs, fused=inputs.fused + shift)).total
    return torch.autograd.grad(total, shift)[0]


def _mean_of_ranks(node: Node, inputs: LossInputs) -> Tensor:
    size = len(inputs.sample_ids) // distributed.get_world_size()
    first = distributed.get_rank() * size
    gradient = gradient_of_shift(node, part_of(inputs, range(first, first + size)))
    distributed.all_reduce(gradient)
    return gradient / distributed.get_world_size()
