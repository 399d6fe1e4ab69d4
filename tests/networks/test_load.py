import hashlib
from pathlib import Path

import pytest
import torch

from clipfuse import load_network
from clipfuse.backbones.student import Student
from clipfuse.cli import export, fuse
from clipfuse.errors import UserError
from clipfuse.networks.load import BUNDLED, NAMED, bundled, choose_checkpoint, load_backbone, named
from clipfuse.networks.onnx import OnnxNetwork
from clipfuse.types import FusionOutput

PLANES = torch.rand(2, 1, 1, 40, 44, generator=torch.Generator().manual_seed(0))


def test_the_bundled_network_is_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    network = load_network()
    assert not network.training
    with torch.no_grad():
        assert torch.equal(network(*PLANES).fused, load_backbone(BUNDLED)(*PLANES).fused)
    assert capsys.readouterr().out == ""
    assert choose_checkpoint(None) == BUNDLED
    assert "the bundled weights" in capsys.readouterr().out
    assert choose_checkpoint("mine.ckpt") == Path("mine.ckpt")


def test_a_checkpoint_and_its_onnx_file_are_one_network(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from clipfuse.networks import write_onnx

    network = load_network(trained / "checkpoints/last.ckpt")
    write_onnx(tmp_path / "network.onnx", network, "ConvTiny")
    loaded = load_network(tmp_path / "network.onnx")
    assert isinstance(loaded, OnnxNetwork)
    output = loaded(*PLANES)
    assert isinstance(output, FusionOutput)
    with torch.no_grad():
        torch.testing.assert_close(output.fused, network(*PLANES).fused, rtol=0, atol=1e-4)


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no checkpoint at .*gone\.ckpt: no such file"):
        load_network(tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match=r"gone\.onnx: cannot be read"):
        load_network(tmp_path / "gone.onnx")
    monkeypatch.setattr("clipfuse.networks.load.BUNDLED", tmp_path / "gone.safetensors")
    for missing in (bundled, lambda: named("student")):
        with pytest.raises(UserError, match="the bundled weights are missing"):
            missing()


def test_the_student_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = named("student").read_bytes()
    assert len(content) <= 150_000
    digest = hashlib.sha256(content).hexdigest()
    assert digest in named("student").with_name("STUDENT_CARD.md").read_text()
    student = load_network("student")
    assert isinstance(student, Student)
    assert not torch.equal(student(*PLANES).fused, load_network("bundled")(*PLANES).fused)
    pair = ["--infrared", "i", "--visible", "v"]
    for name in NAMED:  # which the commands write out, as --help must not wait for torch
        assert fuse._parse([*pair, "--out", "o", "--network", name]).network == name
        assert export._parse(["--out", "o", "--network", name]).network == name
    monkeypatch.chdir(tmp_path)
    Path("student").write_bytes(BUNDLED.read_bytes())  # a file of this name goes first
    with pytest.raises(UserError, match="student"):
        load_network("student")
