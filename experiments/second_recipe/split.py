"""Write the parts of MSRS by which the second recipe was searched, and its network is trained.

    python -m experiments.second_recipe.split --msrs D/msrs --out msrs.json

`search.py` writes and takes the same.
"""

from pathlib import Path

from experiments.common import MSRS_SCENES, make_parser

from clipfuse.data.folder import PairedFolder
from clipfuse.files import write_json

BLOCKS = ("005", "010")  # of MSRS's training drives, a day and a night: for validation
EVERY = 3  # of MSRS's pairs one is trained with, or scored: neighbours show nearly the same


def write_split(msrs: str, path: Path) -> None:
    """Write the parts of MSRS: of its training images every third outside of the blocks for validation.

    Otherwise two of three crops would be from MSRS, and what is learned there costs RoadScene.
    """
    parts = PairedFolder(msrs, scenes=MSRS_SCENES).parts()
    pool = [*parts["train"], *parts["val"]]
    write_json(
        path,
        {
            "train": [name for name in pool if name[:3] not in BLOCKS][::EVERY],
            "val": [name for name in pool if name[:3] in BLOCKS],
            "test": [*parts["test"]],
        },
    )


def split_in(folder: Path, msrs: str) -> Path:
    """Return the file of these parts in the folder of a study, which are made where they are missing."""
    folder.mkdir(parents=True, exist_ok=True)
    split = (folder / "msrs.json").resolve()
    if not split.exists():
        write_split(msrs, split)
    return split


def main() -> None:
    """Write the file."""
    parser = make_parser(__doc__)
    parser.add_argument("--msrs", required=True, help="folder of MSRS, with its parts train and test")
    parser.add_argument("--out", type=Path, default=Path("msrs.json"), help="the file of the split")
    options = parser.parse_args()
    write_split(options.msrs, options.out)


if __name__ == "__main__":
    main()
