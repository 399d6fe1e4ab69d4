"""The configuration tree: every file of every group composes and is checked, here and from a wheel."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfuse.cli.config import check_config, conf_dir
from clipfuse.cli.train import GROUPS
from clipfuse.runs.train import EvaluateSettings, TrainSettings

REPOSITORY = Path(__file__).parents[2]
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in (REPOSITORY / "conf").glob("*/*.yaml")
    if path.parent.name not in ("hydra", "sweep", "wandb")
)
ONLY_YOURS = {
    # Hydra names the options of a run, not of a test.
    ("logger", "wandb"): [
        f"logger.wandb.options.{group}=x" for group in ("loss", "backbone", "clip", "data")
    ],
    ("loss", "custom"): ["loss._target_=clipfuse.losses.pixel.PixelLoss"],
    ("data", "mixed"): ["data.sources.roadscene.root=somewhere"],
    ("experiment", "best"): ["data.sources.roadscene.root=somewhere", "data.sources.msrs.root=elsewhere"],
    ("experiment", "first"): ["data.sources.roadscene.root=somewhere"],
    ("loss", "weighted_sum"): ["loss.parts={pixel:1}"],
    ("backbone", "custom"): ["backbone._target_=clipfuse.backbones.conv_tiny.ConvTiny"],
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_is_sound(group: str, option: str) -> None:
    extra = ["data.root=somewhere"] if group == "data" and option not in ("synthetic", "mixed") else []
    extra += ONLY_YOURS.get((group, option), [])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        check_config(compose("train", [f"{group}={option}", "name=test", *extra]), TrainSettings, GROUPS)


def test_train_yaml_names_every_setting() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", ["name=test"])
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert set(config) - groups == set(TrainSettings.__annotations__)


def test_evaluate_yaml_names_every_setting() -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("evaluate", ["name=test", "data=synthetic"])
    groups = {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert set(config) - groups == set(EvaluateSettings.__annotations__)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("overwrite=no", "overwrite", False),
        ("test=yes", "test", True),
        ("steps=1e1", "steps", 10),
        ("gradient_clip=None", "gradient_clip", None),
        ("ema=None", "ema", None),
        ("data.infrared=None", "data.infrared", None),
        ("loss.gradient_weight=3", "loss.gradient_weight", 3.0),
    ],
)
def test_values_are_what_they_were_read_as(override: str, key: str, value: object) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", ["name=test", "data=folder", "data.root=here", override])
    check_config(config, TrainSettings, GROUPS)
    read = OmegaConf.select(config, key)
    assert (read, type(read)) == (value, type(value))


def test_an_installed_wheel_composes_every_option(tmp_path: Path) -> None:
    """Build the wheel, install it elsewhere, and let a process that sees only that compose everything."""
    uv = str(Path(sys.executable).with_name("uv"))
    build = [
        uv,
        "build",
        "--quiet",
        "--wheel",
        "--offline",
        "--no-build-isolation",
        "--python",
        sys.executable,
    ]
    subprocess.run([*build, "--out-dir", str(tmp_path), str(REPOSITORY)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True)
    script = """
import json, sys
import clipfuse
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from clipfuse.cli.config import conf_dir
from hydra.core.plugins import Plugins
from clipfuse.networks.load import BUNDLED, load_backbone
load_backbone(BUNDLED)
assert BUNDLED.with_name("MODEL_CARD.md").is_file()
assert "SubprocessLauncher" in [plugin.__name__ for plugin in Plugins.instance().discover()]
count = 0
with initialize_config_dir(str(conf_dir()), version_base="1.3"):
    for group, option in json.loads(sys.argv[1]):
        compose("train", [group + "=" + option])
        count += 1
    compose("evaluate", ["data=synthetic"])
assert (conf_dir() / "wandb/grid.yaml").is_file()
print(json.dumps([clipfuse.__file__, str(conf_dir()), count]))
"""
    command = [sys.executable, "-c", script, json.dumps(OPTIONS)]
    result = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    package, conf, count = json.loads(result.stdout)
    assert Path(package).is_relative_to(site)
    assert Path(conf) == site / "clipfuse" / "conf"
    assert count == len(OPTIONS) >= 20
