"""Solve the toy of BVFSM and print `x=... x_star=... error=... seconds=...`.

    python experiments/bilevel_toy/run.py --solver value_penalty --n 2 --a 2 --c 2 --x0 0 --y0 0 [--seed 0]

`--c` takes one value or n of them, separated by commas. With `--case random` a, c and a start within 1 of
the optimum are drawn from the seed; nothing else is random.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.toy import Case, Toy, branch_margin, optimum, random_case, stack

from clipfuse.bilevel import Alternate, GaussNewton, Joint, Meha, Solver, ValuePenalty

STEPS = 400
DESCENT = partial(torch.optim.SGD, lr=0.6)
SOLVERS: dict[str, Callable[..., Solver]] = {
    "value_penalty": partial(ValuePenalty, DESCENT, every=1, w0=0.5, power=1.0, w_max=200.0),
    "value_penalty_2": partial(
        ValuePenalty, DESCENT, every=1, w0=0.5, power=1.0, w_max=50.0, order=2, tolerance=1e-8
    ),
    "alternate": partial(Alternate, DESCENT, every=1),
    "joint": partial(Joint, 0.0),
    "gauss_newton": partial(GaussNewton, DESCENT, steps=1, every=1, damping=1e-12),
    "meha": partial(Meha, partial(torch.optim.SGD, lr=0.5), gamma=0.9, c0=2.0, power=0.75),
}


def solve(
    solver: Solver, cases: Sequence[Case], steps: int = STEPS, watch: Callable[[Toy], None] | None = None
) -> Tensor:
    """Return x of each case, (B,), after so many updates; `watch` sees the problem after each."""
    toy = stack(cases)
    moved = [toy.x]
    if isinstance(solver, Joint):
        moved.append(toy.y.requires_grad_())
    optimizer = torch.optim.Adam(moved, lr=0.02, betas=(0.9, 0.99))
    for _ in range(steps):
        solver.step(toy, optimizer, backward=Tensor.backward)
        if watch is not None:
            watch(toy)
    return toy.x.detach()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between -1e6 and 1e6")
    return value


def _numbers(text: str) -> list[float]:
    return [_number(part) for part in text.split(",")]


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to 1,000,000")
    return value


def read_case(words: Sequence[str] | None = None) -> tuple[str, int, Case]:
    """Return the name of the solver, the number of updates and the case; exit 2 with one line if wrong."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--solver", choices=SOLVERS, default="value_penalty")
    parser.add_argument("--n", type=_count, default=2, help="number of lower unknowns")
    parser.add_argument("--a", type=_number, help="default 2")
    parser.add_argument("--c", type=_numbers, help="one value or n, default 2")
    parser.add_argument("--x0", type=_number, help="default 0")
    parser.add_argument("--y0", type=_number, help="default 0")
    parser.add_argument("--case", choices=("given", "random"), default="given")
    parser.add_argument("--seed", type=int, default=0, help="of a random case")
    parser.add_argument("--steps", type=_count, default=STEPS)
    given = parser.parse_args(words)
    if given.case == "random":
        for name in ("a", "c", "x0", "y0"):
            if getattr(given, name) is not None:
                parser.error(f"--{name} is drawn under --case random; leave it out")
        if not 0 <= given.seed < 2**63:
            parser.error(f"argument --seed: {given.seed} is not from 0 to 2^63 - 1")
        return given.solver, given.steps, random_case(given.seed, given.n)
    a = 2.0 if given.a is None else given.a
    c = [2.0] if given.c is None else given.c
    if len(c) not in (1, given.n):
        parser.error(f"--c has {len(c)} values; expected 1, or {given.n} as --n says")
    if branch_margin(a) < 1e-6:
        parser.error(f"with --a {a:g} two optima are equally good; move it a little")
    wide = tuple(c) if len(c) == given.n else tuple(c) * given.n
    return given.solver, given.steps, Case(a, wide, given.x0 or 0.0, (given.y0 or 0.0,) * given.n)


def main(words: Sequence[str] | None = None) -> None:
    """Solve one case and print the line."""
    name, steps, case = read_case(words)
    begin = time.perf_counter()
    x = float(solve(SOLVERS[name](), [case], steps))
    seconds, best = time.perf_counter() - begin, optimum(case.a, case.n)
    print(f"x={x:.6f} x_star={best:.6f} error={abs(x - best):.2e} seconds={seconds:.2f}")


if __name__ == "__main__":
    main()
