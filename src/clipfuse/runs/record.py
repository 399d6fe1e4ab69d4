"""The record of a run: its configuration, and facts about data, code and CLIP."""

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from clipfuse.files import file_sha256
from clipfuse.losses.base import FusionLoss
from clipfuse.ops.settings import leaves
from clipfuse.runs.composed import plain, resolved
from clipfuse.training.parameter_groups import shown
from clipfuse.version import __version__

CONTENT = "names, content and scenes"


def run_record(
    config: DictConfig, source: Any, metrics: Any, loss: FusionLoss | None = None
) -> dict[str, Any]:
    """Return the content of `config.yaml` in plain types; variables of the environment stay unresolved.

    Args:
        config: the run's whole configuration.
        source: the data set, a `PairSource`.
        metrics: the run's metrics; the protocol of the test is recorded, and the network of LPIPS.
        loss: its CLIP is recorded, if it has one; and a fingerprint of the labels, if it sees them.
    """
    groups = {} if loss is None else shown(loss)
    read = loss is not None and any(getattr(part, "reads", None) for part in loss.modules())
    sees = (read or (loss is not None and bool(loss.required()))) and hasattr(source, "labels_fingerprint")
    lpips = getattr(metrics.test.protocol, "lpips", None)
    versions: dict[str, str | None] = {
        name: version(name) for name in ("torch", "lightning", "torchmetrics", "kornia")
    }
    return {
        **plain(config),
        "split_sha256": source.fingerprint(),
        "split_of": CONTENT,
        "names_sha256": getattr(source, "names_fingerprint", source.fingerprint)(),
        **({"labels_sha256": source.labels_fingerprint()} if sees else {}),
        "scenes": _scenes(source),
        "pairs": getattr(source, "summary", str)(),
        "protocol": str(metrics.test.protocol),
        **({"lpips_sha256": lpips.features.sha256} if lpips is not None else {}),
        **({"parameter_groups": groups} if groups else {}),
        **({"loss_files": files} if (files := loss_files(plain(config).get("loss"))) else {}),
        "clip_identity": _clip_identity(loss),
        "versions": {"clipfuse": __version__} | versions | {"git_commit": git_commit()},
        "threads": torch.get_num_threads(),
        "started_in": os.getcwd(),
    }


def loss_files(node: Any) -> dict[str, str]:
    """Return the SHA-256 of each file of weights that a loss is given, by its setting below `loss`.

    These are settings called `weights` or `..._weights`; those of a CLIP are in its identity.
    """
    found = {}
    for key, value in leaves(resolved(node)).items():
        *above, name = key.split(".")
        given = name.endswith("weights") and "clip" not in above and isinstance(value, str)
        if given and Path(value).is_file():
            found[key] = file_sha256(Path(value))
    return found


def _scenes(source: Any) -> dict[str, Any]:
    """Return the number of scenes of the test images, their source, and a warning if they are doubtful."""
    images = source.parts()["test"]
    known: Mapping[str, str] = getattr(source, "scenes", dict)()
    sizes = Counter(known.get(image, image) for image in images).values()
    counts = {"images": len(images), "scenes": len(sizes), "largest": max(sizes, default=0)}
    return {"source": "names", "warning": None, **getattr(source, "scene_notes", dict)(), **counts}


def _clip_identity(loss: FusionLoss | None) -> Any:
    """Return the identity of the CLIP that a loss uses; a list if its parts use several."""
    clips = [getattr(part, "clip", None) for part in (() if loss is None else loss.modules())]
    found = [identity for clip in clips if (identity := getattr(clip, "identity", None)) is not None]
    unlike = [identity for index, identity in enumerate(found) if identity not in found[:index]]
    return unlike if len(unlike) > 1 else next(iter(unlike), None)


def git_commit() -> str | None:
    """Return the commit of the git tree this code lies in, else of the current folder's.

    "-dirty" is added where tracked files were changed, unless the tree's own settings filter its files; None:
    neither is in a git tree, or git is missing.
    """
    for folder in (Path(__file__).parent, Path.cwd()):
        # The tree may be somebody else's, whose settings name programs that git would run to compare files.
        git = ("git", "-C", str(folder), "-c", "core.fsmonitor=false")
        try:
            runs_programs = _output(*git, "config", "--local", "--includes", "--get-regexp", r"^filter\.")
            dirty = [] if runs_programs else ["--dirty"]
            found = _output(*git, "describe", "--always", *dirty, "--abbrev=40", "--exclude=*")
        except (OSError, subprocess.SubprocessError):
            return None
        if found:
            return found
    return None


def _output(*command: str) -> str:
    """Return what a program prints; nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return done.stdout.strip() if done.returncode == 0 else ""
