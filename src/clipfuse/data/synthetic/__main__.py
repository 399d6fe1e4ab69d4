"""Draw a contact sheet: `python -m clipfuse.data.synthetic --out sheet.png [--count 24] [--seed 0]`."""

import argparse

import cv2
import numpy as np
from PIL import Image, ImageDraw

from clipfuse.data.synthetic.labels import LABELS
from clipfuse.data.synthetic.source import render, sample_scene


def strip(seed: int, index: int, size: int) -> Image.Image:
    """Return infrared | visible | ideal fused | mask outline | classes with boxes of one scene, labelled."""
    pair = render(seed, index, size)
    assert pair.reference is not None
    assert pair.target_mask is not None
    assert pair.classes is not None
    assert pair.boxes is not None
    infrared, fused = (np.repeat(t.numpy().transpose(1, 2, 0), 3, 2) for t in (pair.infrared, pair.reference))
    visible = np.ascontiguousarray(pair.visible.numpy().transpose(1, 2, 0))
    outlined = visible.copy()
    contours, _ = cv2.findContours(
        pair.target_mask[0].numpy().astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(outlined, contours, -1, (255, 40, 40), 1)
    classes = Image.fromarray(np.array(LABELS.palette, np.uint8)[pair.classes.numpy()])
    drawing = ImageDraw.Draw(classes)
    for left, top, right, bottom in pair.boxes.xyxy.tolist():
        drawing.rectangle((left - 1, top - 1, right, bottom), outline="white")  # around its pixels
    image = Image.fromarray(np.concatenate([infrared, visible, fused, outlined, np.asarray(classes)], 1))
    label = f"{index} {sample_scene(seed, index, size)[0].weather.name}"
    drawing = ImageDraw.Draw(image)
    drawing.rectangle((0, 0, 8 + 6 * len(label), 13), fill="black")
    drawing.text((4, 1), label, fill="white")
    return image


def legend(width: int) -> Image.Image:
    """Return the names of the classes on their colours, `width` pixels wide, in as many rows as they need."""
    places, left, top = [], 0, 0
    for name, color in zip(LABELS.names, LABELS.palette, strict=True):
        across = 12 + 6 * len(name)
        if left and left + across > width:
            left, top = 0, top + 16
        places.append((left, top, across, name, color))
        left += across
    image = Image.new("RGB", (width, top + 16), "white")
    drawing = ImageDraw.Draw(image)
    for left, top, across, name, color in places:
        drawing.rectangle((left, top, left + across - 1, top + 15), fill=color)
        drawing.text((left + 6, top + 2), name, fill="black" if sum(color) > 380 else "white")
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
    rows, names = -(-len(strips) // options.columns), legend(options.columns * (width + gap))
    sheet = Image.new("RGB", (names.width, rows * (height + gap) + names.height), "white")
    for i, image in enumerate(strips):
        sheet.paste(image, (i % options.columns * (width + gap), i // options.columns * (height + gap)))
    sheet.paste(names, (0, sheet.height - names.height))
    sheet.save(options.out)


if __name__ == "__main__":
    main()
