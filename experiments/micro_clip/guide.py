"""Does the micro CLIP guide a fusion, and not by adversarial noise? Prints tables, draws images.

    python -m experiments.micro_clip.guide [folder of a model] [folder for images]

A fusion rule with ten free numbers (a Laplacian pyramid of four levels: one gain per band and level, and two
base weights, all held in 0..2) starts at the plain average and descends the language direction loss
for 120 steps.
Then the same descent on the pixels themselves, with and without random crops and blur in the loop.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from experiments.micro_clip import recipe
from experiments.micro_clip.evaluate import BANDS, CLEAR, Judge, Planes, fusions, views
from experiments.micro_clip.scenes import Scene, presence, real_scenes, synthetic_scenes
from kornia.filters import gaussian_blur2d
from kornia.geometry.transform import resize as rescale
from torch import Tensor
from torch.nn import functional as F

STEPS = 120
GREATEST = 2.0  # of a gain: free ones rise on, to 2.9 in 120 steps, for little
NAMES = [f"{band} {level}" for band in ("infrared", "visible") for level in ("1", "2", "3", "4", "base")]


def components(planes: Planes) -> np.ndarray:
    """Return (10, S, S): what each level of each band adds to an image; halved, they sum to the average."""
    found = []
    for name in ("infrared", "visible"):
        bands = recipe.laplacian(planes[name])
        for keep in range(len(bands)):
            found.append(recipe.collapse([b if i == keep else 0 * b for i, b in enumerate(bands)]))
    return np.stack(found)


class Direction:
    """The language direction loss of LDFusion and StyleGAN-NADA, between fixed sources and texts.

    1/2 (1 - cos(E(F) - E(V), T_obj - T_vis)) + 1/2 (1 - cos(E(F) - E(I), T_obj - T_ir)), unit E and T.
    """

    def __init__(self, judge: Judge, infrared: Tensor, visible: Tensor) -> None:
        self.judge = judge
        with torch.no_grad():
            self.sources = judge.images(infrared), judge.images(visible)
        words = judge.texts([CLEAR, BANDS["infrared"], BANDS["visible"]])
        self.moves = words[0] - words[1], words[0] - words[2]

    def __call__(self, fused: Tensor) -> Tensor:
        """Return the loss of each of (N, 1, S, S) images."""
        image = self.judge.images(fused)
        parts = [
            1 - F.cosine_similarity(image - source, move[None], eps=1e-6)
            for source, move in zip(self.sources, self.moves, strict=True)
        ]
        return (parts[0] + parts[1]) / 2

    @torch.no_grad()
    def of(self, fused: Tensor) -> Tensor:
        """Return the loss without a graph."""
        return self(fused)


def descend_rule(loss: Direction, parts: Tensor, rate: float = 0.025) -> tuple[Tensor, Tensor]:
    """Return the images and gains (N, 10) after the descent from the plain average."""
    gains = torch.full(parts.shape[:2], 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([gains], rate)

    def fuse() -> Tensor:
        return torch.einsum("nk,nkhw->nhw", gains, parts).clamp(0, 1)[:, None]

    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(fuse()).sum().backward()
        optimizer.step()
        with torch.no_grad():
            gains.clamp_(0, GREATEST)
    with torch.no_grad():
        return fuse(), gains.detach()


def random_view(images: Tensor) -> Tensor:
    """Crop and blur at random, the same for all images."""
    size = images.shape[-1]
    side = int(size * (0.7 + 0.3 * torch.rand(()).item()))
    top, left = torch.randint(size - side + 1, (2,)).tolist()
    sigma = 0.3 + 0.7 * torch.rand(()).item()
    cut = rescale(images[..., top : top + side, left : left + side], (size, size))
    return gaussian_blur2d(cut, (5, 5), (sigma, sigma))


def descend_pixels(
    judge: Judge, infrared: Tensor, visible: Tensor, robust: bool, rate: float = 0.01, steps: int = 150
) -> Tensor:
    """Return images whose pixels themselves descended from the average; `robust`: through random views."""
    torch.manual_seed(0)
    image = ((infrared + visible) / 2).requires_grad_()
    optimizer = torch.optim.Adam([image], rate)
    whole = Direction(judge, infrared, visible)
    for _ in range(steps):
        optimizer.zero_grad()
        if robust:
            three = random_view(torch.cat([image, infrared, visible]))
            seen, *sources = three.chunk(3)
            Direction(judge, *sources)(seen).sum().backward()
        else:
            whole(image).sum().backward()
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def contrast(image: Tensor, mask: np.ndarray) -> float:
    """Return (mean of the target - mean of its 7 px ring) / (mean of the ring + 16), of 255 levels."""
    inside = mask > 0.5
    ring = cv2.dilate(inside.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool) & ~inside
    if inside.sum() < 12 or not ring.any():
        return float("nan")
    levels = 255 * image[0].numpy()
    return float((levels[inside].mean() - levels[ring].mean()) / (levels[ring].mean() + 16))


def detail(image: Tensor) -> float:
    """Return the mean local standard deviation, window 7 x 7, of 255 levels."""
    mean, square = F.avg_pool2d(torch.stack([image, image * image]), 7, 1)
    return float(255 * (square - mean * mean).clamp(min=0).sqrt().mean())


def measure(images: Tensor, masks: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the mean target contrast and the mean local detail."""
    contrasts = [contrast(image, mask) for image, mask in zip(images, masks, strict=True)]
    return float(np.nanmean(contrasts)), float(np.mean([detail(image) for image in images]))


def study(judge: Judge, title: str, found: list[Planes], pixels: int) -> dict[str, Tensor]:
    """Print what the descents reach; return the images by their names."""

    def stack(images: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(images)[:, None]).float()

    masks = [v["mask"] if "mask" in v else recipe.hot(v["infrared"], 1) for v in found]
    made = [fusions(v) for v in found]
    shown = {name: stack([v[name] for v in found]) for name in ("infrared", "visible")}
    shown |= {name: stack([m[name] for m in made]) for name in ("average", "maximum", "ideal")}
    loss = Direction(judge, shown["infrared"], shown["visible"])
    shown["rule"], gains = descend_rule(loss, torch.from_numpy(np.stack([components(v) for v in found])))
    print(f"\n**{title}: {len(found)} scenes**\n\n| image | loss | target contrast | local detail |")
    print("|---|---|---|---|")
    scores = {name: loss.of(images) for name, images in shown.items()}
    for name, images in shown.items():
        target, fine = measure(images, masks)
        print(f"| {name} | {scores[name].mean():.3f} | {target:.2f} | {fine:.1f} |")
    wins = [scores["ideal"] < scores[name] for name in ("average", "maximum", "infrared", "visible")]
    each = ", ".join(f"{100 * win.float().mean():.0f} %" for win in wins)
    both = torch.stack(wins).all(0).float().mean()
    print(f"\nideal better than average, maximum, infrared, visible: {each}; than all: {100 * both:.0f} %")
    reached = (scores["rule"] <= scores["ideal"] + 0.02).float().mean()
    print(f"rule within 0.02 of the ideal's loss or below: {100 * reached:.0f} % of scenes")
    for name, bound in (("lower", 0), ("upper", GREATEST)):
        print(f"gains at the {name} bound, {bound:g}: {100 * (gains == bound).float().mean():.1f} %")
    print("\n| number | mean | 5 % | 95 % |\n|---|---|---|---|")
    for name, column in zip(NAMES, gains.T, strict=True):
        low, high = column.quantile(torch.tensor([0.05, 0.95])).tolist()
        print(f"| {name} | {column.mean():.2f} | {low:.2f} | {high:.2f} |")
    few = {name: images[:pixels] for name, images in shown.items()}
    loss = Direction(judge, few["infrared"], few["visible"])
    print("\n| from the average | loss | loss when blurred | target contrast | local detail | change |")
    print("|---|---|---|---|---|---|")
    few["pixels"] = descend_pixels(judge, few["infrared"], few["visible"], robust=False)
    few["pixels, random views"] = descend_pixels(judge, few["infrared"], few["visible"], robust=True)
    for name in ("average", "rule", "pixels", "pixels, random views", "ideal"):
        images = few[name]
        target, fine = measure(images, masks[:pixels])
        blurred = loss.of(gaussian_blur2d(images, (5, 5), (0.8, 0.8))).mean()
        change = 255 * (images - few["average"]).square().mean().sqrt()
        row = f"{loss.of(images).mean():.3f} | {blurred:.3f} | {target:.2f} | {fine:.1f} | {change:.0f}"
        print(f"| {name} | {row} |")
    return few


def draw(shown: dict[str, Tensor], path: Path, rows: int = 5) -> None:
    """Write a sheet: one scene per row, one image per column, twice enlarged, with names above."""
    columns = ["infrared", "visible", "average", "maximum", "rule", "pixels", "pixels, random views", "ideal"]
    strips = []
    for row in range(rows):
        tiles = [np.rint(255 * shown[name][row, 0].numpy()).astype(np.uint8) for name in columns]
        strips.append(np.hstack([cv2.resize(tile, None, fx=1.5, fy=1.5) for tile in tiles]))
    sheet = np.vstack(strips)
    head = np.full((20, sheet.shape[1]), 255, np.uint8)
    for index, name in enumerate(columns):
        place = (index * sheet.shape[1] // len(columns) + 4, 14)
        cv2.putText(head, name, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, 0, 1, cv2.LINE_AA)
    cv2.imwrite(str(path), np.vstack([head, sheet]), [cv2.IMWRITE_JPEG_QUALITY, 88])


def nights() -> list[Scene]:
    """Return every second night scene of MSRS's test part in which a person is seen."""
    found = [each for each in real_scenes("msrs", ["test"]) if each.weather == "night"]
    return [
        each for each in found if each.things is not None and presence(each.things).get("person") == "yes"
    ][::2]


def main(folder: Path | None, pictures: Path) -> None:
    torch.set_num_threads(1)
    judge = Judge(folder)
    worlds: dict[str, Callable[[], list[Planes]]] = {
        "synthetic, test part": lambda: views(synthetic_scenes("test", 40), judge.size, 0),
        "RoadScene, held out": lambda: views(real_scenes("roadscene", ["val", "test"]), judge.size, 1)[1::2],
        "MSRS, held-out nights": lambda: views(nights(), judge.size, 0),
    }
    for title, load in worlds.items():
        shown = study(judge, title, load(), pixels=8)
        name = "guidance.jpg" if title.startswith("synthetic") else f"{title.split(',')[0]}.jpg"
        if title.startswith("synthetic") or pictures != Path(__file__).parent:
            draw(shown, pictures / name)  # real images are not ours to publish


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else None,
        Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent,
    )
