"""Files of weights: what is read, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from clipfuse.ops.stored import read_weights


def test_a_mapping_is_read_and_other_kinds_are_empty(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save({"a": torch.ones(2)}, path)
    assert read_weights(path, "vgg19")["a"].tolist() == [1, 1]
    torch.save([1], path)
    assert read_weights(path, "vgg19") == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (None, "no file of vgg19's weights at"),
        (os.mkfifo, "no file of vgg19's weights at"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as weights of vgg19"),
    ],
)
def test_what_is_no_file_of_weights(
    tmp_path: Path, make: Callable[[Path], object] | None, message: str
) -> None:
    path = tmp_path / "file.pt"
    if make is not None:
        make(path)
    with pytest.raises(ValueError, match=message):
        read_weights(path, "vgg19")
