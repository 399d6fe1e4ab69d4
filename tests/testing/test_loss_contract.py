"""The contract must see what breaks it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss, LossArtifacts
from clipfuse.testing.examples import example_inputs
from clipfuse.testing.loss_contract import LossContract
from clipfuse.testing.short_training import default_solver
from clipfuse.types import LossInputs, LossOutput


class _Wrong(FusionLoss):
    def __init__(self, total: Callable[[LossInputs], Tensor], detach: bool = True) -> None:
        super().__init__()
        self.total = total
        self.detach = detach

    def forward(self, inputs: LossInputs) -> LossOutput:
        total = self.total(inputs)
        return LossOutput(total, {"term": total.detach() if self.detach else total})


def _writes(inputs: LossInputs) -> Tensor:
    inputs.visible.mul_(0.5)
    return (inputs.fused - inputs.visible).abs().mean()


@pytest.mark.parametrize(
    ("total", "check"),
    [
        (lambda i: i.fused.mean((1, 2, 3)), "test_returns_a_finite_scalar_and_detached_terms"),
        (lambda i: i.visible.mean(), "test_returns_a_finite_scalar_and_detached_terms"),
        (lambda i: i.fused[:2].mean(), "test_gradient_reaches_each_fused_image"),
        (_writes, "test_leaves_its_inputs_and_the_global_state_alone"),
        (lambda i: i.fused.mean() * torch.rand(()), "test_leaves_its_inputs_and_the_global_state_alone"),
        (lambda i: i.fused.mean() * torch.rand(()), "test_the_same_seed_step_and_samples_give_the_same"),
        (lambda i: (i.fused - i.fused.detach()).sum(), "test_falls_in_twenty_steps_of_descent"),
        (lambda i: (i.fused[0] - i.visible[0]).abs().mean(), "test_the_order_of_samples_does_not_matter"),
    ],
)
def test_sees_what_is_wrong(total: Callable[[LossInputs], Tensor], check: str) -> None:
    with pytest.raises((AssertionError, UserError)):
        getattr(LossContract(), check)(_Wrong(total), example_inputs())


def test_sees_terms_with_a_graph_and_values_that_are_not_finite() -> None:
    contract, inputs = LossContract(), example_inputs()
    with pytest.raises(AssertionError):
        contract.test_returns_a_finite_scalar_and_detached_terms(
            _Wrong(lambda i: i.fused.mean(), detach=False), inputs
        )
    divided = _Wrong(lambda i: ((i.fused - i.visible) / (i.fused - i.visible).norm()).sum())
    contract.test_returns_a_finite_scalar_and_detached_terms(divided, inputs)
    with pytest.raises(AssertionError):
        contract.test_odd_images_are_finite(divided, inputs, "fused is visible")


def test_sees_a_network_in_the_checkpoint() -> None:
    loss = _Wrong(lambda i: i.fused.mean())
    loss.register_buffer("clip", torch.zeros(2**23 + 1))
    with pytest.raises(AssertionError, match="a frozen network in the checkpoint"):
        LossContract().test_state_round_trips({}, loss, replace(example_inputs()))


def distance(inputs: LossInputs) -> Tensor:
    return (inputs.fused - inputs.visible).square().mean()


def in_halves(inputs: LossInputs) -> Tensor:
    """The mean of 2x2 blocks: an even number of rows and columns is assumed."""
    count, _, height, width = inputs.fused.shape
    return inputs.fused.view(count, 1, height // 2, 2, width // 2, 2).mean((3, 5)).square().mean()


def slope(inputs: LossInputs) -> Tensor:
    """A penalty of a gradient, which validation does not have."""
    (gradient,) = torch.autograd.grad(distance(inputs), inputs.fused, create_graph=True)
    return distance(inputs) + gradient.square().sum()


def of_squares(inputs: LossInputs) -> Tensor:
    return (inputs.fused - inputs.fused.transpose(2, 3)).square().mean()


def masked(inputs: LossInputs) -> Tensor:
    return (inputs.fused * inputs.target_mask).square().mean()  # type: ignore[operator]


class _Kept(FusionLoss):
    """Base of losses that keep something from one update to the next."""

    def forward(self, inputs: LossInputs) -> LossOutput:
        total = self.factor(inputs) * distance(inputs)
        return LossOutput(total, {"distance": total.detach()})

    def factor(self, inputs: LossInputs) -> Tensor:
        return torch.ones(())


class Counting(_Kept):
    """Counts updates where no checkpoint sees it."""

    calls = 0

    def factor(self, inputs: LossInputs) -> Tensor:
        self.calls += self.training
        return torch.tensor(1.0 + self.calls)


class Validated(_Kept):
    """Counts validations in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def factor(self, inputs: LossInputs) -> Tensor:
        if not self.training:
            self.get_buffer("seen").add_(1)
        return torch.ones(())


class Remembering(_Kept):
    """Keeps what a validation gave."""

    last = torch.ones(())

    def factor(self, inputs: LossInputs) -> Tensor:
        if not self.training:
            self.last = inputs.fused.mean()
        return self.last


class Statistics(_Kept):
    """A frozen network with batch norm that nobody put into eval mode."""

    def __init__(self, evaluating: bool = False, flips: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).requires_grad_(False)
        self.net.train(not evaluating)
        self.flips = flips

    def factor(self, inputs: LossInputs) -> Tensor:
        if self.flips:
            self.net.train()
            self.net.eval()
            self.net[2].train()
        return 1 + self.net[:2](inputs.fused).square().mean()


class Constant(_Kept):
    """A constant that double() does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = torch.ones(1, 1, 3, 3)

    def factor(self, inputs: LossInputs) -> Tensor:
        return torch.nn.functional.conv2d(inputs.fused, self.kernel).square().mean()


class Featured(_Kept):
    """Multiplies features by weights of another precision."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Linear(3, 1)

    def factor(self, inputs: LossInputs) -> Tensor:
        return self.weights(inputs.features["deep"].flatten(2).mean(2)).square().mean()


class Showing(_Kept):
    def artifacts(self, inputs: LossInputs) -> LossArtifacts:
        return LossArtifacts({"words": "none"}, [])


def wrong(total: Callable[[LossInputs], Tensor]) -> Callable[[], FusionLoss]:
    return partial(_Wrong, total)


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (wrong(in_halves), "takes_images_of_any_size", "crops of any size, here 37 rows and 50 columns"),
        (wrong(of_squares), "takes_images_of_any_size", "RuntimeError: The size of tensor"),
        (
            wrong(slope),
            "validates_whole_images_without_gradient",
            r"torch.no_grad\(\), .* raised RuntimeError",
        ),
        (
            wrong(lambda i: distance(i) / (i.fused.mean((1, 2, 3)) - i.fused.mean()).norm()),
            "takes_a_batch_of_one",
            "a batch of one pair is (nan|inf)",
        ),
        (wrong(lambda i: distance(i).bfloat16()), "is_computed_in_full_precision", "is torch.bfloat16"),
        (Featured, "is_computed_in_full_precision", "without autocast, on float32 images and bfloat16"),
        (Validated, "validates_whole_images_without_gradient", "validation moved seen of the loss"),
        (Remembering, "validates_whole_images_without_gradient", "changes the losses of the training after"),
        (Showing, "validates_whole_images_without_gradient", "no LossArtifacts with images"),
        (Statistics, "frozen_parts_stay_as_they_are", "net.1.running_mean, .* call eval"),
        (
            partial(Statistics, evaluating=True, flips=True),
            "frozen_parts_stay_as_they_are",
            "changes the mode of net.2: choose modes in the constructor",
        ),
        (wrong(masked), "fields_that_the_data_lack_may_be_none", "gives None for .*target_mask"),
        (Constant, "is_computed_in_double_precision", "register constants as buffers"),
        (wrong(lambda i: distance(i).float()), "is_computed_in_double_precision", "is torch.float32"),
        (
            Counting,
            "a_resumed_training_is_the_same_bit_for_bit",
            "belongs into parameters, registered buffers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_training_does_is_tried_and_explained(
    make: Callable[[], FusionLoss], check: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AssertionError, match=words):
        tried(make, check, monkeypatch)


def tried(make: Callable[[], FusionLoss], check: str, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("clipfuse.testing.loss_contract.build_loss", lambda node: make())
    inputs = example_inputs(features={"deep": torch.rand(4, 3, 6, 6)})
    function = getattr(LossContract(), f"test_{check}")
    wanted = function.__func__.__code__.co_varnames[: function.__func__.__code__.co_argcount]
    given = {
        "node": {},
        "loss": make() if "loss" in wanted else None,
        "inputs": inputs,
        "solver": default_solver,
    }
    function(**{name: value for name, value in given.items() if name in wanted})


CHECKS = [
    *("takes_images_of_any_size", "takes_a_batch_of_one", "validates_whole_images_without_gradient"),
    *("fields_that_the_data_lack_may_be_none", "is_computed_in_full_precision"),
    *("is_computed_in_double_precision", "a_resumed_training_is_the_same_bit_for_bit"),
    "frozen_parts_stay_as_they_are",
]


class Critic(BilevelLoss):
    """A lower level, and a frozen network with batch norm and dropout, as they should be."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(1))
        self.frozen = Statistics(evaluating=True).net

    def lower_parameters(self) -> list[Tensor]:
        return [self.level]

    def prepare(self, inputs: LossInputs) -> LossInputs:
        return inputs

    def upper_loss(self, state: LossInputs, lower: list[Tensor]) -> LossOutput:  # type: ignore[override]
        total = (state.fused - lower[0]).square().mean() + self.frozen(state.fused).square().mean()
        return LossOutput(total, {"distance": total.detach()})

    def lower_loss(self, state: LossInputs, lower: list[Tensor]) -> LossOutput:  # type: ignore[override]
        total = (lower[0] - state.visible).square().mean()
        return LossOutput(total, {"level": total.detach()})


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("make", [Critic, wrong(distance)], ids=["two levels", "one level"])
def test_good_losses_pass(
    make: Callable[[], FusionLoss], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried(make, check, monkeypatch)


def test_a_loss_may_refuse_what_it_cannot_do_without() -> None:
    class Needing(_Kept):
        needs = frozenset({"classes"})

    class Refusing(_Kept):
        def setup(self, sample: LossInputs) -> None:
            if sample.target_mask is None:
                raise ValueError("expected masks")

        def factor(self, inputs: LossInputs) -> Tensor:
            return masked(inputs)

    class Taught(_Kept):
        teacher_decay = 0.5

        def factor(self, inputs: LossInputs) -> Tensor:
            assert inputs.teacher is not None
            return 1 + (inputs.teacher(inputs.infrared, inputs.visible).fused - inputs.fused).square().mean()

    with pytest.MonkeyPatch.context() as patch:
        for check in CHECKS:
            tried(Taught, check, patch)
    for kind in (Needing, Refusing):
        with pytest.MonkeyPatch.context() as patch:
            tried(kind, "fields_that_the_data_lack_may_be_none", patch)
