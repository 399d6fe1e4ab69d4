"""Train the small networks of `clipfuse fuse --loss NAME`, one for each loss, by one recipe.

    python -m experiments.loss_weights.train --roadscene D/roadscene --msrs D/msrs [--loss NAME ...]
        [--parallel 2] [--updates N] [--out FOLDER] [--keep]

Each is `backbone=student` from its untrained start, the average of both bands, by the recipe of
experiments/second_recipe: one seed, one schedule, one learning rate, the same crops. What is finished is not
trained again, and what was stopped goes on. At the end the weights are written into the package, and their
digests into the card beside them; `--keep` leaves the package as it is.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.common import format_table, make_parser, run_sweeps
from experiments.compare_losses import zoo
from experiments.second_recipe import search
from experiments.second_recipe.search import UPDATES
from experiments.second_recipe.split import split_in

from clipfuse.files import file_sha256, write_atomically
from clipfuse.networks.by_loss import BY_LOSS, FOLDER, shipped
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.networks.load import backbone_node, build_backbone
from clipfuse.networks.weights import write_safetensors

MSRS = ["data=msrs", "data.root={msrs}", "data.split={split}"]  # alone, with its labels
CARD = FOLDER / "MODEL_CARD.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def words(name: str, roots: Mapping[str, Path], updates: int = UPDATES) -> list[str]:
    """Return the overrides of the training under a loss.

    Args:
        name: of the loss.
        roots: the folders of the real pairs, `roadscene` and `msrs`, and the file of the `split` of MSRS.
        updates: of the training.
    """
    data = [word.format(**roots) for word in (MSRS if name == "task" else search.DATA)]
    loss = search.LOSSES.get(name, zoo.LOSSES[name])
    return search.words(loss, data, updates, "0", ["backbone=student"])


def write_weights(name: str, checkpoint: Path, folder: Path = FOLDER) -> Path:
    """Write the network of a training as the weights of a loss."""
    content = read_checkpoint(checkpoint)
    path = folder / f"{name}.safetensors"
    write_safetensors(path, backbone_node(content, (), checkpoint), build_backbone(content, checkpoint))
    return path


def table(files: Mapping[str, Path]) -> list[str]:
    """Return a row for each loss whose weights are there: name, what it does, data, digest."""
    rows = [
        [f"`{name}`", BY_LOSS[name], "MSRS" if name == "task" else "all", f"`{file_sha256(path)}`"]
        for name, path in files.items()
    ]
    return format_table(["loss", "trained for", "pairs", "SHA-256 of `NAME.safetensors`"], rows)


def renew_card(card: Path, lines: Sequence[str]) -> None:
    """Replace the table of a card."""
    before, _, rest = card.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    with write_atomically(card) as file:
        file.write("\n".join([before + BEGIN, "", *lines, "", END + after]))


def main() -> None:
    """Train what is missing, then write weights and card."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--msrs", required=True, help="folder of MSRS, with its parts train and test")
    parser.add_argument(
        "--loss", nargs="+", choices=BY_LOSS, default=list(BY_LOSS), help="the losses to train"
    )
    parser.add_argument("--parallel", type=int, default=2, help="trainings at a time, of one thread each")
    parser.add_argument("--updates", type=int, default=UPDATES, help="of each training")
    parser.add_argument("--out", type=Path, default=Path("runs/loss_weights"), help="of the run folders")
    parser.add_argument("--keep", action="store_true", help="leave the weights in the package as they are")
    options = parser.parse_args()
    roots = {name: Path(getattr(options, name)).resolve() for name in ("roadscene", "msrs")}
    folders = {name: options.out / f"{options.updates}" / name for name in options.loss}
    roots["split"] = split_in(options.out, options.msrs)
    run_sweeps(
        {folder: words(name, roots, options.updates) for name, folder in folders.items()}, options.parallel
    )
    if options.keep:
        return
    for name, folder in folders.items():
        write_weights(name, folder / "0/checkpoints/last.ckpt")
    renew_card(CARD, table(shipped()))
    print("\n".join(table(shipped())))


if __name__ == "__main__":
    main()
