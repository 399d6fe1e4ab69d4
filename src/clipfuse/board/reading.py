"""Reader of results that anyone may have written; see `clipfuse.board.results`."""

from collections.abc import Mapping
from math import isclose, isfinite, nan
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, FiniteFloat

from clipfuse.board.results import EQUAL, FORMAT, VERSION, About, Degradation, Entry, Pair, mean_of
from clipfuse.errors import UserError
from clipfuse.files import MOST_RESULTS, check_form, read_json
from clipfuse.images import check_name
from clipfuse.metrics import DEFINITIONS

DEGRADATION = "degradation.json"
_REMEDY = "write it again by clipfuse score --json, or take it out of the folder"

_Word = Annotated[str, Field(min_length=1, max_length=120)]
_Kind = Annotated[str, Field(pattern=r"^[\w.+-]{1,60}$")]
_Score = Annotated[FiniteFloat, Field(ge=-1e100, le=1e100)]
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]


class _Degraded(BaseModel):
    protocol: _Kind
    kind: _Kind
    strength: Annotated[int, Field(ge=1, le=100)]
    against: Literal["clean", "degraded"] = "degraded"


class _Record(BaseModel):
    protocol: _Kind
    kind: _Kind
    strength: Annotated[int, Field(ge=1, le=100)]
    set: _Word | None = None


class _Pair(BaseModel):
    scene: _Word
    pair: _Digest
    mask: _Digest | None = None


class _About(BaseModel):
    parameters: Annotated[int, Field(ge=0, lt=10**15)] | None = None
    seconds: Annotated[FiniteFloat, Field(gt=0, le=1e9)] | None = None
    device: _Word | None = None


class _Form(BaseModel):
    set: _Word
    protocol: _Word
    scenes_from: _Word = "names"
    lpips: _Word | None = None
    degradation: _Degraded | None = None
    pairs: Annotated[dict[str, _Pair], Field(min_length=1, max_length=100_000)]
    metrics: Annotated[dict[_Word, Literal["higher", "lower"]], Field(min_length=1, max_length=200)]
    scores: Annotated[dict[_Word, dict[str, list[_Score | None]]], Field(min_length=1, max_length=1000)]
    methods: dict[str, dict[str, float | None]] = {}
    about: dict[str, _About] = {}


def read_entries(path: Path) -> list[Entry]:
    """Return the results of a file, one for each method.

    Raises:
        UserError: it cannot be read, is no result, of a newer version, lacks scenes or scores, or states
            means that its scores do not give.
    """
    content = read_json(path, dict[str, Any], most=MOST_RESULTS, remedy=_REMEDY)
    if content.get("format") != FORMAT:
        older = {"protocol", "methods", "images"} <= content.keys()
        what = "an older result, of means alone" if older else "no result of clipfuse score"
        raise UserError(f'{path}: is {what} (expected "format": "{FORMAT}"); {_REMEDY}')
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise UserError(f"{path}: version is {version!r}, expected a whole number from 1; {_REMEDY}")
    if version > VERSION:
        raise UserError(
            f"{path}: has version {version} of the form, this ClipFuse reads up to {VERSION}; update it"
        )
    pairs = content.get("pairs")
    for name, pair in pairs.items() if isinstance(pairs, dict) else ():
        if not isinstance(pair, dict) or "scene" not in pair:
            raise UserError(f"{path}: image {name!r} has no scene, so that no interval is known; {_REMEDY}")
    check_form(path, content, _Form, _REMEDY)
    return _entries(path, content)


def _entries(path: Path, content: Mapping[str, Any]) -> list[Entry]:
    images = {name: Pair(**_fields(_Pair, pair)) for name, pair in content["pairs"].items()}
    for word in (*images, content["set"], *content["scores"], content["protocol"]):
        _check_word(path, word)
    for image in images:
        check_name(image)
    if taken := [method for method in content["scores"] if method in ("infrared", "visible")]:
        raise UserError(f"{path}: the method {taken[0]!r} is called as a source; rename it")
    # LPIPS of two networks is two metrics.
    longer = {"LPIPS": f"LPIPS by {content['lpips']}"} if content.get("lpips") else {}
    directions = {longer.get(name, name): way == "higher" for name, way in content["metrics"].items()}
    for name, up in directions.items():
        _check_word(path, name)
        if name in DEFINITIONS and DEFINITIONS[name].higher_is_better != up:
            right = "higher" if DEFINITIONS[name].higher_is_better else "lower"
            raise UserError(
                f"{path}: metrics.{name} is {(not up and 'lower') or 'higher'!r}, expected {right!r}"
            )
    degraded = content.get("degradation")
    degradation = None if degraded is None else Degradation(**_fields(_Degraded, degraded))
    entries = []
    for method, columns in content["scores"].items():
        scores = {}
        for key, values in columns.items():
            name = longer.get(key, key)
            if name not in directions or len(values) != len(images):
                problem = (
                    "is not among its metrics" if name not in directions else f"has {len(values)} values"
                )
                raise UserError(
                    f"{path}: {name} of {method!r} {problem}, expected one for each of {len(images)} images; "
                    f"{_REMEDY}"
                )
            filled = [nan if value is None else float(value) for value in values]
            scores[name] = dict(zip(images, filled, strict=True))
        _check_means(path, method, content.get("methods", {}).get(method, {}), scores)
        entries.append(
            Entry(
                method=method,
                set=content["set"],
                protocol=content["protocol"],
                pairs=images,
                runs=(scores,),
                metrics=directions,
                about=About(**_fields(_About, content.get("about", {}).get(method, {}))),
                degradation=degradation,
                source=str(path),
                scenes_from=content.get("scenes_from", "names"),
            )
        )
    return entries


def _fields(form: type[BaseModel], node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: node[key] for key in form.model_fields if key in node}


def _check_word(path: Path, word: str) -> None:
    if not word.isprintable() or word != word.strip():
        raise UserError(
            f"{path}: the name {word[:80]!a} has spaces at its ends or cannot be printed; rename it"
        )


def _check_means(
    path: Path, method: str, means: Mapping[str, float | None], scores: Mapping[str, Mapping[str, float]]
) -> None:
    for name, stated in means.items():
        found = mean_of(scores.get(name, {}))
        if stated is None or found is None:
            continue
        largest = max(abs(score) for score in scores[name].values() if isfinite(score))
        if not isclose(stated, found, rel_tol=EQUAL, abs_tol=EQUAL * largest):
            raise UserError(
                f"{path} was changed: it states {name} {stated:.6g} of {method!r}, its scores give "
                f"{found:.6g}; {_REMEDY}"
            )


def find_degradation(*places: Path) -> tuple[Degradation, str | None] | None:
    """Return the record of `clipfuse degrade` that belongs to some images, and the name of their set.

    Args:
        places: folders or files of images; the record lies in each folder or above it.

    Returns:
        None where no place has a record.

    Raises:
        UserError: a record cannot be read or has another form, the places have unlike records, only some of
            them have one, or the records lie in folders below a place.
    """
    found = {place: _record_of(place if place.is_dir() else place.parent) for place in places}
    first, *others = found.items()
    for place, other in others:
        if other != first[1]:
            words = [f"{path} {_in_words(record)}" for path, record in (first, (place, other))]
            raise UserError(
                f"{' but '.join(words)}; expected both bands of one kind and strength, or both clean: name "
                "the infrared and the visible folder of one set"
            )
    return first[1]


def _record_of(folder: Path) -> tuple[Degradation, str | None] | None:
    for each in (folder, folder.absolute().parent):
        remedy = "make the pairs again by clipfuse degrade"
        content = read_json(each / DEGRADATION, _Record, default=None, remedy=remedy)
        if content is not None:
            return Degradation(**_fields(_Degraded, content)), content.get("set")
    if below := sorted(folder.glob(f"*/{DEGRADATION}")):
        raise UserError(
            f"{folder}: holds degraded pairs in folders of their own, such as {below[0].parent}; name one of "
            "these"
        )
    return None


def _in_words(record: tuple[Degradation, str | None] | None) -> str:
    if record is None:
        return f"has no {DEGRADATION}"
    each, name = record
    return f"is {each.kind} {each.strength} by {each.protocol}{f' of the set {name!r}' if name else ''}"
