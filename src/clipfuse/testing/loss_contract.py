"""The contract of a loss plugin as tests: subclass `LossContract` and define the fixture `node`.

class TestMyLoss(LossContract):
    @pytest.fixture
    def node(self):
        return loss_node("conf/loss/my_loss.yaml")

Each check does what a training does; a loss that fails here would fail there, often only at the first
validation or when it is resumed.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _NormBase

from clipfuse.bilevel import Solver
from clipfuse.errors import UserError
from clipfuse.losses.base import LABELS, BilevelLoss, FusionLoss, LossArtifacts
from clipfuse.testing.examples import ABSENT, converted, example_inputs, part_of, sized
from clipfuse.testing.ranks import Ranks, shared_ranks
from clipfuse.testing.short_training import (
    Node,
    ShortTraining,
    as_a_training_does,
    build_loss,
    clips_of,
    default_solver,
    state_of,
    unlike,
)
from clipfuse.training.stepping import both_levels
from clipfuse.types import LossInputs

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("the contract test needs pytest: pip install 'clipfuse[testing]'") from error

__all__ = ["LossContract", "build_loss", "example_inputs", "part_of"]


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
    def solver(self) -> Callable[[FusionLoss], Solver]:
        """Return what makes the solver of the short training; override it where `alternate` does not fit."""
        return default_solver

    @pytest.fixture
    def ranks(self) -> Ranks:
        """Return two processes joined as by DDP, which all contract tests of this session share."""
        return shared_ranks()

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

    def test_takes_images_of_any_size(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """Crops may have an odd number of rows or columns, and need not be square."""
        for height, width in ((37, 50), (51, 36)):
            part = sized(part_of(inputs, [0, 1]), height, width)
            with as_a_training_does(f"takes crops of any size, here {height} rows and {width} columns"):
                total = loss(part).total
                (gradient,) = torch.autograd.grad(total, part.fused)
            assert total.isfinite(), f"the loss of images of {height}x{width} is {float(total.detach())}"
            assert gradient.isfinite().all(), f"the gradient to images of {height}x{width} is not finite"

    def test_takes_a_batch_of_one(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """The last batch of an epoch, and each batch of a validation, may hold one pair."""
        one = part_of(inputs, [1])
        with as_a_training_does("may have one pair in a batch"):
            total = loss(one).total
            (gradient,) = torch.autograd.grad(total, inputs.fused)
        assert total.isfinite(), f"the loss of a batch of one pair is {float(total.detach())}"
        assert gradient.isfinite().all(), "the gradient to a batch of one pair is not finite"

    def test_validates_whole_images_without_gradient(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """Validation: eval(), no_grad(), one whole image at a time, no square; then the training goes on."""
        before, state = loss(inputs).total, state_of(loss)
        modes = {name: part.training for name, part in loss.named_modules()}
        loss.eval()
        for height, width in ((61, 85), (83, 60)):
            what = f"validates in eval() and under torch.no_grad(), one whole image, here {height}x{width}"
            with as_a_training_does(what), torch.no_grad():
                pair = sized(part_of(inputs, [0]), height, width)
                output, lower = both_levels(loss, pair)
                shown = loss.artifacts(pair)
            value = float(output.total.detach())
            assert math.isfinite(value), f"the loss of a validation image is {value}"
            assert all(each.shape == () for each in lower.values()), "a term of the lower loss is no scalar"
            fits = shown is None or (isinstance(shown, LossArtifacts) and bool(shown.images))
            assert fits, "artifacts() returned no LossArtifacts with images; expected them, or None"
        for name, part in loss.named_modules():
            part.training = modes[name]
        assert not (moved := unlike(state, state_of(loss))), (
            f"validation moved {', '.join(moved)} of the loss: each rank validates other images, so that "
            "ranks would go on with different values"
        )
        with as_a_training_does("goes on after a validation"):
            total = loss(inputs).total
            torch.autograd.grad(total, inputs.fused)
        assert torch.equal(total, before), "a validation changes the losses of the training after it"

    def test_fields_that_the_data_lack_may_be_none(self, node: Node, inputs: LossInputs) -> None:
        """Without masks, labels and the like a loss works, or refuses the data before the first update."""
        loss = build_loss(node)
        kept = {*loss.required(), *(["teacher"] if loss.required_teacher() is not None else [])}
        absent: dict[str, Any] = {name: None for name in ABSENT if name not in kept}
        bare = replace(inputs, **absent)
        try:
            loss.check_labels(part_of(bare, [0]))
            loss.setup(part_of(bare, [0]))
        except (ValueError, UserError):
            return  # refused before the first update, which is as good
        what = f"gives None for what the data do not have ({', '.join(absent)})"
        remedy = f"expect None, name in needs which of {', '.join(LABELS)} it needs, or refuse it in setup"
        with as_a_training_does(f"{what}: {remedy}"):
            assert loss(bare).total.isfinite()

    def test_is_computed_in_full_precision(self, loss: FusionLoss, inputs: LossInputs) -> None:
        """With bf16-mixed the network gives rounded images and bf16 features; the loss has no autocast."""
        lower = converted(inputs, torch.bfloat16, "fused", "features")
        what = "in bf16-mixed calls a loss without autocast, on float32 images and bfloat16 features"
        full = torch.autocast("cpu", enabled=False)
        with as_a_training_does(what), torch.autocast("cpu", torch.bfloat16), full:
            total = loss(replace(lower, fused=lower.fused.float())).total
            (gradient,) = torch.autograd.grad(total, lower.fused)
        assert total.dtype == torch.float32, f"the loss of float32 images is {total.dtype}"
        assert total.isfinite(), f"the loss is {float(total.detach())}"
        assert gradient.isfinite().all(), "the gradient is not finite"

    def test_is_computed_in_double_precision(self, node: Node, inputs: LossInputs) -> None:
        """trainer.precision=64-true converts the loss and all that it gets, its CLIP included."""
        loss, double = build_loss(node).double(), converted(inputs, torch.float64)
        clips = clips_of(loss)
        try:
            for clip in clips:
                clip.to(dtype=torch.float64)
            torch.set_default_dtype(torch.float64)
            what = "in 64-true calls double() on the loss, and gives float64 images"
            remedy = "register constants as buffers, or make them with the type of the images"
            with as_a_training_does(f"{what} ({remedy})"):
                loss.setup(part_of(double, [0]))
                total = loss(double).total
                (gradient,) = torch.autograd.grad(total, double.fused)
        finally:
            torch.set_default_dtype(torch.float32)
            for clip in clips:
                clip.to(dtype=torch.float32)
        assert total.dtype == torch.float64, f"the loss of float64 images is {total.dtype}"
        assert gradient.isfinite().all(), "the gradient is not finite"

    def test_a_resumed_training_is_the_same_bit_for_bit(
        self, node: Node, inputs: LossInputs, solver: Callable[[FusionLoss], Solver]
    ) -> None:
        """Two updates, a validation, a checkpoint, two more; and the same from the checkpoint."""
        pair = sized(part_of(inputs, [0]), 53, 38)

        def start() -> ShortTraining:
            loss = build_loss(node)
            loss.setup(part_of(inputs, [0]))
            training = ShortTraining(loss, inputs, solver(loss))
            training.validate(pair)  # the notes about the network before it is trained
            return training

        with as_a_training_does("takes updates, validates, is saved and is resumed in another process"):
            unbroken = start()
            for _ in range(2):
                unbroken.update()
            unbroken.validate(pair)
            checkpoint = unbroken.checkpoint()
            resumed = start()
            resumed.load(checkpoint)
            values = [(unbroken.update(), resumed.update()) for _ in range(2)]
        assert all(one == other for one, other in values), (
            f"after a resume the losses are {[other for _, other in values]}, without it "
            f"{[one for one, _ in values]}: what changes from update to update belongs into parameters, "
            "registered buffers or get_extra_state"
        )
        apart = unlike(state_of(unbroken.loss), state_of(resumed.loss))
        apart += unlike(unbroken.network.state_dict(), resumed.network.state_dict())
        assert not apart, f"after a resume {', '.join(apart)} differ from those of an unbroken training"

    def test_frozen_parts_stay_as_they_are(
        self, loss: FusionLoss, inputs: LossInputs, solver: Callable[[FusionLoss], Solver]
    ) -> None:
        """A training keeps the mode of each module; no batch norm of a frozen network may move."""
        modes = {name: part.training for name, part in loss.named_modules()}
        frozen = {
            f"{name}.{key}": buffer
            for name, part in loss.named_modules()
            if isinstance(part, _NormBase) and not any(each.requires_grad for each in part.parameters())
            for key, buffer in part.named_buffers()
        }
        before = {name: buffer.clone() for name, buffer in frozen.items()}
        with as_a_training_does("takes updates and validates"):
            training = ShortTraining(loss, inputs, solver(loss))
            training.update()
            training.validate(sized(part_of(inputs, [0]), 40, 52))
            training.update()
        moved = [name for name, buffer in frozen.items() if not torch.equal(buffer, before[name])]
        assert not moved, (
            f"{', '.join(moved)} moved though their network is frozen: call eval() on it in the constructor; "
            "a training keeps the mode of each module"
        )
        now = {name: part.training for name, part in loss.named_modules()}
        other = [name or "the loss" for name in now if now[name] != modes.get(name)]
        assert not other, (
            f"the loss changes the mode of {', '.join(other)}: choose modes in the constructor; a training "
            "keeps them, and puts back those before a validation"
        )

    def test_two_ranks_agree_with_one(self, node: Node, inputs: LossInputs, ranks: Ranks) -> None:
        """The mean of two ranks' gradients, as DDP takes it, is the gradient of the whole batch."""
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
