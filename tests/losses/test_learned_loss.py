import csv
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.func import functional_call

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.bilevel import Unrolled
from clipfuse.cli.config import conf_dir
from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss
from clipfuse.losses.learned_loss import LearnedLoss
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.weighted_sum import weighted_sum
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.segmenter import Segmenter
from clipfuse.runs.train import train
from clipfuse.testing.loss_contract import LossContract, example_inputs
from clipfuse.training.stepping import LossProblem, both_levels
from clipfuse.types import IGNORED, FusionOutput, LossInputs


class Pass:
    """A further pass of a network, as a training gives it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(
        self,
        infrared: Tensor,
        visible: Tensor,
        parameters: Mapping[str, Tensor] | None = None,
        chroma: Tensor | None = None,
    ) -> FusionOutput:
        output = functional_call(self.network, dict(parameters or {}), (infrared, visible))
        assert isinstance(output, FusionOutput)
        return output

    def parameters(self) -> dict[str, Tensor]:
        return dict(self.network.named_parameters())


class Smooth(nn.Module):
    """A fusion network without corners, whose second derivatives finite differences can measure."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = nn.Sequential(
                nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 3, padding=1)
            )

    def forward(self, infrared: Tensor, visible: Tensor) -> FusionOutput:
        return FusionOutput(self.layers(torch.cat([infrared, visible], 1)).sigmoid())


def batch(network: nn.Module, count: int = 4, side: int = 16) -> LossInputs:
    inputs = example_inputs(count, side)
    infrared, visible = inputs.infrared.double(), inputs.visible.double()
    chroma = torch.full((count, 2, side, side), 0.4).double()
    fused = network(infrared, visible).fused
    planes = {"infrared": infrared, "visible": visible, "chroma": chroma, "fused_chroma": chroma}
    return replace(inputs, **planes, fused=fused, network=Pass(network))


def make(judge: str = "reconstruction", **options: Any) -> LearnedLoss:
    task = Segmenter(3, width=4, seed=2) if judge == "task" else None
    loss = LearnedLoss(judge, task, width=4, **options).double().train()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # the weights of the sources differ from one half, and f from a flat start
        last = loss.proposal[-1].weight
        last.copy_(torch.randn(last.shape, generator=generator, dtype=torch.float64))
    return loss


class TestReconstruction(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("learned_loss", "loss.width=4", "loss.task.width=4")


class TestTask(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("learned_loss", "loss.width=4", "loss.judge=task", "loss.task.width=4")


@pytest.mark.parametrize("judge", ["reconstruction", "task"])
def test_equals_a_plain_second_implementation(judge: str) -> None:
    """One pixel after another."""
    loss, network = make(judge, intensity_weight=0.7, gradient_weight=0.4), Smooth().double()
    inputs = batch(network, count=2, side=7)
    assert inputs.classes is not None
    lower = loss.lower_parameters()
    weights = loss.proposal(torch.cat([inputs.infrared, inputs.visible], 1))
    intensity, gradient = torch.zeros(()).double(), torch.zeros(()).double()
    padded = {
        name: nn.functional.pad(getattr(inputs, name)[:, 0], (1, 1, 1, 1))
        for name in ("fused", "infrared", "visible")
    }
    for sample in range(2):
        for row in range(7):
            for column in range(7):
                at = (sample, 0, row, column)
                exps = [weights[sample, band, row, column].exp() for band in (0, 1)]
                for exp, image in zip(exps, (inputs.infrared, inputs.visible), strict=True):
                    intensity = intensity + (exp / (exps[0] + exps[1]) * (image[at] - inputs.fused[at])) ** 2
                for turned in (False, True):
                    slopes = {}
                    for name, image in padded.items():
                        area = image[sample, row : row + 3, column : column + 3]
                        area = area.T if turned else area
                        slopes[name] = (area[:, 2] - area[:, 0]) @ torch.tensor([1.0, 2.0, 1.0]).double()
                    larger = max(slopes["infrared"], slopes["visible"], key=lambda each: float(each.abs()))
                    gradient = gradient + (slopes["fused"] - larger).abs()
    found = loss.upper_loss(loss.prepare(inputs), lower)
    expected = (0.7 * intensity + 0.4 * gradient) / 98
    # float64 sums of some 200 terms in another order
    torch.testing.assert_close(found.total, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.terms["weight_infrared"], weights.softmax(1)[:, 0].mean().detach())
    if judge == "reconstruction":
        planes = loss.judge(inputs.fused).sigmoid()
        judged = (planes[:, :1] - inputs.infrared).abs().mean() + (
            planes[:, 1:] - inputs.visible
        ).abs().mean()
    else:
        logits = loss.judge(luma_chroma_to_rgb(inputs.fused, inputs.chroma))
        each = [
            nn.functional.cross_entropy(logits[n : n + 1], inputs.classes[n : n + 1], ignore_index=IGNORED)
            for n in range(2)
        ]
        judged = torch.stack(each).mean()
    torch.testing.assert_close(
        loss.lower_loss(loss.prepare(inputs), lower).total, judged, rtol=1e-10, atol=1e-12
    )


class Recorder(torch.optim.Optimizer):
    """Moves nothing, and keeps the gradients it is given."""

    def __init__(self, values: list[Tensor], found: list[Tensor]) -> None:
        super().__init__(values, {})
        self.found = found

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.found[:] = [value.grad.clone() for value in self.param_groups[0]["params"]]


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("judge", ["reconstruction", "task"])
def test_the_hypergradient_equals_finite_differences(judge: str, steps: int) -> None:
    """Of f after real steps of the network, by torch's own descent, in a direction of the loss network alone.

    And of the judge: each moves by a random direction. The L1 terms have corners, which small steps avoid.
    """
    loss, network, rate = make(judge, gradient_weight=0.01), Smooth().double(), 0.5
    inputs, found = batch(network), []
    solver = Unrolled(lambda values: Recorder(values, found), steps=steps, rate=rate)
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    lower = [value.detach().clone() for value in loss.lower_parameters()]
    solver.step(LossProblem(loss, inputs), still, backward=Tensor.backward)
    generator = torch.Generator().manual_seed(6)
    names = [name for name, _ in loss.named_parameters()]

    def ahead(values: Sequence[Tensor]) -> float:
        moved = Smooth().double()
        optimizer = torch.optim.SGD(moved.parameters(), lr=rate)
        even, odd = (
            (inputs.infrared[part], inputs.visible[part]) for part in (slice(0, None, 2), slice(1, None, 2))
        )
        for _ in range(steps):
            optimizer.zero_grad()
            part = replace(inputs.part(slice(0, None, 2)), fused=moved(*even).fused)
            loss.upper_loss(part, values).total.backward()
            optimizer.step()
        part = replace(inputs.part(slice(1, None, 2)), fused=moved(*odd).fused)
        return float(loss.lower_loss(part, values).total.detach())

    for kind in ("proposal.", "judge."):
        direction = [
            torch.randn(value.shape, generator=generator, dtype=torch.float64) * name.startswith(kind)
            for name, value in zip(names, lower, strict=True)
        ]
        expected = sum(float((a * b).sum()) for a, b in zip(found, direction, strict=True))
        nudge = 1e-5 if kind == "proposal." else 1e-7  # the segmenter has corners
        sides = [
            ahead([value + sign * nudge * each for value, each in zip(lower, direction, strict=True)])
            for sign in (1, -1)
        ]
        assert abs(expected) > 1e-8
        assert expected == pytest.approx((sides[0] - sides[1]) / (2 * nudge), rel=1e-4)


def test_loss_network_and_judge_move_and_the_judge_learns() -> None:
    """The judge learns beside the loss network, while the network itself stays."""
    loss, network = make("task"), Smooth().double()
    solver = Unrolled(partial(torch.optim.Adam, lr=0.01), rate=0.5, every=1)
    still = torch.optim.SGD(network.parameters(), lr=0.0)
    before = [value.detach().clone() for value in loss.lower_parameters()]
    rows = [
        solver.step(LossProblem(loss, batch(network)), still, backward=Tensor.backward) for _ in range(20)
    ]
    assert rows[-1]["f"] < 0.9 * rows[0]["f"]  # what judges learns
    moved = dict(zip([name for name, _ in loss.named_parameters()], loss.lower_parameters(), strict=True))
    for (name, after), old in zip(moved.items(), before, strict=True):
        assert not torch.equal(after, old), name


def test_first_order_agrees_on_the_network_it_trains() -> None:
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    for first in found:
        network = ConvTiny(4, 1).double()
        torch.manual_seed(0)
        for value in network.parameters():
            nn.init.normal_(value, std=0.3)
        solver = Unrolled(
            lambda values, kept=found[first]: Recorder(values, kept), rate=0.1, first_order=first
        )
        still = torch.optim.SGD(network.parameters(), lr=0.0)
        solver.step(LossProblem(make(), batch(network)), still, backward=Tensor.backward)
    exact, difference = (torch.cat([each.flatten() for each in found[first]]) for first in (False, True))
    assert float((exact - difference).norm() / exact.norm()) < 0.02  # of a network with corners


def test_a_step_ahead_needs_the_network() -> None:
    network = Smooth().double()
    problem = LossProblem(make(), replace(batch(network), network=None))
    solver = Unrolled(partial(torch.optim.Adam, lr=0.01), rate=0.5)
    with pytest.raises(UserError, match=r"the loss 'learned_loss' have no inputs.network, which a training"):
        solver.step(problem, torch.optim.SGD(network.parameters(), lr=0.0), backward=Tensor.backward)


def test_the_weights_are_shown_and_begin_at_one_half() -> None:
    loss, inputs = LearnedLoss(width=4).eval(), example_inputs()
    output = loss(inputs)
    assert float(output.terms["weight_infrared"]) == pytest.approx(0.5)
    assert set(output.terms) == {"intensity", "gradient", "weight_infrared"}
    assert set(both_levels(loss, inputs)[1]) == {"reconstruction"}
    shown = loss.artifacts(inputs)
    assert shown.texts == {"weight of infrared": "0.500"}
    assert [name for name, _ in shown.images] == [
        *("fused", "weight of infrared", "infrared, reconstructed", "visible, reconstructed")
    ]
    assert {image.shape for _, image in shown.images} == {(1, 48, 48)}
    task = LearnedLoss("task", Segmenter(3, width=4), width=4).eval()
    assert set(both_levels(task, inputs)[1]) == {"task"}
    assert not both_levels(task, replace(inputs, classes=None))[1]
    assert "task" not in task(replace(inputs, classes=None)).terms
    assert len(task.artifacts(replace(inputs, classes=None)).images) == 2


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"judge": "detector"}, "judge is 'detector'; expected one of reconstruction, task"),
        ({"judge": "task"}, "judge=task needs a task network; set loss.task"),
        ({"judge": "task", "task": nn.Sequential(nn.BatchNorm2d(3))}, "Sequential has batch norm"),
        ({"intensity_weight": 0.0}, "intensity_weight is 0"),
        ({"gradient_weight": -1.0}, "gradient_weight is -1"),
        ({"width": 0}, "width is 0; expected 1 or more"),
    ],
)
def test_refuses_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        LearnedLoss(**options)


def test_data_without_classes_are_refused_for_the_task_alone() -> None:
    inputs = replace(example_inputs(), classes=None)
    LearnedLoss(width=4).setup(inputs)
    loss = LearnedLoss("task", Segmenter(3, width=4), width=4).train()
    with pytest.raises(ValueError, match="the loss learned_loss needs classes"):
        loss.setup(inputs)
    with pytest.raises(UserError, match="a batch has no maps of classes"):
        loss(inputs)
    inputs = example_inputs()
    assert inputs.classes is not None
    wrong = replace(inputs, classes=inputs.classes.masked_fill(inputs.classes == 1, 3))
    for check in (loss.check_labels, loss):
        with pytest.raises((UserError, ValueError), match="has class 3, and the task network has 3 classes"):
            check(wrong)
    LearnedLoss(width=4).check_labels(wrong)


def config_of(tiny_config: Callable[..., DictConfig], *overrides: str) -> DictConfig:
    """Of rendered scenes, which have classes, in bf16."""
    small = ["steps=4", "validate_every=1", "test=false", "trainer.precision=bf16-mixed", "loss=learned_loss"]
    found = tiny_config(*small, "loss.width=4", "loss.task.width=4", *overrides)
    found.data = OmegaConf.load(conf_dir() / "data/synthetic.yaml")
    found.data.update({"train": 4, "val": 1, "test": 1, "size": 64})
    return found


def _snapshot(run_dir: str) -> Any:
    """Copy the run folder in the third update, as a power cut would leave it."""
    from lightning.pytorch.callbacks import LambdaCallback

    def keep(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3 and not Path(f"{run_dir}-cut").exists():
            shutil.copytree(run_dir, f"{run_dir}-cut", ignore=shutil.ignore_patterns("status.json"))

    return LambdaCallback(on_train_batch_end=keep)


def test_a_training_resumes_bit_for_bit_and_logs_both_levels(
    tiny_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """With a task as judge, two micro-batches and a clipped gradient; the loss learns in every update."""
    more = ["loss.judge=task", "solver.every=1", "accumulate=2", "solver.steps=2", "gradient_clip=0.1"]
    cut = f"+callbacks.cut={{_target_: {__name__}._snapshot, run_dir: {tmp_path / 'run'}}}"
    train(config_of(tiny_config, *more, cut))
    (tmp_path / "run").rename(tmp_path / "straight")
    (tmp_path / "run-cut").rename(tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 2
    train(config_of(tiny_config, *more, f"checkpoint={last}"))
    straight, resumed = (
        read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("straight", "run")
    )
    assert straight["global_step"] == resumed["global_step"] == 4
    for key, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    start = LearnedLoss("task", Segmenter(16, 4), width=4).state_dict()
    for part in ("proposal.0.weight", "proposal.6.weight", "judge.head.weight"):
        assert not torch.equal(straight["state_dict"][f"loss.{part}"], start[part]), part
    with (tmp_path / "straight/metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    names = {name for name, value in row.items() if value}
    assert {
        f"train/loss/learned_loss/{term}" for term in ("intensity", "gradient", "weight_infrared")
    } <= names
    assert {"train/lower/learned_loss/task", "train/solver/F", "train/solver/f"} <= names


def test_what_cannot_be_differentiated_twice_is_one_line(
    tiny_config: Callable[..., DictConfig], user_error: Any
) -> None:
    """CLIP's attention on the CPU; differences in place of derivatives do without."""
    words = ["loss=promptfusion", "loss.warmup=0", "loss.fidelity.decomposition_weight=0", "solver=unrolled"]
    words += ["steps=2", "validate_every=2", "test=false", "overwrite=true"]
    line = user_error(train, tiny_config(*words))
    assert line.startswith("the loss 'promptfusion': network or loss cannot be differentiated twice")
    assert line.endswith("take solver.first_order=true")
    train(tiny_config(*words, "solver.first_order=true"))


def test_another_solver_is_refused(tiny_config: Callable[..., DictConfig], user_error: Any) -> None:
    for solver in ("joint", "alternate"):
        line = user_error(train, tiny_config("loss=learned_loss", f"solver={solver}"))
        assert line.startswith(f"solver={solver} cannot train the loss 'learned_loss'")
        assert line.endswith("take solver=unrolled")
    parts: dict[str, FusionLoss] = {"pixel": PixelLoss(), "learned": LearnedLoss(width=4)}
    joined = weighted_sum({"pixel": 1.0, "learned": 1.0}, parts)
    assert isinstance(joined, BilevelLoss)
    assert joined.solvers == {"unrolled"}
