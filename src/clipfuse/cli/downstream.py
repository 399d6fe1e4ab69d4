"""`clipfuse downstream SWEEP [RUN ...] data=... [overrides]`: does the fused image help a machine to see?"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from clipfuse.cli.devices import chosen_device
from clipfuse.cli.launch import COMPOSED, run_hydra, split_options
from clipfuse.errors import UserError
from clipfuse.runs.overrides import quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from clipfuse.downstream.evaluation import Evaluation
    from clipfuse.downstream.sources import Source

_OVERRIDE = re.compile(r"[+~]*[\w.@/]+(=.*)?", re.DOTALL)


@dataclass
class DownstreamSettings:
    """The keys of `conf/downstream.yaml` beside its groups."""

    sources: list[str]
    fused: list[str]
    protocol: str
    seeds: list[Annotated[int, Field(ge=0, lt=2**31)]]
    input: str
    out: str | None
    parallel: Annotated[int, Field(ge=1)]
    device: str | None
    cache_mb: Annotated[float, Field(ge=0)]
    overwrite: bool
    trust: list[str]


def main(arguments: Sequence[str]) -> None:
    """Compose `conf/downstream.yaml` with the overrides, and judge every source that the words name."""
    if {"-m", "--multirun"} & set(arguments):
        raise UserError(
            "downstream takes several runs at a time: name them, and set parallel=N instead of -m"
        )
    if COMPOSED in arguments[:1]:
        raise UserError(f"downstream does not take {COMPOSED}")
    run_hydra("downstream", as_overrides(arguments), _check, _downstream)


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return the words for Hydra: those that name sources, and --fused, become overrides."""
    words = list(arguments)
    fused: list[str] = []
    sources: list[str] = []
    kept: list[str] = []
    while words:
        word = words.pop(0)
        option, joined, value = word.partition("=")
        if option == "--fused":
            if not joined and not words:
                raise UserError("--fused needs NAME=TRAIN_DIR:TEST_DIR, two folders of fused images")
            fused.append(value if joined else words.pop(0))
        else:
            kept.append(word)
    options, rest = split_options(kept)
    overrides: list[str] = []
    for word in rest:
        setting = "=" in word and _OVERRIDE.fullmatch(word) and not Path(word).exists()
        (overrides if setting or (word.startswith("~") and not Path(word).exists()) else sources).append(word)
    for key, values in (("sources", sources), ("fused", fused)):
        if values:
            overrides.append(f"{key}=[{','.join(map(quoted, values))}]")
    return [*options, *overrides]


def _check(config: "DictConfig") -> None:
    from clipfuse.cli.config import check_config
    from clipfuse.runs.downstream_log import unbound

    if config.get("logger"):
        unbound(config.logger)
    check_config(config, DownstreamSettings, ("downstream",))


def _downstream(config: "DictConfig") -> None:
    from clipfuse.cli.finished import stop_on_signals
    from clipfuse.cli.judged import Given, check_unique, fused_sources
    from clipfuse.data.datamodule import PairCache
    from clipfuse.data.transforms import whole
    from clipfuse.downstream.evaluation import Evaluation
    from clipfuse.downstream.material import Material, labels_of
    from clipfuse.downstream.sources import ALWAYS, plain_source
    from clipfuse.downstream.table import result_table
    from clipfuse.runs.build import build
    from clipfuse.runs.downstream import OTHERS, build_task
    from clipfuse.runs.downstream_log import log_source, source_loggers

    given = Given(config.sources)
    task = build_task(config)
    data = given.data() if config.get("data") is None else build(config.data, "data")
    labels = labels_of(data, task.needs)
    device = str(chosen_device(config.device, "device="))
    out = Path(config.out).expanduser() if config.out else given.home / OTHERS
    sources = [plain_source(name, out) for name in ALWAYS]
    sources += fused_sources(config.fused, out, data)
    sources += given.sources(out, data, device, config.trust)
    check_unique(sources)
    runs = {run.path: run for run in given.runs}
    configs = {each.name: runs[each.folder].config if each.of_run else {} for each in sources}
    options = {"downstream": task.name, "data": str(getattr(data, "name", "data"))}
    group = (given.home if given.runs else out).resolve().name
    loggers = (
        {
            each.name: source_loggers(config.logger, each, configs[each.name], options, group)
            for each in sources
        }
        if config.get("logger")
        else {}
    )  # refused before the first training
    cache = PairCache(data, config.cache_mb)
    material = Material(
        task,
        labels,
        lambda name: whole(cache.load(name), name),
        data.parts(),
        getattr(data, "scenes", dict)(),
        data.fingerprint(),
        config.input,
        _bar,
    )
    for line in getattr(data, "summary", str)(), *(f"left out: {each}" for each in given.left_out):
        if line:
            print(line)
    evaluation = Evaluation(
        material,
        config.protocol,
        list(config.seeds),
        _owned,
        device,
        config.parallel,
        config.overwrite,
        note=print,
    )
    notes: dict[str, str | None] = getattr(data, "scene_notes", dict)()
    if warning := notes.get("warning"):
        print(f"warning: {warning}", file=sys.stderr)
    with stop_on_signals(), _progress(evaluation, sources):
        results = evaluation.run(sources)
    for source in (each for each in evaluation.judged(sources) if loggers.get(each.name)):
        seen = runs[source.folder].samples_seen or 0 if source.of_run else 0
        with _owned(source):
            found = results[source.name]
            commands = log_source(loggers[source.name], material, source, found, configs[source.name], seen)
        for command in commands:
            print(command)
    print(result_table(results, {source.name: source.label for source in sources}))
    print(evaluation.summary())
    print(f"results: {task.name} of runs in their folders, of all other sources in {out}")


def _owned(source: "Source") -> AbstractContextManager[None]:
    """Own the folder of a source: of a run at once or not at all, of another when whoever has it is done."""
    from clipfuse.runs.owner import owned

    return owned(source.folder, kind="run" if source.of_run else "source", wait=not source.of_run)


def _bar(names: Iterable[str], title: str) -> Iterable[str]:
    from tqdm import tqdm

    return tqdm(names, title, unit="pair", leave=False, disable=not sys.stderr.isatty())


@contextmanager
def _progress(evaluation: "Evaluation", sources: "Sequence[Source]") -> Iterator[None]:
    """Show the updates of all trainings that are missing, with the time they still take."""
    from tqdm import tqdm

    from clipfuse.tracking.progress import amount_bar

    trainings = evaluation.trainings(evaluation.missing(sources))
    if trainings:
        print(f"{trainings} trainings of {evaluation.task.updates} updates")
    quiet = not sys.stderr.isatty()
    with amount_bar("training", " updates", trainings * evaluation.task.updates, quiet) as advance:
        evaluation.progress = advance
        evaluation.note = lambda line: tqdm.write(line, file=sys.stdout)
        yield
