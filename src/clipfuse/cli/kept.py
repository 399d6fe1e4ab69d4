"""Results of the trivial fusions that `clipfuse score --json FOLDER/` finds in its folder already.

They come with every method of a set, so that those which an earlier call has written stay as they are where
this call gives the same; nothing else that is there stays without `--overwrite`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from clipfuse.board.results import Entry, Pair
    from clipfuse.cli.stated import Stated

Kept = Mapping[Path, "Entry"]


def find_kept(stated: "Stated") -> dict[Path, "Entry"]:
    """Return the results of trivial fusions that are in the folder of `--json`, by their files.

    Raises:
        UserError: a file with the name of one cannot be read, or is no result of it.
    """
    if not stated.folder:
        return {}
    from clipfuse.board.reading import read_entries  # slow: score alone does not wait for it

    found = {}
    for method, path in zip(stated.methods, stated.files(), strict=True):
        if method.startswith("trivial:") and path.is_file():
            entries = read_entries(path)
            about = (method, stated.set, stated.protocol, stated.degradation)
            if [(each.method, each.set, each.protocol, each.degradation) for each in entries] != [about]:
                raise _other(path, "other results")
            found[path] = entries[0]
    return found


def check_kept(kept: Kept, pairs: Mapping[str, "Pair"], names: Sequence[str], lpips: str | None) -> None:
    """Require before the work that results which are kept are of the same images and have all metrics.

    Args:
        kept: of `find_kept`.
        pairs: the images that are scored; their scenes may differ from those of the files.
        names: of the metrics that are computed.
        lpips: the network of LPIPS, by whose name a file has it.

    Raises:
        UserError: one is not; names `--no-trivial` and `--overwrite`.
    """
    images = {name: (each.pair, each.mask) for name, each in pairs.items()}
    for path, entry in kept.items():
        if {name: (each.pair, each.mask) for name, each in entry.pairs.items()} != images:
            raise _other(path, "scores of other images or masks")
        known = {"LPIPS" if name == f"LPIPS by {lpips}" else name for name in entry.metrics}
        if lacking := [name for name in names if name not in known]:
            raise _other(path, f"no {', '.join(lacking)}")


def check_scores(kept: Kept, entries: Sequence["Entry"]) -> None:
    """Require that results which are kept have the scores that were computed.

    Raises:
        UserError: they have not; names `--no-trivial` and `--overwrite`.
    """
    from clipfuse.board.results import same_scores

    computed = {each.method: each for each in entries}
    for path, entry in kept.items():
        if not same_scores(computed[entry.method], entry):
            raise _other(path, "other scores of the same images")


def _other(path: Path, what: str) -> UserError:
    return UserError(
        f"{path} is there already and holds {what}; add --no-trivial to leave out the trivial fusions, "
        "--overwrite to replace the file, or choose another folder"
    )
