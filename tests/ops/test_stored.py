"""Files of weights: what is read, and what is refused."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipfuse.ops.stored import read_archive, read_weights


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


def test_published_formats_are_read(tmp_path: Path) -> None:
    """Older files of torchvision are no archives; a checkpoint of ours is never of that format."""
    weights = {"a": torch.arange(3)}
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    save_file(weights, tmp_path / "a.safetensors")
    for name in ("old.pth", "a.safetensors"):
        assert read_weights(tmp_path / name, "vgg19")["a"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"no file of torch\.save"):
        read_archive(tmp_path / "old.pth")


@pytest.mark.parametrize("old", [False, True])
def test_weights_are_read_without_running_code(tmp_path: Path, old: bool) -> None:
    trace, path = tmp_path / "trace", tmp_path / "a.pth"
    torch.save({"a": Payload(trace)}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r"a\.pth cannot be read as weights of vgg19 \(more than data"):
        read_weights(path, "vgg19")
    assert not trace.exists()
