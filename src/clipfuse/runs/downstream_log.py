"""What a machine sees, in W&B and TensorBoard: scores, the curves of task networks, and overlays."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

from clipfuse.downstream.material import Material
from clipfuse.downstream.results import Result, shown_judgements
from clipfuse.downstream.sources import Source
from clipfuse.downstream.table import mean_scores
from clipfuse.runs.build import build_all
from clipfuse.tracking.base import MediaLogger
from clipfuse.tracking.pictures import to_picture
from clipfuse.types import SAMPLES_SEEN

_SHOWN = 4  # test images in the table of a logger
Table = tuple[list[str], list[list[Any]]]
Results = Mapping[str, Sequence[Result]]


def curves(results: Results) -> Table:
    """Return the mean losses of the parts of each training as a table."""
    rows = [
        [name, result.seed, (part + 1) / len(result.curve), loss]
        for name, found in results.items()
        for result in found
        for part, loss in enumerate(result.curve)
    ]
    return ["source", "task seed", "done", "loss"], rows


def overlays(material: Material, sources: Sequence[Source], results: Results) -> Table:
    """Return a table of test images: the truth on the first source, and what was found on each.

    Images whose map was not kept for every source, as in results without their files, are left out.
    """
    task = material.task
    found = [shown_judgements(each.folder, task.name, results[each.name][0]) for each in sources]
    drawn = {"map"} if task.needs == "classes" else set()
    kept = [
        name for name in material.test if all(name in each and drawn <= each[name].keys() for each in found)
    ]
    names = kept[:_SHOWN]
    columns = ["image", "truth"]
    rows: list[list[Any]] = [[name] for name in names]
    for source, judgements in zip(sources, found, strict=True):
        columns.append(source.name)
        for row, example in zip(rows, material.examples(source, names), strict=True):
            for judgement in (*([None] if len(row) == 1 else []), judgements[example.name]):
                row.append(to_picture(task.draw(material.labels, example, judgement) / 255))
    return columns, rows


def unbound(loggers: DictConfig) -> None:
    """Take what a training gives loggers out of their settings: each source gives its own later."""
    with open_dict(loggers):
        for node in loggers.values():
            for key, value in (("save_dir", "."), ("name", "downstream"), ("options", {})):
                if isinstance(node, DictConfig) and key in node.keys():  # noqa: SIM118  # resolves nothing
                    node[key] = value


def source_loggers(
    nodes: DictConfig, source: Source, config: Mapping[str, Any], options: Mapping[str, str], group: str
) -> list[MediaLogger]:
    """Return the loggers of one source that show more than curves; none of them has begun.

    A run that is known to W&B goes on there under its name; every other source gets a run of its own, in a
    group, whose files lie in its folder.

    Args:
        nodes: `config.logger`, after `unbound`.
        source: what was judged.
        config: of the training, if the source is a run.
        options: become tags at W&B.
        group: name of the sweep.

    Raises:
        UserError: a logger refuses its settings.
    """
    own = copy.deepcopy(nodes)
    goes_on = _at_wandb(source.folder)
    before = next(iter(_wandb_of(config)), {}) if goes_on else {}
    with open_dict(own):
        for node in own.values():
            given = node.keys()
            if "save_dir" in given:
                node.save_dir = str(source.folder)
            if "project" not in given:  # of W&B are the rest
                continue
            node.name, node.options = (None, {}) if goes_on else (source.name, dict(options))
            if goes_on:
                node.update({key: before[key] for key in ("project", "entity") if before.get(key)})
            else:
                node.setdefault("group", group)
                node.setdefault("job_type", "downstream")
    return [each for each in build_all(own, "logger") if isinstance(each, MediaLogger)]


def _at_wandb(folder: Path) -> bool:
    return next((folder / "wandb").glob("*run-*/run-*.wandb"), None) is not None


def _wandb_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    loggers = config.get("logger")
    nodes = loggers.values() if isinstance(loggers, Mapping) else ()
    return [each for each in nodes if isinstance(each, Mapping) and "project" in each]


def log_source(
    loggers: Sequence[Any],
    material: Material,
    source: Source,
    results: Sequence[Result],
    config: Mapping[str, Any],
    seen: int,
) -> list[str]:
    """Write scores, curves and overlays of one source, and close its loggers.

    Args:
        loggers: from `source_loggers`.
        material: of the task.
        source: what was judged.
        results: its results, one for each task seed.
        config: of the training, if the source is a run.
        seen: samples on which it was trained: the place on the x-axis.

    Returns:
        The commands that upload it later, where one is needed.
    """
    known = _at_wandb(source.folder)
    task, protocol = material.task.name, results[0].protocol
    prefix = f"downstream/{task}"
    prefix += "" if protocol.startswith("retrained") else f"-{protocol}"
    prefix += "" if material.channels == "color" else f"-{material.channels}"
    record = {**config, "downstream": {"source": source.name, "protocol": protocol, **results[0].settings}}
    scores = {f"{prefix}/{name}": value for name, value in mean_scores(results).items()}
    tables = {"curves": curves({source.name: results})}
    tables["overlays"] = overlays(material, [source], {source.name: results})
    commands = []
    for logger in loggers:
        if not known and hasattr(logger, "switched_off"):  # of a run that W&B knows it would change the name
            logger.log_hyperparams(record)
        logger.log_metrics({**scores, SAMPLES_SEEN: seen}, None)
        for name, (columns, rows) in tables.items():
            if rows:
                logger.log_rows(f"{prefix}/{name}", columns, rows, seen)
        commands.append(logger.finish(failed=False))
    return [each for each in commands if each]
