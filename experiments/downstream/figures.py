"""Draw the study: what each source is worth to a machine, and what task networks found on some images.

    python -m experiments.downstream.figures scores.png results/msrs.zip results/synthetic.zip
    python -m experiments.downstream.figures panel.jpg runs/downstream/msrs/samples --images 4

The first draws mIoU of each source with its 95 % interval, from zips or folders. The second needs run
folders, where maps and images lie: truth and maps under some sources, of the first run and task seed.
"""

from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from experiments.common import make_parser
from experiments.downstream.answers import read
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from clipfuse.cli.sources import as_pictures, as_truth, find_sources
from clipfuse.comparison.overlays import overlays
from clipfuse.ops.depth import to_unit
from clipfuse.tracking.pictures import draw_panel

SHOWN = ("truth", "infrared", "visible", "both", "pixel", "ldfusion", "promptfusion", "task")


def scores(paths: Sequence[Path]) -> Figure:
    """Return mIoU of each source of each set, with its interval; losses are filled, other sources hollow."""
    figure = Figure(figsize=(4.6 * len(paths), 4.2), layout="constrained")
    for place, path in enumerate(paths, start=1):
        seen = read(path)[1]
        axes = figure.add_subplot(1, len(paths), place)
        cells = [(name, row, seen.cell(seen.main, row)) for row, name in enumerate(seen.rows)]
        known = sorted(((n, row, cell) for n, row, cell in cells if cell), key=lambda each: each[2].mean)
        for height, (_, row, cell) in enumerate(known):
            fill = "C0" if row < seen.losses else "white"
            axes.plot([cell.low, cell.high], [height, height], color="C0" if row < seen.losses else "0.4")
            axes.plot(
                cell.mean, height, "o", markerfacecolor=fill, color="C0" if row < seen.losses else "0.4"
            )
        axes.set_yticks(range(len(known)), [name.partition(" optimizer.lr=")[0] for name, _, _ in known])
        axes.set_xlabel(f"{seen.main}, %")
        axes.set_title(path.parent.name if path.name == "samples" else path.stem)
        axes.grid(axis="x", alpha=0.3)
    return figure


def panel(path: Path, images: int, height: int = 150) -> Image.Image:
    """Return a row for each image: truth, then the map under each of `SHOWN`."""
    material, seen = read(path)
    sources, missing = find_sources(material.tested)
    if sources is None:
        raise SystemExit(f"the panel needs the test pairs: {missing}")
    album = overlays(seen, material.variants, as_pictures(sources), as_truth(sources))
    names = list(album.uris)[:: max(1, len(album.uris) // images)][:images]
    common = [name for name in album.uris[names[0]] if all(name in album.uris[image] for image in names)]
    # The first row of each: "promptfusion prompts=learned optimizer.lr=0.003" is "promptfusion".
    short = {name.partition(" ")[0]: name for name in reversed(common)}
    shown = {name: short[name] for name in SHOWN if name in short}
    rows = [
        [
            to_unit(pil_to_tensor(Image.open(BytesIO(b64decode(album.uris[image][name].partition(",")[2])))))
            for name in shown.values()
        ]
        for image in names
    ]
    return draw_panel(list(shown), rows, height)


def main() -> None:
    """Draw what the name of the file asks for: a .png of scores, a .jpg of maps."""
    parser = make_parser(__doc__)
    parser.add_argument("out", type=Path, help="file to write: .png for scores, .jpg for maps")
    parser.add_argument("runs", type=Path, nargs="+", help="zip, folder or folder of zips of each set")
    parser.add_argument("--images", type=int, default=4, help="rows of the panel")
    options = parser.parse_args()
    if options.out.suffix == ".png":
        scores(options.runs).savefig(options.out, dpi=110)
    else:
        panel(options.runs[0], options.images).save(options.out, quality=85)


if __name__ == "__main__":
    main()
