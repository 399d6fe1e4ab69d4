"""What several studies use: command lines, sweeps, zips of run folders, scenes, and tables in Markdown."""

import argparse
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from torch import Tensor, nn

from clipfuse.cli.config import conf_dir
from clipfuse.cli.parts import join_parts
from clipfuse.comparison.collect import Run, find_runs
from clipfuse.data.folder import PairedFolder
from clipfuse.data.pairs import PairSource
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.data.transforms import collate, whole
from clipfuse.files import write_atomically
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.build import build

KEPT = (  # of a run folder and of its sweep, where the images and weights are not kept
    *("sweep.yaml", "status.json", "config.yaml", "metrics.csv"),
    *("test/metrics.json", "test/per_image.csv", "seconds_per_update.json"),
)
MSRS_SCENES = r"^(\d\d\d)\d\d[DN]$"  # blocks of 100 numbers; of conf/data/msrs.yaml


def make_parser(doc: str | None, roadscene: bool = False) -> argparse.ArgumentParser:
    """Return a parser with the text of a study; `roadscene` adds the option for the folder of real pairs."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if roadscene:
        parser.add_argument("--roadscene", required=True, help="folder of the real pairs")
    return parser


def compose_run(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of a training as the command line does."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        join_parts(config)
    return config


def run_sweeps(sweeps: Mapping[Path, Sequence[str]], parallel: int = 2) -> None:
    """Run sweeps by their folders; the first that fails, or Ctrl-C, stops all.

    Args:
        sweeps: folder -> its overrides.
        parallel: trainings at a time, of one thread each; more than there are sweeps are shared among them.
    """
    shared = ceil(parallel / max(1, len(sweeps)))
    with ThreadPoolExecutor(parallel) as pool:
        try:
            jobs = [pool.submit(_run_sweep, folder, words, shared) for folder, words in sweeps.items()]
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run_sweep(folder: Path, overrides: Iterable[str], parallel: int) -> None:
    """Run a sweep, or what is missing of it."""
    done = folder / "sweep.yaml"
    command = [f"sweep.resume={folder}"] if done.exists() else [*overrides, f"hydra.sweep.dir={folder}"]
    command += [f"hydra.launcher.max_parallel={parallel}"] if parallel > 1 else []
    start = time.time()
    subprocess.run(
        [sys.executable, "-m", "clipfuse.cli", "train", "-m", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    print(f"{folder}: {time.time() - start:.0f} s", flush=True)


def save_zip(
    folder: Path,
    path: Path,
    names: Sequence[str] = KEPT,
    below: Sequence[str] = (".",),
    places: Mapping[str, str] | None = None,
) -> None:
    """Write files at and below a folder into a zip that `clipfuse compare` reads; replaces an older one.

    The same files give the same bytes (with one version of zlib): entries are sorted, their time is fixed.
    The files, which are text, name no place of this machine: the folder becomes its name, the working folder
    ".", and each of `places` its name.

    Args:
        folder: what becomes the top of the zip.
        path: the zip.
        names: ends of the paths of the files that are kept.
        below: the folders in it that are kept; all by default.
        places: further paths, such as the folder of the data -> what the zip says instead.
    """
    renamed = {str(folder.absolute()): folder.name, os.getcwd(): ".", **(places or {})}
    files = {
        file.relative_to(folder).as_posix(): file
        for top in below
        for file in (folder / top).rglob("*")
        if file.is_file() and any(f"/{file.relative_to(folder).as_posix()}".endswith(f"/{n}") for n in names)
    }
    with write_atomically(path, "wb") as out, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in sorted(files.items()):
            entry = zipfile.ZipInfo(name)  # of 1980
            entry.external_attr = 0o644 << 16
            content = file.read_bytes()
            for place in sorted(renamed, key=len, reverse=True):
                content = content.replace(place.encode(), renamed[place].encode())
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)


def find_finished(folders: Sequence[Path]) -> list[Run]:
    """Return the finished runs at and below the folders."""
    runs = [run for run in find_runs(folders) if run.status == "finished"]
    if not runs:
        raise SystemExit(f"no finished run in {', '.join(map(str, folders))}")
    return runs


def load_sources(roadscene: str, **sizes: int) -> dict[str, PairSource]:
    """Return the data sets of the studies: real pairs, and rendered ones in `sizes`."""
    real = PairedFolder(roadscene, split="roadscene", name="roadscene")
    return {"real": real, "rendered": SyntheticPairs(**sizes)}


def stack_scenes(source: PairSource, part: str, keys: Sequence[str]) -> dict[str, Tensor]:
    """Return planes of all pairs of a part, (N, 1, S, S) each, in [0, 1]; the pairs have one size."""
    batch = collate([whole(source.load(name), name) for name in source.parts()[part]])
    return {key: getattr(batch, key) for key in keys}


def rendered_scenes(settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the planes of the test part of rendered scenes, by a run's configuration of its data."""
    source = SyntheticPairs(**{key: value for key, value in settings.items() if key != "_target_"})
    return stack_scenes(source, "test", ("infrared", "visible", "target_mask", "reference"))


def fuse(network: nn.Module, infrared: Tensor, visible: Tensor) -> Tensor:
    """Return the fused images of a network in eval mode, (N, 1, H, W) in [0, 1], four at a time."""
    network.eval()
    with torch.inference_mode():
        parts = zip(infrared.split(4), visible.split(4), strict=True)
        return torch.cat([network(*part).fused for part in parts])


def load_loss(checkpoint: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the loss of a training with its learned prompts, and the content of the checkpoint."""
    content = read_checkpoint(checkpoint)
    loss: nn.Module = build(content["clipfuse"]["config"]["loss"], "loss")
    weights = content["state_dict"].items()
    loss.load_state_dict(
        {name.removeprefix("loss."): value for name, value in weights if name.startswith("loss.")}
    )
    return loss, content


def format_cell(values: Sequence[float], decimals: int = 3) -> str:
    """Return the mean and, of several seeds, the sample standard deviation."""
    spread = f" ± {stdev(values):.{decimals}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{decimals}f}{spread}"


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    first, *others = (f"| {' | '.join(cells)} |" for cells in (head, *rows))
    return [first, f"|{'---|' * len(head)}", *others]
