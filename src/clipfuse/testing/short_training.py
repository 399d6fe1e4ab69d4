"""A short training of a small network under a loss, without Lightning, and comparisons of its states."""

import copy
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from clipfuse.bilevel import Alternate, Joint, Solver, Unrolled
from clipfuse.losses.base import FusionLoss
from clipfuse.ops.modes import evaluating
from clipfuse.testing.examples import SmallNetwork, pass_of
from clipfuse.training.accumulation import AccumulatingOptimizer
from clipfuse.training.parameter_groups import grouped, optimizer_of
from clipfuse.training.passes import Teacher
from clipfuse.training.stepping import LossProblem, both_levels, lower_parameters
from clipfuse.types import LossInputs

Node = Mapping[str, Any]


def build_loss(node: Node) -> FusionLoss:
    """Build a loss as a run does: each of its modules is in the mode that the constructor left it in."""
    from clipfuse.runs.build import build

    torch.manual_seed(0)
    loss = build(node, "loss")
    assert isinstance(loss, FusionLoss), f"{type(loss).__name__} is no FusionLoss"
    _clips[:] = clips_of(loss) or _clips
    return loss


_clips: list[Any] = []  # those of the last loss that had one: a CLIP in use is not loaded again


def clips_of(loss: FusionLoss) -> list[Any]:
    """Return the CLIPs that a loss and its parts keep as `clip`."""
    return [clip for part in loss.modules() if (clip := getattr(part, "clip", None)) is not None]


@contextmanager
def as_a_training_does(what: str) -> Iterator[None]:
    """Inside, an error of the loss becomes a failed check that explains what a training does."""
    try:
        yield
    except Exception as error:
        if isinstance(error, AssertionError):
            raise
        raise AssertionError(
            f"a training {what}; there the loss raised {type(error).__name__}: {error}"
        ) from error


def state_of(loss: FusionLoss) -> dict[str, Tensor]:
    """Return copies of all tensors of the loss's state."""
    return {
        name: value.detach().clone() for name, value in loss.state_dict().items() if isinstance(value, Tensor)
    }


def unlike(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> list[str]:
    """Return the names under which two states differ."""
    return [
        name
        for name in before.keys() | after.keys()
        if name not in before or name not in after or not torch.equal(before[name], after[name])
    ]


def default_solver(loss: FusionLoss) -> Solver:
    """Return `Joint` for a loss of one level, else `Alternate` or, where a loss needs it, `Unrolled`."""
    if not lower_parameters(loss):
        return Joint()
    kinds = getattr(loss, "solvers", None)
    kind = Unrolled if kinds is not None and "alternate" not in kinds else Alternate
    return kind(partial(torch.optim.Adam, lr=3e-3), steps=1, every=2)


class ShortTraining:
    """A training of `SmallNetwork` on one batch: its updates, its validation and its checkpoint.

    Args:
        loss: the plugin, after its `setup`.
        inputs: the batch; its `fused` is replaced by what the network gives.
        solver: takes the steps; None: that of `default_solver`.

    Attributes:
        updates: number of updates so far.
    """

    def __init__(self, loss: FusionLoss, inputs: LossInputs, solver: Solver | None = None) -> None:
        solver = default_solver(loss) if solver is None else solver
        if not isinstance(solver, Joint):
            for value in lower_parameters(loss):
                value.requires_grad_(False)  # the solver moves them
        self.loss, self.solver, self.inputs, self.updates = loss, solver, inputs, 0
        self.network = SmallNetwork()
        decay = loss.required_teacher()
        self.teacher = None if decay is None else Teacher(self.network, decay)
        groups = grouped(nn.ModuleList([self.network, loss]), loss)
        optimizer = optimizer_of(partial(torch.optim.Adam, lr=1e-3), groups)
        constant = LambdaLR(optimizer, lambda step: 1.0)
        self.stepper = AccumulatingOptimizer(optimizer, constant, groups, 1, 1.0)

    def batch(self, inputs: LossInputs | None = None) -> LossInputs:
        """Return the batch with the images that the network now fuses."""
        inputs = self.inputs if inputs is None else inputs
        network = pass_of(self.network)
        fused = network(inputs.infrared, inputs.visible).fused
        teacher = None if self.teacher is None else pass_of(self.network, self.teacher.weights)
        more: dict[str, Any] = {
            "step": self.updates,
            "total_steps": 4,
            "network": network,
            "teacher": teacher,
        }
        return replace(inputs, fused=fused, **more)

    def update(self) -> float:
        """Take one step of network and loss, and return the loss."""
        problem = LossProblem(self.loss, self.batch())

        def backward(total: Tensor) -> None:
            total.backward()
            self.stepper.check(problem)

        self.solver.step(problem, self.stepper, backward=backward)
        self.updates += 1
        if self.teacher is not None:
            self.teacher.follow(self.updates)
        return problem.upper.total

    def validate(self, inputs: LossInputs) -> Tensor:
        """Return the loss of one pair in eval mode without gradient, and make what the loss shows of it."""
        with evaluating(self.loss), torch.no_grad():
            batch = self.batch(inputs)
            self.loss.artifacts(batch)
            return both_levels(self.loss, batch)[0].total

    def checkpoint(self) -> bytes:
        """Return what a checkpoint holds, as a file holds it."""
        file = io.BytesIO()
        torch.save(
            {
                "network": self.network.state_dict(),
                "loss": self.loss.state_dict(),
                "optimizer": self.stepper.optimizer.state_dict(),  # type: ignore[attr-defined]
                "solver": self.solver.state_dict(),
                "teacher": None if self.teacher is None else self.teacher.weights,
                "updates": self.updates,
            },
            file,
        )
        return file.getvalue()

    def load(self, checkpoint: bytes) -> None:
        """Go on from a checkpoint; like a resumed run, it takes tensors and plain values alone."""
        state: dict[str, Any] = torch.load(io.BytesIO(checkpoint), weights_only=True)
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])  # type: ignore[attr-defined]
        self.solver.load_state_dict(copy.deepcopy(state["solver"]))
        if self.teacher is not None:
            self.teacher.load(state["teacher"])
        self.updates = state["updates"]
