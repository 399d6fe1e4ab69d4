"""The scores of a test as files: `per_image.csv`, and `metrics.json` with means and its digest."""

import hashlib
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from clipfuse.files import csv_text, write_atomically, write_json


def write_scores(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    protocol: Any,
    means: Mapping[str, float],
    undefined: Mapping[str, int],
) -> None:
    """Write the scores of a test in place of earlier ones.

    Args:
        folder: the run's `test`.
        rows: per image its "name", "scene", and its score by each metric of `means`.
        protocol: the `clipfuse.metrics.Protocol` of the scores.
        means: mean by metric, in the order of the tables; NaN where it is not defined.
        undefined: by metric, the number of images for which it is not defined.
    """
    columns = ["name", "scene", *means, "protocol"]
    table = csv_text(columns, ({**row, "protocol": str(protocol)} for row in rows))
    # If this is killed in between, new scores must not stand beside the digest of earlier ones.
    (folder / "metrics.json").unlink(missing_ok=True)
    with write_atomically(folder / "per_image.csv") as file:
        file.write(table)
    record = {
        "protocol": str(protocol),
        "images": len(rows),
        "per_image_sha256": hashlib.sha256(table.encode()).hexdigest(),
        "mean": {name: mean if isfinite(mean) else None for name, mean in means.items()},
        "undefined": dict(undefined),
        "unchecked": [name for name in means if name not in protocol.checked],
        "own": {
            name: {"higher_is_better": protocol.definition(name).higher_is_better} for name in protocol.own
        },
    }
    write_json(folder / "metrics.json", record)
