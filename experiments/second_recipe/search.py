"""The search for the second recipe: one network from one start under many losses, then five seeds.

    python -m experiments.second_recipe.search --roadscene D/roadscene --msrs D/msrs [--loss NAME ...]

1. losses: `backbone=student backbone.start=energy` under each loss, one seed; other starts and networks
   under the loss `balanced`;
2. length: the winner with one, two and four times the updates;
3. seeds: the winner of that, and so the best of the losses with a CLIP, with five seeds, beside the start.

`--loss` takes some of the losses, so that a budget can be spent a loss at a time. Every round ends with the
rule of `rule.py`, on the validation scenes of three sets; its tables are written into `--out`, and with
`--save` into `results/`. What has finished in `--out` is not trained again.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from experiments.best_recipe.rule import Fuse, Scores, load_scenes, trivial
from experiments.common import (
    MSRS_SCENES,
    format_cell,
    format_table,
    fuse,
    load_sources,
    make_parser,
    run_sweeps,
)
from experiments.compare_losses import zoo
from experiments.second_recipe.rule import BALANCED, decide, score
from experiments.second_recipe.split import EVERY, split_in
from torch import Tensor

from clipfuse.backbones.student import Student
from clipfuse.data.folder import PairedFolder
from clipfuse.files import write_atomically
from clipfuse.networks.load import load_backbone
from clipfuse.types import FusionBatch

HERE = Path(__file__).parent
UPDATES = 600
SETTINGS = [
    *("trainer=cpu", "clip=micro", "optimizer.lr=0.002"),
    *("loader.crop_size=192", "loader.batch_size=4"),
    *("test=false", "metrics.validation=[SSIM]"),
]
DATA = [
    *("data=mixed", "data.sources.roadscene.root={roadscene}", "data.sources.synthetic.train=120"),
    *("+data@data.sources.msrs=msrs", "data.sources.msrs.root={msrs}", "data.sources.msrs.split={split}"),
    "data.sources.msrs.labels=null",
]
NO_DETAILS = ["loss.fidelity.decomposition_weight=0"]  # of the contourlet networks alone
CHANGES = {
    **dict.fromkeys(("promptfusion", "promptfusion_fixed", "promptfusion_alternate"), NO_DETAILS),
    **dict.fromkeys(("clip_lit", "promptfusion_views"), NO_DETAILS),
    "adversarial": ["loss.region=saliency"],  # as no real pair has a mask, and rendered ones have
}
"""What a loss has beside the overrides in experiments/compare_losses/zoo.py."""
ZOO = [
    *("pixel", "ldfusion", "weighted_sum", "promptfusion", "promptfusion_fixed", "promptfusion_alternate"),
    *("clip_lit", "promptfusion_views", "clip_ratio", "autofuse", "region_contrast", "text_weights"),
    *("learned_loss", "adversarial", "reward", "balanced"),
]
"""The losses that need neither labels nor a file that the package does not hold."""
TERMS = ("intensity", "gradient", "ssim", "decomposition", "difference")  # of the pixel loss
LOSSES = {
    **{name: [*zoo.LOSSES[name], *CHANGES.get(name, ())] for name in ZOO},
    "edges, ssim": ["loss=pixel", "loss.intensity_weight=0", "loss.ssim_weight=1"],
    "promptfusion, balanced": [
        *("loss=promptfusion", "solver=value_penalty", "loss.warmup={warmup}"),
        "loss.fidelity._target_=clipfuse.losses.balanced.BalancedLoss",
        *(f"~loss.fidelity.{term}_weight" for term in TERMS),
    ],
    "ldfusion, balanced": ["loss=weighted_sum", "+loss.parts={balanced:1,ldfusion:0.1}"],
}
"""Of each loss the overrides of its training; "{warmup}" becomes a fifth of the updates."""
WITHOUT_CLIP = ("balanced", "pixel", "edges, ssim", "text_weights", "reward", "learned_loss", "adversarial")
NETWORK = ["backbone=student", "backbone.start=energy"]
NETWORKS = {
    "balanced, from the average": ["backbone=student", "backbone.start=average"],
    "balanced, conv_tiny": ["backbone=conv_tiny"],
    "balanced, contourlet_tiny": ["backbone=contourlet_tiny", "backbone.residual=energy"],
}
"""What the loss `balanced` is tried with beside `NETWORK`."""
START = "start:energy"


def words(
    loss: Sequence[str], data: Sequence[str], updates: int, seeds: str, network: Sequence[str] = NETWORK
) -> list[str]:
    """Return the overrides of the trainings of a network under a loss."""
    given = [word.replace("{warmup}", f"{updates // 5}") for word in loss]
    schedule = [f"steps={updates}", f"validate_every={updates}", f"seed={seeds}"]
    return [*SETTINGS, *network, *data, *given, *schedule]


def scenes(roadscene: str, msrs: str, split: Path) -> dict[str, list[FusionBatch]]:
    """Return the validation scenes of the three sets."""
    found = {name: load_scenes(source, "val") for name, source in load_sources(roadscene).items()}
    source = PairedFolder(
        msrs, split=str(split), masks="Segmentation_labels", mask_classes=[1, 2], scenes=MSRS_SCENES
    )
    found["msrs"] = load_scenes(source, "val")[::EVERY]
    return found


def candidates(folders: Mapping[str, Path]) -> dict[str, Fuse]:
    """Return the trivial fusions, the untrained start, and the network of each training, `name/seed`."""

    def simple(name: str, infrared: Tensor, visible: Tensor) -> Tensor:
        return trivial(infrared, visible)[name]

    plane = torch.zeros(1, 1, 16, 16)
    found: dict[str, Fuse] = {name: partial(simple, name) for name in trivial(plane, plane)}
    found[START] = partial(fuse, Student(start="energy"))
    for name, folder in folders.items():
        for run in sorted(path.parent for path in folder.glob("*/status.json")):
            network = load_backbone(run / "checkpoints/last.ckpt", ["experiments"])
            found[f"{name}/{run.name}"] = partial(fuse, network)
    return found


def judge(sets: Mapping[str, Sequence[FusionBatch]], fusions: Mapping[str, Fuse]) -> tuple[list[str], str]:
    """Return the recipes, best first, and the tables of all; seeds of one recipe are ranked by their mean."""
    found: dict[str, dict[str, list[Scores]]] = {}
    for name, batches in sets.items():
        days = [batch.sample_ids[0] for batch in batches if name == "msrs" and batch.sample_ids[0][-1] == "D"]
        for key, row in score(batches, fusions, days).items():
            found.setdefault(name, {}).setdefault(key.partition("/")[0], []).append(row)
    means = {
        kind: {name: {key: fmean(row[key] for row in rows) for key in rows[0]} for name, rows in each.items()}
        for kind, each in found.items()
    }
    order = decide(means)
    lines = []
    for kind, each in found.items():
        keys = [key for key in (*BALANCED, "noise", "overshoot", "luma", "sky") if key in each[START][0]]
        among = [key for key in BALANCED if key in keys]
        body = []
        for name in order:
            cells = [format_cell([row[key] for row in each[name]]) for key in keys]
            mean = format_cell([fmean(row[key] for key in among) for row in each[name]])
            body.append([name, mean, *cells])
        lines += ["", f"**{kind}**", "", *format_table(["recipe", "mean", *keys], body)]
    ranks = [[name, f"{rank:.2f}", why or ""] for name, (rank, why) in order.items()]
    lines += ["", *format_table(["recipe", "mean rank", "rejected as"], ranks)]
    kept = [name for name, (_, why) in order.items() if why is None and not name.startswith("trivial:")]
    return kept, "\n".join(lines).strip() + "\n"


def main() -> None:
    """Run the rounds, or what is missing of them."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--msrs", required=True, help="folder of MSRS, with its parts train and test")
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES), help="the losses to try")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, of one thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/second_recipe"), help="of the run folders")
    parser.add_argument("--save", action="store_true", help="keep the tables in results/")
    options = parser.parse_args()
    roots = {name: Path(getattr(options, name)).resolve() for name in ("roadscene", "msrs")}
    split = split_in(options.out, options.msrs)
    data = [word.format(**roots, split=split) for word in DATA]
    sets = scenes(options.roadscene, options.msrs, split)

    def finish(title: str, sweeps: Mapping[str, list[str]]) -> list[str]:
        folders = {name: options.out / title / name.replace(", ", "_").replace(" ", "-") for name in sweeps}
        run_sweeps({folders[name]: each for name, each in sweeps.items()}, options.parallel)
        kept, table = judge(sets, candidates(folders))
        print(f"\n## {title}\n\n{table}", flush=True)
        for place in (options.out, *((HERE / "results",) if options.save else ())):
            place.mkdir(parents=True, exist_ok=True)
            with write_atomically(place / f"{title}.md") as file:
                file.write(table)
        return kept

    sweeps = {name: words(LOSSES[name], data, UPDATES, "0") for name in options.loss}
    for name, network in NETWORKS.items():
        sweeps[name] = words(LOSSES["balanced"], data, UPDATES, "0", network)
    best = [name for name in finish("losses", sweeps) if name in LOSSES]
    lengths = {f"{best[0]}, {count * UPDATES} updates": count * UPDATES for count in (1, 2, 4)}
    sweeps = {name: words(LOSSES[best[0]], data, count, "0") for name, count in lengths.items()}
    trained = [name for name in finish("length", sweeps) if name in lengths]
    if not trained:
        raise SystemExit("the rule rejects every training; see the tables")
    finalists = dict.fromkeys([*best[:1], *[name for name in best if name not in WITHOUT_CLIP][:1]])
    count, seeds = lengths[trained[0]], "0,1,2,3,4"
    finish("seeds", {name: words(LOSSES[name], data, count, seeds) for name in finalists})


if __name__ == "__main__":
    main()
