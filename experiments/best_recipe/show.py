"""The recipe that ships, beside the trivial fusions: scores on the test scenes, and six panels.

    python -m experiments.best_recipe.show --roadscene data/roadscene [--checkpoint C]

Draws rendered scenes into `panel.jpg` beside this file; into `--out` real ones (`real.jpg`, for your eyes
alone), and the scores on whole scenes that neither the training nor the search saw (`test.md`).
"""

import argparse
import copy
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import torch
from experiments.best_recipe.plain import RaisedStart
from experiments.best_recipe.published import OURS, PYRAMID, compare_gains
from experiments.best_recipe.rule import LAPLACIAN, Scores, load_scenes, trivial
from experiments.best_recipe.search import judge, sources, tabulate
from PIL import Image
from torch import nn

from clipfuse.data.pairs import PairSource
from clipfuse.data.transforms import whole
from clipfuse.engine.build import BUNDLED, load_backbone
from clipfuse.engine.pictures import draw_panel
from clipfuse.metrics import FusionMetrics
from clipfuse.ops.color import luma_chroma_to_rgb
from clipfuse.ops.depth import to_bytes, to_unit

NAME, START, RAISED = "bundled", "bundled, untrained", "untrained, raised by hand"
SCENES = {  # day, night, people, vehicles, texture, hard light
    "rendered": [f"test-{index:06}" for index in (11, 23, 7, 9, 1, 14)],
    "real": [f"FLIR_{number}" for number in ("04968", "05872", "06621", "05164", "05044", "05573")],
}
SHARED = {
    OURS: NAME,
    PYRAMID: LAPLACIAN,
    "maximum": "baseline:maximum",
    "average": "baseline:average",
}  # what is scored on published pictures, too
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
    return draw_panel(["infrared", "visible", *FUSIONS, PYRAMID, OURS], rows, height)


def untrained(network: nn.Module) -> nn.Module:
    """Return the network as it was before training, when it showed the image it adds to."""
    start = copy.deepcopy(network)
    nn.init.zeros_(start.get_parameter("render.weight"))
    return start


def mutual_information(network: nn.Module, source: PairSource) -> Scores:
    """Return every candidate's MI on the test scenes, which is no part of the rule: copies win by it."""
    metric = FusionMetrics("cddfuse", ["MI"])
    found: dict[str, list[float]] = {}
    for scene in load_scenes(source, "test"):
        infrared, visible = scene["infrared"], scene["visible"]
        assert infrared is not None
        assert visible is not None
        with torch.inference_mode():
            fused = {**trivial(infrared, visible), NAME: network(infrared, visible).fused}
        shown = {name: to_unit(to_bytes(plane)) for name, plane in fused.items()}
        for name, row in metric.score_all(shown, infrared, visible).items():
            found.setdefault(name, []).append(row["MI"])
    return {name: fmean(values) for name, values in found.items()}


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
    start = untrained(network)
    networks = {(NAME, 0): network, (START, 0): start, (RAISED, 0): RaisedStart(start)}
    scores = judge(networks, options.roadscene, "test")
    information = mutual_information(network, found["real"])
    shared = {label: {**scores["real"][name][0], "MI": information[name]} for label, name in SHARED.items()}
    table = "\n".join(tabulate(scores)[1])
    table += "\n\nMI, real scenes: " + ", ".join(f"{name} {value:.2f}" for name, value in information.items())
    table += f"\n\n**Per cent above the Laplacian pyramid on the same pictures**\n\n{compare_gains(shared)}"
    print(table)
    (options.out / "test.md").write_text(f"{table}\n")


if __name__ == "__main__":
    main()
