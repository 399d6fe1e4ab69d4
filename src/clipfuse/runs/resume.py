"""The checkpoint that a run goes on from: after a kill, a preemption, or on request."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipfuse.errors import UserError
from clipfuse.files import read_yaml
from clipfuse.networks.checkpoints import REMEDY, read_checkpoint
from clipfuse.networks.weights import walk
from clipfuse.runs.composed import resolved
from clipfuse.runs.contract import decide, earlier_edition, flatten
from clipfuse.runs.folder import lies_in, read_status


@dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        path: the checkpoint that the run goes on from; None: it begins anew.
        checkpoint: content of that checkpoint.
        trained: the checkpoint is the end of the training; only the test is left.
        stopped: why the training had ended early, else None.
        finished: `status.json` of the run where nothing is left to do, else None.
    """

    path: str | None = None
    checkpoint: dict[str, Any] | None = None
    trained: bool = False
    stopped: str | None = None
    finished: Mapping[str, Any] | None = None

    @property
    def updates(self) -> int:
        """Updates that were done before."""
        return 0 if self.checkpoint is None else int(self.checkpoint["global_step"])


def find_start(asked: str | None, auto_resume: bool, folder: Path, config: Mapping[str, Any]) -> Start:
    """Find where a run of `config` begins, and require that it goes on exactly.

    Args:
        asked: a checkpoint; "last" is that of the run folder.
        auto_resume: take the run folder's own checkpoint if it has one, and leave a finished run alone, also
            one that has stopped early; without it, such a run goes on.
        folder: the run folder.
        config: the run's whole configuration in plain types.

    Raises:
        UserError: there is no such checkpoint, it is the end of its run, or a setting differs; the message
            names the first such setting.
    """
    last = folder / "checkpoints" / "last.ckpt"
    finished = read_status(folder).get("status") == "finished"
    if asked == "last" and not auto_resume and not last.is_file():
        raise UserError(
            f"checkpoint=last: there is no {last}; give the run_dir of a run that has come to its first "
            "validation, or auto_resume=true, which otherwise begins anew"
        )
    if asked == "last" or (auto_resume and last.is_file()):
        asked = str(last) if last.is_file() else None
    if asked is None:
        if auto_resume and finished:
            raise UserError(f"{folder} holds a finished run, and its {last} is gone; choose another run_dir")
        if auto_resume and not config["overwrite"]:
            _check_begun(folder, config)
        return Start()
    checkpoint = read_checkpoint(asked)
    _check_whole(asked, checkpoint)
    if difference := _difference(checkpoint["clipfuse"]["config"], config):
        raise UserError(
            f"checkpoint {asked} cannot be resumed: its {difference}; a resumed run keeps its settings"
        )
    stopped = checkpoint["clipfuse"].get("stopped") if auto_resume else None
    trained = checkpoint["global_step"] >= config["steps"] or stopped is not None
    if trained and finished and auto_resume:
        return Start(finished=read_status(folder))
    if trained and (finished or not lies_in(asked, folder)):
        raise UserError(f"checkpoint {asked} is the end of its run; score it with: clipfuse evaluate")
    return Start(asked, checkpoint, trained, stopped)


def _check_whole(path: str, checkpoint: Mapping[str, Any]) -> None:
    steps, callbacks = checkpoint.get("global_step"), checkpoint.get("callbacks")
    whole = checkpoint.keys() >= {"loops", "optimizer_states", "lr_schedulers"}
    if not whole or not isinstance(steps, int) or not isinstance(callbacks, dict):
        raise UserError(f"checkpoint {path} cannot be resumed: it holds weights alone; {REMEDY}")
    try:
        # Lightning deletes the best checkpoint so far, at the path that stands in the file.
        outside = [text for text in walk(callbacks) if isinstance(text, str) and ".." in Path(text).parts]
    except ValueError as error:
        raise UserError(f"checkpoint {path} cannot be resumed: {error}") from error
    if outside:
        raise UserError(f"checkpoint {path} names a file outside of its run, {outside[0]!r}; do not use it")


def _check_begun(folder: Path, config: Mapping[str, Any]) -> None:
    """Require that a run which ended before its first checkpoint, and which is to begin anew, is this one."""
    file = folder / "config.yaml"
    if not file.is_file():
        return
    begun = read_yaml(file, remedy="choose another run_dir, or set overwrite=true")
    if difference := _difference(begun, config):
        raise UserError(
            f"{folder} holds another run: its {difference}; choose another run_dir, or set overwrite=true"
        )


def _difference(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Return the first setting that a run which goes on may not change, with both values; else nothing."""
    edition = earlier_edition(saved)
    saved, asked = flatten(saved), flatten(asked)
    if "split_of" not in saved:  # an older run identifies its pairs by their names alone
        asked["split_sha256"] = asked.get("names_sha256")
    if not any(key.startswith("loss_files.") for key in saved):  # nor does it hash the files of its loss
        asked = {key: value for key, value in asked.items() if not key.startswith("loss_files.")}
    for key in sorted(saved.keys() | asked.keys()):
        same = saved.get(key) in (asked.get(key), resolved(asked.get(key)))  # older runs resolved variables
        if not decide(key).resume and not same:
            remedy = f" (add clip={edition})" if key == "clip.pretrained" and edition else ""
            return f"{key} is {saved.get(key)!r}, this run's is {asked.get(key)!r}{remedy}"
    return ""


def resume_notices(start: Start, asked: str | None, config: Mapping[str, Any]) -> list[str]:
    """Return sentences about a checkpoint without effect, and conditions that change the last digits."""
    if start.checkpoint is None:
        return []
    found = []
    if asked not in (None, "last", start.path):
        found.append(f"checkpoint={asked} has no effect: auto_resume=true goes on from {start.path}")
    saved, now = flatten(start.checkpoint["clipfuse"]["config"]), flatten(config)
    keys = ["threads", "trainer.accelerator", *(key for key in sorted(saved) if key.startswith("versions."))]
    both = [key for key in keys if key in saved and key in now]
    if changed := [f"{key} {saved[key]} -> {now[key]}" for key in both if saved[key] != now[key]]:
        found.append(
            f"the run goes on under other conditions, its last digits may differ: {', '.join(changed)}"
        )
    return found
