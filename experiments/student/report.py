"""The student in the package beside its teacher: scores on pairs that neither has seen, and panels.

    python -m experiments.student.report --roadscene D/roadscene --msrs D/msrs [--out FOLDER]

Replaces the table in the README beside this file, by every fourth pair of MSRS's test part, RoadScene's test
part (31 pairs) and the 24 rendered test pairs, and draws rendered pairs into `panel.jpg`; real ones go into
`--out` (`real.jpg`, for your eyes alone). Choices were made on training and validation parts alone.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from experiments.common import MSRS_SCENES, format_table, make_parser
from torch import Tensor, nn
from tqdm import tqdm

from clipfuse.data.folder import PairedFolder
from clipfuse.data.pairs import PairSource
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.data.transforms import whole
from clipfuse.metrics.scoring import Scorer
from clipfuse.metrics.verdict import BALANCED
from clipfuse.networks.apply import apply_network
from clipfuse.networks.load import load_network
from clipfuse.ops.color import eight_bit_rgb
from clipfuse.tracking.pictures import draw_panel

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
NAMES = ["VIF", "Qabf", *(name for family in BALANCED.members.values() for name in family)]
SHOWN = {"rendered": (11, 7, 1), "roadscene": (2, 12, 22), "msrs": (0, 90, 180)}  # places in the test parts
Rows = dict[str, list[tuple[float, float]]]  # metric -> scores of teacher and student by pair


def score(source: PairSource, ids: Sequence[str], networks: dict[str, nn.Module]) -> Rows:
    """Return the scores of both networks, and the mean difference of their images in levels of 255."""
    scorer = Scorer("strict", NAMES)
    rows: Rows = {}
    for name in tqdm(ids, source.name, unit="pair"):
        pair = whole(source.load(name), name)
        fused = {
            word: apply_network(network, pair.infrared, pair.visible) for word, network in networks.items()
        }
        found = scorer.score_all(fused, pair.infrared, pair.visible, pair.target_mask)
        for metric, taught in found["teacher"].items():
            if taught == taught:  # defined: there are targets
                rows.setdefault(metric, []).append((taught, found["student"][metric]))
        away = 255 * float((fused["teacher"] - fused["student"]).abs().mean())
        rows.setdefault("levels", []).append((0.0, away))
    return rows


def table(found: dict[str, Rows]) -> list[str]:
    """Return a row for each set and metric: teacher, student, share, and the pair with the least share."""
    lines = []
    for data, rows in found.items():
        for name, pairs in rows.items():
            teacher, student = (fmean(each) for each in zip(*pairs, strict=True))
            if name == "levels":
                cells = [
                    "mean difference of pixels, levels of 255",
                    "",
                    f"{student:.2f}",
                    "",
                    f"{max(b for _, b in pairs):.2f}",
                ]
            else:
                least = min(b / a for a, b in pairs if a > 0)
                cells = [name, f"{teacher:.4f}", f"{student:.4f}", f"{student / teacher:.1%}", f"{least:.1%}"]
            lines.append([f"{data} ({len(pairs)})", *cells])
    return format_table(["pairs", "metric", "teacher", "student", "share", "worst pair"], lines)


def panel(source: PairSource, places: Sequence[int], networks: dict[str, nn.Module]) -> list[list[Tensor]]:
    """Return rows of a panel: both bands, teacher and student in colour, and eight times their difference."""
    rows, ids = [], source.parts()["test"]
    for place in places:
        pair = whole(source.load(ids[place]), ids[place])
        lumas = [apply_network(network, pair.infrared, pair.visible) for network in networks.values()]
        colors = [eight_bit_rgb(luma, pair.chroma)[0] for luma in (pair.visible, *lumas)]
        rows.append([pair.infrared[0], *colors, (0.5 + 8 * (lumas[1] - lumas[0])[0]).clamp(0, 1)])
    return rows


def main() -> None:
    """Score, write the table, draw the panels."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--msrs", required=True, help="folder of MSRS, with its parts train and test")
    parser.add_argument("--student", default="student", help="a file, or the one in the package")
    parser.add_argument("--out", type=Path, default=Path("runs/student"), help="folder for the real panel")
    parser.add_argument("--every", type=int, default=4, help="of MSRS's test pairs, every so many")
    options = parser.parse_args()
    networks = {"teacher": load_network("first"), "student": load_network(options.student)}
    sources: dict[str, PairSource] = {
        "rendered": SyntheticPairs(),
        "roadscene": PairedFolder(options.roadscene, split="roadscene", name="roadscene"),
        "msrs": PairedFolder(options.msrs, scenes=MSRS_SCENES, name="msrs"),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    titles = ["infrared", "visible", "teacher", "student", "8 x difference"]
    drawn = {name: panel(source, SHOWN[name], networks) for name, source in sources.items()}
    draw_panel(titles, drawn["rendered"], 224).save(README.with_name("panel.jpg"), quality=88)
    draw_panel(titles, drawn["roadscene"] + drawn["msrs"], 240).save(options.out / "real.jpg", quality=92)
    steps = {"rendered": 1, "roadscene": 1, "msrs": options.every}
    with torch.inference_mode():
        found = {
            name: score(source, source.parts()["test"][:: steps[name]], networks)
            for name, source in sources.items()
        }
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text("\n".join([before + BEGIN, "", *table(found), "", END + after]))


if __name__ == "__main__":
    main()
