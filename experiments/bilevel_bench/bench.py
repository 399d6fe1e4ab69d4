"""Solvers of two levels on two problems, against SABA and F2SA: by oracle calls and by seconds.

    python -m experiments.bilevel_bench.bench          # some minutes; continues where it was stopped
    python -m experiments.bilevel_bench.bench --tiny   # seconds, on small problems, without a meaning

Settings are chosen from the grids of `methods.py` on seed 1000: the fewest calls from which on the
suboptimality stays at 1e-6 or below, else the least at the end; in data cleaning the least loss on the
clean samples. Reported are other seeds. Results go to `--out`, the tables into the README beside them.
"""

import argparse
import json
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from experiments.bilevel_bench.methods import CLEANING, QUADRATIC, arrival, run_quadratic, states
from experiments.bilevel_bench.problems import DataCleaning, QuadraticSums
from experiments.common import format_cell, format_table
from sklearn.metrics import roc_auc_score
from torch import Tensor

from clipfuse.files import write_atomically

HERE = Path(__file__).parent
TUNING_SEED, SEEDS, CLEANING_SEEDS = 1000, (3, 4, 5), (0, 1, 2)
TARGETS = (1e-4, 1e-5, 1e-6)
CORRUPTION = (0.5, 0.7, 0.9)
COLOURS = {
    "joint": "#999999",
    "alternate": "#bbbbbb",
    "gauss_newton": "#cc79a7",
    "value_penalty": "#0072b2",
    "value_penalty, order 2": "#009e73",
    "meha": "#e69f00",
    "value_penalty, one point": "#56b4e9",
    "SABA": "#d55e00",
    "F2SA": "#000000",
}
Size = dict[str, Any]
FULL: Size = {"quadratic": {}, "budget": 1_200_000, "samples": 900, "cleaning_budget": 300_000}
TINY: Size = {
    "quadratic": {"lower": 512, "upper": 64, "y": 12, "x": 3},
    "budget": 12_000,
    "samples": 120,
    "cleaning_budget": 12_000,
}


class Results:
    """A file of results by key; what is there is not computed again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def get(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return the result of a key, computed and written if it is missing."""
        if key not in self.found:
            self.found[key] = compute()
            with write_atomically(self.path) as file:
                rows = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in self.found.items())
                file.write("{\n" + ",\n".join(rows) + "\n}\n")
            print(f"{self.path.name}: {key}", flush=True)
        return self.found[key]


def name_settings(settings: dict[str, float]) -> str:
    """Return settings as words."""
    return " ".join(f"{name}={value:g}" for name, value in settings.items())


def quadratic(size: Size, results: Results) -> None:
    """Tune on one seed and run the others."""
    problems: dict[int, QuadraticSums] = {}

    def run(name: str, settings: dict[str, float], seed: int) -> list[list[float]]:
        if seed not in problems:
            problems.clear()
            problems[seed] = QuadraticSums(seed, **size["quadratic"])
        return run_quadratic(name, settings, problems[seed], seed, size["budget"])

    for name, grid in QUADRATIC.items():
        for settings in grid if len(grid) > 1 else ():
            key = f"{name} | {TUNING_SEED} | {name_settings(settings)}"
            results.get(key, partial(run, name, settings, TUNING_SEED))
    for seed, name in product(SEEDS, QUADRATIC):
        settings = chosen_quadratic(name, results.found)
        key = f"{name} | {seed} | {name_settings(settings)}"
        results.get(key, partial(run, name, settings, seed))


def chosen_quadratic(name: str, found: dict[str, Any]) -> dict[str, float]:
    """Return the settings that the rule chooses."""

    def rank(settings: dict[str, float]) -> tuple[float, float]:
        rows = found[f"{name} | {TUNING_SEED} | {name_settings(settings)}"]
        return arrival(rows, 1e-6), rows[-1][2]

    grid = QUADRATIC[name]
    return min(grid, key=rank) if len(grid) > 1 else grid[0]


def solution(problem: DataCleaning, x: Tensor) -> Tensor:
    """Return the y that minimises f at x, by L-BFGS."""
    y = problem.start[1].clone().requires_grad_()
    optimizer = torch.optim.LBFGS([y], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = problem.lower_loss(x, y)
        loss.backward()
        return float(loss)

    optimizer.step(closure)
    return y.detach()


def clean(name: str, settings: dict[str, float], p: float, seed: int, size: Size) -> dict[str, float]:
    """Return what a method's weights are worth: F and accuracy of the solution of f, and their separation.

    The method's own y is not judged: it may have learned from the clean samples of F.
    """
    problem = DataCleaning(p, seed, size["samples"])
    x = problem.start[0]
    for x, _, calls in states(name, settings, problem, seed):  # noqa: B007
        if calls >= size["cleaning_budget"]:
            break
    weights, bad = torch.sigmoid(x), problem.corrupted
    if not bool(weights.isfinite().all()):
        return {"upper": math.inf, "accuracy": math.nan, "separation": math.nan, "clean": 0, "corrupted": 0}
    y = solution(problem, x)
    return {
        "upper": float(problem.upper_loss(x, y)),
        "accuracy": problem.accuracy(y),
        "separation": float(roc_auc_score(~bad, weights)),
        "clean": float(weights[~bad].mean()),
        "corrupted": float(weights[bad].mean()),
    }


def clean_alone(p: float, seed: int, size: Size) -> float:
    """Return the test accuracy of the classifier that f gives with weight 1 for clean samples, else 0."""
    problem = DataCleaning(p, seed, size["samples"])
    return problem.accuracy(solution(problem, torch.where(problem.corrupted, -40.0, 40.0).double()))


def cleaning(size: Size, results: Results) -> None:
    """Tune on one seed, p = 0.7, and run the others."""
    for name, grid in CLEANING.items():
        for settings in grid if len(grid) > 1 else ():
            key = f"{name} | 0.7 | {TUNING_SEED} | {name_settings(settings)}"
            results.get(key, partial(clean, name, settings, 0.7, TUNING_SEED, size))
    for seed, p in product(CLEANING_SEEDS, CORRUPTION):
        results.get(f"clean samples alone | {p} | {seed}", partial(clean_alone, p, seed, size))
        for name in CLEANING:
            settings = chosen_cleaning(name, results.found)
            key = f"{name} | {p} | {seed} | {name_settings(settings)}"
            results.get(key, partial(clean, name, settings, p, seed, size))


def chosen_cleaning(name: str, found: dict[str, Any]) -> dict[str, float]:
    """Return the settings that the rule chooses."""

    def rank(settings: dict[str, float]) -> float:
        upper: float = found[f"{name} | 0.7 | {TUNING_SEED} | {name_settings(settings)}"]["upper"]
        return upper

    grid = CLEANING[name]
    return min(grid, key=rank) if len(grid) > 1 else grid[0]


def finished(found: dict[str, Any]) -> list[int]:
    """Return the seeds whose quadratic runs are there for all methods."""
    keys = [(name, name_settings(chosen_quadratic(name, found))) for name in QUADRATIC]
    return [s for s in SEEDS if all(f"{name} | {s} | {words}" in found for name, words in keys)]


def cleaned(found: dict[str, Any]) -> list[int]:
    """Return the seeds whose runs of data cleaning are there for all methods."""
    keys = [(name, name_settings(chosen_cleaning(name, found))) for name in CLEANING]
    pairs = list(product(CORRUPTION, keys))
    return [s for s in CLEANING_SEEDS if all(f"{name} | {p} | {s} | {w}" in found for p, (name, w) in pairs)]


def runs_of(name: str, found: dict[str, Any]) -> list[list[list[float]]]:
    """Return the rows of a method's reported runs."""
    words = name_settings(chosen_quadratic(name, found))
    return [found[f"{name} | {seed} | {words}"] for seed in finished(found)]


def _count(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"


def tables(quadratics: dict[str, Any], cleanings: dict[str, Any]) -> list[str]:
    """Return the README's tables and the sentences that follow from their numbers."""
    rows, arrivals = [], {}
    for name in QUADRATIC:
        runs = runs_of(name, quadratics)
        arrivals[name] = median(arrival(run, 1e-6) for run in runs)
        calls = [median(arrival(run, target) for run in runs) for target in TARGETS]
        seconds = median(arrival(run, 1e-6, 1) for run in runs)
        ends = f"{median(run[-1][2] for run in runs):.1e}"
        words = name_settings(chosen_quadratic(name, quadratics))
        rows.append([name, *map(_count, calls), _count(seconds, 1), ends, words])
    head = ["method", *(f"calls to {t:.0e}" for t in TARGETS), "seconds to 1e-06", "at the end", "settings"]
    seeds, cleaning_seeds = finished(quadratics), cleaned(cleanings)
    lines = [f"Quadratic problem, seeds {', '.join(map(str, seeds))}:", "", *format_table(head, rows), ""]
    others = {name: arrivals[name] for name in ("SABA", "F2SA")}
    ours = {name: arrivals[name] for name in ("value_penalty", "value_penalty, order 2", "meha")}
    best, rival = min(ours, key=ours.__getitem__), min(others, key=others.__getitem__)
    goal = "**The goal**, 1e-6 no later than the better of SABA and F2SA,"
    if not math.isfinite(ours[best]):
        lines.append(f"{goal} is missed: none of ours arrives within the budget.")
    elif not math.isfinite(others[rival]):
        lines.append(f"{goal} is met: `{best}` arrives, they do not within the budget.")
    else:
        word, ratio = "met" if ours[best] <= others[rival] else "missed", ours[best] / others[rival]
        lines.append(f"{goal} is {word}: `{best}` arrives after {ratio:.2f} times the calls of {rival}.")
    lines += ["", f"Data cleaning, seeds {', '.join(map(str, cleaning_seeds))}:", ""]
    rows = []
    for name in CLEANING:
        words = name_settings(chosen_cleaning(name, cleanings))
        cells = []
        for p in CORRUPTION:
            found = [cleanings[f"{name} | {p} | {seed} | {words}"] for seed in cleaning_seeds]
            accuracy = format_cell([100 * each["accuracy"] for each in found], 1)
            cells.append(f"{accuracy}, {fmean(each['separation'] for each in found):.2f}")
        rows.append([name, *cells, words])
    bound = [
        format_cell([100 * cleanings[f"clean samples alone | {p} | {s}"] for s in cleaning_seeds], 1)
        for p in CORRUPTION
    ]
    rows.append(["clean samples alone", *bound, ""])
    return [*lines, *format_table(["method", *(f"p = {p}" for p in CORRUPTION), "settings"], rows)]


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw suboptimality against calls and seconds: the first reported seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for name, colour in COLOURS.items():
        rows = runs_of(name, found)[0]
        for panel, column in zip(panels, (0, 1), strict=True):
            values = [max(row[2], 1e-12) for row in rows]
            style = "--" if name in ("SABA", "F2SA") else "-"
            panel.plot([row[column] for row in rows], values, style, color=colour, label=name, linewidth=1.5)
    for panel, label in zip(panels, ("oracle calls", "CPU seconds, one thread"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel=label, ylim=(1e-9, 10))
        panel.axhline(1e-6, color="#cccccc", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("h(x) - min h")
    panels[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def write_tables(readme: Path, lines: Sequence[str]) -> None:
    """Replace what lies between the marks of a README."""
    text = readme.read_text("utf-8")
    marks = "<!-- tables: begin -->", "<!-- tables: end -->"
    block = "\n".join([marks[0], "", *lines, "", marks[1]])
    changed = re.sub(f"{marks[0]}.*{marks[1]}", lambda _: block, text, flags=re.DOTALL)
    with write_atomically(readme) as file:
        file.write(changed)


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, draw and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="small problems, in seconds")
    parser.add_argument("--out", type=Path, help="folder of the results; default results/ beside this file")
    parser.add_argument(
        "--show", action="store_true", help="compute nothing; use the seeds that are complete"
    )
    given = parser.parse_args(words)
    if given.tiny and given.out is None:
        parser.error("--tiny needs --out FOLDER: its numbers do not belong among the results")
    torch.set_num_threads(1)
    out, size = given.out or HERE / "results", TINY if given.tiny else FULL
    out.mkdir(parents=True, exist_ok=True)
    quadratics, cleanings = Results(out / "quadratic.json"), Results(out / "cleaning.json")
    if not given.show:
        quadratic(size, quadratics)
        cleaning(size, cleanings)
    lines = tables(quadratics.found, cleanings.found)
    draw(quadratics.found, out / "curves.png")
    print("\n".join(lines))
    if given.out is None:
        write_tables(HERE / "README.md", lines)


if __name__ == "__main__":
    main()
