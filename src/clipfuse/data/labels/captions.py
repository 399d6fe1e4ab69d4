"""Texts about pairs, from a table."""

from collections.abc import Collection
from pathlib import Path

from clipfuse.errors import UserError
from clipfuse.files import read_csv


def read_captions(path: str, ids: Collection[str], root: Path) -> dict[str, str]:
    """Return the text about each pair.

    Args:
        path: a CSV file with the columns `name` and `caption`; a path, or relative to `root`. Lines about
            other names are left out.
        ids: the pairs.
        root: folder of the data set.

    Raises:
        UserError: the file is missing or has another form, a name is in two lines, or a pair has no text; the
            first such pair is named.
    """
    file = next((each for each in (root / path, Path(path).expanduser()) if each.is_file()), Path(path))
    rows = read_csv(
        file, ["name", "caption"], remedy="give data.captions a file with the columns name,caption"
    )
    known: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if row["name"] in known:
            raise UserError(
                f"data.captions={path}: line {line} is the second about '{row['name']}'; keep one"
            )
        known[row["name"]] = row["caption"].strip()
    if missing := [name for name in ids if not known.get(name)]:
        raise UserError(
            f"data.captions={path}: has no text for {len(missing)} of {len(ids)} pairs, the first is "
            f"'{missing[0]}'; add them"
        )
    return {name: known[name] for name in ids}
