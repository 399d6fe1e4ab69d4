"""How does the fused image change with what the network sees: training crops, or the whole image?

Channel attention and group norm take statistics over all pixels they are given. For each pair the whole
image is fused once, and once in 96x96 crops side by side; the differences are in levels of 255. The last
line is the peak memory of fusing one image of the given size, above that before.

    python experiments/contourlet_backbone/crops.py CHECKPOINT PAIRS [--count 8] [--size 1024x1280]
"""

import argparse
import resource

import torch
from torch import Tensor

from clipfuse.data.folder import PairedFolder
from clipfuse.data.transforms import whole
from clipfuse.networks.load import load_backbone


def main() -> None:
    """Fuse, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("pairs")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--crop", type=int, default=96)
    parser.add_argument("--size", default="1024x1280")
    options = parser.parse_args()
    network = load_backbone(options.checkpoint)
    source = PairedFolder(options.pairs, split="hash", val=0, test=1)
    rows = []
    print(f"{'pair':<14}{'mean':>8}{'95 %':>8}{'largest':>9}{'seams':>8}")
    for name in source.parts()["test"][: options.count]:
        batch = whole(source.load(name))
        difference, seams = compare(network, batch.infrared, batch.visible, options.crop)
        levels = 255 * difference.flatten()
        row = levels.mean(), levels.quantile(0.95), levels.max(), 255 * seams
        rows.append(torch.stack(row))
        print(f"{name:<14}" + "".join(f"{float(value):8.2f}" for value in row))
    print(f"{'mean':<14}" + "".join(f"{float(value):8.2f}" for value in torch.stack(rows).mean(0)))
    height, width = map(int, options.size.split("x"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        network(torch.rand(1, 1, height, width), torch.rand(1, 1, height, width))
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    print(f"fusing {options.size}: {peak:.2f} GB above, {1e6 * peak / height / width:.2f} GB per megapixel")


@torch.inference_mode()
def compare(network: torch.nn.Module, infrared: Tensor, visible: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Return |whole - crops| per pixel, and the mean step that crops add across their borders."""
    height, width = (side // crop * crop for side in infrared.shape[-2:])
    infrared, visible = infrared[..., :height, :width], visible[..., :height, :width]
    together = network(infrared, visible).fused
    apart = torch.empty_like(together)
    for top in range(0, height, crop):
        for left in range(0, width, crop):
            window = (..., slice(top, top + crop), slice(left, left + crop))
            apart[window] = network(infrared[window], visible[window]).fused
    change = (apart - together)[0, 0]
    border = change[:, crop::crop] - change[:, crop - 1 : -1 : crop]
    return change.abs(), border.abs().mean()


if __name__ == "__main__":
    main()
