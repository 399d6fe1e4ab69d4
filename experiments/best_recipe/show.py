"""The recipe that ships, beside the trivial fusions: scores on the test scenes, and six panels.

    python -m experiments.best_recipe.show --roadscene data/roadscene [--checkpoint C]

Draws rendered scenes into `panel.jpg` beside this file; into `--out` real ones (`real.jpg`, for your eyes
alone), and the scores on whole scenes that neither the training nor the search saw (`test.md`).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from experiments.best_recipe.rule import LAPLACIAN, trivial
from experiments.best_recipe.search import judge, sources, tabulate
from PIL import Image
from torch import nn

from clipfuse.data.pairs import PairSource
from clipfuse.data.transforms import whole
from clipfuse.engine.build import BUNDLED, load_backbone
from clipfuse.engine.pictures import draw_panel
from clipfuse.ops.color import luma_chroma_to_rgb

NAME = "bundled"
SCENES = {  # day, night, people, vehicles, texture, hard light
    "rendered": [f"test-{index:06}" for index in (11, 23, 7, 9, 1, 14)],
    "real": [f"FLIR_{number}" for number in ("04968", "05872", "06621", "05164", "05044", "05573")],
}
FUSIONS = {"average": "baseline:average", "maximum": "baseline:maximum", "sum": "baseline:sum"}


def draw(network: nn.Module, source: PairSource, names: list[str], height: int) -> Image.Image:
    """Return a row for each scene: both bands, the trivial fusions, ours."""
    rows = []
    for name in names:
        planes = whole(source.load(name))
        infrared, visible, chroma = (planes[key] for key in ("infrared", "visible", "chroma"))
        with torch.inference_mode():
            found = {
                **trivial(infrared[None], visible[None]),
                NAME: network(infrared[None], visible[None]).fused,
            }
        shown = [found[key] for key in (*FUSIONS.values(), LAPLACIAN, NAME)]
        fused = [luma_chroma_to_rgb(plane[0], chroma) for plane in shown]
        rows.append([infrared, luma_chroma_to_rgb(visible, chroma), *fused])
    return draw_panel(["infrared", "visible", *FUSIONS, "Laplacian pyramid", "ours"], rows, height)


def main() -> None:
    """Score, print and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--roadscene", required=True, help="folder of the real pairs")
    parser.add_argument("--checkpoint", type=Path, default=BUNDLED)
    parser.add_argument("--out", type=Path, default=Path("runs/best_recipe"))
    options = parser.parse_args()
    network = load_backbone(options.checkpoint, ["experiments"])
    options.out.mkdir(parents=True, exist_ok=True)
    found: Mapping[str, PairSource] = sources(options.roadscene)
    for kind, file in {
        "rendered": Path(__file__).with_name("panel.jpg"),
        "real": options.out / "real.jpg",
    }.items():
        draw(network, found[kind], SCENES[kind], 200).save(file, quality=88)
    table = "\n".join(tabulate(judge({(NAME, 0): network}, options.roadscene, "test"))[1])
    print(table)
    (options.out / "test.md").write_text(f"{table}\n")


if __name__ == "__main__":
    main()
