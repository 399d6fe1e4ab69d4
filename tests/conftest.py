"""Fixtures that several test files share."""

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from clipfuse.cli.config import conf_dir
from clipfuse.testing.ranks import Ranks

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> np.lib.npyio.NpzFile:
    """Inputs and outputs of the published losses, cut down from the full record."""
    return np.load(GOLDEN / "losses.npz")


@pytest.fixture(scope="session")
def roadscene() -> Path:
    """The folder of real pairs; where CLIPFUSE_DATA is set it must be there."""
    data = os.environ.get("CLIPFUSE_DATA")
    if data is None:
        pytest.skip("CLIPFUSE_DATA is not set: no real pairs on this machine")
    folder = Path(data) / "roadscene"
    assert folder.is_dir(), f"CLIPFUSE_DATA is set, but {folder} is missing"
    return folder


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven training, two validation, two test pairs, 64x48: smooth ramps, bars and a hot spot."""
    root = tmp_path_factory.mktemp("pairs")
    generator = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    for part, count in {"train": 7, "val": 2, "test": 2}.items():
        for index in range(count):
            top, left = generator.integers(4, 36), generator.integers(4, 52)
            spot = 180 * np.exp(-((rows - top) ** 2 + (columns - left) ** 2) / 18)
            bars = 60 * (columns // generator.integers(2, 6) % 2)
            infrared = 30 + 0.5 * rows + spot + generator.normal(0, 2, rows.shape)
            visible = np.stack([40 + bars, 50 + bars + columns, 60 + rows], axis=-1)
            for band, image in {"ir": infrared, "vi": visible}.items():
                path = root / part / band / f"{part}-{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path)
    return root


def compose_tiny(run_dir: Path, pairs: Path, overrides: tuple[str, ...], config_name: str) -> DictConfig:
    small = ["name=tiny", f"run_dir={run_dir}", "trainer=cpu", "data=folder", f"data.root={pairs}"]
    if config_name == "train":
        small += ["backbone=conv_tiny", "backbone.width=8", "backbone.depth=1", "steps=6", "validate_every=3"]
        small += ["loader.batch_size=2", "loader.crop_size=32", "trainer.log_every_n_steps=1"]
        small += ["~callbacks.progress", "+trainer.enable_progress_bar=false"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(config_name, [*small, *overrides])


@pytest.fixture
def tiny_config(tmp_path: Path, pairs_folder: Path) -> Callable[..., DictConfig]:
    """Compose a run of a second or two over `pairs_folder`; overrides are added last."""
    return lambda *overrides, config_name="train": compose_tiny(
        tmp_path / "run", pairs_folder, overrides, config_name
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path) -> Path:
    """The run folder of one finished tiny training; not to be changed."""
    from clipfuse.engine.run import train

    run_dir = tmp_path_factory.mktemp("trained") / "run"
    train(compose_tiny(run_dir, pairs_folder, (), "train"))
    return run_dir


@pytest.fixture
def clipfuse(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; returns exit code, standard output and standard error."""
    from clipfuse.cli.__main__ import main

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["clipfuse", *words])
        capsys.readouterr()
        code = main(words)
        return (code, *capsys.readouterr())

    return run


@contextmanager
def limit_memory(megabytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="session")
def limited_memory() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which this process gets so many MB more, and no more (Linux)."""
    return limit_memory


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Two gloo processes; started once, as importing torch takes them ten seconds."""
    with Ranks(2) as two:
        yield two
