"""The words of the glossary in CONTRIBUTING.md, held in prose: documents, docstrings, comments, messages.

Code is no prose: fenced blocks, words in backticks, addresses, and names of arguments are left out. Strings
of Python count where they hold three words or more, as messages and help texts do.
"""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRIBUTING, CHANGELOG = ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"
DOCUMENTS = [
    *(ROOT / "README.md", CONTRIBUTING, CHANGELOG),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src").rglob("*.md")),
]
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "docs").glob("*.py"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SETTINGS = sorted((ROOT / "conf").rglob("*.yaml"))

PROGRAM = (
    "program|command|test|suite|file|folder|loss|losses|network|solver|run|training|report|verdict|metric|table|page"
    "|message|launcher|module|class|function|line|comment|docstring|checkpoint|configuration|key|option|setting"
    "|process|rank|machine|server|sweeper|study|column|row|estimator|interval|text|prompt|prompts|CLIP"
)
# What regular expressions find reliably; what stands for it.
PHRASES = {
    r"\b(?:says|believes|believed|is said|are said)\b": "programs print, name, state, assume",
    r"\b(?:tells?|told)\b(?!(?:\s+\S+){0,5}\s+apart\b|(?:\s+\S+){1,5}\s+from\b)": "programs print, name",
    rf"\b(?:{PROGRAM}) (?:asks?|knows?|thinks?|wants?|hears?)\b": "programs need, hold, expect",
    r"\bis asked\b|\bare asked\b|\basks? (?:a|the|for|its|only)\b": "needs, uses, requests",
    r"\bunless told\b": "without the option; unless the setting is ...",
    r"\bgo(?:es)? without saying\b": "is not shown",
    r":\s+of \d+\.": "the noun: '6.0 of 8 bits'",
    r":\s+(?:as|like) (?:there|above|below)\b\.?|, as there\b|\bas its parts\b": "the noun: 'as in NAME'",
    r"\bof what they leave\b|\bof what is (?:best|used)\b": "the noun: 'of the low-pass part'",
    r"\btenants?\b|\bthe house\b|\bdeals? (?:them|it) out\b": "no private metaphor",
    r"\bpleas(?:ed|es?) (?:the|a|by)\b": "raises the score of",
}
# Where a word is meant as it stands.
EXCEPTIONS = ("--baseline", '"baseline:')  # the option of `clipfuse compare`; names in tables of scores


def glossary() -> dict[str, str]:
    """Return word -> replacement of the glossary's last column."""
    section = CONTRIBUTING.read_text().partition("\n## Words\n")[2].partition("\n## ")[0]
    found: dict[str, str] = {}
    for row in re.findall(r"^\| (.+?) \| .* \| (.*?) ?\|$", section, re.MULTILINE):
        found.update(dict.fromkeys(re.findall(r"`([^`]+)`", row[1]), row[0]))
    return found


RULES = {rf"\b{re.escape(word)}\b": word_for for word, word_for in glossary().items()} | PHRASES
FORBIDDEN = {re.compile(pattern, re.IGNORECASE): remedy for pattern, remedy in RULES.items()}


def without_code(text: str) -> str:
    """Blank out what is no prose, and keep the lines."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", "_", found[0])

    for pattern in (
        r"(?ms)^```.*?^```$",
        r"``[^`]+``|`[^`\n]+(?:\n[^`\n]+)?`",
        r"(?<=\])\([^)]*\)",
        r"https?://\S+",
    ):
        text = re.sub(pattern, blank, text)
    for exception in EXCEPTIONS:
        text = text.replace(exception, "_" * len(exception))
    return text


def of_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and prose of a module: comments, docstrings, and strings of three words or more."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) >= 3:
            yield node.lineno, re.sub(r"(?m)^\s+\w+(?:, \w+)*(?= ?(?:\([^)]*\))?: )", "", node.value)


def of_yaml(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if found := re.search(r"(?:^|\s)#(.*)", line):
            yield number, found[1]


def of_markdown(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a document, and of the changelog what is not released yet."""
    text = path.read_text()
    if path == CHANGELOG:
        text = "\n## ".join(text.split("\n## ")[:2])
    yield 1, text


def of_notebook(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and prose of the cells that are no code."""
    for number, cell in enumerate(json.loads(text)["cells"], start=1):
        if cell["cell_type"] == "markdown":
            yield number, "".join(cell["source"])


def prose(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix == ".ipynb":
        return of_notebook(path.read_text())
    if path.suffix == ".md":
        return of_markdown(path)
    return of_yaml(path.read_text()) if path.suffix == ".yaml" else of_python(path.read_text())


def found_in(path: Path) -> list[str]:
    found = []
    for start, text in prose(path):
        text = without_code(text)
        for pattern, remedy in FORBIDDEN.items():
            for match in pattern.finditer(text):
                number = start + text[: match.start()].count("\n")
                found.append(f"{path.relative_to(ROOT)}:{number}: '{match[0]}' -> {remedy}")
    return sorted(found)


@pytest.mark.parametrize(
    "paths", [[*DOCUMENTS, *NOTEBOOKS], SETTINGS, SOURCES], ids=["documents", "conf", "src"]
)
def test_words(paths: list[Path]) -> None:
    assert len(paths) > 10
    found = [line for path in paths for line in found_in(path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "text", "count"),
    [
        ("a.py", '"""Draw a picture.\n\nArgs:\n    picture: an image; `picture` is its name.\n"""\n', 1),
        ("a.py", "x = 1  # the baseline\ny = 'picture'\nraise ValueError('the file says no')\n", 2),
        ("a.py", '"""Args:\n    bits: of 8.\n    weights: as there.\n"""\n', 2),
        ("a.yaml", "baseline: 1  # the option --baseline of it\nkey: 'a # b'  # what the command tells\n", 1),
        ("a.md", "`picture` in code\n```sh\npicture\n```\n[a](picture.md) but a [picture](b.md)\n", 1),
        ("a.md", "Runs that are compared; the rank of an image.\n", 0),
        ("a.md", "It tells both bands apart, and good from bad.\nWhat the command\nis told: tell them.\n", 2),
    ],
)
def test_the_rules_see_what_they_forbid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, count: int
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / name).write_text(text)
    assert len(found_in(tmp_path / name)) == count, found_in(tmp_path / name)


def test_the_glossary_is_read() -> None:
    words = glossary()
    assert words["picture"] == "image"
    assert words["baseline"] == "reference loss"
    assert len(words) > 10
