"""Boxes of objects, made from maps of classes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipfuse.types import Boxes


def components(classes: Tensor, kinds: Sequence[int], smallest: int) -> Boxes:
    """Return a box for each connected part of a class in a map of classes.

    Pixels are connected at sides and corners. Objects are in the order of `kinds`, then of their first
    pixels, row by row.

    Args:
        classes: (H, W) uint8.
        kinds: the classes of which boxes are made.
        smallest: fewest pixels of a part; smaller ones are left out.
    """
    from scipy.ndimage import find_objects, label

    found: list[list[float]] = []
    of_kind: list[int] = []
    plane = classes.cpu().numpy()
    for kind in kinds:
        numbered, count = label(plane == kind, structure=np.ones((3, 3)))
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        for size, (rows, columns) in zip(sizes, find_objects(numbered), strict=True):
            if size >= smallest:
                found.append([columns.start, rows.start, columns.stop, rows.stop])
                of_kind.append(kind)
    xyxy = torch.tensor(found, dtype=torch.float32).reshape(-1, 4)
    return Boxes(xyxy, torch.tensor(of_kind, dtype=torch.int64))
