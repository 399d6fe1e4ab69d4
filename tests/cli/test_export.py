"""`clipfuse export`: the same pictures from the exported weights, and no way to make them do more."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from clipfuse.images import read_image
from clipfuse.networks.load import BUNDLED, load_backbone
from clipfuse.networks.weights import write_safetensors

Clipfuse = Callable[..., tuple[int, str, str]]


@pytest.fixture
def exported(clipfuse: Clipfuse, trained: Path, tmp_path: Path) -> Path:
    """The weights of the tiny training as clipfuse.safetensors."""
    out = tmp_path / "clipfuse.safetensors"
    code, output, _ = clipfuse(
        "export", "--checkpoint", f"{trained}/checkpoints/last.ckpt", "--out", str(out)
    )
    assert (code, output) == (0, f"written: {out}\n")
    return out


def fuse(clipfuse: Clipfuse, pairs: Path, checkpoint: Path, out: Path) -> tuple[int, str, str]:
    bands = ["--infrared", f"{pairs}/test/ir", "--visible", f"{pairs}/test/vi"]
    return clipfuse("fuse", "--checkpoint", str(checkpoint), *bands, "--out", str(out))


def test_both_files_fuse_and_score_alike(
    clipfuse: Clipfuse, trained: Path, exported: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    results = {}
    for kind, file in {"ckpt": trained / "checkpoints/last.ckpt", "safetensors": exported}.items():
        assert fuse(clipfuse, pairs_folder, file, tmp_path / kind)[0] == 0
        pictures = {path.name: path.read_bytes() for path in sorted((tmp_path / kind).iterdir())}
        run = tmp_path / f"run-{kind}"
        words = [
            f"checkpoint={file}",
            "data=folder",
            f"data.root={pairs_folder}",
            f"run_dir={run}",
            "trainer=cpu",
        ]
        assert clipfuse("evaluate", *words)[0] == 0
        results[kind] = pictures, (run / "test/per_image.csv").read_text()
    assert results["ckpt"] == results["safetensors"]
    assert list(results["ckpt"][0]) == ["test-0.png", "test-1.png"]


def test_nothing_is_replaced_unasked_and_the_name_must_tell_the_kind(
    clipfuse: Clipfuse, trained: Path, exported: Path, tmp_path: Path
) -> None:
    before = exported.read_bytes()
    words = ["export", "--checkpoint", f"{trained}/checkpoints/last.ckpt", "--out"]
    code, _, errors = clipfuse(*words, str(exported))
    assert code == 2
    assert "is there already" in errors
    assert clipfuse(*words, str(exported), "--overwrite")[0] == 0
    assert exported.read_bytes() == before
    code, _, errors = clipfuse(*words, str(tmp_path / "model.pt"))
    assert code == 2
    assert "ends in .safetensors or .onnx" in errors
    assert [path.name for path in tmp_path.iterdir()] == [exported.name]


def test_an_export_of_an_export_is_the_same(clipfuse: Clipfuse, exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    assert clipfuse("export", "--checkpoint", str(exported), "--out", str(again))[0] == 0
    assert again.read_bytes() == exported.read_bytes()


def test_without_a_checkpoint_the_bundled_network_is_exported(clipfuse: Clipfuse, tmp_path: Path) -> None:
    out = tmp_path / "bundled.safetensors"
    code, output, _ = clipfuse("export", "--out", str(out))
    assert code == 0
    assert f"the bundled weights, {BUNDLED}" in output
    assert out.read_bytes() == BUNDLED.read_bytes()
    mask = os.umask(0)
    os.umask(mask)
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask  # others may read what is handed on


def test_missing_bundled_weights(clipfuse: Clipfuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipfuse.networks.load.BUNDLED", tmp_path / "model.safetensors")
    code, _, errors = clipfuse("export", "--out", str(tmp_path / "out.safetensors"))
    assert code == 2
    assert "model.safetensors); install clipfuse again" in errors


def test_no_path_of_the_maker_s_machine_is_handed_on(exported: Path, pairs_folder: Path) -> None:
    assert str(pairs_folder).encode() not in exported.read_bytes()


def test_a_run_cannot_go_on_from_weights_alone(
    clipfuse: Clipfuse, exported: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    words = [
        "train",
        "trainer=cpu",
        "data=folder",
        f"data.root={pairs_folder}",
        f"run_dir={tmp_path / 'run'}",
    ]
    code, _, errors = clipfuse(*words, f"checkpoint={exported}")
    assert code == 2
    assert "cannot be resumed: it holds weights alone" in errors
    assert not (tmp_path / "run").exists()


def rewritten(
    path: Path, weights: Callable[[Tensor], Tensor] | None = None, metadata: dict[str, str] | None = None
) -> None:
    with safe_open(path, "pt") as file:
        kept = file.metadata()
    tensors = {name: weights(value) if weights else value for name, value in load_file(path).items()}
    save_file(tensors, path, kept if metadata is None else metadata)


def with_header(path: Path, length: int) -> None:
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])


def with_deep_metadata(path: Path) -> None:
    rewritten(path, metadata={"clipfuse": '{"backbone": ' + "[" * 100_000 + "]" * 100_000 + "}"})


def with_node(path: Path, **changes: Any) -> None:
    """Change how the network is to be built, with a checksum that fits: the work of someone who means it."""
    backbone = load_backbone(path)
    node = json.loads(safe_open(path, "pt").metadata()["clipfuse"])["backbone"]
    write_safetensors(path, {**node, **changes}, backbone)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: with_header(path, 2**63), "truncated or damaged"),
        (lambda path: with_header(path, 90_000_000), "truncated or damaged"),
        (lambda path: with_header(path, 0), "truncated or damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated or damaged"),
        (lambda path: path.write_bytes(b""), "truncated or damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x7f"), "checksum does not fit"),
        (lambda path: rewritten(path, weights=lambda value: value + 1), "checksum does not fit"),
        (lambda path: rewritten(path, weights=lambda value: value.half()), "checksum does not fit"),
        (lambda path: rewritten(path, metadata={}), "checkpoint of another program"),
        (lambda path: rewritten(path, metadata={"clipfuse": "{}"}), "truncated or damaged"),
        (lambda path: rewritten(path, metadata={"clipfuse": "[" * 9}), "truncated or damaged"),
        (with_deep_metadata, "truncated or damaged"),
        (lambda path: with_node(path, width=16), "another backbone than ConvTiny"),
        (lambda path: with_node(path, width=10**9), "error: the backbone of "),
        (lambda path: with_node(path, width=4000), "the file far less"),
        (lambda path: with_node(path, depth=10**9), "the file far less"),
        (lambda path: with_node(path, width=2**70), "absurd size"),
        (lambda path: with_node(path, width="${oc.env:HOME}"), "refers to values of this machine"),
        (lambda path: with_node(path, _target_="os.system"), "wants to run code of 'os'"),
        (lambda path: with_node(path, width={"_target_": "os.system", "command": "x"}), "run code of 'os'"),
        (lambda path: with_node(path, x=[[{"_target_": "builtins.eval"}]]), "run code of 'builtins'"),
        (lambda path: with_node(path, _target_="clipfuse.data.folder.PairedFolder"), "not a class of"),
        (lambda path: with_node(path, _target_="clipfuse.backbones.ldfusion.Path"), "not a class of"),
        (lambda path: with_node(path, _args_=["/etc/passwd"]), "arguments without names"),
        (lambda path: with_node(path, _partial_=True), "which is no network"),
        (lambda path: with_node(path, _target_="clipfuse.backbones.nothing.Net"), "cannot be imported"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(
    clipfuse: Clipfuse,
    exported: Path,
    pairs_folder: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None],
    words: str,
) -> None:
    spoil(exported)
    code, _, errors = fuse(clipfuse, pairs_folder, exported, tmp_path / "out")
    assert code == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("clipfuse: error: ")]
    assert words in line
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_numbers(clipfuse: Clipfuse, exported: Path, tmp_path: Path) -> None:
    backbone = load_backbone(exported)
    node = json.loads(safe_open(exported, "pt").metadata()["clipfuse"])["backbone"]
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    write_safetensors(exported, node, backbone)
    code, _, errors = clipfuse(
        "export", "--checkpoint", str(exported), "--out", f"{tmp_path}/out.safetensors"
    )
    assert code == 2
    assert "not finite" in errors
    assert not (tmp_path / "out.safetensors").exists()


def test_onnx_fuses_as_the_checkpoint_does(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    checkpoint, model = f"{trained}/checkpoints/last.ckpt", tmp_path / "clipfuse.onnx"
    code, output, _ = clipfuse("export", "--checkpoint", checkpoint, "--out", str(model))
    assert code == 0
    assert output.startswith(f"written: {model}; what it fuses differs from the network by ")
    bands = ["--infrared", f"{pairs_folder}/test/ir", "--visible", f"{pairs_folder}/test/vi"]
    for kind, network in {"ckpt": ["--checkpoint", checkpoint], "onnx": ["--onnx", str(model)]}.items():
        code, output, _ = clipfuse("fuse", *network, *bands, "--out", str(tmp_path / kind))
        assert code == 0
        assert "bundled" not in output
    names = sorted(path.name for path in (tmp_path / "ckpt").iterdir())
    assert (
        names == sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["test-0.png", "test-1.png"]
    )
    for name in names:
        one, other = (read_image(tmp_path / kind / name).int() for kind in ("ckpt", "onnx"))
        # One level: where rounding to 8 bits is close to a tie, 1e-7 tips it.
        assert (one - other).abs().max() <= 1
        assert (one != other).float().mean() < 0.01
    again = clipfuse("fuse", "--onnx", str(model), *bands, "--out", str(tmp_path / "onnx"))
    assert again[0] == 2
    assert "already holds test-0.png" in again[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--onnx", "a.onnx", "--trust", "mine"], "leave out --trust"),
        (["--onnx", "a.onnx", "--device", "cuda"], "leave out --trust and --device"),
        (["--checkpoint", "a.onnx", "--device", "cuda"], "a.onnx names no classes and uses the CPU"),
        (["--onnx", "a.bin"], "--onnx a.bin: expected a name that ends in .onnx"),
        (["--onnx", "none.onnx"], "none.onnx: cannot be read"),
    ],
)
def test_what_onnx_goes_with(
    clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    bands = ["--infrared", f"{pairs_folder}/test/ir", "--visible", f"{pairs_folder}/test/vi"]
    code, _, errors = clipfuse("fuse", *words, *bands, "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_trust_goes_with_a_checkpoint(clipfuse: Clipfuse, tmp_path: Path) -> None:
    words = ("export", "--out", str(tmp_path / "x.safetensors"), "--trust", "mine")
    code, _, errors = clipfuse(*words)
    assert code == 2
    assert "--trust is for the classes that a --checkpoint names; name one" in errors


def test_two_networks_are_refused(clipfuse: Clipfuse) -> None:
    words = ["--onnx", "a.onnx", "--checkpoint", "b.ckpt"]
    with pytest.raises(SystemExit, match=r"2"):
        clipfuse("fuse", *words, "--infrared", "i", "--visible", "v", "--out", "o")
