"""Draw rendered scenes under the networks of the package beside trivial fusions, into `panel.jpg`.

    python -m experiments.second_recipe.show [--out FILE]

Real ones were looked at by hand, and stay out of the project.
"""

from pathlib import Path

import torch
from experiments.best_recipe.rule import load_scenes
from experiments.common import make_parser

from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.networks.load import load_network
from clipfuse.ops.color import eight_bit_rgb
from clipfuse.ops.depth import to_unit
from clipfuse.tracking.pictures import draw_panel

SCENES = (1, 2, 7, 11, 18)  # places in the test part: by day, at dusk and at night
TITLES = ["infrared", "visible", "average", "maximum", "first network", "bundled network"]


def main() -> None:
    """Draw and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("panel.jpg"))
    options = parser.parse_args()
    networks = [load_network(name) for name in ("first", "bundled")]
    scenes = load_scenes(SyntheticPairs(), "test")
    rows = []
    for place in SCENES:
        scene = scenes[place]
        warm, seen = scene.infrared, scene.visible
        with torch.inference_mode():
            lumas = [
                seen,
                (warm + seen) / 2,
                warm.maximum(seen),
                *(net(warm, seen).fused for net in networks),
            ]
            colors = [to_unit(eight_bit_rgb(luma[0], scene.chroma[0])) for luma in lumas]
        rows.append([warm[0].expand(3, -1, -1), *colors])
    draw_panel(TITLES, rows, 160).save(options.out, quality=88)


if __name__ == "__main__":
    main()
