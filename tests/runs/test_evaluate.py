from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from clipfuse.errors import UserError
from clipfuse.runs.evaluate import evaluate

Config = Callable[..., DictConfig]


def test_evaluate_repeats_the_test_of_the_run(tiny_config: Config, trained: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints/last.ckpt'}"
    evaluate(tiny_config(checkpoint, "save_sources=true", config_name="evaluate"))
    folder = tmp_path / "run"
    for name in ("metrics.json", "per_image.csv"):
        assert (folder / "test" / name).read_text() == (trained / "test" / name).read_text()
    sources = {path.name for path in (folder / "test/infrared").iterdir()}
    assert sources == {"test-0.png", "test-1.png"}
    assert OmegaConf.load(folder / "config.yaml").checkpoint == str(trained / "checkpoints/last.ckpt")
    assert not (folder / "metrics.csv").exists()  # logger=none


def test_a_folder_in_use_keeps_its_run(tiny_config: Config, trained: Path) -> None:
    checkpoint = f"checkpoint={trained / 'checkpoints/last.ckpt'}"
    before = (trained / "status.json").read_bytes()
    with pytest.raises(UserError, match="holds a run; choose another run_dir, or set overwrite=true"):
        evaluate(tiny_config(checkpoint, f"run_dir={trained}", config_name="evaluate"))
    with pytest.raises(UserError, match=r"would delete .*last\.ckpt"):
        evaluate(tiny_config(checkpoint, f"run_dir={trained}", "overwrite=true", config_name="evaluate"))
    assert (trained / "status.json").read_bytes() == before
