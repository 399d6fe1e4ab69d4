"""Every loss on real pairs of a second camera: five seeds each, under balanced-1 and for a machine.

    python -m experiments.compare_losses.zoo --msrs data/msrs [--loss NAME ...] [--part PART ...] [--save]
    python -m experiments.compare_losses.zoo --msrs data/msrs --panel FILE.jpg

Network, schedule, learning rates and their rule are those of study.py; data, seeds and protocol those of
experiments/downstream. The part `images` trains a loss and scores its test images, some 11 minutes of two
cores; `machine` trains task networks on the images of these trainings, some 15. So a budget can be spent a
few losses at a time, on several machines: `--loss` takes some of them, `--save` keeps each in a zip of its
own in results/zoo, and a part that is kept there is not done again. `clipfuse compare` and
experiments.downstream.answers read the zips together. `--panel` draws six test scenes under the first seed of
each loss that has been trained.
"""

import argparse
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from experiments.common import make_parser
from experiments.downstream import study
from experiments.frontier import prompts
from PIL import Image

from clipfuse.images import read_image
from clipfuse.ops.depth import to_unit
from clipfuse.tracking.pictures import draw_panel

RESULTS = Path(__file__).parent / "results/zoo"
LOSSES = {
    **study.LOSSES,
    "clip_ratio": ["loss=clip_ratio"],
    "promptfusion_alternate": ["loss=promptfusion", "solver=alternate", "loss.warmup={warmup}"],
    "clip_lit": ["experiment=clip_lit", "loss.warmup={warmup}"],
    "promptfusion_views": ["loss=promptfusion_views", "loss.warmup={warmup}"],
    "autofuse": ["loss=autofuse"],
    "region_contrast": ["loss=region_contrast"],
    "text_weights": ["loss=text_weights"],
    "learned_loss": ["loss=learned_loss"],
    "learned_loss_task": ["loss=learned_loss", "loss.judge=task"],
    "adversarial": ["loss=adversarial", "solver.every=1", "solver.steps=1"],
    "reward": ["loss=reward"],
    "balanced": ["loss=balanced"],
    "uncertainty": [*study.LOSSES["weighted_sum"], "loss.balance=uncertainty"],
    "gradnorm": [*study.LOSSES["weighted_sum"], "loss.balance=gradnorm"],
    "lpips": ["loss=weighted_sum", "+loss.parts={pixel:1,lpips:1}"],
}
"""Of each loss the overrides of its training; "{warmup}" becomes a fifth of the updates."""
VGG = {
    "ldfusion": ["loss.vgg_weights={folder}/vgg19.pt"],
    "autofuse": ["loss.vgg_weights={folder}/vgg19.pt"],
    "weighted_sum": ["+loss.of.ldfusion.vgg_weights={folder}/vgg19.pt"],
    "uncertainty": ["+loss.of.ldfusion.vgg_weights={folder}/vgg19.pt"],
    "gradnorm": ["+loss.of.ldfusion.vgg_weights={folder}/vgg19.pt"],
    "lpips": ["+loss.of.lpips.weights={folder}/vgg16.pt"],
}
"""Of each loss that reads a VGG the overrides that name its file; with micro only `lpips` does."""
# Of day and of night the test scene with the most pixels of persons, of cars and of bikes.
SCENES = ("00449D", "00187D", "00402D", "01177N", "01197N", "01179N")
PER_ROW = 10  # images beside each other
PARTS = ("images", "machine")
UPDATES = 800  # of a task network: half of those in experiments/downstream, to pay for all losses


def not_kept(name: str, losses: Sequence[str], part: str) -> list[str]:
    """Return the losses of which no zip of this set keeps this part; say of the others that they are kept."""
    kept = [loss for loss in losses if _keeps(RESULTS / name / f"{loss}.zip", part)]
    if kept:
        print(f"{part} kept in {RESULTS / name}, not done again: {', '.join(kept)}", flush=True)
    return [loss for loss in losses if loss not in kept]


def _keeps(path: Path, part: str) -> bool:
    """Return whether a zip of one loss keeps a part, of all its trainings."""
    if not path.exists():
        return False
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{path.stem}/")]
    runs = sum(name.endswith("/config.yaml") for name in names)
    return part == "images" or runs == sum(name.endswith("/segmentation/metrics.json") for name in names)


def run(
    name: str,
    options: argparse.Namespace,
    losses_of: Callable[[Sequence[str]], Mapping[str, Sequence[str]]],
    chosen: Sequence[str],
) -> list[str]:
    """Train and judge what is missing of a set; return the losses of which something was.

    Args:
        name: of the set.
        options: of the command line: out, msrs, part, parallel, save, tiny.
        losses_of: the overrides of losses, by their names.
        chosen: the losses.
    """
    out, tiny = options.out / name, options.tiny
    data = [word.format(msrs=options.msrs) for word in study.SETS[name]]
    done: list[str] = []
    for part in PARTS:
        losses = not_kept(name, chosen, part) if part in options.part else []
        if not losses:
            continue
        if missing := [loss for loss in losses if loss not in done]:
            study.train(out, name, data, tiny, losses_of(missing), options.parallel, clip="micro")
            print("", *prompts.table(out, missing), "", sep="\n", flush=True)  # kept beside the runs
            done += missing
        if part == "machine":
            if not tiny:
                study.restore_plain(out, sorted((RESULTS / name).glob("*.zip")))
            study.judge(out, tiny, options.parallel, losses, UPDATES)
        if options.save:
            study.save(out, RESULTS, prompts.KEPT, msrs=options.msrs, losses=losses)
    return done


def add_part(parser: argparse.ArgumentParser) -> None:
    """Add the option for the parts of the study."""
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="what to do")


def trained(out: Path, chosen: Sequence[str]) -> dict[str, Path]:
    """Return the folder of the first seed of each of the losses that has been trained and tested."""
    folders = {loss: out / "msrs" / "samples" / loss / "0" for loss in chosen}
    return {loss: folder for loss, folder in folders.items() if (folder / "test/metrics.json").exists()}


def draw(root: Path, folders: Mapping[str, Path], height: int) -> Image.Image:
    """Return blocks of at most `PER_ROW` columns, a row for each scene: both bands, then each loss."""
    columns = {"infrared": root / "test/ir", "visible": root / "test/vi"}
    columns |= {loss: folder / "test/color" for loss, folder in folders.items()}
    blocks = []
    for first in range(0, len(columns), PER_ROW):
        shown = list(columns)[first : first + PER_ROW]
        files = [[next(columns[name].glob(f"{scene}.*")) for name in shown] for scene in SCENES]
        rows = [[to_unit(read_image(file)) for file in row] for row in files]
        blocks.append(draw_panel(shown, rows, height))
    size = max(each.width for each in blocks), sum(each.height for each in blocks)
    panel, top = Image.new("RGB", size, "white"), 0
    for block in blocks:
        panel.paste(block, (0, top))
        top += block.height
    return panel


def main() -> None:
    """Run what is missing, or draw."""
    parser = make_parser(__doc__)
    parser.add_argument("--msrs", required=True, help="folder of MSRS with the parts train and test")
    parser.add_argument("--loss", nargs="+", choices=LOSSES, default=list(LOSSES), help="the losses to run")
    add_part(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/zoo"), help="of the run folders")
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, of one thread each")
    parser.add_argument("--save", action="store_true", help="keep the numbers in results/zoo")
    parser.add_argument("--panel", type=Path, metavar="FILE", help="draw six scenes, train nothing")
    parser.add_argument("--vgg", metavar="FOLDER", help="with vgg16.pt, of torchvision: adds the loss lpips")
    parser.set_defaults(tiny=False)
    options = parser.parse_args()
    if options.panel:
        draw(Path(options.msrs), trained(options.out, options.loss), 150).save(options.panel, quality=85)
        return
    losses = dict(LOSSES)
    if options.vgg:
        losses["lpips"] = [*LOSSES["lpips"], *(word.format(folder=options.vgg) for word in VGG["lpips"])]
    chosen = [loss for loss in options.loss if loss != "lpips" or options.vgg]
    run("msrs", options, lambda names: {loss: losses[loss] for loss in names}, chosen)


if __name__ == "__main__":
    main()
