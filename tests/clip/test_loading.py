import hashlib
import json
import logging
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import nn

from clipfuse.clip.encoder import FrozenClip
from clipfuse.clip.loading import _openai_hashes
from clipfuse.errors import UserError
from clipfuse.files import conf_dir, weights_sha256
from clipfuse.runs.build import build


def refused(model: str, pretrained: str | None = None, **more: bool) -> str:
    with pytest.raises(UserError) as caught:
        FrozenClip.load(model, pretrained, **more)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_unknown_models_and_tags() -> None:
    assert "no CLIP named 'ViT-B-32-quikgelu'. Did you mean 'ViT-B-32-quickgelu'?" in refused(
        "ViT-B-32-quikgelu"
    )
    assert "Did you mean 'micro'?" in refused("mikro")
    assert "no weights named 'openay'. Did you mean 'openai'?" in refused("ViT-B-32-quickgelu", "openay")
    assert "Tags: openai, laion400m_e31" in refused("ViT-B-32-quickgelu", "zzz")
    assert "pretrained=TAG with TAG one of openai, laion400m_e31" in refused("ViT-B-32-quickgelu")


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    missing = tmp_path / "no.pt"
    assert f"no weights file {missing}" in refused("ViT-B-32", str(missing))
    assert f"{tmp_path} is a folder" in refused("ViT-B-32", str(tmp_path))
    assert "folder with open_clip_config.json" in refused(f"local-dir:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text("{}")
    assert "has no weights file" in refused(f"local-dir:{tmp_path}")
    assert "leave pretrained out" in refused(f"local-dir:{tmp_path}", "openai")
    assert "config.json: cannot be read" in refused("micro", str(tmp_path / "nothing"))


@pytest.mark.parametrize("model", ["ViT-B-32-quickgelu", "hf-hub:someone/something"])
def test_no_network(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(*_: object, **__: object) -> str:
        raise FileNotFoundError("Failed to download file")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_hf", offline)
    tag = None if model.startswith("hf-hub") else "openai"
    message = refused(model, tag)
    for part in (
        model,
        "clip=micro",
        "clip.pretrained=/",
        f"clipfuse doctor --download {model} {tag or '-'}",
    ):
        assert part in message
    if tag:
        assert "'openai'" in message


def test_an_activation_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import open_clip

    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: str(tmp_path / "x.pt"))
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *_, **__: str(tmp_path / "x.pt"))
    message = refused("ViT-B-32", "openai")
    assert "another activation (QuickGELU mismatch" in message
    assert "use ViT-B-32-quickgelu, or quick_gelu=true" in message
    assert "leave quick_gelu out" in refused("ViT-B-32", "laion2b_s34b_b79k", quick_gelu=True)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "other architecture", "no tensors", "pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_cannot_be(
    tmp_path: Path, kind: str, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip

    small = open_clip.get_model_config("ViT-B-32")
    small["vision_cfg"].update(width=64, layers=1)
    small["text_cfg"].update(width=64, layers=1, vocab_size=100)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", small)
    file = tmp_path / f"weights{suffix}"
    other = {"visual.proj": torch.zeros(3, 4), "logit_scale": torch.zeros(())}

    def write(weights: dict[str, torch.Tensor]) -> None:
        if suffix == ".pt":
            torch.save(weights, file)
        else:
            save_file(weights, file)

    if kind == "truncated":
        write(other)
        file.write_bytes(file.read_bytes()[:-40])
    elif kind in ("other architecture", "no tensors"):
        write(other if kind == "other architecture" else {})
    elif kind == "pickle":
        torch.save({"weights": Path("anything")}, file)  # runs code when it is read
    else:
        file.write_text("" if kind == "empty" else "<html>not found</html>")
    message = refused("ViT-B-32", str(file))
    assert str(file) in message
    if kind == "other architecture":
        assert "another architecture than ViT-B-32" in message
    elif kind != "no tensors":
        assert "no weights file, or a truncated one" in message


class Scripted(nn.Module):
    """A state dict in TorchScript, as OpenAI's own files are."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            where: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if not hasattr(where, part):
                    where.add_module(part, nn.Module())
                where = getattr(where, part)
            where.register_buffer(leaf, value)

    def forward(self) -> int:
        return 1


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_openai_s_own_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    small = open_clip.get_model_config("ViT-B-32-quickgelu")
    small["vision_cfg"].update(width=64, layers=1)
    small["text_cfg"].update(width=64, layers=1, vocab_size=100)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", small)
    weights = open_clip.create_model("ViT-B-32-quickgelu").state_dict()
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.script(Scripted(weights)).save(str(file))
    assert "a TorchScript program other than OpenAI's own" in refused("ViT-B-32-quickgelu", str(file))
    own = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr("clipfuse.clip.loading._openai_hashes", lambda: {own})
    monkeypatch.setattr("clipfuse.clip.loading.speed_up", lambda model: None)  # which rewrites weights
    loaded = FrozenClip.load("ViT-B-32-quickgelu", str(file))
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize("named", ["ViT-B-32", "ViT-B-32-quickgelu"])
@pytest.mark.parametrize(
    ("digest", "quick"),
    [
        ("40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af", True),  # openai
        ("d867053b" + 56 * "0", True),  # laion400m_e31
        ("af8dbd0c" + 56 * "0", False),  # laion2b_e16
        (64 * "0", None),
    ],
)
def test_a_published_file_is_known_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, digest: str, quick: bool | None
) -> None:
    """Its activation must be that of the model, whatever the file is called."""
    import open_clip

    small = open_clip.get_model_config(named)
    small["vision_cfg"].update(width=64, layers=1)
    small["text_cfg"].update(width=64, layers=1, vocab_size=100)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, named, small)
    file = tmp_path / "mine.pt"
    torch.save(open_clip.create_model(named).state_dict(), file)
    monkeypatch.setattr("clipfuse.clip.loading.file_sha256", lambda path: digest)
    if quick is None or quick == named.endswith("quickgelu"):
        assert FrozenClip.load(named, str(file)).identity["quick_gelu"] is named.endswith("quickgelu")
        return
    message = refused(named, str(file))
    assert str(file) in message
    assert f"use clip.model={'ViT-B-32-quickgelu' if quick else 'ViT-B-32'}" in message


def test_the_hashes_of_openai_s_own_files() -> None:
    hashes = _openai_hashes()
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in hashes  # ViT-B/32
    assert all(len(digest) == 64 for digest in hashes)


class Payload:
    """A pickle that leaves a file when it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("kind", ["pickle", "archive", "disguised as TorchScript"])
def test_no_pickle_is_opened(tmp_path: Path, kind: str) -> None:
    file, trace = tmp_path / "weights.pt", tmp_path / "trace"
    if kind == "archive":
        torch.save(Payload(trace), file)
    else:
        # Torch's old format: three pickles, then the content.
        head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
        file.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in (*head, Payload(trace))))
    if kind == "disguised as TorchScript":
        with zipfile.ZipFile(file, "a") as archive:
            for name in ("constants.pkl", "data.pkl", "version"):
                archive.writestr(f"archive/{name}", "3")
    assert str(file) in refused("ViT-B-32", str(file))
    assert not trace.exists()


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_model.safetensors"])
def test_a_local_folder(tmp_path: Path, tiny_folder: Path, name: str) -> None:
    from clipfuse.clip.micro_files import load_micro

    model, config = load_micro(tiny_folder)
    described = {**config["open_clip"], "quick_gelu": True}
    preprocess = {**config["preprocess"], "mean": [0.5, 0.5, 0.5], "resize_mode": "squash"}
    content = {"model_cfg": described, "preprocess_cfg": preprocess}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    if name.endswith(".bin"):
        torch.save(model.state_dict(), tmp_path / name)
    else:
        save_file(model.state_dict(), tmp_path / name)
    clip = FrozenClip.load(f"local-dir:{tmp_path}")
    assert clip.identity["quick_gelu"] is True
    assert clip.identity["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert clip.preprocess.resize == "squash"
    assert clip.encode_text(["an infrared image"]).shape == (1, 24)
    assert clip.identity["weights_sha256"] == weights_sha256(model.state_dict())  # in any format


def test_an_earlier_edition_is_loaded_by_its_name() -> None:
    """`clip=micro_1` gives the weights by which runs before the second edition were trained."""
    newest = build(OmegaConf.load(conf_dir() / "clip/micro.yaml"), "clip")
    first = build(OmegaConf.load(conf_dir() / "clip/micro_1.yaml"), "clip")
    assert (newest.identity["model"], newest.identity["pretrained"], newest.identity["version"]) == (
        "micro",
        None,
        2,
    )
    assert (first.identity["model"], first.identity["pretrained"], first.identity["version"]) == (
        "micro",
        "micro_1",
        1,
    )
    # What runs of the first edition recorded, from before there was a second one.
    assert first.identity["weights_sha256"].startswith("923789ecfadc1478")
    assert first.seen_tokens is not None
    assert newest.seen_tokens is not None
    assert set(first.seen_tokens) < set(newest.seen_tokens)  # no text of a loss has lost a word
    assert pickle.loads(pickle.dumps(first)) is first


def test_loading_leaves_the_log_alone(tmp_path: Path, tiny_folder: Path) -> None:
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    try:
        shutil.copytree(tiny_folder, tmp_path / "m")
        refused("local-dir:" + str(tmp_path / "m"))
        FrozenClip.load("micro", str(tmp_path / "m")).encode_text(["an infrared image"])
        assert root.handlers == []
    finally:
        root.handlers = kept
