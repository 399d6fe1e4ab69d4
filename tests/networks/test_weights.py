"""Reading archives of strangers."""

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from clipfuse.networks.weights import (
    check_plain,
    limited_parameters,
    read_archive,
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


def test_an_archive_is_read_as_it_was_written(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(3), "b": [1, "x"]}, tmp_path / "a.pt")
    content = read_archive(tmp_path / "a.pt")
    assert torch.equal(content["a"], torch.arange(3))
    assert content["b"] == [1, "x"]


def test_every_flipped_byte_of_the_weights_is_found(tmp_path: Path) -> None:
    """Torch alone reads such a file without a word."""
    torch.save({"a": torch.full((64,), 1.5)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    start = content.index(torch.full((64,), 1.5).numpy().tobytes())
    for offset in range(start, start + 256, 17):
        spoiled = bytearray(content)
        spoiled[offset] ^= 4
        (tmp_path / "b.pt").write_bytes(spoiled)
        with pytest.raises(ValueError, match="damaged"):
            read_archive(tmp_path / "b.pt")


def test_an_archive_that_unpacks_to_more_than_the_file(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "a.pt")
    packed = zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(tmp_path / "a.pt") as stored, packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    assert (tmp_path / "b.pt").stat().st_size < 10_000
    with pytest.raises(ValueError, match="unpacks to more"):
        read_archive(tmp_path / "b.pt")


class Payload:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("kind", ["new format", "old format", "bare pickle"])
def test_no_pickle_is_opened(tmp_path: Path, kind: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.ckpt"
    if kind == "bare pickle":
        path.write_bytes(pickle.dumps(Payload(trace)))
    else:
        torch.save({"a": Payload(trace)}, path, _use_new_zipfile_serialization=kind == "new format")
    with pytest.raises(ValueError, match=r"data|torch\.save"):
        read_archive(path)
    assert not trace.exists()


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
