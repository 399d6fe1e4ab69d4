from collections.abc import Callable
from pathlib import Path

import pytest

from clipfuse.clip import micro_files

Clipfuse = Callable[..., tuple[int, str, str]]


def line(output: str) -> str:
    return next(line for line in output.splitlines() if "clip=micro" in line)


def test_doctor_names_the_micro_clip_or_what_it_lacks(
    clipfuse: Clipfuse, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_files, "BUNDLED", tiny_folder)
    code, output, _ = clipfuse("doctor")
    assert code == 0
    assert "version 0, 9 known tokens" in line(output)
    monkeypatch.setattr(micro_files, "BUNDLED", tmp_path)
    (tmp_path / "model.safetensors").write_text("")
    code, output, _ = clipfuse("doctor")
    assert code == 2
    assert line(output).strip().startswith("MISSING")


def test_doctor_fetches_weights(clipfuse: Clipfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    asked: list[str] = []

    def download(config: dict[str, str]) -> str:
        asked.append(config["hf_hub"])
        return "/cache/weights.safetensors"

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    code, output, _ = clipfuse("doctor", "--download", "ViT-B-32-quickgelu", "openai")
    assert code == 0
    assert asked == ["timm/vit_base_patch32_clip_224.openai/"]
    assert output.startswith("/cache/weights.safetensors\n")


def test_doctor_without_network(clipfuse: Clipfuse, monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def offline(config: dict[str, str]) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    monkeypatch.setattr("clipfuse.clip.fetching._answers", lambda *_: True)
    code, _, error = clipfuse("doctor", "--download", "ViT-B-32-quickgelu", "openai")
    assert code == 2
    assert "cannot be downloaded (no route to host)" in error
    assert error.count("\n") == 1
    assert "Did you mean 'openai'?" in clipfuse("doctor", "--download", "ViT-B-32", "openay")[2]
    assert "nothing to fetch" in clipfuse("doctor", "--download", "micro", "-")[2]
