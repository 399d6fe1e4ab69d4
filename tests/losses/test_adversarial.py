import csv
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from clipfuse.bilevel import Alternate
from clipfuse.errors import UserError
from clipfuse.losses.adversarial import AdversarialLoss, gradient_length, saliency
from clipfuse.losses.pixel import PixelLoss
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.seeding import derived_seed
from clipfuse.runs.train import train
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.training.stepping import LossProblem
from clipfuse.types import LossInputs


def make(**options: Any) -> AdversarialLoss:
    return AdversarialLoss(PixelLoss(), **{"width": 2, **options}).train()


def doubled(count: int = 3, side: int = 12) -> LossInputs:
    inputs = example_inputs(count, side)
    planes = {name: getattr(inputs, name).detach().double() for name in ("fused", "infrared", "visible")}
    return replace(inputs, **{**planes, "fused": planes["fused"].requires_grad_()}, step=4, seed=9)


class TestAdversarial(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("adversarial", "loss.width=4")


class TestSaliency(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("adversarial", "loss.width=4", "loss.region=saliency", "loss.detail_weight=0")


@pytest.mark.parametrize("region", ["auto", "whole"])
def test_equals_a_plain_second_implementation(region: str) -> None:
    """One image after another, with the released gradient of one pixel and the slope by its definition."""
    options = {"region": region, "target_weight": 0.3, "detail_weight": 0.8, "penalty": 1.5}
    loss, inputs = make(**options).double(), doubled()
    assert inputs.target_mask is not None
    upper, lower = PixelLoss()(inputs).total, torch.zeros(()).double()
    for index in range(3):
        mask = inputs.target_mask[index : index + 1].double()
        masks = (mask, 1 - mask) if region == "auto" else (torch.ones_like(mask), torch.ones_like(mask))
        planes = {name: getattr(inputs, name)[index : index + 1] for name in ("fused", "infrared", "visible")}
        pairs = {
            "target": (masks[0] * planes["fused"], masks[0] * planes["infrared"]),
            "detail": (
                slow_gradient(masks[1] * planes["fused"]),
                slow_gradient(masks[1] * planes["visible"]),
            ),
        }
        name = f"sample-{index}"
        share = torch.rand(1, generator=torch.Generator().manual_seed(derived_seed(9, 4, name))).double()
        for kind, (fused, source) in pairs.items():
            network = loss.discriminators[kind]
            given, wanted = network(fused).mean(), network(source).mean()
            upper = upper - {"target": 0.3, "detail": 0.8}[kind] * given / 3
            between = (share * source + (1 - share) * fused).detach().requires_grad_()
            (slope,) = torch.autograd.grad(network(between).mean(), between, create_graph=True)
            steepness = slope.norm() * 12 * 12 / 12  # of the sum over 144 pixels, root mean square
            lower = lower + (given - wanted + 1.5 * steepness**6) / 3
    state, values = loss.prepare(inputs), loss.lower_parameters()
    found = loss.lower_loss(state, values).total
    # float64 sums in another order; the sixth power multiplies their rounding
    torch.testing.assert_close(found, lower, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.upper_loss(state, values).total, upper, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(found, values, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(lower, values, allow_unused=True)
    for mine, plain in zip(ours, theirs, strict=True):
        assert (mine is None) == (plain is None)
        if mine is not None:
            torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-12)


def slow_gradient(image: Tensor) -> Tensor:
    """Return the length of the gradient, pixel by pixel; the border is repeated."""
    _, _, height, width = image.shape
    rows = []
    for y in range(height):
        for x in range(width):
            right, left = image[0, 0, y, min(x + 1, width - 1)], image[0, 0, y, max(x - 1, 0)]
            below, above = image[0, 0, min(y + 1, height - 1), x], image[0, 0, max(y - 1, 0), x]
            rows.append((((right - left) / 2) ** 2 + ((below - above) / 2) ** 2 + 1e-6).sqrt())
    return torch.stack(rows).view_as(image)


def test_the_gradient_length_is_the_released_one() -> None:
    image = torch.rand(1, 1, 5, 7, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(gradient_length(image), slow_gradient(image), rtol=1e-12, atol=1e-14)


def test_saliency_is_the_mean_distance_of_grey_levels() -> None:
    image = torch.randint(0, 256, (2, 1, 6, 5), generator=torch.Generator().manual_seed(0)) / 255
    found = saliency(image.double())
    for sample, drawn in zip(image, found, strict=True):
        pixels = (sample * 255).round().flatten().double()
        slow = torch.stack([(pixels - value).abs().sum() for value in pixels])
        slow = (slow - slow.min()) / (slow.max() - slow.min())
        torch.testing.assert_close(drawn.flatten(), slow, rtol=1e-9, atol=1e-9)
    assert saliency(torch.full((1, 1, 4, 4), 0.3)).eq(0).all()


def test_discriminators_separate_and_the_network_closes_the_gap() -> None:
    """Free, nearly flat images in the place of a network; at first they stay as they are."""
    fidelity = PixelLoss(1e-3, 0.0)
    loss, inputs = AdversarialLoss(fidelity, width=4).train(), example_inputs(2, 16)
    free = (0.1 * torch.logit(inputs.fused.detach().clamp(0.01, 0.99))).requires_grad_()
    solver = Alternate(partial(torch.optim.Adam, lr=0.01), steps=2, every=1)

    def go(rate: float, updates: int) -> dict[str, float]:
        optimizer = torch.optim.Adam([free], lr=rate)
        for step in range(updates):
            images = replace(inputs, fused=torch.sigmoid(free), step=step)
            solver.step(LossProblem(loss, images), optimizer, backward=Tensor.backward)
        state = loss.prepare(replace(inputs, fused=torch.sigmoid(free)))
        found = loss.lower_loss(state, loss.lower_parameters()).terms
        edges, level = state.fused["detail"].mean(), torch.sigmoid(free)[inputs.target_mask].mean()
        return {
            name: float(each.detach()) for name, each in {**found, "edges": edges, "level": level}.items()
        }

    first, apart = go(0.0, 1), go(0.0, 30)
    played = go(0.05, 30)
    for name in ("target_gap", "detail_gap"):
        assert apart[name] > max(2 * first[name], 0.005), name  # the source is given more
    # Targets, at 0.95 in the infrared image, become brighter, and edges stronger.
    assert played["level"] > apart["level"] + 0.1
    assert played["edges"] > 1.5 * apart["edges"]


def test_f_is_the_same_without_a_gradient() -> None:
    loss, inputs = make(), example_inputs()
    state, values = loss.prepare(inputs), loss.lower_parameters()
    with torch.no_grad():
        still = loss.lower_loss(state, values)
    assert torch.equal(still.total, loss.lower_loss(state, values).total)
    assert set(still.terms) == {f"{n}_{kind}" for n in ("target", "detail") for kind in ("gap", "penalty")}


def test_regions() -> None:
    inputs = example_inputs()
    assert inputs.target_mask is not None
    mask = inputs.target_mask.float()
    for region, expected in {"auto": mask, "mask": mask, "whole": torch.ones_like(mask)}.items():
        found = make(region=region).prepare(inputs).source["target"]
        assert torch.equal(found, expected * inputs.infrared), region
    soft = make(region="saliency").prepare(inputs).source["target"]
    assert torch.equal(soft, saliency(inputs.infrared) * inputs.infrared)
    none = replace(inputs, target_mask=None)
    state = make(region="auto").prepare(none)
    assert torch.equal(state.source["target"], none.infrared)
    assert torch.equal(state.source["detail"], gradient_length(none.visible))
    with pytest.raises(ValueError, match=r"region=mask needs data with masks of targets \(data.masks\)"):
        make(region="mask").setup(none)
    with pytest.raises(UserError, match="a batch has no masks"):
        make(region="mask")(none)


def test_one_discriminator_may_be_left_out_and_what_they_see_is_shown() -> None:
    loss, inputs = make(target_weight=0.0), example_inputs()
    assert list(loss.discriminators) == ["detail"]
    assert set(loss(inputs).terms) == {"intensity", "gradient", "detail"}
    shown = loss.eval().artifacts(inputs)
    assert [name for name, _ in shown.images] == ["detail, source", "detail, fused"]
    assert {image.shape for _, image in shown.images} == {(1, 48, 48)}
    assert set(shown.texts) == {"detail, source", "detail, fused"}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"region": "car"}, "region is 'car'; expected one of auto, mask, saliency, whole"),
        ({"penalty": -1.0}, "penalty is -1"),
        ({"width": 0}, "width is 0; expected 1 or more"),
        ({"target_weight": 0.0, "detail_weight": 0.0}, "all weights are 0"),
        ({"target_weight": -1.0}, "target_weight is -1"),
    ],
)
def test_refuses_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make(**options)


def _snapshot(run_dir: str) -> Any:
    """Copy the run folder in the third update, as a power cut would leave it."""
    from lightning.pytorch.callbacks import LambdaCallback

    def keep(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            shutil.copytree(run_dir, f"{run_dir}-cut", ignore=shutil.ignore_patterns("status.json"))

    return LambdaCallback(on_train_batch_end=keep)


def test_a_training_resumes_bit_for_bit_and_logs_the_gaps(
    tiny_config: Callable[..., DictConfig], tmp_path: Path, user_error: Any
) -> None:
    words = ["loss=adversarial", "loss.width=4", "steps=4", "validate_every=1", "test=false"]
    rhythm = ["solver.every=1", "solver.steps=1"]
    train(
        tiny_config(
            *words, *rhythm, f"+callbacks.cut={{_target_: {__name__}._snapshot, run_dir: {tmp_path / 'run'}}}"
        )
    )
    (tmp_path / "run").rename(tmp_path / "straight")
    (tmp_path / "run-cut").rename(tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 2
    train(tiny_config(*words, *rhythm, f"checkpoint={last}"))
    straight, resumed = (
        read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("straight", "run")
    )
    start: nn.Module = AdversarialLoss(PixelLoss(), width=4)
    for key, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    assert not torch.equal(
        straight["state_dict"]["loss.discriminators.detail.0.weight"],
        start.state_dict()["discriminators.detail.0.weight"],
    )
    with (tmp_path / "straight/metrics.csv").open(newline="") as file:
        names = {name for name, value in next(csv.DictReader(file)).items() if value}
    assert {f"train/loss/adversarial/{name}" for name in ("intensity", "target", "detail")} <= names
    assert {
        f"train/lower/adversarial/{name}_{k}" for name in ("target", "detail") for k in ("gap", "penalty")
    } <= names
    line = user_error(train, tiny_config(*words, "solver=joint", "overwrite=true"))
    assert line.startswith("solver=joint cannot train the loss 'adversarial'")
    assert line.endswith("take solver=alternate")
