"""The table of small inputs that failed names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "experiments/reliability/faults.md"


@cache
def functions(file: str) -> set[str]:
    nodes = ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_fault_names_a_test_that_exists_or_is_marked_as_not_mended() -> None:
    file, named = "", 0
    rows = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)?::(\w+)`", row)
        for own, test in tests:
            file = own or file
            assert test in functions(file), f"{file} has no {test}, which {TABLE.name} names: {row[:80]}"
        named += bool(tests)
    assert named > 180
    without = [row for row in rows if not re.search(r"`tests/\w+|the same test|\| test \|", row)]
    assert all(re.search(r"\bnot \w+|by hand", row) for row in without), without
