import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from clipfuse.clip.micro_files import BUNDLED, EDITIONS, build_micro, initial_rows, load_micro, save_micro
from clipfuse.errors import UserError

Config = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("tower", ["vit", "resnet"])
@pytest.mark.parametrize("custom", [False, True])
def test_a_model_survives_its_files(tmp_path: Path, tiny_config: Config, tower: str, custom: bool) -> None:
    config = tiny_config(tower)
    config["open_clip"]["custom_text"] = custom
    model = build_micro(config).eval()
    with torch.no_grad():  # what training changes: rows of seen tokens, and everything else
        table = model.text.token_embedding.weight if custom else model.token_embedding.weight
        table[[7, 3]] += 1
        model.logit_scale.fill_(3.0)
    save_micro(model, [7, 3, 3], config, tmp_path)
    again, read = load_micro(tmp_path)
    assert read["seen"] == [3, 7]
    assert len(read["sha256"]) == 64
    assert {name: read[name] for name in config} == config
    assert not again.training
    for name, value in model.state_dict().items():
        # fp16 keeps 11 bits
        torch.testing.assert_close(again.state_dict()[name], value, rtol=2**-11, atol=1e-6)
    restored = again.text.token_embedding.weight if custom else again.token_embedding.weight
    assert torch.equal(restored[8:], initial_rows(49408, 16, seed=5)[8:])


def test_only_seen_rows_are_stored(tiny_folder: Path) -> None:
    with safe_open(tiny_folder / "model.safetensors", "pt") as file:
        rows, ids = file.get_tensor("token_embedding.rows"), file.get_tensor("token_embedding.ids")
        assert "token_embedding.weight" not in file.keys()  # noqa: SIM118
    assert rows.dtype == torch.float16
    assert ids.dtype == torch.int64
    assert len(rows) == len(ids) == 9  # padding, six words and the two marks
    assert (tiny_folder / "model.safetensors").stat().st_size < 200_000


@pytest.mark.parametrize("what", ["model missing", "config missing", "truncated", "other model", "no JSON"])
def test_broken_files_are_named(tmp_path: Path, tiny_folder: Path, what: str) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_folder, folder)
    model, config = folder / "model.safetensors", folder / "config.json"
    if what == "model missing":
        model.unlink()
    elif what == "config missing":
        config.unlink()
    elif what == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif what == "other model":
        content = json.loads(config.read_text())
        content["open_clip"]["vision_cfg"]["width"] = 48
        config.write_text(json.dumps(content))
    else:
        config.write_text("{")
    named = str(config if what in ("config missing", "no JSON") else model)
    with pytest.raises(UserError, match=r"install clipfuse again") as caught:
        load_micro(folder)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_saved_is_refused(tmp_path: Path, tiny_config: Config) -> None:
    config = tiny_config()
    model = build_micro(config)
    with pytest.raises(ValueError, match=r"0\.\.49407"):
        save_micro(model, [49408], config, tmp_path)
    with pytest.raises(ValueError, match="lacks seed"):
        save_micro(model, [1], {key: config[key] for key in config if key != "seed"}, tmp_path)
    with torch.no_grad():
        model.logit_scale.fill_(1e6)
    with pytest.raises(ValueError, match="logit_scale holds"):
        save_micro(model, [1], config, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_bundled_editions_are_the_newest_and_earlier_ones_with_a_card_each() -> None:
    """`clip=micro` is the newest, `clip=micro_N` the one of version N; each is at most 15 MB."""
    assert EDITIONS["micro"] == BUNDLED
    versions = {
        name: json.loads((folder / "config.json").read_text())["version"] for name, folder in EDITIONS.items()
    }
    newest = versions.pop("micro")
    assert versions == {f"micro_{version}": version for version in range(1, newest)}
    for name, folder in EDITIONS.items():
        assert (folder / "model.safetensors").stat().st_size < 15e6
        card = (folder / "MODEL_CARD.md").read_text()
        assert f"version {versions.get(name, newest)}" in card.partition("\n")[0]
