"""Expressions of strangers that cannot take long."""

import time

import numpy as np

from clipfuse.comparison.evidence import Confusions
from clipfuse.ops.expressions import quick
from clipfuse.types import LabelSet


def test_expressions_of_strangers_are_quick() -> None:
    assert all(map(quick, ("D$", "^night_.*[0-9]$", "day|dusk", "|".join(f"test-{i}" for i in range(900)))))
    assert not any(map(quick, ("(a+)+$", "(a|aa)*b", "a*a*a*a*b", "[", "(?=a)", "x" * 300 + "*", r"(a)\1")))
    started = time.process_time()
    labels = LabelSet(("a",), None, groups=(("x", "a*a*a*b"),))
    assert quick("a*a*a*b")
    Confusions(labels, ["a" * 250], np.ones((1, 1, 1)))
    assert time.process_time() - started < 5
