from typing import Any

import pytest
from omegaconf import OmegaConf

from clipfuse.errors import UserError
from clipfuse.runs.build import build, build_all


def _refuses(width: int, inner: Any = None) -> None:
    raise ValueError(f"width {width} is too small")


def _breaks() -> None:
    raise ZeroDivisionError("division by zero")


def test_what_a_constructor_refuses_is_named_with_its_place() -> None:
    node = {"_target_": f"{__name__}._refuses", "width": 3}
    with pytest.raises(UserError, match=r"^backbone: width 3 is too small$"):
        build(node, "backbone")
    with pytest.raises(UserError, match=r"^loss\.part: width 3 is too small$"):  # of a part
        build({"_target_": "builtins.dict", "part": node}, "loss")


def test_a_defect_is_told_from_a_refusal() -> None:
    with pytest.raises(UserError, match=r"^loss: ZeroDivisionError: division by zero; --debug shows where"):
        build({"_target_": f"{__name__}._breaks"}, "loss")


def test_the_entries_of_a_group_are_built_in_order_and_null_is_left_out() -> None:
    nodes = OmegaConf.create(
        {"a": {"_target_": "builtins.int"}, "b": None, "c": {"_target_": "builtins.str"}}
    )
    assert build_all(nodes, "callbacks") == [0, ""]
    assert build_all(None, "callbacks") == []
    nodes.c = {"_target_": f"{__name__}._refuses", "width": 1}
    with pytest.raises(UserError, match=r"^callbacks\.c: width 1"):
        build_all(nodes, "callbacks")
