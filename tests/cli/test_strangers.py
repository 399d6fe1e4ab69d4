"""Files from strangers, through every command that opens them: nothing runs, nothing leaves its folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback
from omegaconf import DictConfig
from PIL import Image

from clipfuse.data.datamodule import FusionDataModule
from clipfuse.data.pairs import Pair
from clipfuse.errors import UserError
from clipfuse.runs.train import train

Clipfuse = Callable[..., tuple[int, str, str]]
Tiny = Callable[..., DictConfig]


class Payload:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


def refused(result: tuple[int, str, str], *words: str) -> None:
    code, _, errors = result
    assert code == 2
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("clipfuse: error: ")]
    for word in words:
        assert word in line


def commands(file: Path, pairs: Path, out: Path) -> dict[str, list[str]]:
    """Return every way to hand a file of weights to the command line."""
    data = ["trainer=cpu", "data=folder", f"data.root={pairs}", f"run_dir={out}"]
    bands = ["--infrared", f"{pairs}/test/ir", "--visible", f"{pairs}/test/vi", "--out", str(out)]
    clip = ["loss=ldfusion", "clip=custom", "clip.model=ViT-B-32"]
    return {
        "resume": ["train", *data, f"checkpoint={file}"],
        "evaluate": ["evaluate", *data, f"checkpoint={file}"],
        "fuse": ["fuse", "--checkpoint", str(file), *bands],
        "export": ["export", "--checkpoint", str(file), "--out", f"{out}.safetensors"],
        "clip": ["train", *data, *clip, f"clip.pretrained={file}"],
        "backbone": ["train", *data, "backbone=ldfusion", f"backbone.encoder_weights={file}"],
    }


@pytest.mark.parametrize("command", ["resume", "evaluate", "fuse", "export", "clip", "backbone"])
def test_a_hostile_pickle_is_not_opened(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path, command: str
) -> None:
    folder, trace = tmp_path / "files", tmp_path / "trace"
    folder.mkdir()
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    # Where nobody looks before all of it has been read.
    torch.save({**content, "optimizer_states": [Payload(trace)]}, folder / "new.ckpt")
    torch.save({**content, "x": Payload(trace)}, folder / "old.ckpt", _use_new_zipfile_serialization=False)
    shutil.copy(folder / "new.ckpt", folder / "new.safetensors")
    for file in folder.iterdir():
        words = commands(file, pairs_folder, tmp_path / "out")[command]
        refused(clipfuse(*words), str(file))
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_no_file_is_ever_read_as_code(
    tiny_config: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is read once, also by a run that goes on: Lightning gets what was read."""
    read: list[bool | None] = []
    load = torch.load

    def watched(*arguments: object, weights_only: bool | None = None, **keywords: object) -> object:
        read.append(weights_only)
        return load(*arguments, weights_only=weights_only, **keywords)

    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config(f"+callbacks.stop={{_target_: {__name__}._power_cut}}"))
    config = tiny_config(f"checkpoint={tmp_path}/run/checkpoints/last.ckpt")
    monkeypatch.setattr(torch, "load", watched)
    train(config)
    assert read == [True]


def _power_cut() -> Callback:
    def stop(trainer: Trainer, *_: object) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("power cut")

    return LambdaCallback(on_train_batch_end=stop)


@pytest.mark.parametrize("place", ["key", "value"])
def test_a_checkpoint_that_would_delete_a_file_elsewhere(
    tiny_config: Tiny, trained: Path, tmp_path: Path, place: str
) -> None:
    content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
    content["global_step"] = 3
    (state,) = [state for key, state in content["callbacks"].items() if key.startswith("ModelCheckpoint")]
    victim = f"{state['dirpath']}/../../../victim.ckpt"
    state.update({"best_k_models": {victim: 0.5}} if place == "key" else {"kth_best_model_path": victim})
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"names a file outside of its run, .*victim\.ckpt"):
        train(tiny_config(f"checkpoint={tmp_path}/last.ckpt"))


def test_trusted_packages_are_asked_for_by_name(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site/their_net"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        "from clipfuse.backbones.conv_tiny import ConvTiny\n"
        f"Path({str(tmp_path / 'trace')!r}).touch()\n"
        "class Net(ConvTiny):\n"
        "    pass\n"
        "def make(**arguments):\n"
        "    return Net(**arguments)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))

    def call(target: str, *more: str) -> tuple[int, str, str]:
        content = torch.load(trained / "checkpoints/last.ckpt", weights_only=True)
        content["clipfuse"]["config"]["backbone"]["_target_"] = target
        torch.save(content, tmp_path / "theirs.ckpt")
        words = commands(tmp_path / "theirs.ckpt", pairs_folder, tmp_path / "out")["fuse"]
        return clipfuse(*words, "--overwrite", *more)

    refused(call("their_net.Net"), "wants to run code of 'their_net'", "trust 'their_net'")
    refused(call("their_net.Net", "--trust", "their"), "wants to run code of 'their_net'")
    assert not (tmp_path / "trace").exists()
    assert call("their_net.Net", "--trust", "their_net")[0] == 0
    assert (tmp_path / "trace").exists()
    refused(call("their_net.make", "--trust", "their_net"), "not a class of")
    refused(call("their_net.Path", "--trust", "their_net"), "not a class of")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: !!python/object/apply:os.system ['touch trace']", "could not determine a constructor"),
        ("seed: !!python/name:os.system", "could not determine a constructor"),
        ("seed: [", "a configuration file cannot be read"),
        ("seed: " + "[" * 5_000 + "]" * 5_000, "nested too deeply"),
        ("seed: &seed [*seed]", "holds itself"),
        ("seed: \x00", "a configuration file cannot be read"),
    ],
)
def test_yaml_holds_data_alone(
    clipfuse: Clipfuse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    folder = tmp_path / "theirs/experiment"
    folder.mkdir(parents=True)
    (folder / "theirs.yaml").write_text(f"# @package _global_\n{text}\n")
    monkeypatch.chdir(tmp_path)
    refused(clipfuse("train", "--config-dir", "theirs", "experiment=theirs", "trainer=cpu"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


class Named:
    """A data set of one pair with a name of its maker's choice."""

    name = "named"

    def __init__(self, sample_id: str) -> None:
        self.sample_id = sample_id

    def parts(self) -> dict[str, list[str]]:
        return {"train": [], "val": [], "test": [self.sample_id]}

    def load(self, sample_id: str) -> Pair:
        plane = torch.zeros(1, 8, 8, dtype=torch.uint8)
        return Pair(plane, plane)

    def fingerprint(self) -> str:
        return ""


@pytest.mark.parametrize("sample_id", ["../../escaped", "/tmp/escaped", "a/b", "..", "a\nb", "x" * 300])
def test_no_data_set_names_a_picture_outside_of_the_run(sample_id: str) -> None:
    with pytest.raises(UserError, match=r"^the name .* rename the image$"):
        FusionDataModule(Named(sample_id))


def test_a_split_file_names_only_what_is_in_the_folder(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    split = {"train": [], "val": [], "test": ["../../test/ir/test-0"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    words = commands(trained / "checkpoints/last.ckpt", pairs_folder, tmp_path / "out")["evaluate"]
    refused(clipfuse(*words, f"data.split={tmp_path}/split.json"), "are missing: ../../test/ir/test-0")
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_place_of_a_picture(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    """All pictures appear or none: the second cannot."""
    (tmp_path / "out/test-1.png").mkdir(parents=True)
    words = commands(trained / "checkpoints/last.ckpt", pairs_folder, tmp_path / "out")["fuse"]
    refused(clipfuse(*words, "--overwrite"), "test-1.png is a folder")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["test-1.png"]


def test_curves_that_are_none(tiny_config: Tiny, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="power cut"):
        train(tiny_config(f"+callbacks.stop={{_target_: {__name__}._power_cut}}"))
    (tmp_path / "run/metrics.csv").write_text("step,trainer/samples_seen\n1,many\n")
    with pytest.raises(UserError, match=r"metrics\.csv holds no curves of this run"):
        train(tiny_config(f"checkpoint={tmp_path}/run/checkpoints/last.ckpt"))


def test_a_split_file_without_end(clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text("[" * 100_000)
    words = commands(tmp_path / "none", pairs_folder, tmp_path / "out")["resume"][:-1]
    refused(clipfuse(*words, f"data.split={tmp_path}/split.json"), "not a split file")


def test_a_link_in_the_output_folder_is_not_followed(
    clipfuse: Clipfuse, trained: Path, pairs_folder: Path, tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere.png"
    out.mkdir()
    (out / "test-0.png").symlink_to(elsewhere)
    words = commands(trained / "checkpoints/last.ckpt", pairs_folder, out)["fuse"]
    refused(clipfuse(*words), "already holds test-0.png")
    assert clipfuse(*words, "--overwrite")[0] == 0
    assert not elsewhere.exists()
    assert not (out / "test-0.png").is_symlink()


def test_names_of_every_kind_are_fused_under_their_own(
    clipfuse: Clipfuse, trained: Path, tmp_path: Path
) -> None:
    names = ["-rf", "--out", "a b", "A", "a", "夜", "$(touch x)", "n" * 250, "a..b", "con%s{0}"]
    image = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1)))
    for band, turned in (("test/ir", image), ("test/vi", image.rotate(90))):
        (tmp_path / band).mkdir(parents=True)
        for name in names:
            turned.save(tmp_path / band / f"{name}.png")
    words = commands(trained / "checkpoints/last.ckpt", tmp_path, tmp_path / "out")
    assert clipfuse(*words["fuse"])[0] == 0
    assert sorted(path.stem for path in (tmp_path / "out").iterdir()) == sorted(names)
    scores = ["--infrared", f"{tmp_path}/test/ir", "--visible", f"{tmp_path}/test/vi", "--metrics", "EN"]
    assert clipfuse("score", "--fused", f"{tmp_path}/out", *scores, "--out", f"{tmp_path}/scores.csv")[0] == 0
    for name in names:
        shutil.copy(tmp_path / f"out/{name}.png", tmp_path / f"out/{name}\r.png")
    refused(clipfuse("score", "--fused", f"{tmp_path}/out", *scores), "has control characters", "\\r")


def test_what_the_system_refuses_is_one_line(clipfuse: Clipfuse, pairs_folder: Path, tmp_path: Path) -> None:
    for command, words in commands(Path("x" * 5_000), pairs_folder, tmp_path / "out").items():
        result = clipfuse(*words)
        refused(result, "xxx")
        assert not list(tmp_path.iterdir()), command
