"""Print the rows of the table of README.md: one per solver, n and start, and the sums of the four starts.

    python experiments/bilevel_toy/table.py [value_penalty value_penalty_2 ...]

The solvers take each case in turns. Seconds are CPU time of one thread.
"""

import sys
import time
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.run import SOLVERS, solve
from experiments.bilevel_toy.toy import Case, optimum

SIZES = (1, 2, 10, 100, 1000)
STARTS = ((0, 0), (2, 2), (4, 4), (1, 7))
FAR = ((6, 6), (-6, 0))


def main(names: list[str]) -> None:
    """Solve and print."""
    torch.set_num_threads(1)
    seconds, worst = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    solve(SOLVERS[names[0]](), [Case(2.0, (2.0,), 0.0, (0.0,))], 5)  # what the first step of a process costs
    for n in SIZES:
        for start in STARTS + (FAR if n <= 10 else ()):
            for name in names:
                case = Case(2.0, (2.0,) * n, start[0], (start[1],) * n)
                begin = time.process_time()
                x, best = float(solve(SOLVERS[name](), [case])), optimum(2.0, n)
                taken, error = time.process_time() - begin, abs(x - best)
                print(
                    f"| `{name}` | {n} | {start} | {x:.4f} | {best:.4f} | {error:.1e} | {taken:.2f} |",
                    flush=True,
                )
                if start in STARTS:
                    seconds[name] += taken
                    worst[name] = max(worst[name], error)
    for name in names:
        ratio = seconds[name] / seconds[names[0]]
        print(f"{name}: {seconds[name]:.1f} s, {ratio:.2f} of {names[0]}; error up to {worst[name]:.1e}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(SOLVERS))
