"""`clipfuse distill`: any network as a teacher, a file and a card, or one clear error and neither."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.cli.distill import as_overrides, score_lines, teacher_file
from clipfuse.errors import UserError
from clipfuse.networks.load import BUNDLED, load_network
from clipfuse.networks.weights import write_safetensors

Clipfuse = Callable[..., tuple[int, str, str]]
TINY = ["data.train=2", "data.val=1", "data.test=1", "data.size=64", "crops=3", "crop_size=32", "updates=2"]
TINY += ["batch_size=2", "backbone.width=4", "device=cpu"]


def teacher(path: Path, chroma: bool = False) -> Path:
    torch.manual_seed(0)
    node = {"_target_": "clipfuse.backbones.conv_tiny.ConvTiny", "width": 4, "depth": 1, "chroma": chroma}
    write_safetensors(path, node, ConvTiny(width=4, depth=1, chroma=chroma))
    return path


def test_a_student_and_its_card(clipfuse: Clipfuse, tmp_path: Path) -> None:
    file, out = teacher(tmp_path / "teacher.safetensors"), tmp_path / "student.safetensors"
    words = ["distill", "--checkpoint", str(file), "--out", str(out), *TINY]
    code, printed, errors = clipfuse(*words)
    assert code == 0, errors
    assert "on 1 validation pairs:" in printed
    assert all(f"| {name} | 0." in printed for name in ("VIF", "Qabf", "kept-information", "kept-targets"))
    network = load_network(out)
    assert type(network).__name__ == "Student"
    card = (tmp_path / "student.md").read_text()
    assert "`teacher.safetensors` (ConvTiny), SHA-256" in card
    assert "updates: 2" in card
    assert str(tmp_path) not in card
    first = out.read_bytes()
    code, _, errors = clipfuse(*words)
    assert (code, "is there already" in errors) == (2, True)
    assert clipfuse(*words, "--overwrite")[0] == 0
    assert out.read_bytes() == first


def test_teachers_of_other_kinds(clipfuse: Clipfuse, tmp_path: Path) -> None:
    # One that learns the chroma: the student learns it, too.
    file, out = teacher(tmp_path / "color.safetensors", chroma=True), tmp_path / "student.safetensors"
    code, _, errors = clipfuse("distill", f"--checkpoint={file}", f"--out={out}", *TINY, "judge=0")
    assert code == 0, errors
    assert load_network(out).learns_chroma
    # One in ONNX from anyone, which any size fits, and into another backbone.
    planes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 1, "h", "w"))
        for name in ("infrared", "visible", "fused")
    ]
    body = helper.make_graph(
        [helper.make_node("Max", ["infrared", "visible"], ["fused"])], "made", planes[:2], planes[2:]
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 9
    onnx.save(model, tmp_path / "max.onnx")
    words = ["distill", "--checkpoint", str(tmp_path / "max.onnx"), "--out", str(out), "--overwrite"]
    code, _, errors = clipfuse(*words, "backbone=conv_tiny", *TINY, "judge=0")
    assert code == 0, errors
    assert isinstance(load_network(out), ConvTiny)


def test_mistakes_are_one_line_and_leave_nothing(clipfuse: Clipfuse, tmp_path: Path) -> None:
    file, out = str(teacher(tmp_path / "teacher.safetensors")), str(tmp_path / "student.safetensors")
    color = str(teacher(tmp_path / "color.safetensors", chroma=True))
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.ckpt").write_bytes(b"junk")
    before = sorted(tmp_path.iterdir())
    for words, message in (
        (["--checkpoint", file], "--out must be given"),
        (["--out", out, "--checkpoint"], "--checkpoint needs a path"),
        (["--checkpoint", file, "--out", f"{out}.pt"], "expected a name that ends in .safetensors"),
        (["--checkpoint", str(tmp_path / "gone.ckpt"), "--out", out], "no checkpoint at"),
        (["--checkpoint", str(tmp_path / "junk.ckpt"), "--out", out], "junk.ckpt cannot be read"),
        (["--checkpoint", str(tmp_path / "folder"), "--out", out], "no checkpoints/last.ckpt in this folder"),
        (
            ["--checkpoint", file, "--out", out, "backbone.chroma=true"],
            "keeps the chroma of the visible image",
        ),
        (
            ["--checkpoint", color, "--out", out, "backbone=contourlet_tiny", "~backbone.chroma"],
            "learns the chroma",
        ),
        (["--checkpoint", file, "--out", out, "data.train=0"], "train is 0, expected a whole number"),
        (
            ["--checkpoint", file, "--out", out, "data.size=64", "crop_size=200"],
            "too small for patches of 200",
        ),
        (["--checkpoint", file, "--out", out, "updates=0"], "updates is 0"),
        (["--checkpoint", file, "--out", out, "loader.batch_size=3"], "Did you mean 'batch_size'?"),
        (["--checkpoint", file, "--out", out, "learning_rate=2"], "learning_rate is 2"),
        (["--checkpoint", file, "--out", file, "--overwrite"], "is read here, so it cannot be written too"),
        (["--checkpoint", file, "--out", out, "device=warp9"], "device=warp9 cannot be used here"),
        (["--checkpoint", file, "--out", out, "-m"], "one student at a time"),
    ):
        own = {word.partition("=")[0] for word in words}
        tiny = [word for word in TINY if word.partition("=")[0] not in own and "backbone" not in word]
        code, _, errors = clipfuse("distill", *tiny, *words)
        assert (code, message in errors) == (2, True), (words, errors)
        assert sorted(tmp_path.iterdir()) == before


def test_words_teachers_and_scores(tmp_path: Path) -> None:
    words = as_overrides(["--out", "a b.safetensors", "seed=3", "--checkpoint=RUN", "--overwrite"])
    assert words == ["out='a b.safetensors'", "seed=3", "checkpoint='RUN'", "overwrite=true"]
    assert teacher_file(None) == teacher_file("bundled") == BUNDLED
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").touch()
    assert teacher_file(str(tmp_path)) == tmp_path / "checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"no checkpoints/last\.ckpt"):
        teacher_file(str(tmp_path / "checkpoints"))
    assert score_lines({"VIF": (0.5, 0.48), "x": (0.0, 0.1)})[2:] == [
        "| VIF | 0.5000 | 0.4800 | 96.0 % |",
        "| x | 0.0000 | 0.1000 |  |",
    ]
    assert score_lines({}) == []
