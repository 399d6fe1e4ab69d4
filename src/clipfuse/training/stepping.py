"""How every loss trains the network: a loss and a batch form a problem, of which a solver takes one step."""

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.utils import get_total_norm

from clipfuse.bilevel.descent import many_ranks
from clipfuse.errors import UserError
from clipfuse.losses.base import BilevelLoss, FusionLoss, check_loss_output
from clipfuse.ops.ranks import gather_objects
from clipfuse.training.loss_errors import named_failures
from clipfuse.types import LossInputs, LossOutput, NetworkPass


def lower_parameters(loss: FusionLoss) -> Sequence[Tensor]:
    """Return the parameters of the loss's own lower level; none for a plain loss."""
    return loss.lower_parameters() if isinstance(loss, BilevelLoss) else ()


def both_levels(loss: FusionLoss, inputs: LossInputs) -> tuple[LossOutput, Mapping[str, Tensor]]:
    """Return the loss at its present parameters, and the terms of its lower loss, which shares its `prepare`.

    A loss without a lower level has none. This is what a validation computes.
    """
    if not isinstance(loss, BilevelLoss) or not (lower := loss.lower_parameters()):
        return loss(inputs), {}
    state = loss.prepare(inputs)
    upper = check_loss_output(loss, loss.upper_loss(state, lower))
    return upper, check_loss_output(loss, loss.lower_loss(state, lower)).terms


class NonFiniteLossError(UserError):
    """A loss or its gradient is NaN or infinite; the message names update, terms and samples."""


@dataclass
class Evaluation:
    """One evaluation of a loss, with its numbers on the host once they have been read.

    Attributes:
        level: "loss" or "lower loss".
        output: what the loss returned.
        total: its total.
        terms: its terms by name.
    """

    level: str
    output: LossOutput
    total: float = 0.0
    terms: Sequence[tuple[str, float]] = ()

    def scalars(self) -> list[Tensor]:
        """Return total and terms."""
        return [each.detach().reshape(()) for each in (self.output.total, *self.output.terms.values())]

    def read(self, numbers: Sequence[float]) -> None:
        """Take over the numbers of `scalars`."""
        self.total, self.terms = numbers[0], list(zip(self.output.terms, numbers[1:], strict=True))


class LossProblem:
    """One loss on one batch as a `BilevelProblem`: F is the upper, f the lower loss.

    A plain loss has no lower level: its lower parameters are empty.

    Args:
        loss: the plugin.
        inputs: the batch, with the fused images.

    Attributes:
        upper: the last evaluation of the upper loss, for the log; its numbers are read by `check_finite`.
        lower: the evaluation of the lower loss beside it, None without one.
    """

    upper: Evaluation
    lower: Evaluation | None = None

    def __init__(self, loss: FusionLoss, inputs: LossInputs) -> None:
        self.loss = loss
        self.inputs = inputs
        with named_failures(loss, inputs):
            self.state: Any = loss.prepare(inputs) if isinstance(loss, BilevelLoss) else None
        self._unread: list[Evaluation] = []

    def lower_parameters(self) -> Sequence[Tensor]:
        """Return the parameters of the loss's own lower level."""
        return lower_parameters(self.loss)

    def upper_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return F at the given lower values, and keep the evaluation in `upper`."""
        with named_failures(self.loss, self.inputs):
            if isinstance(self.loss, BilevelLoss):
                output = check_loss_output(self.loss, self.loss.upper_loss(self.state, lower))
            else:
                output = self.loss(self.inputs)
        if torch.is_grad_enabled() and self.inputs.fused.requires_grad and not output.total.requires_grad:
            raise UserError(
                f"the total of the loss {type(self.loss).__qualname__} has no gradient; expected one that "
                "depends on inputs.fused: leave out detach(), no_grad() and rounding"
            )
        self.upper = Evaluation("loss", output)
        self._unread.append(self.upper)
        return output.total

    def lower_loss(self, lower: Sequence[Tensor]) -> Tensor:
        """Return f at the given lower values."""
        if not isinstance(self.loss, BilevelLoss):
            raise UserError(
                f"the loss '{self.loss.name}' has no lower level; train it with the solver 'joint'"
            )
        with named_failures(self.loss, self.inputs):
            output = check_loss_output(self.loss, self.loss.lower_loss(self.state, lower))
        self._unread.append(Evaluation("lower loss", output))
        return output.total

    def upper_parameters(self) -> list[Tensor]:
        """Return the parameters of the network that learn."""
        return list(self._network().parameters().values())

    def at(self, upper: Sequence[Tensor], samples: slice) -> "LossProblem":
        """Return the problem on some of the samples, or on all if these are none, at other network values.

        It takes a further pass of the network; its evaluations are checked with those of this problem.
        """
        network = self._network()
        inputs = self.inputs.part(samples if self.inputs.sample_ids[samples] else slice(None))
        values = dict(zip(network.parameters(), upper, strict=True))
        output = network(inputs.infrared, inputs.visible, values, inputs.chroma)
        chroma = inputs.chroma if output.chroma is None else output.chroma
        moved = LossProblem(
            self.loss,
            replace(inputs, fused=output.fused, features=output.features, fused_chroma=chroma),
        )
        moved._unread = self._unread
        return moved

    def _network(self) -> NetworkPass:
        if self.inputs.network is None:
            raise UserError(
                f"the solver looks ahead of the network, and the inputs of the loss '{self.loss.name}' have "
                "no inputs.network, which a training gives"
            )
        return self.inputs.network

    def check_finite(self, gradients: Sequence[Tensor]) -> Tensor:
        """Require that all losses since the last check, and their gradient, are finite.

        Everything is read from the device at once: the host waits once per gradient. The same exchange of
        the ranks compares the names of their terms: means of unlike terms would be logged under one name.

        Args:
            gradients: of what is about to move.

        Returns:
            The L2 norm of the gradient, on the device.

        Raises:
            NonFiniteLossError: they are not, here or on another rank; all ranks raise it.
            UserError: another rank has other terms; all ranks raise it.
        """
        evaluations, self._unread = self._unread, []
        norm = get_total_norm(gradients)
        scalars = [each for evaluation in evaluations for each in evaluation.scalars()]
        kind = reduce(torch.promote_types, (each.dtype for each in scalars), torch.float32)
        numbers = torch.stack([each.to(norm.device, kind) for each in (*scalars, norm)])
        if many_ranks():
            totals = [each.output.total.detach().to(norm.device, kind) for each in evaluations]
            odd = torch.stack([*totals, norm.to(kind)]).isfinite().logical_not().any().to(kind)
            names = torch.tensor(float(_mark(evaluations)), device=norm.device, dtype=kind)
            largest = torch.stack([odd, names, -names])
            distributed.all_reduce(largest, distributed.ReduceOp.MAX)
            numbers = torch.cat([numbers, largest])
        read: list[float] = numbers.tolist()
        elsewhere = 0.0
        if many_ranks():
            *read, elsewhere, most, least = read
            if most != -least:
                raise UserError(self._unlike(evaluations))
        slope = read.pop()
        for evaluation in evaluations:
            count = 1 + len(evaluation.output.terms)
            evaluation.read(read[:count])
            del read[:count]
        if any(each.level == "loss" for each in evaluations):
            self.lower = next((each for each in evaluations if each.level != "loss"), None)
        wrong = next((each for each in evaluations if not math.isfinite(each.total)), None)
        if wrong is not None or not math.isfinite(slope) or elsewhere:
            self._check_labels()
            raise NonFiniteLossError(self._explain(evaluations or [self.upper], wrong, slope))
        return norm

    def _check_labels(self) -> None:
        """Refuse labels that a loss could not refuse without reading them in the middle of an update."""
        for part in self.loss.modules():
            if isinstance(part, FusionLoss):
                try:
                    part.check_labels(self.inputs)
                except ValueError as error:
                    raise UserError(str(error)) from error

    def _unlike(self, evaluations: Sequence[Evaluation]) -> str:
        """Return which terms the ranks have, the same on all ranks."""
        found = gather_objects([(each.level, sorted(each.output.terms)) for each in evaluations])
        for parts in zip_longest(*found, fillvalue=("loss", [])):
            if any(names != parts[0][1] for _, names in parts):
                ranks = "; ".join(
                    f"{', '.join(names) or 'none'} on rank {rank}" for rank, (_, names) in enumerate(parts)
                )
                return (
                    f"the {parts[0][0]} '{self.loss.name}' has other terms on other ranks at update "
                    f"{self.inputs.step}: {ranks}; expected the same names on all of them: return a term "
                    "that a batch lacks as 0"
                )
        return f"the loss '{self.loss.name}' has other terms on other ranks at update {self.inputs.step}"

    def _explain(self, evaluations: Sequence[Evaluation], wrong: Evaluation | None, slope: float) -> str:
        """Return what is not finite, the same on all ranks: they average gradients, so all may see it."""
        mine, others = "", gather_objects(self.inputs.sample_ids)
        if wrong is not None:
            mine = (
                f"the {wrong.level} '{self.loss.name}' is {wrong.total} {self._where(wrong)}; lower "
                "optimizer.lr or gradient_clip, or look at these samples"
            )
        if found := [each for each in gather_objects(mine) if each]:
            return found[0]
        if not math.isfinite(slope):
            last = next((each for each in evaluations if each.level == "loss"), evaluations[-1])
            samples = [name for each in others for name in each]
            mine = (
                f"the gradient of the {last.level} '{self.loss.name}' is {slope} "
                f"{self._where(last, samples)}, though the loss is {last.total:.4g}{self._birthplace(last)}; "
                "a root of 0 or a division by 0 has no gradient: add a small constant under it, or look at "
                "these samples"
            )
        return gather_objects(mine)[0]

    def _where(self, evaluation: Evaluation, samples: Sequence[str] = ()) -> str:
        terms = ", ".join(f"{name} = {value:.4g}" for name, value in evaluation.terms)
        samples = samples or self.inputs.sample_ids
        more = f" and {len(samples) - 4} more" if len(samples) > 4 else ""
        return f"at update {self.inputs.step} ({terms}) on samples {', '.join(samples[:4])}{more}"

    def _birthplace(self, evaluation: Evaluation) -> str:
        """Return where in the loss the gradient stops being finite; computes the loss once more."""
        if evaluation.level != "loss" or many_ranks():
            return ""  # other ranks would have to take part
        fused = self.inputs.fused.detach().requires_grad_()
        features = {name: each.detach() for name, each in self.inputs.features.items()}
        chroma = self.inputs.fused_chroma.detach()
        inputs = replace(self.inputs, fused=fused, features=features, fused_chroma=chroma)
        line = operation = ""
        with torch.enable_grad(), torch.random.fork_rng(), warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            with torch.autograd.set_detect_anomaly(True, check_nan=False):
                total = self.loss(inputs).total
                (gradient,) = torch.autograd.grad(total, fused, retain_graph=True, allow_unused=True)
            try:
                with torch.autograd.set_detect_anomaly(True):
                    torch.autograd.grad(total, fused, allow_unused=True)
            except RuntimeError as error:
                operation = f"{error}".partition("Function '")[2].partition("Backward")[0]
        if gradient is None or bool(gradient.isfinite().all()):
            return ": it becomes so in the network"
        for note in notes:  # the stack of the call, innermost last
            for text in f"{note.message}".splitlines():
                place, _, rest = text.strip().removeprefix('File "').partition('", line ')
                if rest and f"{Path(torch.__file__).parent}" not in place:
                    line = f", {Path(place).name} line {rest.partition(',')[0]}"
        odd = [
            name for name, each in zip(inputs.sample_ids, gradient, strict=True) if not each.isfinite().all()
        ]
        after = f" after {operation}{line}" if operation else ""
        return f": it becomes so in the loss{after}, on {', '.join(odd[:4])}"


def _mark(evaluations: Sequence[Evaluation]) -> int:
    """Return a number for the names of all terms, which single precision holds exactly."""
    names = "\n".join(f"{each.level}:{sorted(each.output.terms)}" for each in evaluations)
    return zlib.crc32(names.encode()) >> 8
