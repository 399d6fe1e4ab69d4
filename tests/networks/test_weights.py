"""Reading archives of strangers."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from clipfuse.networks.weights import (
    check_plain,
    limited_parameters,
    read_safetensors,
    write_safetensors,
)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 0


def of_itself() -> list[Any]:
    node: list[Any] = []
    node.append(node)
    return node


def doubled(times: int) -> list[Any]:
    """Two to the power of `times` leaves in a few bytes."""
    node: list[Any] = [0]
    for _ in range(times):
        node = [node, node]
    return node


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (of_itself(), "holds itself"),
        (doubled(30), "too large"),
        (nested(40), "too deep"),
        ({"a": [{"b": torch.zeros(1)}]}, "holds a Tensor"),
        ({"a": b"x"}, "holds a bytes"),
        ({("a",): 1}, "are not words"),
        ({"a": -(2**64)}, "absurd size"),
    ],
)
def test_what_is_no_configuration(node: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_plain(node)


def test_a_configuration() -> None:
    check_plain({"a": {"b": [1, 2.5, "c", None, True, (3, {})]}})


def test_safetensors_hold_weights_and_configuration_under_one_checksum(tmp_path: Path) -> None:
    network, path = nn.Linear(2, 3), tmp_path / "a.safetensors"
    write_safetensors(path, {"width": 23}, network)
    content = read_safetensors(path)
    assert content["clipfuse"]["config"]["backbone"] == {"width": 23}
    assert torch.equal(content["state_dict"]["backbone.weight"], network.weight)
    whole = path.read_bytes()
    assert whole.count(b"width") == 1
    for spoiled in (whole[:-1] + bytes([whole[-1] ^ 1]), whole.replace(b": 23", b": 24")):
        assert spoiled != whole
        path.write_bytes(spoiled)
        with pytest.raises(ValueError, match="its checksum does not fit"):
            read_safetensors(path)


def test_a_network_larger_than_its_weights_is_not_built() -> None:
    with limited_parameters(1_000_000), pytest.raises(ValueError, match="1000000000 bytes"):
        nn.Linear(25_000, 10_000, bias=False)
    with limited_parameters(1_000):
        shared = nn.Linear(10, 10)
        nn.Sequential(shared, shared)
    nn.Linear(1_000, 1_000)


def test_a_weight_that_a_parametrization_moves_is_counted_once() -> None:
    with warnings.catch_warnings(), limited_parameters(4 * 4 * 110):
        layer = weight_norm(nn.Linear(10, 10))
    assert layer.weight.shape == (10, 10)
