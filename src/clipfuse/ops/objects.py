"""Objects of labelled images: their boxes, made from maps of classes, and windows about them."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipfuse.ops.patches import PatchPlaces
from clipfuse.types import Boxes


def components(classes: Tensor, kinds: Sequence[int], smallest: int) -> Boxes:
    """Return a box for each connected part of a class in a map of classes.

    Pixels are connected at sides and corners. Objects are in the order of `kinds`, then of their first
    pixels, row by row.

    Args:
        classes: (H, W), integers.
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


def draw_objects(boxes: Sequence[Boxes], kinds: Sequence[int], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return one object of each image, drawn evenly from those of the given classes.

    Args:
        boxes: those of N images.
        kinds: the classes.
        seeds: N seeds; the same seed draws the same object.

    Returns:
        Edges as in `Boxes.xyxy`, (N, 4) float32, 0 in an image without such an object, and the place of its
        class in `kinds`, (N,) int64, -1 there; both on the CPU.
    """
    edges, places = torch.zeros(len(boxes), 4), torch.full((len(boxes),), -1)
    order = torch.tensor(list(kinds), dtype=torch.int64)
    for index, (each, seed) in enumerate(zip(boxes, seeds, strict=True)):
        wanted = torch.isin(each.classes.cpu(), order).nonzero().flatten()
        if len(wanted):
            generator = torch.Generator().manual_seed(seed)
            one = int(wanted[torch.randint(len(wanted), (), generator=generator)])
            edges[index] = each.xyxy[one].cpu()
            places[index] = int((order == int(each.classes[one])).nonzero()[0])
    return edges, places


def object_windows(
    shape: tuple[int, int], edges: Tensor, factor: float = 1.5, least: float = 24.0
) -> PatchPlaces:
    """Return a square about each object, moved to lie within its image, for `cut_patches`.

    Args:
        shape: height and width of the images.
        edges: left, top, right, bottom of the objects in pixels, (N, 4).
        factor: side of the square, as a multiple of the object's longer side.
        least: smallest side in pixels; the largest is the shorter side of the image.
    """
    height, width = shape
    edges = edges.double()
    size = edges[:, 2:] - edges[:, :2]
    shorter = float(min(shape))
    side = (factor * size.amax(dim=1)).clamp(min(least, shorter), shorter)
    limit = torch.tensor([width, height], dtype=torch.float64)
    half = side[:, None] / 2
    center = torch.minimum(torch.maximum((edges[:, :2] + edges[:, 2:]) / 2, half), limit - half)
    maps = torch.zeros(len(edges), 1, 3, 3, dtype=torch.float64)
    maps[:, 0, 0, 0], maps[:, 0, 1, 1], maps[:, 0, 2, 2] = side / width, side / height, 1.0
    maps[:, 0, :2, 2] = 2 * center / limit - 1
    return PatchPlaces(maps, None, side)
