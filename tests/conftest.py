"""Fixtures that several test files share."""

import csv
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread each, unless asked otherwise: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from PIL import Image

from clipfuse.cli.config import conf_dir
from clipfuse.errors import UserError
from clipfuse.testing.ranks import Ranks, shared_ranks

# A shell has its background jobs ignore Ctrl-C, nohup the end of the terminal; tests send both to themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

GOLDEN = Path(__file__).parent / "golden"
# Files of slow tests: `make test` hands them out first, so that no process is left alone with one at the end.
SLOW = ("test_notebooks.py", "test_quiet.py", "test_documents.py", "test_distributed.py", "test_export.py")
SLOW += ("test_kill.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.path.name not in SLOW)


@pytest.fixture(autouse=True, scope="session")
def cache_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the tests learn of their files out of the user's cache."""
    place = tmp_path_factory.mktemp("cache") / "files.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipfuse.data.facts.cache_file", lambda: place)
        yield


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
        config = compose(config_name, [*small, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # the command line does; choices become names
    composed = config.copy()
    with open_dict(composed):
        del composed["hydra"]
    return composed


@pytest.fixture(scope="session")
def compose_run() -> Callable[..., DictConfig]:
    """Compose a run as `tiny_config` does: of (run folder, pairs, overrides, name of the configuration)."""
    return compose_tiny


@pytest.fixture
def tiny_config(tmp_path: Path, pairs_folder: Path) -> Callable[..., DictConfig]:
    """Compose a run of a second or two over `pairs_folder`; overrides are added last."""
    return lambda *overrides, config_name="train": compose_tiny(
        tmp_path / "run", pairs_folder, overrides, config_name
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path) -> Path:
    """The run folder of one finished tiny training; not to be changed."""
    from clipfuse.runs.train import train

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
        monkeypatch.setattr("sys.meta_path", sys.meta_path[:])
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


@pytest.fixture
def ranks() -> Ranks:
    """Two gloo processes; started once, as importing torch takes them ten seconds."""
    return shared_ranks()


# Run folders as a training would leave them, written in no time: `sweep`.
IMAGES = tuple(f"test-{index:06d}" for index in range(6))


def configuration(run: Path, loss: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "name": f"{loss}-conv_tiny",
        "seed": seed,
        "steps": 10,
        "accumulate": 1,
        "run_dir": str(run),
        "backbone": {"_target_": "clipfuse.backbones.conv_tiny.ConvTiny", "width": 8},
        "solver": {"_target_": "clipfuse.bilevel.Joint", "lower_weight": 0.0},
        "loss": {"_target_": f"clipfuse.losses.{loss}.Loss", "weight": 1.0},
        "data": {
            "_target_": "clipfuse.data.synthetic.SyntheticPairs",
            **{"train": 6, "val": 1, "test": 6, "size": 64, "seed": 0},
        },
        "loader": {"batch_size": 4, "crop_size": 32, "workers": seed},
        "trainer": {"_target_": "lightning.Trainer", "devices": 1},
        "logger": {"csv": {"save_dir": str(run)}},
        "split_sha256": "4bcf",
        "protocol": "strict-2",
        "clip_identity": None,
        "versions": {"clipfuse": "0.1.0", "torch": "2.8.0"},
    }
    for path, value in options.items():
        node = config
        *parents, last = path.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return config


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def run_writer(root: Path) -> Callable[..., Path]:
    """Return what writes a run folder below `root` and returns `root`.

    `scores` maps a metric to one score per image (by default drawn about `level`); `options` are dotted
    keys of the configuration; `status` those of status.json; `pictures` writes the fused ones.
    """
    count = iter(range(1000))

    def write(
        loss: str = "pixel",
        seed: int = 0,
        level: float = 0.0,
        scores: Mapping[str, Sequence[float]] | None = None,
        images: Sequence[str] = IMAGES,
        scenes: Sequence[str] | None = None,
        options: Mapping[str, Any] | None = None,
        status: Mapping[str, Any] | None = None,
        curves: Sequence[Mapping[str, Any]] | None = None,
        pictures: int | None = None,
        folder: str | None = None,
    ) -> Path:
        run = root / (folder or str(next(count)))
        run.mkdir(parents=True)
        config = configuration(run, loss, seed, options or {})
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        record = {"status": "finished", "reason": None, "samples_seen": 40}
        record["fit"] = {
            "seconds": 20.0,
            "updates": 10,
            "samples": 40,
            "peak_memory_mb": 1200.0,
            "device": "cpu",
        }
        (run / "status.json").write_text(json.dumps(record | dict(status or {})))
        generator = np.random.default_rng([seed, *map(ord, loss)])
        if scores is None:
            common = np.arange(len(images)) / 10
            noisy = {"SSIM": 1 + level, "VIF": 0.5 + level, "MSE": 100 - 10 * level}
            scores = {
                key: mean + common + generator.normal(0, 0.02, len(images)) for key, mean in noisy.items()
            }
        per_image = [
            {
                "name": image,
                "scene": scenes[index] if scenes else image,
                **{key: values[index] for key, values in scores.items()},
                "protocol": config["protocol"],
            }
            for index, image in enumerate(images)
        ]
        if per_image and scores:
            write_rows(run / "test/per_image.csv", per_image)
        if curves is None:
            curves = [
                {
                    "step": step,
                    "trainer/samples_seen": 4 * step,
                    "train/loss/total": 1 / step + 0.01 * seed,
                    f"train/loss/{loss}/intensity": 0.5 / step + 0.01 * seed,
                    "val/metric/SSIM": "" if step % 5 else 0.1 * step,
                }
                for step in range(1, 11)
            ]
        write_rows(run / "metrics.csv", curves)
        if pictures:
            for place, image in enumerate(images):
                size = (pictures, pictures)
                pixels = generator.integers(0, 255, (*size, 3)) // 2 + 10 * place
                for kind in ("color", "infrared", "visible"):
                    path = run / "test" / kind / f"{image}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    plane = pixels[..., 0] if kind == "infrared" else pixels
                    Image.fromarray(plane.clip(0, 255).astype(np.uint8)).save(path)
        return root

    return write


@pytest.fixture(scope="session")
def sweeps() -> Callable[[Path], Callable[..., Path]]:
    """Return `run_writer`, which a test cannot import."""
    return run_writer


@pytest.fixture
def sweep(tmp_path: Path) -> Callable[..., Path]:
    """Write a run folder and return the folder of the sweep: see `run_writer`."""
    return run_writer(tmp_path / "sweep")


@pytest.fixture
def user_error() -> Callable[..., str]:
    """Call a function, and return the one line of the `UserError` that it raises."""

    def message(call: Callable[..., Any], *arguments: Any, **keywords: Any) -> str:
        with pytest.raises(UserError) as caught:
            call(*arguments, **keywords)
        line = str(caught.value)
        assert "\n" not in line
        return line

    return message
