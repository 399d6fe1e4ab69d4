"""The table of faults counts what happened, whatever it was."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from clipfuse.errors import UserError

if TYPE_CHECKING:
    from tests.runs.conftest import Attempt, FaultTable


def test_each_end_is_counted_in_its_column(tmp_path: Path, faults: "FaultTable") -> None:
    def other_line(_: "Attempt") -> NoReturn:
        raise UserError("another one")

    def raises_nothing(_: "Attempt") -> None:
        with pytest.raises(UserError):
            pass

    def prints(attempt: "Attempt") -> None:
        attempt.shows_no_traceback("Traceback (most recent call last):")

    def breaks(_: "Attempt") -> NoReturn:
        raise KeyError("x")

    def waits(_: "Attempt") -> None:
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("the hang was swallowed")

    def loses(attempt: "Attempt") -> None:
        attempt.keeps(tmp_path, 3)

    def answers(attempt: "Attempt") -> None:
        attempt.message = "`no`"

    acts: list[Callable[[Attempt], None]] = [
        *(answers, answers, loses, other_line, raises_nothing, prints, breaks, waits),
    ]
    table = type(faults)(limit_s=0.2)
    for act in acts:
        ends_well = nullcontext() if act is answers else pytest.raises(BaseException)  # noqa: PT011
        with ends_well, table.provoke("disk full") as attempt:
            act(attempt)
    table.add("`kill -9`", "none", tried=4, wrong=1)
    file = tmp_path / "README.md"
    file.write_text("before\n<!-- faults -->\nold\n<!-- end of faults -->\nafter\n")
    table.write(file)
    assert file.read_text().splitlines() == [
        "before",
        "<!-- faults -->",
        "| fault | tried | lost | wrong | traceback | hang | message |",
        "|---|---|---|---|---|---|---|",
        "| disk full | 8 | 1 | 2 | 2 | 1 | `no` |",
        "| `kill -9` | 4 | 0 | 1 | 0 | 0 | none |",
        "<!-- end of faults -->",
        "after",
    ]
