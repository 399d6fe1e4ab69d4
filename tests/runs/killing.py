"""Trains once undisturbed and once under `kill -9`, and compares all that the two leave.

A script of its own, as importing torch takes ten seconds; each attempt is a fork of it:
`python killing.py WORK PAIRS STEPS MOMENT...`, MOMENT being a name in `MOMENTS`. Prints the figures as JSON.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from clipfuse.bilevel.descent import Descent
from clipfuse.cli.config import conf_dir
from clipfuse.errors import UserError
from clipfuse.files import writing as files
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.build import build
from clipfuse.runs.train import train
from clipfuse.training.accumulation import AccumulatingOptimizer
from clipfuse.training.module import FusionModule

OPTIONS = (
    *("name=tiny", "run_dir=run", "trainer=cpu", "data=folder", "backbone=conv_tiny", "backbone.width=8"),
    *("backbone.depth=1", "loss=promptfusion", "clip=micro", "ema=0.9", "accumulate=2", "input_noise=0.01"),
    *("loader.batch_size=2", "loader.crop_size=32", "trainer.log_every_n_steps=1", "~callbacks.progress"),
    *("+trainer.enable_progress_bar=false", "validate_every=2", "loss.warmup=2", "solver.every=3"),
    *("metrics.validation=[SSIM,EN]", "auto_resume=true", "loss.fidelity.decomposition_weight=0"),
)
COUNTED = ("lost", "traceback", "hang")
LIMIT_S = 300  # for one training, after which it counts as a hang; the longest takes some twenty seconds


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("the kill has not worked")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def before(
    owner: Any,
    name: str,
    number: int,
    where: Callable[..., bool] = lambda *_: True,
    act: Callable[[], None] = die,
) -> None:
    """Die at the call of that number to `owner.name`, of those for which `where` holds."""
    original, left = getattr(owner, name), [number]

    def call(*arguments: Any, **keywords: Any) -> Any:
        counts = where(*arguments)
        left[0] -= counts
        if counts and not left[0]:
            act()
        return original(*arguments, **keywords)

    setattr(owner, name, call)


def writes(ending: str) -> Callable[..., bool]:
    return lambda source, target, *_: str(target).endswith(ending)


class HalfWritten:
    """A file that dies in the middle of its first write."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def __enter__(self) -> "HalfWritten":
        return self

    def __exit__(self, *reason: Any) -> None:
        self.file.close()

    def write(self, content: Any) -> NoReturn:
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()


def half_written(number: int) -> None:
    left = [number]

    def opened(path: Any, mode: str, **keywords: Any) -> Any:
        left[0] -= str(path).endswith(f".last.ckpt.{os.getpid()}.partial")
        return open(path, mode, **keywords) if left[0] else HalfWritten(open(path, mode, **keywords))

    files.open = opened  # type: ignore[attr-defined]


def after_renaming(number: int) -> None:
    """Die where the new checkpoint stands under its name and its folder is not yet synced."""
    sync, left = files._sync_folder, [number]

    def synced(folder: Path) -> None:
        left[0] -= folder.name == "checkpoints"
        if not left[0]:
            die()
        sync(folder)

    files._sync_folder = synced


def in_solve(number: int) -> None:
    minimise, left = Descent.minimise, [number]

    def deadly(self: Descent, objective: Any, *arguments: Any) -> int:
        def evaluated(values: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                die()
            return objective(values)

        return minimise(self, evaluated, *arguments)

    Descent.minimise = deadly  # type: ignore[method-assign]


MOMENTS: dict[str, Callable[[int], None]] = {
    "half of a checkpoint written": half_written,
    "checkpoint written, not synced": lambda n: before(
        os,
        "fsync",
        n,
        lambda number: os.readlink(f"/proc/self/fd/{number}").endswith(f"ckpt.{os.getpid()}.partial"),
    ),
    "checkpoint synced, not renamed": lambda n: before(os, "replace", n, writes("last.ckpt")),
    "checkpoint renamed": after_renaming,
    "lower-level solve": in_solve,
    "between micro-batches": lambda n: before(AccumulatingOptimizer, "step", 2 * n, lambda stepper: True),
    "validation": lambda n: before(FusionModule, "validation_step", n),
    "curves synced, not renamed": lambda n: before(os, "replace", n, writes("metrics.csv")),
    "start of the run": lambda n: before(os, "replace", n, lambda *_: True),
    "test": lambda n: before(FusionModule, "test_step", n),
    "SIGTERM in an update": lambda n: before(AccumulatingOptimizer, "step", n, act=terminate),
    "SIGTERM in a validation": lambda n: before(FusionModule, "validation_step", n, act=terminate),
    "random": lambda n: None,  # its time is the parent's to choose
}


def begin(config: DictConfig, log: Path, moment: str | None = None, number: int = 1) -> int:
    """Fork a process that trains; it dies at the moment given."""
    if process := os.fork():
        return process
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        if moment == "random":
            FusionModule.test_step = lambda *_: signal.pause()  # type: ignore[method-assign] # not too late
        elif moment is not None:
            MOMENTS[moment](number)
        train(config)
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    except UserError as error:  # the one line that the user is shown
        print(f"clipfuse: error: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def outcome(process: int) -> str:
    """Wait for the end of a training: "killed", "finished", "failed", or "hang", which is then ended."""
    deadline = time.monotonic() + LIMIT_S
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return "hang"
        time.sleep(0.02)
    _, status = os.waitpid(process, 0)
    if os.WIFSIGNALED(status):
        return "killed" if os.WTERMSIG(status) == signal.SIGKILL else "failed"
    return {0: "finished", 128 + signal.SIGTERM: "killed"}.get(os.WEXITSTATUS(status), "failed")


def equal(left: Any, right: Any) -> bool:
    """Whether two checkpoints, or parts of them, are equal bit for bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right or left != left)


def tracebacks(log: Path) -> int:
    return log.read_text(errors="replace").count("Traceback (most recent call last)")


def _content(path: Path) -> Any:
    """Return what of a file must be the same; what a part of a run has cost is not."""
    if path.name != "status.json":
        return path.read_bytes()
    return {key: value for key, value in json.loads(path.read_text()).items() if key != "fit"}


def differences(left: Path, right: Path) -> list[str]:
    """Return the files, and the parts of checkpoints, that are not the same in two run folders."""
    names = [
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (left, right)
    ]
    found = sorted(names[0] ^ names[1])
    for name in sorted(names[0] & names[1]):
        if not name.endswith(".ckpt"):
            found += [name] * (_content(left / name) != _content(right / name))
            continue
        one, other = read_checkpoint(left / name), read_checkpoint(right / name)
        keys = one.keys() | other.keys()
        found += [f"{name}: {key}" for key in sorted(keys) if not equal(one.get(key), other.get(key))]
    return found


def main(work: Path, pairs: str, steps: int, moments: list[str], seed: int = 0) -> dict[str, Any]:
    """Run both trainings in `work`.

    Returns:
        `faults`: by moment how many trainings were `tried` there, after how many the last checkpoint was
        `lost` (it could not be read, or was older than before), how many printed a `traceback` or were a
        `hang`; `missed`, those that ended before; `wrong`, what differs at the end, and what failed.
    """
    os.chdir(work)
    draw = random.Random(seed)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*OPTIONS, f"steps={steps}", f"data.root={pairs}"])
    build(config.loss, "loss")  # imports what the children would each import again
    run, straight, last, log = (
        Path("run"),
        Path("straight"),
        Path("run/checkpoints/last.ckpt"),
        Path("log.txt"),
    )
    begun, process = time.monotonic(), begin(config, log)
    while not last.is_file() and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.05)
    until_first = time.monotonic() - begun
    assert outcome(process) == "finished", f"the undisturbed training failed; see {log.resolve()}"
    run.rename(straight)

    faults: dict[str, dict[str, int]] = {}
    missed, wrong, update, shown = 0, [], 0, tracebacks(log)
    for moment in [*moments, None]:
        process = begin(config, log, moment, number=draw.randint(1, 2))
        if moment == "random":
            time.sleep(draw.uniform(0, 1.2 * until_first))
            os.kill(process, signal.SIGKILL)
        end = outcome(process)
        # The last training is not killed: how it ends is counted for the last kill before it.
        counts = faults.setdefault(moment or moments[-1], dict.fromkeys(("tried", *COUNTED), 0))
        counts["hang"] += end == "hang"
        counts["traceback"] += tracebacks(log) - shown
        shown = tracebacks(log)
        if end == "failed":
            wrong.append(f"{moment or 'the last training'}: see {log.resolve()}")
        if moment is None:
            break
        if end == "finished":
            missed += 1
            break
        counts["tried"] += 1
        if update or last.is_file():
            try:
                saved = read_checkpoint(last)["global_step"]
            except Exception:
                saved = -1
            counts["lost"] += saved < update
            update = max(update, saved)
    return {
        "faults": faults,
        "missed": missed,
        "wrong": wrong + differences(straight, run),
        "until_first_checkpoint_s": round(until_first, 1),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])))
