"""Whether the scores of a run are unchanged since its test."""

import hashlib
import json
from collections.abc import Mapping
from math import isclose, isfinite
from typing import Any

from clipfuse.comparison.zips import Folder
from clipfuse.errors import UserError

_REMEDY = "restore the file, test the run again, or leave its folder out"
_ROUNDING = 1e-5  # relative; means were kept in float32


def check_scores(folder: Folder, scores: Mapping[str, Mapping[str, float]], images: int) -> bool:
    """Compare `per_image.csv` with `metrics.json`: the number of images, the digest, the means.

    Args:
        folder: folder `test` of the run.
        scores: metric -> image -> score, as read from `per_image.csv`; NaN where it is not defined.
        images: number of rows of that file.

    Returns:
        Whether the scores have a digest, which is right; older runs have none.

    Raises:
        UserError: the scores or the means were cut or edited.
    """
    table, record = folder / "per_image.csv", folder / "metrics.json"
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{record}: cannot be read ({reason}); {_REMEDY}") from None
    if not isinstance(content, dict):
        raise UserError(f"{record}: expected a mapping; {_REMEDY}")
    stated = content.get("images", images)
    if stated != images:
        raise UserError(f"{table} holds {images} of {stated} images that metrics.json counts; {_REMEDY}")
    digest = content.get("per_image_sha256")
    if digest is not None and digest != (found := hashlib.sha256(table.read_bytes()).hexdigest()):
        raise UserError(
            f"{table} was changed after the test: its digest is {found[:12]}..., metrics.json has "
            f"{str(digest)[:12]}...; {_REMEDY}"
        )
    _check_means(record, content.get("mean"), scores)
    return digest is not None


def _check_means(record: Folder, means: Any, scores: Mapping[str, Mapping[str, float]]) -> None:
    for name, stated in means.items() if isinstance(means, dict) else ():
        values = [value for value in scores.get(name, {}).values() if isfinite(value)]
        if not values or not isinstance(stated, int | float):
            continue  # not defined on any image, or infinite on one
        mean = sum(values) / len(values)
        if not isclose(stated, mean, rel_tol=_ROUNDING, abs_tol=_ROUNDING * max(map(abs, values))):
            raise UserError(
                f"{record} was changed after the test: it states {name} {stated}, the images give {mean}; "
                f"{_REMEDY}"
            )
