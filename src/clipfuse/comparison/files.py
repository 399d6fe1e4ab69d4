"""The forms of a run's files, and whether its scores are unchanged since its test."""

import hashlib
from collections.abc import Mapping
from math import isclose, isfinite
from typing import Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat, NonNegativeInt

from clipfuse.comparison.zips import Folder
from clipfuse.errors import UserError
from clipfuse.files import read_bytes, read_json

_REMEDY = "restore the file, test the run again, or leave its folder out"
_ROUNDING = 1e-5  # relative; means were kept in float32

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Positive = Annotated[int, Field(ge=1, lt=2**63)]
_Word = Annotated[str, Field(min_length=1, max_length=200)]
_Size = Annotated[FiniteFloat, Field(ge=0, le=1e15)]


class _Fit(BaseModel):
    seconds: _Size
    updates: _Count
    samples: _Count
    peak_memory_mb: _Size | None = None
    device: str = ""


class Status(BaseModel):
    """What `compare` reads of `status.json`."""

    status: _Word
    reason: str | None = None
    samples_seen: _Count | None = None
    fit: _Fit | None = None


class SweepRecord(BaseModel):
    """What `compare` reads of `sweep.yaml`."""

    words: list[Any] | None = None
    jobs: dict[Any, list[Any]] = {}
    folders: dict[int, str] = {}  # of jobs that are not in a folder of their number


class _Loader(BaseModel):
    batch_size: _Positive


class _Class(BaseModel):
    target: _Word = Field(alias="_target_")


class Config(BaseModel):
    """What `compare` reads of a training's `config.yaml`."""

    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    steps: _Count
    accumulate: _Positive
    loss: _Class
    loader: _Loader
    backbone: dict[str, Any]
    data: dict[str, Any] = {}
    protocol: _Word
    split_sha256: _Word
    trainer: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    clip_identity: dict[str, Any] | list[dict[str, Any]] | None = None


class _Scores(BaseModel):
    images: NonNegativeInt | None = None
    per_image_sha256: str | None = None


def check_scores(
    run: Folder, scores: Mapping[str, Mapping[str, float]], images: int, config: Mapping[str, Any]
) -> bool:
    """Compare `test/per_image.csv` with `test/metrics.json`: the number of images, the digest, the means.

    Args:
        run: the run folder.
        scores: metric -> image -> score, as read from `per_image.csv`; NaN where it is not defined.
        images: number of rows of that file.
        config: the run's configuration, which counts the test images where `metrics.json` does not.

    Returns:
        Whether the scores have a digest, which is right; older runs have none.

    Raises:
        UserError: the scores or the means were cut or edited.
    """
    table, record = run / "test/per_image.csv", run / "test/metrics.json"
    content = read_json(record, _Scores, default={}, within=run, remedy=_REMEDY)
    noted = config.get("scenes")
    known = {"config.yaml": noted.get("images") if isinstance(noted, Mapping) else None}
    known["metrics.json"] = content.get("images")
    for file, stated in known.items():
        if isinstance(stated, int) and stated != images:
            raise UserError(f"{table} holds {images} of {stated} images that {file} counts; {_REMEDY}")
    digest = content.get("per_image_sha256")
    found = hashlib.sha256(read_bytes(table, within=run)).hexdigest()
    if digest is not None and digest != found:
        raise UserError(
            f"{table} was changed after the test: its digest is {found[:12]}..., metrics.json has "
            f"{str(digest)[:12]}...; {_REMEDY}"
        )
    _check_means(record, content.get("mean"), scores)
    return digest is not None


def _check_means(record: Folder, means: Any, scores: Mapping[str, Mapping[str, float]]) -> None:
    for name, stated in means.items() if isinstance(means, dict) else ():
        values = [value for value in scores.get(name, {}).values() if isfinite(value)]
        if not values or not isinstance(stated, int | float) or not isfinite(stated):
            continue  # not defined on any image, or infinite on one
        mean = sum(values) / len(values)
        if not isclose(stated, mean, rel_tol=_ROUNDING, abs_tol=_ROUNDING * max(map(abs, values))):
            raise UserError(
                f"{record} was changed after the test: it states {name} {stated}, the images give {mean}; "
                f"{_REMEDY}"
            )
