"""Draw a contact sheet: `python -m clipfuse.data.synthetic --out sheet.png [--count 24] [--seed 0]`."""

import argparse

import cv2
import numpy as np
from PIL import Image, ImageDraw

from clipfuse.data.synthetic.source import render, sample_scene


def strip(seed: int, index: int, size: int) -> Image.Image:
    """Return infrared | visible | ideal fused | mask outline of one scene side by side, labelled."""
    pair = render(seed, index, size)
    assert pair.reference is not None
    assert pair.target_mask is not None
    infrared, fused = (np.repeat(t.numpy().transpose(1, 2, 0), 3, 2) for t in (pair.infrared, pair.reference))
    visible = np.ascontiguousarray(pair.visible.numpy().transpose(1, 2, 0))
    outlined = visible.copy()
    contours, _ = cv2.findContours(
        pair.target_mask[0].numpy().astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(outlined, contours, -1, (255, 40, 40), 1)
    image = Image.fromarray(np.concatenate([infrared, visible, fused, outlined], 1))
    label = f"{index} {sample_scene(seed, index, size)[0].weather.name}"
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((0, 0, 8 + 6 * len(label), 13), fill="black")
    drawing.text((4, 1), label, fill="white")
    return image


def main() -> None:
    """Read the arguments and write the sheet."""
    parser = argparse.ArgumentParser(prog="python -m clipfuse.data.synthetic", description=__doc__)
    parser.add_argument("--out", required=True, help="image file to write")
    parser.add_argument("--count", type=int, default=24, help="number of scenes")
    parser.add_argument("--first", type=int, default=0, help="index of the first scene")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--columns", type=int, default=2, help="scenes side by side")
    options = parser.parse_args()
    strips = [strip(options.seed, options.first + i, options.size) for i in range(options.count)]
    width, height, gap = *strips[0].size, 4
    rows = -(-len(strips) // options.columns)
    sheet = Image.new("RGB", (options.columns * (width + gap), rows * (height + gap)), "white")
    for i, image in enumerate(strips):
        sheet.paste(image, (i % options.columns * (width + gap), i // options.columns * (height + gap)))
    sheet.save(options.out)


if __name__ == "__main__":
    main()
