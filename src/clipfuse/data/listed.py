"""Pairs that the user names: by two patterns over file names, or by a table."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from clipfuse.data.checks import check_pairs
from clipfuse.data.layout import Found, pair_folders, walk, with_ids
from clipfuse.data.matching import ImageFile, PairFiles
from clipfuse.data.names import BANDS
from clipfuse.decoding.reading import SUFFIXES
from clipfuse.errors import UserError
from clipfuse.files import read_csv
from clipfuse.images import check_name, natural_order

EXPECTED = "two patterns such as 'infrared/{id}_ir.png | visible/{id}_vis.png', or the path of a .csv file"
COLUMNS = ("infrared", "visible", "scene", "label")


def given_pairs(infrared: Path, visible: Path, pairs: str | None = None) -> Found:
    """Return the pairs that a command was given, all of which can be opened and are of one size each.

    Args:
        infrared: a folder or one file.
        visible: the same; the same folder, where both bands lie below one.
        pairs: as `listed_pairs`; None finds them by names.

    Raises:
        UserError: as `listed_pairs`, `pair_folders` and `check_pairs`.
    """
    if pairs is not None:
        found = listed_pairs(pairs, infrared, visible)
    elif infrared.is_file() and visible.is_file():
        check_name(infrared.stem)
        found = Found({infrared.stem: PairFiles(infrared, visible, (), infrared.stem, "the files named")})
    else:
        found = pair_folders(infrared, visible)
    check_pairs({sample: (pair.infrared, pair.visible) for sample, pair in found.pairs.items()})
    return found


def listed_pairs(pairs: str, infrared: Path, visible: Path) -> Found:
    """Return the pairs that two patterns or a table name.

    In a pattern each {word} stands for one or more characters but "/", * for any of them; files are pairs
    where all words are alike. The words joined by "-" are the id, {scene} is also the scene, and {part} the
    part (train, val or test) instead. The suffix may be left out.

    Args:
        pairs: "PATTERN | PATTERN", infrared first, or the path of a ".csv" file with the columns infrared and
            visible, and where wanted scene and label (a file of target masks or classes).
        infrared: the folder to which the first pattern, and the infrared files and labels of a table, are
            relative.
        visible: the same of the second pattern and the visible files.

    Raises:
        UserError: the text has another form, the table cannot be read, a file is missing, or one has no
            partner or two.
    """
    if pairs.endswith(".csv"):
        return _from_table(Path(pairs).expanduser(), infrared, visible)
    patterns = [text.strip() for text in pairs.split("|")]
    words = [re.findall(r"\{(\w+)\}", text) for text in patterns]
    if len(patterns) != 2 or not words[0] or sorted(words[0]) != sorted(words[1]):
        raise UserError(f"data.pairs={pairs}: expected {EXPECTED}, both with the same words in braces")
    if len(set(words[0])) < len(words[0]):
        raise UserError(f"data.pairs={pairs}: a word in braces occurs twice in one pattern; name each once")
    found: list[dict[tuple[str, ...], ImageFile]] = []
    left_out: Counter[str] = Counter()
    unused: set[Path] = set()
    seen: set[Path] = set()
    for text, root in zip(patterns, (infrared, visible), strict=True):
        files, others = walk(root)
        left_out |= others  # of one root for both, the same files
        matched = _matching(text, files, words[0], pairs)
        if not matched:
            raise UserError(f"data.pairs: no file of {root} matches '{text}'; expected {EXPECTED}")
        seen |= {file.path for file in matched.values()}
        unused |= {file.path for file in files}
        found.append(matched)
    for band, one, other in zip(BANDS, found, found[::-1], strict=True):
        if missing := sorted(other.keys() - one.keys()):
            names = ", ".join("-".join(key) for key in missing[:5])
            more = ", ..." if len(missing) > 5 else ""
            raise UserError(
                f"data.pairs: {len(missing)} of {len(one.keys() | other.keys())} images have no {band} file "
                f"by '{patterns[BANDS.index(band)]}': {names}{more}; mend it or remove their partners"
            )
    if rest := len(unused - seen):
        left_out["that match no pattern"] += rest
    rule = f"the pattern {patterns[0]} | {patterns[1]}"
    listed = []
    for key, file in found[0].items():
        fields = dict(zip(words[0], key, strict=True))
        part = (fields.pop("part"),) if "part" in fields else ()
        name = "-".join(fields.values())
        scene = fields.get("scene")
        listed.append(PairFiles(file.path, found[1][key].path, part, name, rule, scene=scene))
    return with_ids(listed, left_out, infrared)


def _matching(
    text: str, files: list[ImageFile], words: list[str], pairs: str
) -> dict[tuple[str, ...], ImageFile]:
    pieces = re.split(r"(\{\w+\}|\*)", text)
    names = {f"{{{word}}}": f"(?P<{word}>[^/]+?)" for word in words} | {"*": "[^/]*?"}
    try:
        expression = re.compile("".join(names.get(piece) or re.escape(piece) for piece in pieces))
    except re.error as error:
        raise UserError(
            f"data.pairs={pairs}: '{text}' is no pattern ({error}); expected {EXPECTED}"
        ) from None
    matched: dict[tuple[str, ...], ImageFile] = {}
    for file in files:
        name = "/".join((*file.folders, file.path.name))
        match = expression.fullmatch(name.removesuffix(file.path.suffix)) or expression.fullmatch(name)
        if match is None:
            continue
        key = tuple(match[word] for word in words)
        if (other := matched.setdefault(key, file)) is not file:
            raise UserError(
                f"data.pairs: {other.path} and {file.path} are both '{'-'.join(key)}' by '{text}'; "
                "make the pattern stricter"
            )
    return matched


def _from_table(path: Path, infrared: Path, visible: Path) -> Found:
    rows = read_csv(path, ["infrared", "visible"], remedy=f"data.pairs: expected {EXPECTED}")
    if unknown := [name for row in rows[:1] for name in row if name not in COLUMNS]:
        raise UserError(
            f"data.pairs={path}: has a column {unknown[0]!r}; expected infrared,visible[,scene][,label]"
        )
    if not rows:
        raise UserError(f"data.pairs={path}: lists no pairs; expected one in each line")
    roots = {"infrared": infrared, "visible": visible, "label": infrared}
    pairs = [_row(path, line, row, roots) for line, row in enumerate(rows, start=2)]
    stems = [pair.infrared.stem for pair in pairs]
    if len(set(stems)) < len(stems):  # one folder per scene: the folders are a part of the name
        common = Path(*_common([pair.infrared.parent.parts for pair in pairs]))
        stems = ["-".join(pair.infrared.with_suffix("").relative_to(common).parts) for pair in pairs]
    named = [replace(pair, key=stem) for pair, stem in zip(pairs, stems, strict=True)]
    return with_ids(sorted(named, key=lambda pair: natural_order(pair.key)), Counter(), path)


def _row(table: Path, line: int, row: Mapping[str, str], roots: Mapping[str, Path]) -> PairFiles:
    files: dict[str, Path | None] = {}
    for column in ("infrared", "visible", "label"):
        text = (row.get(column) or "").strip()
        if not text and column != "label":
            raise UserError(f"data.pairs={table}: line {line} names no {column} file; add it")
        files[column] = file = roots[column] / Path(text).expanduser() if text else None
        if file is not None and (not file.is_file() or file.suffix.lower() not in SUFFIXES):
            reason = "is no image by its name" if file.is_file() else "is no file"
            raise UserError(
                f"data.pairs={table}: line {line}: {file} {reason}; expected a path "
                f"relative to {roots[column]}"
            )
    scene = (row.get("scene") or "").strip() or None
    assert files["infrared"] is not None
    assert files["visible"] is not None
    rule = f"the table {table.name}"
    return PairFiles(files["infrared"], files["visible"], (), "", rule, files["label"], scene)


def _common(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    first, last = min(paths), max(paths)
    same = 0
    while same < min(len(first), len(last)) and first[same] == last[same]:
        same += 1
    return first[:same]
