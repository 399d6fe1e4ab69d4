"""The solvers on the toy of BVFSM, whose optimum, penalised optima and wrong branches are known."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.run import SOLVERS, main, solve
from experiments.bilevel_toy.toy import Case, branch, optimum, penalised_optimum, random_case, stack

from clipfuse.bilevel import Solver

REPOSITORY = Path(__file__).parents[2]
STARTS = [(0, 0), (2, 2), (4, 4), (1, 7)]
SIZES = [1, 2, 10, 100, 1000]


def published(n: int, x0: float, y0: float) -> Case:
    return Case(2.0, (2.0,) * n, x0, (y0,) * n)


def value_penalty(**options: float) -> Solver:
    return SOLVERS["value_penalty"](**options)


def targets(cases: list[Case], turns: int = 0) -> torch.Tensor:
    return torch.tensor([optimum(case.a, case.n, turns) for case in cases], dtype=torch.float64)


def test_closed_form_is_the_best_branch() -> None:
    for seed in range(50):
        case = random_case(seed, 1 + seed % 4)
        best, at = math.inf, 0.0
        for turn in range(-5, 6):
            s = -math.pi / 2 + 2 * math.pi * turn
            x = torch.linspace(-15, 15, 3001, dtype=torch.float64)
            upper = (x - case.a) ** 2 + case.n * (s - x - case.a) ** 2
            if float(upper.min()) < best:
                best, at = float(upper.min()), float(x[upper.argmin()])
        assert abs(optimum(case.a, case.n) - at) <= 0.0051  # half a grid cell
    # The values of the design notes, from an independent derivation.
    for n, x_star in {1: 2.356194, 2: 2.474926, 10: 2.647626, 100: 2.705336, 1000: 2.711677}.items():
        assert abs(optimum(2.0, n) - x_star) < 1e-6
    for weight, x in {1: 2.28338, 10: 2.44523, 50: 2.46868, 200: 2.47335}.items():
        assert abs(penalised_optimum(2.0, 2, weight) - x) < 1e-5
    # Errors of the design notes, whose weight, 1 / s, is twice that of `ValuePenalty`.
    for weight, miss in {10: 6.43e-3, 50: 2.53e-4, 200: 1.58e-5}.items():
        assert penalised_optimum(2.0, 2, weight / 2, order=2) - optimum(2.0, 2) == pytest.approx(
            miss, rel=1e-2
        )


def test_value_penalty_finds_the_optimum_from_four_starts() -> None:
    cases = [published(n, *start) for n in SIZES for start in STARTS]
    x = solve(value_penalty(), cases, steps=300)
    assert float((x - targets(cases)).abs().max()) <= 3e-3


@pytest.mark.parametrize(
    ("weight", "order"), [(1.0, 1), (10.0, 1), (50.0, 1), (200.0, 1), (5.0, 2), (25.0, 2)]
)
def test_value_penalty_at_constant_weight_meets_the_penalised_optimum(weight: float, order: int) -> None:
    cases = [published(n, 3, 3) for n in (1, 2, 10)]
    x = solve(value_penalty(w0=weight, w_max=weight, mu0=0, theta0=0, order=order), cases, steps=200)
    for case, found in zip(cases, x.tolist(), strict=True):
        near = penalised_optimum(2.0, case.n, weight, order)
        assert abs(found - near) < (1e-3 if order == 1 else 1e-4)


def test_order_2_finds_the_optimum_at_a_weight_of_50_from_four_starts() -> None:
    cases = [published(n, *start) for n in SIZES for start in STARTS]
    x = solve(SOLVERS["value_penalty_2"](), cases)
    assert float((x - targets(cases)).abs().max()) <= 1e-4


@pytest.mark.parametrize(("start", "turn"), [((6.0, 6.0), 1), ((-6.0, 0.0), -1)])
def test_value_penalty_stays_on_the_branch_of_a_far_start(start: tuple[float, float], turn: int) -> None:
    cases = [published(n, *start) for n in (2, 10)]
    x = solve(value_penalty(), cases, steps=400)
    # The bias at w = 200 is n |C' - 2a| / (100 (1 + n)^2), at most 0.016 for these branches.
    assert float((x - targets(cases, turn)).abs().max()) < 0.02
    assert float((x - targets(cases)).abs().min()) > 4


def test_value_penalty_finds_the_optimum_of_random_cases() -> None:
    cases = [random_case(seed, n) for seed in range(10) for n in (1, 2, 3, 10)]
    assert len({branch(case.a) for case in cases}) >= 3
    x = solve(value_penalty(power=1.3, w_max=1000), cases, steps=400)
    assert float((x - targets(cases)).abs().max()) <= 3e-3


@pytest.mark.parametrize("name", ["alternate", "joint"])
def test_blind_solvers_end_at_a_and_miss_by_what_is_between(name: str) -> None:
    cases = [published(n, *start) for n in (1, 2, 10) for start in STARTS]
    x = solve(SOLVERS[name](), cases, steps=400)
    assert float((x - 2).abs().max()) < 1e-3
    error = (x - targets(cases)).abs()
    # n |2a - C| / (1 + n): 0.356, 0.475, 0.648.
    assert float(error.min()) > 0.35
    assert float(error[4:].min()) > 0.47


@pytest.mark.parametrize(("start", "turn"), [((2, 2), 0), ((4, 4), 0), ((1, 7), 0), ((0, 0), -1)])
def test_gauss_newton_solves_the_branch_that_f_leads_to(start: tuple[int, int], turn: int) -> None:
    # All y_i alike: f_y and F_y are parallel. From (0, 0) f leads y to the branch below; F is not asked.
    cases = [published(2, *start)]
    x = solve(SOLVERS["gauss_newton"](), cases, steps=400)
    # Adam still hovers at 4e-3: the quotient feels that y trails its minimum.
    assert float((x - targets(cases, turn)).abs()) < 1e-2


def test_cases_side_by_side_do_not_touch_each_other() -> None:
    cases = [published(2, 0, 0), Case(1.0, (0.5, -1.0, 2.0), 0.3, (0.1, 0.2, 0.3))]
    together = stack(cases)
    total = together.upper_loss([together.y]) + 3 * together.lower_loss([together.y])
    (gradient,) = torch.autograd.grad(total, together.x)
    for index, case in enumerate(cases):
        alone = stack([case])
        (expected,) = torch.autograd.grad(
            alone.upper_loss([alone.y]) + 3 * alone.lower_loss([alone.y]), alone.x
        )
        torch.testing.assert_close(gradient[index : index + 1], expected, rtol=1e-14, atol=1e-14)


def test_command_prints_one_line() -> None:
    words = ["--n=2", "--a=2", "--c=2,2", "--x0=0", "--y0=0", "--seed=0", "--solver=value_penalty"]
    script = REPOSITORY / "experiments/bilevel_toy/run.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True, check=True)
    values = dict(word.split("=") for word in done.stdout.split())
    assert list(values) == ["x", "x_star", "error", "seconds"]
    assert done.stdout.count("\n") == 1
    assert values["x_star"] == "2.474926"
    assert float(values["error"]) <= 3e-3


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("--n 0", "--n"),
        ("--n two", "--n"),
        ("--c 1,2,3", "--c has 3 values; expected 1, or 2"),
        ("--c 1,,2", "--c"),
        ("--a nan", "--a"),
        ("--y0 inf", "--y0"),
        ("--solver newton", "--solver"),
        ("--steps 0", "--steps"),
        ("--case random --a 2", "--a is drawn"),
        ("--case random --seed -1", "--seed"),
        (f"--a {math.pi / 4}", "two optima"),
    ],
)
def test_wrong_words_give_one_line(words: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert named in error
