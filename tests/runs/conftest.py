"""A table of the faults that tests have provoked, for `experiments/reliability/README.md`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

BEGIN, END = "<!-- faults -->", "<!-- end of faults -->"


class FaultTable:
    """Counts what was tried, lost (a good checkpoint) and wrong (the outcome), by fault."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, int, int, str]] = {}

    def add(self, fault: str, message: str, *, tried: int = 1, lost: int = 0, wrong: int = 0) -> None:
        old = self.rows.get(fault, (0, 0, 0, ""))
        self.rows[fault] = old[0] + tried, old[1] + lost, old[2] + wrong, message

    def write(self, path: Path) -> None:
        """Put the table between the marks of a file."""
        head, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
        lines = ["| fault | tried | lost | wrong | message |", "|---|---|---|---|---|"]
        lines += [f"| {fault} | {' | '.join(map(str, row))} |" for fault, row in self.rows.items()]
        table = "\n".join(lines)
        path.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


@pytest.fixture(scope="session")
def faults() -> Iterator[FaultTable]:
    """What was provoked; written to the file FAULT_TABLE names at the end, if it names one."""
    table = FaultTable()
    yield table
    if path := os.environ.get("FAULT_TABLE"):
        table.write(Path(path))
