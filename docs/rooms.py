"""Draw which package imports which, from the rules of tests/test_architecture.py, into CONTRIBUTING.md.

`python docs/rooms.py` renews the drawing; tests/test_documents.py holds it against the rules.
"""

from collections.abc import Mapping, Set
from graphlib import TopologicalSorter
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- rooms: begin -->\n", "<!-- rooms: end -->"


def rules() -> Mapping[str, Set[str]]:
    """Return `ALLOWED` of tests/test_architecture.py: a package, and what it may import."""
    spec = spec_from_file_location("test_architecture", ROOT / "tests/test_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    allowed: Mapping[str, Set[str]] = module.ALLOWED
    return allowed


def levels(allowed: Mapping[str, Set[str]]) -> list[list[str]]:
    """Return the packages by level, lowest first; each imports only from levels below its own.

    Raises:
        CycleError: two packages import each other.
    """
    arrows = {room: {rule.split(".")[0] for rule in imported} - {room} for room, imported in allowed.items()}
    sorter = TopologicalSorter(arrows)
    sorter.prepare()
    found: list[list[str]] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        sorter.done(*ready)
        found.append(ready)
    return found


def drawing(allowed: Mapping[str, Set[str]]) -> str:
    """Return the drawing: one line per package, highest level first, with all that it may import."""
    width = max(map(len, allowed))
    lines = []
    for number, rooms in reversed(list(enumerate(levels(allowed), start=1))):
        for room in rooms:
            others = sorted(rule for rule in allowed.get(room, ()) if rule != room)
            prefix = f"{number if room == rooms[0] else ' ':>2}  {room:{width}} "
            lines += wrapped(prefix + "-> " if others else prefix.rstrip(), others)
        lines.append("")
    return "\n".join(["```text", *lines[:-1], "```\n"])


def wrapped(prefix: str, words: list[str], limit: int = 100) -> list[str]:
    """Return a prefix and words in lines of at most `limit` characters, aligned behind the prefix."""
    lines = [prefix]
    for word in words:
        if len(lines[-1]) + len(word) > limit:
            lines.append(" " * len(prefix))
        lines[-1] += f"{word} "
    return [line.rstrip() for line in lines]


def renewed(text: str, allowed: Mapping[str, Set[str]]) -> str:
    """Return the text of CONTRIBUTING.md with the drawing of these rules."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{drawing(allowed)}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), rules()), encoding="utf-8")
