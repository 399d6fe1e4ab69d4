"""The bench at toy size: its closed forms, its counters, its references, and tables made of its numbers."""

import json
import math
from itertools import islice
from pathlib import Path

import pytest
import torch
from experiments.bilevel_bench import bench
from experiments.bilevel_bench.methods import QUADRATIC, arrival, run_solver, states
from experiments.bilevel_bench.problems import DataCleaning, Feed, QuadraticSums
from experiments.bilevel_bench.references import F2sa, Saba


@pytest.fixture(scope="module")
def small() -> QuadraticSums:
    return QuadraticSums(3, lower=96, upper=32, y=6, x=3)


def test_the_value_function_is_that_of_its_losses(small: QuadraticSums) -> None:
    """Against Newton's method on f and differences of F(x, y*(x)): exact for quadratics, up to rounding."""

    def solved(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros(6, dtype=torch.float64, requires_grad=True)
        slope = torch.autograd.grad(small.lower_loss(x, y), y)[0]
        hessian = torch.autograd.functional.hessian(lambda v: small.lower_loss(x, v), y)
        return y.detach() - torch.linalg.solve(hessian, slope)

    x = small.start[0]
    assert small.value(x) == pytest.approx(float(small.upper_loss(x, solved(x))), abs=1e-12)
    assert small.suboptimality(x) == pytest.approx(small.value(x) - small.best, abs=1e-12)
    for axis in torch.eye(3, dtype=torch.float64):
        assert small.value(small.solution + 0.1 * axis) > small.best
    eigenvalues = torch.linalg.eigvalsh(small.lower.means()[0])
    torch.testing.assert_close(eigenvalues, torch.logspace(-1, 0, 6, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["quadratic", "cleaning"])
def test_derivatives_by_sample_are_those_of_the_losses(kind: str, small: QuadraticSums) -> None:
    problem = small if kind == "quadratic" else DataCleaning(0.5, 0, 20)
    generator = torch.Generator().manual_seed(0)
    x, y, v = (
        torch.randn(len(like), dtype=torch.float64, generator=generator).requires_grad_()
        for like in (*problem.start, problem.start[1])
    )
    for count, level in zip(problem.sizes, ("lower", "upper"), strict=True):
        index = torch.arange(count)
        loss = problem.lower_loss(x, y) if level == "lower" else problem.upper_loss(x, y)
        of_y, of_x = torch.autograd.grad(loss, (y, x), create_graph=True)
        if level == "lower":
            twice = torch.autograd.grad(of_y @ v.detach(), (y, x))
            found, expected = problem.lower_parts(x, y, v, index), torch.cat([of_y, *twice])
        else:
            found, expected = problem.upper_parts(x, y, index), torch.cat([of_y, of_x])
        torch.testing.assert_close(found.mean(0), expected, rtol=1e-12, atol=1e-12)


def test_a_snapshot_makes_a_batch_exact_at_both_points_and_along_their_line(small: QuadraticSums) -> None:
    feed = Feed(small, 0)
    y, z = torch.full((6,), 0.3).double(), torch.linspace(-1, 1, 6).double()
    feed.draw(8, [y, z])
    assert feed.calls == 2 * (96 + 32) + 2 * (8 + 8)
    x = feed.x.detach().clone().requires_grad_()
    for share in (0.0, 0.4, 1.0):
        point = (y + share * (z - y)).requires_grad_()
        for batch, whole in ((feed.lower_loss, small.lower_loss), (feed.upper_loss, small.upper_loss)):
            found = torch.autograd.grad(batch([point]), (feed.x, point))
            torch.testing.assert_close(found, torch.autograd.grad(whole(x, point), (x, point)))
    assert feed.calls == 2 * (96 + 32) + 2 * (8 + 8) + 3 * 16
    feed.draw(96)  # all samples
    assert torch.equal(feed.lower_loss([y]).detach(), small.lower_loss(x, y).detach())


def test_the_references_reach_the_minimum(small: QuadraticSums) -> None:
    *_, (x, _, calls) = islice(Saba(0.1, 0.3, batch=16).run(small, 0), 1500)
    assert small.suboptimality(x) < 1e-9
    assert calls <= 1500 * 64  # four per sample; of samples drawn twice one is taken
    begin = small.suboptimality(small.start[0])
    # Noise remains: F2SA reduces none of it.
    *_, (x, _, calls) = islice(F2sa(0.3, 0.3, 10.0, 20, batch=32).run(small, 0), 60)
    assert small.suboptimality(x) < 0.05 * begin
    assert calls == 60 * 32 * (10 * 3 + 3)


def test_ours_reach_the_bias_of_their_weight_and_others_do_not(small: QuadraticSums) -> None:
    settings = {"rate": 0.5, "upper_rate": 0.5, "batch": 96, "weight": 100.0}  # all samples: without noise
    ends = {}
    for name in ("value_penalty", "value_penalty, order 2", "meha", "alternate"):
        *_, (x, _, _) = islice(run_solver(name, settings, small, 0), 150)
        ends[name] = small.suboptimality(x)
    worst = max(ends[name] for name in ends if name != "alternate")
    assert worst < 3e-4  # the bias of their weights
    assert ends["alternate"] > 10 * worst


def test_arrival_is_where_a_curve_stays() -> None:
    rows = [[10, 0.1, 1.0], [20, 0.2, 1e-7], [30, 0.3, 1e-5], [40, 0.4, 1e-6], [50, 0.5, 1e-8]]
    assert arrival(rows, 1e-6) == 40
    assert arrival(rows, 1e-6, 1) == 0.4
    assert arrival(rows, 2.0) == 10
    assert arrival(rows, 1e-9) == math.inf
    assert arrival([[10, 0.1, math.nan]], 1.0) == math.inf


def test_it_runs_continues_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SEEDS", (0,))
    monkeypatch.setattr(bench, "CLEANING_SEEDS", (0,))
    monkeypatch.setattr(bench, "TINY", {**bench.TINY, "budget": 3000, "cleaning_budget": 2000})
    bench.main(["--tiny", "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"quadratic.json", "cleaning.json", "curves.png"}
    found = json.loads((tmp_path / "quadratic.json").read_text())
    assert {key.split(" | ")[0] for key in found} == set(QUADRATIC)

    def again(*_: object) -> None:
        pytest.fail("it was computed again")

    monkeypatch.setattr(bench, "run_quadratic", again)
    monkeypatch.setattr(bench, "clean", again)
    bench.main(["--tiny", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        bench.main(["--tiny"])


def test_the_tables_of_the_study_are_those_of_its_numbers() -> None:
    results = [
        json.loads((bench.HERE / f"results/{name}.json").read_text()) for name in ("quadratic", "cleaning")
    ]
    text = (bench.HERE / "README.md").read_text("utf-8")
    assert "\n".join(bench.tables(*results)) in text


def test_one_seed_gives_one_run(small: QuadraticSums) -> None:
    for name in ("value_penalty, order 2", "SABA"):
        settings = QUADRATIC[name][0] | ({"batch": 16} if name != "SABA" else {})
        runs = [[x.clone() for x, _, _ in islice(states(name, settings, small, 0), 5)] for _ in range(2)]
        assert all(map(torch.equal, *runs))
