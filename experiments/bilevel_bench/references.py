"""SABA and F2SA, plain implementations from their papers."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from experiments.bilevel_bench.problems import Problem
from torch import Tensor

State = tuple[Tensor, Tensor, int]


@dataclass(frozen=True)
class Saba:
    """SABA (Dagréou et al., NeurIPS 2022): y, the solution v of f_yy v = -F_y, and x move at once by SAGA.

    A call is f_y, f_yy v, f_xy v or the gradient of F, of one sample: four per sample and iteration. Tables
    begin at zero, as in the tuned setting of the public benchmark.

    Args:
        rate: step size of y and of v.
        upper_rate: step size of x.
        batch: samples of each level per iteration.
    """

    rate: float
    upper_rate: float
    batch: int = 64

    def run(self, problem: Problem, seed: int) -> Iterator[State]:
        """Yield (x, y, calls) after each iteration."""
        generator = torch.Generator().manual_seed(seed)
        x, y = (value.clone() for value in problem.start)
        v, calls, n = torch.zeros_like(y), 0, len(y)
        first = torch.zeros(1, dtype=torch.long)
        widths = (problem.lower_parts(x, y, v, first), problem.upper_parts(x, y, first))
        tables = [
            torch.zeros(count, part.shape[1], dtype=x.dtype)
            for count, part in zip(problem.sizes, widths, strict=True)
        ]
        means = [table.mean(0) for table in tables]
        while True:
            found = []
            for level, count in enumerate(problem.sizes):
                index = torch.randint(count, (min(self.batch, count),), generator=generator).unique()
                parts = problem.upper_parts(x, y, index) if level else problem.lower_parts(x, y, v, index)
                change = parts - tables[level][index]
                found.append(change.mean(0) + means[level])
                means[level] = means[level] + change.sum(0) / count
                tables[level][index] = parts
                calls += len(index) * (1 if level else 3)
            lower, upper = found
            y = y - self.rate * lower[:n]
            v = v - self.rate * (lower[n : 2 * n] + upper[:n])
            x = x - self.upper_rate * (lower[2 * n :] + upper[n:])
            yield x, y, calls


@dataclass(frozen=True)
class F2sa:
    """F2SA (Kwon et al., ICML 2023): z down f, y down F + lambda f, x by the difference of their gradients.

    With steps and weights that change as in the paper's theorem for noise in both levels: the steps of z and
    x as k^(-4/7) and k^(-5/7), lambda as k^(1/7), from iteration `hold` on; the step of y is that of z
    over 1 + lambda. Each gradient has a batch of its own, but the two whose difference moves x share one:
    with two, what f adds in x alone drives x apart here. A call is one gradient of one sample.

    Args:
        rate: first step size of z.
        upper_rate: first step size of x.
        weight: first lambda.
        hold: iterations before they change.
        inner: steps of z and of y per iteration.
        batch: samples per gradient.
    """

    rate: float
    upper_rate: float
    weight: float
    hold: float
    inner: int = 10
    batch: int = 64

    def run(self, problem: Problem, seed: int) -> Iterator[State]:
        """Yield (x, y, calls) after each iteration."""
        generator = torch.Generator().manual_seed(seed)
        x, y = (value.clone().requires_grad_() for value in problem.start)
        z, calls, k = y.detach().clone().requires_grad_(), 0, 0

        def draw(level: int) -> Tensor:
            nonlocal calls
            index = torch.randint(problem.sizes[level], (self.batch,), generator=generator)
            calls += self.batch
            return index

        while True:
            time = 1 + k / self.hold
            rate, upper_rate = self.rate * time ** (-4 / 7), self.upper_rate * time ** (-5 / 7)
            weight = self.weight * time ** (1 / 7)
            for _ in range(self.inner):
                (slope,) = torch.autograd.grad(problem.lower_loss(x, z, draw(0)), z)
                total = problem.upper_loss(x, y, draw(1)) + weight * problem.lower_loss(x, y, draw(0))
                (pull,) = torch.autograd.grad(total, y)
                with torch.no_grad():
                    z -= rate * slope
                    y -= rate / (1 + weight) * pull
            index = draw(0)
            calls += self.batch
            gap = problem.lower_loss(x, y.detach(), index) - problem.lower_loss(x, z.detach(), index)
            total = problem.upper_loss(x, y.detach(), draw(1)) + weight * gap
            (slope,) = torch.autograd.grad(total, x)
            with torch.no_grad():
                x -= upper_rate * slope
            k += 1
            yield x.detach(), y.detach(), calls
