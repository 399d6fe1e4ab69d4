"""The methods of the bench, their grids of settings, and one run of each."""

import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from typing import Any, cast

import torch
from experiments.bilevel_bench.problems import Feed, Problem, QuadraticSums
from experiments.bilevel_bench.references import F2sa, Saba
from torch import Tensor

from clipfuse.bilevel import Alternate, GaussNewton, Joint, Meha, Solver, ValuePenalty

Settings = Mapping[str, float]
State = tuple[Tensor, Tensor, int]

# Found by hand on seed 100, one for all; those that cannot reach the minimum take fewer, longer updates.
PACE = {"rate": 0.3, "upper_rate": 0.5, "batch": 256, "period": 80}
PLAIN = PACE | {"batch": 1024}
SABA = [{"rate": rate, "upper_rate": upper} for rate, upper in ((0.1, 0.1), (0.1, 0.3), (0.05, 0.3))]
F2SA = [
    {"rate": rate, "upper_rate": upper, "weight": 10.0, "hold": hold}
    for rate, upper, hold in ((0.1, 0.1, 100), (0.1, 0.3, 100))
]
QUADRATIC: dict[str, list[dict[str, float]]] = {
    "joint": [PLAIN],
    "alternate": [PLAIN],
    "gauss_newton": [PLAIN],
    "value_penalty": [PACE],
    "value_penalty, order 2": [PACE],
    "meha": [PACE],
    "value_penalty, one point": [PACE],
    "SABA": SABA,
    "F2SA": F2SA,
}
# Data cleaning: all samples in each update. The weights are many and each moves f by 1 / 900 of its loss.
# Twelve settings each, six where there is no weight of f.
_OURS = [{"rate": rate, "upper_rate": upper} for rate, upper in product((0.5, 2.0), (0.05, 0.2, 0.5))]
_WEIGHTED = [
    {"rate": rate, "upper_rate": upper, "weight": weight}
    for rate, upper, weight in product((0.5, 2.0), (0.2, 0.5), (1.0, 10.0, 100.0))
]
CLEANING: dict[str, list[dict[str, float]]] = {
    "joint": _OURS,
    "alternate": _OURS,
    "gauss_newton": _OURS,
    "value_penalty": _WEIGHTED,
    "value_penalty, order 2": _WEIGHTED,
    "meha": _WEIGHTED,
    "SABA": [
        {"rate": rate, "upper_rate": upper}
        for rate, upper in product((0.1, 0.2, 0.5, 1.0), (100.0, 300.0, 1000.0))
    ],
    "F2SA": [
        {"rate": rate, "upper_rate": upper, "weight": weight, "hold": 100}
        for rate, upper, weight in product((0.3, 1.0), (300.0, 1000.0), (1.0, 3.0, 10.0))
    ],
}


def make_solver(name: str, rate: float, weight: float | None = None) -> Solver:
    """Return a solver of `clipfuse.bilevel` with one step of y and z per update, at a constant weight.

    Without a weight it is that of the quadratic problem.
    """
    descent = partial(torch.optim.SGD, lr=rate)
    constant: dict[str, Any] = {"every": 1, "mu0": 0.0, "theta0": 0.0, "z_steps": 1, "y_steps": 1}
    w, central, c = (300.0, 20.0, 330.0) if weight is None else (weight, weight, weight)
    makers: dict[str, partial[Any]] = {
        "joint": partial(Joint),
        "alternate": partial(Alternate, descent, steps=1, every=1),
        "gauss_newton": partial(GaussNewton, descent, steps=1, every=1, damping=1e-12),
        "value_penalty": partial(ValuePenalty, descent, w0=w, w_max=w, **constant),
        "value_penalty, one point": partial(ValuePenalty, descent, w0=w, w_max=w, **constant),
        "value_penalty, order 2": partial(
            ValuePenalty, descent, w0=central, w_max=central, order=2, **constant
        ),
        "meha": partial(Meha, descent, gamma=100.0, c0=c, power=0.0),
    }
    solver: Solver = makers[name]()
    return solver


def run_solver(name: str, settings: Settings, problem: Problem, seed: int) -> Iterator[State]:
    """Yield (x, y, calls) after each update of one of our solvers."""
    quadratic = isinstance(problem, QuadraticSums)
    feed, solver = Feed(problem, seed), make_solver(name, settings["rate"], settings.get("weight"))
    moved: list[dict[str, Any]] = [{"params": [feed.x]}]
    if name == "joint":
        moved.append({"params": [feed.y], "lr": settings["rate"]})
    kind = torch.optim.SGD if quadratic else torch.optim.Adam
    optimizer = kind(moved, lr=settings["upper_rate"])
    batch, period, k = int(settings.get("batch", problem.sizes[0])), int(settings.get("period", 1)), 0
    while True:
        points = None
        if k % period == 0:
            state = solver.state_dict()
            second = state.get("z") or state.get("theta") or [feed.y]
            points = [feed.y] if name.endswith("one point") or k == 0 else [feed.y, second[0]]
        feed.draw(batch, points)
        solver.step(feed, optimizer, backward=Tensor.backward)
        k += 1
        yield feed.x.detach(), feed.y.detach(), feed.calls


def states(name: str, settings: Settings, problem: Problem, seed: int) -> Iterator[State]:
    """Yield (x, y, calls) of any method."""
    if name == "SABA":
        return Saba(**cast("dict[str, Any]", settings)).run(problem, seed)
    if name == "F2SA":
        return F2sa(**cast("dict[str, Any]", settings)).run(problem, seed)
    return run_solver(name, settings, problem, seed)


def run_quadratic(
    name: str, settings: Settings, problem: QuadraticSums, seed: int, budget: int
) -> list[list[float]]:
    """Return rows of calls, CPU seconds and suboptimality, 5 % apart in calls; infinite if it diverged.

    A run ends when its budget of calls is spent, or at a suboptimality of 1e-9.
    """
    begin, spent, rows, following = time.process_time(), 0.0, [], 0.0
    for x, _, calls in states(name, settings, problem, seed):
        spent += time.process_time() - begin
        gap = problem.suboptimality(x)
        broken = not gap < 1e6
        done = calls >= budget or broken or gap <= 1e-9
        if calls >= following or done:
            rows.append([calls, round(spent, 4), math.inf if broken else float(f"{gap:.4g}")])
            following = 1.05 * calls
        if done:
            break
        begin = time.process_time()
    return rows


def arrival(rows: list[list[float]], target: float, column: int = 0) -> float:
    """Return the calls, or the seconds (1), from which on the suboptimality stays at or below a target."""
    late = [index for index, row in enumerate(rows) if not row[2] <= target]
    following = late[-1] + 1 if late else 0
    return rows[following][column] if following < len(rows) else math.inf
