"""Draw how x moves on the toy, n = 2, a = c = 2, from four starts: one panel per solver.

python experiments/bilevel_toy/draw.py trajectories.png
"""

import sys
from pathlib import Path

from PIL import Image, ImageDraw
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2]))
from experiments.bilevel_toy.run import SOLVERS, STEPS, solve
from experiments.bilevel_toy.toy import Case, Toy, optimum

STARTS = {(0, 0): "#0072b2", (2, 2): "#d55e00", (4, 4): "#009e73", (1, 7): "#cc79a7"}
WIDTH, HEIGHT, LEFT, TOP = 420, 300, 44, 30
LOW, HIGH = -2.5, 4.5


def main(path: str) -> None:
    """Solve and draw."""
    image = Image.new("RGB", (2 * WIDTH, (len(SOLVERS) + 1) // 2 * HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    for index, name in enumerate(SOLVERS):
        left, top = index % 2 * WIDTH + LEFT, index // 2 * HEIGHT + TOP
        right, bottom = left + WIDTH - LEFT - 16, top + HEIGHT - TOP - 30

        def place(step: float, x: float, box: tuple[int, int, int, int]) -> tuple[float, float]:
            left, top, right, bottom = box
            return left + (right - left) * step / STEPS, bottom - (bottom - top) * (x - LOW) / (HIGH - LOW)

        box = (left, top, right, bottom)
        pen.rectangle(box, outline="#999999")
        pen.text((left, top - 20), f"{name}: x by update", fill="black", font_size=14)
        for tick in range(-2, 5):
            pen.text((left - 22, place(0, tick, box)[1] - 7), f"{tick}", fill="black", font_size=12)
        for tick in range(0, STEPS + 1, 100):
            pen.text((place(tick, 0, box)[0] - 8, bottom + 4), f"{tick}", fill="black", font_size=12)
        for value, colour in ((optimum(2.0, 2), "black"), (optimum(2.0, 2, -1), "#bbbbbb")):
            pen.line([place(0, value, box), place(STEPS, value, box)], fill=colour, width=1)
        pen.text((right - 28, place(0, optimum(2.0, 2), box)[1] - 17), "x*", fill="black", font_size=13)
        for (x0, y0), colour in STARTS.items():
            track: list[Tensor] = []

            def watch(toy: Toy, track: list[Tensor] = track) -> None:
                track.append(toy.x.detach().clone())

            solve(SOLVERS[name](), [Case(2.0, (2.0, 2.0), x0, (float(y0),) * 2)], watch=watch)
            points = [place(0, x0, box)]
            points += [place(step + 1, float(x), box) for step, x in enumerate(track)]
            pen.line(points, fill=colour, width=2)
    image.quantize(32).save(path, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
