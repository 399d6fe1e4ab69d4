import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from clipfuse.bilevel import Alternate, GaussNewton, Joint, ValuePenalty
from clipfuse.bilevel.problem import Solver
from clipfuse.cli.config import conf_dir
from clipfuse.errors import UserError
from clipfuse.files import file_sha256, read_yaml
from clipfuse.losses.pixel import PixelLoss
from clipfuse.losses.task import TaskLoss
from clipfuse.losses.weighted_sum import BilevelWeightedSum, weighted_sum
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.segmenter import Segmenter, weights_of
from clipfuse.runs.train import train
from clipfuse.testing.loss_contract import LossContract, example_inputs, part_of
from clipfuse.training.stepping import LossProblem
from clipfuse.types import IGNORED, LossInputs

SOLVERS: dict[str, Callable[[], Solver]] = {
    "joint": Joint,
    "alternate": lambda: Alternate(adam, steps=2, every=1),
    "gauss_newton": lambda: GaussNewton(adam, steps=2, every=1),
    "value_penalty": lambda: ValuePenalty(adam, z_steps=2, y_steps=2, every=1),
}


def adam(values: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.Adam(values, lr=3e-3)


def make(classes: int = 3, **options: Any) -> TaskLoss:
    options = {"fidelity": PixelLoss(), "network": Segmenter(classes, width=4), "warmup": 0, **options}
    return TaskLoss(**options).train()


def labelled(side: int = 24, classes: int = 3, count: int = 4) -> LossInputs:
    """Coloured images of float64 with blocks of classes, some pixels of which have none."""
    generator = torch.Generator().manual_seed(5)
    small = torch.randint(0, classes, (count, side // 4, side // 4), generator=generator)
    maps = small.repeat_interleave(4, 1).repeat_interleave(4, 2)
    maps[:, :3, ::2] = IGNORED
    inputs = example_inputs(count, side)
    planes = {name: getattr(inputs, name).detach().double() for name in ("fused", "infrared", "visible")}
    chroma = 0.5 + 0.2 * torch.rand(count, 2, side, side, generator=generator).double()
    planes |= {"fused": planes["fused"].requires_grad_(), "chroma": chroma, "fused_chroma": chroma}
    return replace(inputs, **planes, classes=maps)


class TestLearned(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        return loss_node("task", "loss.warmup=0", "loss.network.width=4")


class TestFrozen(LossContract):
    @pytest.fixture
    def node(self, loss_node: Callable[..., dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
        torch.save(weights_of(Segmenter(16, 4, seed=3)), tmp_path / "weights.pt")
        more = ["loss.frozen=true", f"loss.weights={tmp_path / 'weights.pt'}"]
        return loss_node("task", "loss.warmup=0", "loss.network.width=4", *more)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_equals_a_plain_second_implementation(balance: float) -> None:
    """One image after another, by torch's own weighted cross-entropy."""
    loss, inputs = make(weight=0.7, balance=balance, held_out=0.4).double(), labelled()
    assert inputs.classes is not None
    state = loss.prepare(inputs)
    judged = state.judged
    assert 0 < len(judged) < 4
    parts: dict[str, list[Tensor]] = {"judged": [], "learnt": []}
    for index in range(4):
        image = luma_chroma_to_rgb(inputs.fused[index], inputs.chroma[index])
        classes = inputs.classes[index]
        counts = torch.tensor([max(int((classes == each).sum()), 1) for each in range(3)])
        entropy = nn.functional.cross_entropy(
            loss.network(image[None]), classes[None], counts.double() ** -balance, ignore_index=IGNORED
        )
        parts["judged" if index in judged else "learnt"].append(entropy)
    upper = PixelLoss()(inputs).total + 0.7 * torch.stack(parts["judged"]).mean()
    lower = torch.stack(parts["learnt"]).mean()
    values = loss.lower_parameters()
    for found, expected in (
        (loss.upper_loss(state, values).total, upper),
        (loss.lower_loss(state, values).total, lower),
    ):
        # float64 sums over some 2,000 pixels in another order
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        wanted = [inputs.fused, *values]
        theirs = torch.autograd.grad(expected, wanted, retain_graph=True)
        ours = torch.autograd.grad(found, wanted, retain_graph=True)
        for mine, plain in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, plain, rtol=1e-8, atol=1e-10)


def test_pixels_and_images_without_labels_count_nowhere() -> None:
    loss, inputs = make(held_out=0.0).double(), labelled()
    assert inputs.classes is not None
    none = replace(inputs, classes=torch.full_like(inputs.classes, IGNORED))
    output = loss(none)
    assert float(output.terms["task"]) == 0
    gradients = [torch.autograd.grad(each.total, inputs.fused)[0] for each in (output, PixelLoss()(none))]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    state = loss.prepare(none)
    values = loss.lower_parameters()
    slopes = torch.autograd.grad(loss.lower_loss(state, values).total, values)
    assert all(slope.eq(0).all() for slope in slopes)
    assert set(loss.eval()(none).terms) == {"intensity", "gradient", "task"}
    # One image without labels beside three with: their mean.
    one = inputs.classes.clone()
    one[0] = IGNORED
    mean = loss(replace(inputs, classes=one)).terms["task"]
    rest = loss(part_of(inputs, [1, 2, 3])).terms["task"]
    torch.testing.assert_close(mean, rest, rtol=1e-10, atol=0)


def test_samples_are_divided_once_by_seed_and_name() -> None:
    loss, inputs = make().double(), labelled()
    state = loss.prepare(inputs)
    judged, learnt = state.judged, state.learnt
    assert sorted([*judged, *learnt]) == [0, 1, 2, 3]
    assert min(len(judged), len(learnt)) > 0
    later = loss.prepare(replace(part_of(inputs, [3, 2, 1, 0]), step=7))
    assert [3 - index for index in later.judged] == judged[::-1]
    fidelity = torch.autograd.grad(state.fidelity.total, inputs.fused, retain_graph=True)[0]
    values = loss.lower_parameters()
    upper = torch.autograd.grad(loss.upper_loss(state, values).total, inputs.fused, retain_graph=True)[0]
    lower = torch.autograd.grad(loss.lower_loss(state, values).total, inputs.fused)[0]
    moved = [index for index, each in enumerate(upper - fidelity) if float(each.abs().max()) > 1e-12]
    assert moved == judged
    assert [index for index, each in enumerate(lower) if float(each.abs().max()) > 0] == learnt
    assert len(loss.eval().prepare(inputs).judged) == 4
    draws = {tuple(loss.train().prepare(replace(inputs, seed=seed)).judged) for seed in range(8)}
    assert len(draws) > 3


def test_a_batch_may_lack_one_kind_of_sample() -> None:
    loss, inputs = make(), example_inputs()
    for held_out, part in ((1e-9, "judged"), (1 - 1e-9, "learnt")):
        loss.held_out = held_out
        state, values = loss.prepare(inputs), loss.lower_parameters()
        assert getattr(state, part) == []
        level = loss.upper_loss if part == "judged" else loss.lower_loss
        found = level(state, values)
        assert float(found.terms["task"]) == 0
        slopes = torch.autograd.grad(found.total, values)
        assert all(slope.eq(0).all() for slope in slopes)


def test_the_warm_up_trains_the_task_network_alone() -> None:
    loss, inputs = make(warmup=5, held_out=0.0), example_inputs()
    for step, guided in ((4, False), (5, True)):
        state = loss.prepare(replace(inputs, step=step))
        values = loss.lower_parameters()
        total, f = loss.upper_loss(state, values).total, loss.lower_loss(state, values).total
        assert torch.equal(total, state.fidelity.total) is not guided
        gradient = torch.autograd.grad(f, [inputs.fused, values[0]], allow_unused=True)
        assert (gradient[0] is not None) is guided
        assert gradient[1].abs().max() > 0
    assert not torch.equal(loss.eval()(replace(inputs, step=0)).total, state.fidelity.total)


class Head:
    """The loss on one batch, of whose task network the last layer alone is the lower level: f is convex."""

    def __init__(self, loss: TaskLoss, inputs: LossInputs) -> None:
        self.loss, self.state = loss, loss.prepare(inputs)
        self.fixed = [value.detach() for value in loss.lower_parameters()[:-2]]
        self.values = [value.detach().clone() for value in loss.lower_parameters()[-2:]]

    def lower_parameters(self) -> Sequence[Tensor]:
        return self.values

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return self.loss.upper_loss(self.state, [*self.fixed, *lower]).total

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        return self.loss.lower_loss(self.state, [*self.fixed, *lower]).total

    def flat(self, level: Callable[[Sequence[Tensor]], Tensor], y: Tensor) -> Tensor:
        sizes = [value.numel() for value in self.values]
        parts = y.split(sizes)
        return level([part.view_as(value) for part, value in zip(parts, self.values, strict=True)])

    def move_to(self, y: Tensor) -> None:
        parts = y.split([value.numel() for value in self.values])
        self.values = [
            part.reshape(each.shape).clone() for part, each in zip(parts, self.values, strict=True)
        ]

    def hessian(self, y: Tensor) -> Tensor:
        found = torch.autograd.functional.hessian(lambda each: self.flat(self.lower_loss, each), y)
        assert isinstance(found, Tensor)
        return found

    def solved(self) -> Tensor:
        """Return argmin f, by Newton's method; one level added to all logits of a pixel changes nothing."""
        y = torch.cat([value.flatten() for value in self.values])
        for _ in range(12):
            y = y.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.flat(self.lower_loss, y), y)
            if float(slope.norm()) < 1e-12:
                break
            y = y - torch.linalg.pinv(self.hessian(y.detach()), rtol=1e-10, hermitian=True) @ slope
        return y.detach()


def convex(**options: Any) -> tuple[TaskLoss, LossInputs]:
    """Return a loss and inputs for which the last layer cannot separate the classes: labels are noise."""
    inputs = labelled(side=16)
    generator = torch.Generator().manual_seed(9)
    noise = torch.randint(0, 3, (4, 16, 16), generator=generator)
    # Smooth fidelity: finite differences of an L1 norm cross its corners.
    fidelity = PixelLoss(0.0, 0.0, 1.0)
    return make(fidelity=fidelity, **options).double(), replace(inputs, classes=noise)


def slope_by_differences(loss: TaskLoss, inputs: LossInputs, direction: Tensor, step: float = 1e-6) -> float:
    """Return d F(x, y*(x)) along a direction of the fused images, f solved anew on both sides.

    With steps of 1e-5 and more, ReLUs of the network change their side in between.
    """
    values = []
    for sign in (1, -1):
        moved = replace(inputs, fused=(inputs.fused + sign * step * direction).detach())
        problem = Head(loss, moved)
        values.append(float(problem.flat(problem.upper_loss, problem.solved()).detach()))
    return (values[0] - values[1]) / (2 * step)


class Preconditioned(torch.optim.Optimizer):
    """Newton's steps with one fixed inverse of the Hessian, for a start near the solution."""

    def __init__(self, values: list[Tensor], inverse: Tensor) -> None:
        super().__init__(values, {})
        self.inverse = inverse

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        values = self.param_groups[0]["params"]
        if len(self.inverse) != sum(value.numel() for value in values):
            return  # the trial of a solver
        move = self.inverse @ torch.cat([value.grad.flatten() for value in values])
        for value, part in zip(values, move.split([value.numel() for value in values]), strict=True):
            value -= part.view_as(value)


class Idle:
    """In the place of the optimiser of x."""

    def zero_grad(self) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("held_out", [0.0, 0.5])
def test_hypergradients_against_finite_differences(held_out: float) -> None:
    """The minimum of f moves with the images; with one task loss on both levels that changes nothing."""
    loss, inputs = convex(held_out=held_out, weight=0.8)
    direction = torch.randn(inputs.fused.shape, generator=torch.Generator().manual_seed(2)).double()
    expected = slope_by_differences(loss, inputs, direction)
    problem = Head(loss, inputs)
    y = problem.solved()
    problem.move_to(y)
    inverse = torch.linalg.pinv(problem.hessian(y), rtol=1e-10, hermitian=True)

    def along(solver: Solver) -> float:
        found: list[Tensor] = []

        def backward(total: Tensor) -> None:
            found.extend(torch.autograd.grad(total, inputs.fused, retain_graph=True))

        solver.step(problem, Idle(), backward=backward)
        return float((found[0] * direction).sum())

    def newton(values: list[Tensor]) -> torch.optim.Optimizer:
        return Preconditioned(values, inverse)

    def value_penalty(w: float) -> float:
        steps = ValuePenalty(newton, z_steps=9, y_steps=9, w0=w, w_max=w, power=0.0, mu0=0.0, theta0=0.0)
        return along(steps)

    # The implicit function theorem, from the loss's own second derivatives.
    free = y.clone().requires_grad_()
    (f_y,) = torch.autograd.grad(problem.flat(problem.lower_loss, free), free, create_graph=True)
    upper = problem.flat(problem.upper_loss, free)
    upper_x, upper_y = torch.autograd.grad(upper, [inputs.fused, free], retain_graph=True)
    (response,) = torch.autograd.grad(f_y @ (inverse @ upper_y), inputs.fused, retain_graph=True)
    direct = float((upper_x * direction).sum())
    # Central differences of float64 at 1e-6: about 1e-16 / 1e-6 of values near 1.
    assert direct - float((response * direction).sum()) == pytest.approx(expected, rel=1e-6)
    # What the solvers give the fusion network.
    assert along(Alternate(newton, steps=1, every=1)) == pytest.approx(direct, rel=1e-6)
    if held_out:
        assert abs(direct - expected) > 0.1 * abs(expected)  # alternation leaves the response out
        errors = [abs(value_penalty(w) - expected) for w in (1e3, 1e4)]
        assert errors[0] < 0.1 * abs(direct - expected)
        assert errors[0] / errors[1] == pytest.approx(10, rel=0.25)  # the bias falls as 1 / w
    else:
        assert direct == pytest.approx(expected, rel=1e-6)
        assert value_penalty(1e2) == pytest.approx(expected, rel=1e-6)
        # Away from the minimum the quotient of the rank-one method is the weight: no guidance is left.
        problem.move_to(y + 0.1)
        problem.values[0][0] += 0.3
        (fidelity,) = torch.autograd.grad(problem.state.fidelity.total, inputs.fused, retain_graph=True)
        found = along(GaussNewton(lambda values: torch.optim.SGD(values, lr=1e-9), damping=1e-12))
        assert found == pytest.approx(float((fidelity * direction).sum()), rel=1e-4)


def test_what_cannot_work_is_refused_by_name(tmp_path: Path) -> None:
    inputs = labelled()
    with pytest.raises(ValueError, match="task loss: sample-0 has class 2, and the task network has 2 c"):
        make(classes=2).setup(part_of(inputs, [0]))
    with pytest.raises(UserError, match=r"0 to 1; set loss\.network\.classes to the number of"):
        make(classes=2)(inputs)
    with pytest.raises(ValueError, match="the loss task needs classes, which the data do not have"):
        make().setup(replace(inputs, classes=None))
    with pytest.raises(UserError, match="maps of classes"):
        make()(replace(inputs, classes=None))
    for options, message in (
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"balance": 1.5}, "balance 1.5"),
        ({"weight": -1.0}, "weight is -1.0; expected 0 or more"),
        ({"frozen": True}, "frozen=true needs weights, the file of a trained network"),
        ({"network": nn.BatchNorm2d(3)}, "BatchNorm2d has batch norm, whose running statistics"),
        ({"network": nn.Conv2d(3, 2, 3)}, r"Conv2d gives \(1, 2, 30, 30\) for an image"),
        ({"weights": str(tmp_path / "no.pt")}, "task loss: no file of the network's weights at"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)


def test_a_frozen_network_is_kept_and_has_no_lower_level(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(weights_of(Segmenter(3, 4, seed=8)), path)
    loss, inputs = make(frozen=True, weights=str(path)), example_inputs()
    assert loss.lower_parameters() == ()
    loss(inputs).total.backward()
    assert all(value.grad is None and not value.requires_grad for value in loss.network.parameters())
    assert len(loss.prepare(inputs).judged) == 4
    with pytest.raises(ValueError, match="a frozen task network has no lower level"):
        loss.lower_loss(loss.prepare(inputs), ())
    learned = make(weights=str(path), held_out=0.0)
    assert torch.equal(learned(inputs).total, loss(inputs).total)
    # Other architectures may be frozen, with batch norm too: it stays in evaluation mode.
    other = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    torch.save(other.state_dict(), path)
    mean = other.get_buffer("1.running_mean")
    odd = make(network=other, frozen=True, weights=str(path))
    odd(inputs)
    assert torch.equal(mean, torch.zeros(2))
    assert odd.notices(1000) == []
    assert "has no effect" in make(network=other, frozen=True, weights=str(path), held_out=0.2).notices(9)[0]


def test_a_network_may_return_its_logits_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Segmenter(3, 4)

        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": self.inner(images)}

    assert torch.equal(make(network=Named())(example_inputs()).total, make()(example_inputs()).total)


def test_notices() -> None:
    assert "loss.warmup=100 outlasts the 50 updates" in make(warmup=100).notices(50)[0]
    assert make(weight=0.0).notices(50) == ["loss.weight=0: the network is trained by the fidelity alone"]


def test_a_sum_takes_its_lower_level() -> None:
    joined = weighted_sum({"task": 2.0, "pixel": 1.0}, {"task": make(), "pixel": PixelLoss()})
    assert isinstance(joined, BilevelWeightedSum)
    assert joined.bilevel == "task"


def test_a_validation_logs_overlap_and_shows_maps() -> None:
    loss = make(network=Segmenter(["ground", "car"], 4)).eval()
    inputs = example_inputs()
    assert inputs.classes is not None

    def perfect(images: Tensor) -> Tensor:
        assert inputs.classes is not None
        classes = inputs.classes.masked_fill(inputs.classes == IGNORED, 1)[: len(images)]
        return nn.functional.one_hot(classes, 2).movedim(-1, 1).float()

    loss.network.forward = perfect
    assert float(loss(inputs).terms["iou"]) == 1
    shown = loss.artifacts(inputs)
    assert shown is not None
    assert shown.texts == {"iou": "ground 1.00, car 1.00"}
    (_, fused), (_, labels), (_, found) = shown.images
    assert fused.shape == labels.shape == found.shape == (3, 48, 48)
    assert torch.equal(labels[:, 1:], found[:, 1:])
    assert labels[:, 0].eq(0.5).all()  # no label
    assert loss.artifacts(replace(inputs, classes=None)) is None


@pytest.mark.parametrize("name", SOLVERS)
def test_each_solver_lowers_both_losses(name: str) -> None:
    """Free images in the place of a fusion network: 30 updates."""
    loss, inputs, solver = make(weight=0.3), example_inputs(), SOLVERS[name]()
    free = torch.logit(inputs.fused.detach().clamp(0.01, 0.99)).requires_grad_()
    nested = not isinstance(solver, Joint)
    for value in loss.lower_parameters():
        value.requires_grad_(not nested)
    upper = torch.optim.Adam([free, *(() if nested else loss.lower_parameters())], lr=0.01)
    rows = [
        solver.step(
            LossProblem(loss, replace(inputs, fused=torch.sigmoid(free), step=step)),
            upper,
            backward=Tensor.backward,
        )
        for step in range(30)
    ]
    assert rows[-1]["f"] < 0.7 * rows[0]["f"]
    assert rows[-1]["F"] < 0.9 * rows[0]["F"]


def _snapshot(run_dir: str) -> Any:
    """Copy the run folder in the third update, as a power cut would leave it."""
    from lightning.pytorch.callbacks import LambdaCallback

    def keep(trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            shutil.copytree(run_dir, f"{run_dir}-cut", ignore=shutil.ignore_patterns("status.json"))

    return LambdaCallback(on_train_batch_end=keep)


def test_a_resumed_training_is_bit_equal_and_its_network_can_be_frozen(
    tiny_config: Callable[..., DictConfig], tmp_path: Path
) -> None:
    """Of rendered scenes, in bf16, with the state of y and z; no label is needed to fuse."""

    def config(*overrides: str) -> DictConfig:
        small = ["steps=4", "validate_every=1", "test=false", "trainer.precision=bf16-mixed"]
        small += ["loss=task", "loss.warmup=1", "loss.network.width=4"]
        found = tiny_config(*small, *overrides)
        found.data = OmegaConf.load(conf_dir() / "data/synthetic.yaml")
        found.data.update({"train": 4, "val": 1, "test": 1, "size": 64})
        return found

    solver = ["solver=value_penalty", "solver.every=2"]
    cut = f"+callbacks.cut={{_target_: {__name__}._snapshot, run_dir: {tmp_path / 'run'}}}"
    train(config(*solver, cut))
    (tmp_path / "run").rename(tmp_path / "straight")
    (tmp_path / "run-cut").rename(tmp_path / "run")
    last = tmp_path / "run/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 2
    train(config(*solver, f"checkpoint={last}"))
    straight, resumed = (
        read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("straight", "run")
    )
    assert straight["global_step"] == resumed["global_step"] == 4
    for key, value in straight["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key
    start, end = (Segmenter(16, 4), straight["state_dict"])
    moved = {name: end[f"loss.network.{name}"] for name in start.state_dict()}
    assert not torch.equal(moved["head.weight"], start.head.weight)
    frozen = tmp_path / "frozen"
    train(config("loss.frozen=true", f"loss.weights={last}", f"run_dir={frozen}", "validate_every=4"))
    kept = read_checkpoint(frozen / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(kept[f"loss.network.{name}"], value) for name, value in moved.items())
    recorded = read_yaml(frozen / "config.yaml")["loss_files"]
    assert recorded == {"weights": file_sha256(last)}
