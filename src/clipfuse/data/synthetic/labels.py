"""Exact labels of rendered scenes: which thing each pixel belongs to, the map of classes, and the boxes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipfuse.types import Boxes, LabelSet

LABELS = LabelSet(
    names=(
        "sky",
        "road",  # with its lane paint
        "pavement",  # with its kerb
        "ground",  # verges of grass or soil
        "building",  # with windows and roof; distant roofs
        "vegetation",  # trees with their trunks, bushes, wooded hills
        "pole",  # posts, their arms, cross-beams and wires
        "lamp",  # the head that gives light
        "sign",
        "person",
        "car",  # moving and parked
    ),
    background=None,  # every pixel shows something
    palette=(
        (70, 130, 180),
        (128, 64, 128),
        (244, 35, 232),
        (152, 251, 152),
        (70, 70, 70),
        (107, 142, 35),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (220, 20, 60),
        (0, 0, 142),
    ),
    objects=("person", "car"),
)
"""Names and palette of the classes; the colours are those of Cityscapes for the same things."""

LEAST_PIXELS = 16
"""Things of which fewer pixels are visible get no box; they stay in the map of classes."""


class Shares:
    """Finds the thing that each pixel belongs to, while a scene is painted from far to near.

    A thing is painted in strokes; a stroke of coverage a leaves the share 1 - a of what was there. When all
    is painted, the colour of a pixel is a mean over things, by shares that sum to 1. A pixel belongs to the
    thing of the greatest share: to the one painted last, save at an edge, of which it covers too little.
    Where hot targets have more than half of a pixel together, the greatest share is sought among them alone,
    elsewhere among the other things alone: so the mask of targets and the map of classes agree everywhere.
    Shadows belong to what they fall on.

    Own design. All earlier shares shrink by one factor with each stroke, so that their order never changes:
    the greatest earlier share of both kinds is all that must be kept.
    """

    def __init__(self, size: int) -> None:
        """Start with a sky that fills (size, size) pixels."""
        self.target = False  # whether what is being painted is a hot target
        self.kinds = [0]  # the class of each thing
        self._extents: list[list[int]] = [[size, 0, size, 0]]  # first and end row, first and end column
        self._rest: NDArray[Any] = np.ones((size, size), np.float32)  # what the strokes of one thing leave
        self._share: NDArray[Any] = np.zeros((2, size, size), np.float32)  # greatest, of others and targets
        self._owner: NDArray[Any] = np.zeros((2, size, size), np.uint16)
        self._share[0] = 1

    def begin(self, name: str, target: bool = False) -> None:
        """Let all strokes from now on belong to a new thing of class `name`."""
        self._finish()
        self.target = target
        self.kinds.append(LABELS.names.index(name))
        self._extents.append([len(self._rest), 0, len(self._rest), 0])

    def stroke(self, y0: int, y1: int, x0: int, x1: int, coverage: NDArray[Any]) -> None:
        """Add a stroke over the rows y0 to y1 and columns x0 to x1, of coverage (y1 - y0, x1 - x0)."""
        self._rest[y0:y1, x0:x1] *= 1 - coverage
        extent = self._extents[-1]
        extent[:] = min(extent[0], y0), max(extent[1], y1), min(extent[2], x0), max(extent[3], x1)

    def surface(self, top: int, names: tuple[str, ...], which: NDArray[Any]) -> None:
        """Cover all rows from `top` down with one new thing of each class; `which`, (h, w), picks it."""
        first = len(self.kinds)
        for name in names:
            self.begin(name)
        self._owner[0, top:] = first + which
        self._share[0, top:], self._share[1, top:] = 1, 0

    def _finish(self) -> None:
        y0, y1, x0, x1 = self._extents[-1]
        if y0 < y1:
            place, kind = (slice(y0, y1), slice(x0, x1)), int(self.target)
            rest = self._rest[place]
            share = 1 - rest
            self._share[:, *place] *= rest
            greatest = self._share[kind, *place]
            self._owner[kind, *place][share > greatest] = len(self.kinds) - 1
            np.maximum(greatest, share, out=greatest)
            rest[:] = 1

    def labels(self, targets: NDArray[Any]) -> tuple[torch.Tensor, Boxes]:
        """Return the map of classes, (S, S) uint8, and the boxes, far before near; call it once, at the end.

        Args:
            targets: (S, S) share of hot targets in each pixel.
        """
        self._finish()
        owner = np.where(targets > 0.5, self._owner[1], self._owner[0])
        boxes, classes = list[tuple[int, int, int, int]](), list[int]()
        boxed = [LABELS.names.index(name) for name in LABELS.objects]
        for number, (kind, (y0, y1, x0, x1)) in enumerate(zip(self.kinds, self._extents, strict=True)):
            if kind in boxed and y0 < y1:
                rows, columns = np.nonzero(owner[y0:y1, x0:x1] == number)
                if len(rows) >= LEAST_PIXELS:
                    left, right = x0 + int(columns.min()), x0 + int(columns.max()) + 1
                    boxes.append((left, y0 + int(rows[0]), right, y0 + int(rows[-1]) + 1))
                    classes.append(kind)
        found = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(classes).long())
        return torch.from_numpy(np.array(self.kinds, np.uint8)[owner]), found
