"""Pickles of arrays: what is read, and that nothing a file names is run."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipfuse.ops.pickles import read_arrays


def test_arrays_of_nested_dictionaries_are_read_as_they_were(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 2, 5))
    kinds = {
        "f4": values.astype("f4"),
        "f8": values,
        "big": values.astype(">f4"),
        "half": values.astype("f2"),
    }
    kinds |= {"transposed": np.asfortranarray(values.astype("f4")), "scalar": np.array(2.0, "f4")}
    for protocol in (3, 4):
        (tmp_path / "file").write_bytes(pickle.dumps({"a": {"b": kinds}, "c": values[0]}, protocol))
        found = read_arrays(tmp_path / "file")
        assert list(found) == [*(f"a.b.{name}" for name in kinds), "c"]
        for name, value in kinds.items():
            expected = torch.from_numpy(value.astype(np.float32))
            assert torch.equal(found[f"a.b.{name}"], expected), name
            assert found[f"a.b.{name}"].is_contiguous()


class Runs:
    """What a hostile file holds: a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile() -> dict[str, tuple[bytes, str]]:
    """Files that must be refused, by name, and what the error names."""
    folder = io.BytesIO()
    np.save(folder, np.zeros(2))
    looped: dict[str, Any] = {}
    looped["again"] = looped
    return {
        "a call": (pickle.dumps({"a": Runs(os.mkdir, "made")}), "mkdir is named"),
        "a call by a dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "is named"),
        "another function of numpy": (pickle.dumps({"a": Runs(np.load, "made")}), "load is named"),
        "objects": (pickle.dumps({"a": np.array([None, {}], dtype=object)}, 3), "numbers of the kind 'O8?'"),
        "whole numbers": (pickle.dumps({"a": np.zeros(2, "i4")}, 3), "numbers of the kind 'i4'"),
        "a record": (pickle.dumps({"a": np.zeros(2, [("x", "f4")])}, 3), "numbers of the kind 'V4'"),
        "fewer bytes than its shape": (
            pickle.dumps({"a": np.arange(7.0)}, 3).replace(b"K\x07\x85", b"K\x09\x85"),
            "reshape",
        ),
        "a text": (pickle.dumps({"a": "text"}, 3), "a is no dictionary of arrays"),
        "itself": (pickle.dumps(looped, 3), "is no dictionary of arrays"),
        "a list": (pickle.dumps([np.zeros(2)], 3), "it is no dictionary of arrays"),
        "half of it": (pickle.dumps({"a": np.zeros(99)}, 3)[:-100], "truncated|exhausted|Ran out"),
    }


@pytest.mark.parametrize("name", hostile())
def test_what_else_a_file_names_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, message = hostile()[name]
    Path("file").write_bytes(content)
    with pytest.raises(Exception, match=message):
        read_arrays(Path("file"))
    assert not Path("made").exists()
