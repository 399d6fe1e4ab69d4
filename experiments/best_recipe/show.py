"""The recipe that ships, beside the trivial fusions: scores on the test scenes, and panels of six scenes.

    python -m experiments.best_recipe.show --roadscene data/roadscene [--checkpoint C]

Draws rendered scenes into `panel.jpg` beside this file; into `--out` real ones (`real.jpg`, for your eyes
alone), and the scores on the validation scenes (`validation.md`) and on the test scenes (`test.md`).
"""

import copy
from pathlib import Path
from statistics import fmean

import torch
from experiments.best_recipe.published import OURS, PYRAMID, compare_gains
from experiments.best_recipe.rule import LAPLACIAN, Scores, load_scenes, trivial
from experiments.best_recipe.search import Networks, judge, tabulate
from experiments.common import format_table, load_sources, make_parser
from PIL import Image
from torch import Tensor, nn

from clipfuse.data.pairs import PairSource
from clipfuse.data.transforms import whole
from clipfuse.metrics import FusionMetrics
from clipfuse.networks.load import load_backbone, named
from clipfuse.ops.color import eight_bit_rgb
from clipfuse.ops.depth import to_bytes, to_unit
from clipfuse.tracking.pictures import draw_panel

NAME, START = "bundled", "bundled, untrained"
FROM_OURS = "grey levels from the bundled"
SCENES = {  # day, night, people, vehicles, texture, hard light
    "rendered": [f"test-{index:06}" for index in (11, 23, 7, 9, 1, 14)],
    "real": [f"FLIR_{number}" for number in ("04968", "05872", "06621", "05164", "05044", "05573")],
}
FUSIONS = {  # of a panel, by label
    "average": "trivial:average",
    "maximum": "trivial:maximum",
    "sum": "trivial:sum",
    PYRAMID: LAPLACIAN,
    "untrained": START,
    OURS: NAME,
}
PUBLISHED = (OURS, PYRAMID, "maximum", "average")  # labels of what has published scores, and ours


def fuse(networks: Networks, infrared: Tensor, visible: Tensor) -> dict[str, Tensor]:
    """Return what each network and each trivial fusion makes of (N, 1, H, W) bands, by name."""
    with torch.inference_mode():
        fused = {name: network(infrared, visible).fused for (name, _), network in networks.items()}
    return {**fused, **trivial(infrared, visible)}


def draw(networks: Networks, source: PairSource, names: list[str], height: int) -> Image.Image:
    """Return a row for each scene: both bands, the trivial fusions, ours untrained and trained."""
    rows = []
    for name in names:
        batch = whole(source.load(name), name)
        found = fuse(networks, batch.infrared, batch.visible)
        lumas = [batch.visible, *(found[key] for key in FUSIONS.values())]
        rows.append([batch.infrared[0], *(eight_bit_rgb(luma, batch.chroma)[0] for luma in lumas)])
    return draw_panel(["infrared", "visible", *FUSIONS], rows, height)


def untrained(network: nn.Module) -> nn.Module:
    """Return a copy that adds nothing: it shows the image it starts from, as before its training."""
    start = copy.deepcopy(network)
    nn.init.zeros_(start.get_parameter("render.weight"))
    return start


def beside_the_rule(networks: Networks, source: PairSource) -> dict[str, Scores]:
    """Return what is no part of the rule, of every candidate on the test scenes.

    `MI`, by which copies win, and `FROM_OURS`, how many grey levels it is from ours on average.
    """
    metric = FusionMetrics("cddfuse", ["MI"])
    found: dict[str, dict[str, list[float]]] = {}
    for scene in load_scenes(source, "test"):
        infrared, visible = scene.infrared, scene.visible
        fused = fuse(networks, infrared, visible)
        shown = {name: to_unit(to_bytes(plane)) for name, plane in fused.items()}
        for name, row in metric.score_all(shown, infrared, visible).items():
            row[FROM_OURS] = 255 * float((fused[name] - fused[NAME]).abs().mean())
            for key, value in row.items():
                found.setdefault(name, {}).setdefault(key, []).append(value)
    return {name: {key: fmean(values) for key, values in row.items()} for name, row in found.items()}


def main() -> None:
    """Score, print and draw."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--checkpoint", type=Path, default=named("first"))
    parser.add_argument("--out", type=Path, default=Path("runs/best_recipe"))
    options = parser.parse_args()
    network = load_backbone(options.checkpoint, ["experiments"])
    networks = {(NAME, 0): network, (START, 0): untrained(network)}
    options.out.mkdir(parents=True, exist_ok=True)
    found = load_sources(options.roadscene)
    for kind, file in {
        "rendered": Path(__file__).with_name("panel.jpg"),
        "real": options.out / "real.jpg",
    }.items():
        draw(networks, found[kind], SCENES[kind], 200).save(file, quality=88)
    write(options.out / "validation.md", tabulate(judge(networks, options.roadscene))[1])
    scores = judge(networks, options.roadscene, "test")
    others = beside_the_rule(networks, found["real"])
    lines = [*tabulate(scores)[1], "\n**real scenes, beside the rule**\n"]
    rows = [[name, f"{row['MI']:.2f}", f"{row[FROM_OURS]:.1f}"] for name, row in others.items()]
    lines += format_table(["recipe", "MI", FROM_OURS], rows)
    published = {
        label: {**scores["real"][FUSIONS[label]][0], "MI": others[FUSIONS[label]]["MI"]}
        for label in PUBLISHED
    }
    lines += ["\n**per cent above the Laplacian pyramid on the same images**\n", compare_gains(published)]
    write(options.out / "test.md", lines)


def write(path: Path, lines: list[str]) -> None:
    """Print and write the lines."""
    text = "\n".join(lines)
    print(f"{path.stem}\n{text}\n")
    path.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
