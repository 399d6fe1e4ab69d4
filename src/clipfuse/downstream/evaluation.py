"""Judging sources of images by a task: what is known is kept, the rest is computed and written at once.

Every training of a task network is a unit of its own: its result is written as soon as it is there, so that a
command which is killed and repeated loses one training at most. Several can be computed at a time, each in a
process of one thread; on the CPU the numbers are the same as in one process.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from threading import Lock
from time import monotonic
from typing import Any

import torch

from clipfuse.downstream import protocols
from clipfuse.downstream.base import Example, Judgement, Task
from clipfuse.downstream.learning import curve
from clipfuse.downstream.material import Material, examples_sha256
from clipfuse.downstream.networks import saved_file
from clipfuse.downstream.results import (
    KEPT,
    Result,
    add_result,
    known_results,
    predicted_file,
    record_of,
    result_key,
    with_origin,
    write_predicted,
)
from clipfuse.downstream.sources import BOTH, Source
from clipfuse.errors import UserError
from clipfuse.processes import Workers, packed, workers
from clipfuse.types import LabelSet

LOST = (
    "a process that trained a task network was killed, perhaps for want of memory; lower parallel, and "
    "repeat the command: what is finished is kept"
)
PROTOCOLS = (protocols.RETRAINED, protocols.FROZEN)


@dataclass
class Evaluation:
    """What is done with each source, and how.

    Attributes:
        material: task, labels and pairs.
        protocol: one of `PROTOCOLS`.
        seeds: of the task networks, at least one.
        own: returns a context in which this process alone writes the results of a source.
        device: where task networks are trained.
        parallel: trainings at a time.
        overwrite: replace results for other labels.
        progress: called with the updates that have been done since.
        note: called with a line for the user.
    """

    material: Material
    protocol: str
    seeds: Sequence[int]
    own: Callable[[Source], AbstractContextManager[None]]
    device: str = "cpu"
    parallel: int = 1
    overwrite: bool = False
    progress: Callable[[float], None] = lambda updates: None
    note: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise UserError(f"protocol is {self.protocol!r}; expected {' or '.join(PROTOCOLS)}")
        check_seeds(self.seeds, "seeds")
        self.task = self.material.task
        protocols.check_files(self.task, self.material.labels, self.protocol)
        if self.task.weights is not None and len(self.seeds) > 1:  # one network: each would find the same
            self.seeds = list(self.seeds[:1])
            self.note(f"downstream.weights is one network: task seed {self.seeds[0]} alone")
        settings = {
            **self.task.settings(),
            "input": self.material.channels,
            "device": torch.device(self.device).type,
            "versions": {name: version(name) for name in ("torch", "torchvision")},
        }
        self.settings = json.loads(json.dumps(settings))  # as they are read
        self._making = Lock()

    def judged(self, sources: Sequence[Source]) -> list[Source]:
        """Return the sources that the protocol can judge: one network takes one number of channels."""
        return [each for each in sources if self.protocol == protocols.RETRAINED or each.name != BOTH]

    def missing(self, sources: Sequence[Source]) -> dict[str, list[int]]:
        """Return the seeds of each source for which nothing is known yet of these images.

        Raises:
            UserError: a folder holds results for other labels, or results that cannot be read.
        """
        return {each.name: self._missing(each) for each in self.judged(sources)}

    def _missing(self, source: Source) -> list[int]:
        origin, known = self.material.origin(source), self._known(source)
        done = {each.seed for each in known if each.origin == origin}
        return [seed for seed in self.seeds if seed not in done or self._unsaved(seed)]

    def _unsaved(self, seed: int) -> bool:
        """Whether a network that is to be kept in a file is in none, so that it must be trained again."""
        return self.task.save is not None and not saved_file(self.task.save, seed).is_file()

    def _known(self, source: Source) -> list[Result]:
        results = known_results(source.folder, self.task.name, self.material.labels, self.overwrite)
        same = [each for each in results if each.protocol == self.protocol and each.seed in self.seeds]
        return [each for each in same if each.settings == self.settings]

    def trainings(self, missing: Mapping[str, Sequence[int]]) -> int:
        """Return how many task networks are to be trained for what is missing."""
        if self.task.weights is not None:
            return 0
        if self.protocol == protocols.FROZEN:
            return len({seed for seeds in missing.values() for seed in seeds})
        return sum(map(len, missing.values()))

    def summary(self) -> str:
        """Return in a line what was done."""
        material, seeds = self.material, f"seed {self.seeds[0]}"
        if len(self.seeds) > 1:
            seeds = f"seeds {', '.join(map(str, self.seeds))} (mean ± standard deviation over them)"
        known = material.in_known_scenes()
        where = f", {known} of them in scenes of training images" if known else ""
        return (
            f"{self.task.name}, {self.protocol}: {len(material.train)} training and {len(material.test)} "
            f"test images{where}; input {material.channels}, task {seeds}; clipfuse compare gives intervals"
        )

    def run(self, sources: Sequence[Source]) -> dict[str, list[Result]]:
        """Return the results of each source by its name, one for each seed, computed where they are missing.

        Raises:
            UserError: images cannot be made or do not fit, a network cannot be trained, or another process
                works on a source.
        """
        found = self.judged(sources)
        with workers(self.parallel, LOST) as call:
            if self.protocol == protocols.FROZEN:
                self._frozen(found, call)
            elif call is None:
                for source in found:
                    self._retrained(source, None)
            else:
                # Sources whose images are in memory: those trained on, and one that is made meanwhile.
                at_a_time = 1 + ceil(self.parallel / len(self.seeds))
                with ThreadPoolExecutor(at_a_time) as threads:
                    waiting = [threads.submit(self._retrained, source, call) for source in found]
                    try:
                        for each in as_completed(waiting):
                            each.result()
                    except BaseException:
                        call.stop()
                        threads.shutdown(wait=True, cancel_futures=True)
                        raise
        return {each.name: self.results(each) for each in found}

    def results(self, source: Source) -> list[Result]:
        """Return the results of a source that are written, in the order of the seeds."""
        known = {each.seed: each for each in self._known(source)}
        return [known[seed] for seed in self.seeds if seed in known]

    def _retrained(self, source: Source, workers: Workers | None) -> None:
        with self.own(source):
            seeds = self._missing(source)
            if not seeds:
                self.note(f"{source.name}: done before")
                return
            with self._making:
                train = self.material.examples(source, self.material.train)
                test = self.material.examples(source, self.material.test)
            digests = examples_sha256(train), examples_sha256(test)
            seeds = [seed for seed in seeds if not self._is_known(source, seed, digests)]
            arguments = self.task, self.material.labels, train, test
            if workers is None:
                for seed in seeds:
                    found = _retrain(*arguments, seed, self.device, self._updates())
                    self._write(source, seed, digests, *found)
                return
            handed = packed(arguments)
            jobs = {workers.submit(_retrain, handed, seed, self.device): seed for seed in seeds}
            del train, test
            for job in as_completed(jobs):
                self._write(source, jobs[job], digests, *workers.result(job))
                self.progress(self.task.updates)

    def _frozen(self, sources: Sequence[Source], workers: Workers | None) -> None:
        wanted = {each.name: each for each in sources if self._missing(each)}
        for each in sources:
            if each.name not in wanted:
                self.note(f"{each.name}: done before")
        if not wanted:
            return
        plain = {each.name: each for each in sources if each.name in protocols.PLAIN}
        with self._making:
            taught_by = protocols.PLAIN if self.task.weights is None else ()  # a file is taught already
            mix = {name: self.material.examples(plain[name], self.material.train) for name in taught_by}
            tests = {name: self.material.examples(each, self.material.test) for name, each in wanted.items()}
        taught = examples_sha256([example for images in mix.values() for example in images])
        digests = {name: (taught, examples_sha256(each)) for name, each in tests.items()}
        todo = {
            seed: [
                name
                for name, each in wanted.items()
                if seed in self._missing(each) and not self._is_known(each, seed, digests[name])
            ]
            for seed in self.seeds
        }
        todo = {seed: names for seed, names in todo.items() if names}
        arguments = self.task, self.material.labels, mix
        jobs: dict[Future[Any], int] = {}
        for seed, names in todo.items():
            chosen = {name: tests[name] for name in names}
            if workers is None:
                found = _freeze(*arguments, chosen, seed, self.device, self._updates())
                self._write_all(wanted, seed, digests, found)
            else:
                handed = packed((*arguments, chosen))
                jobs[workers.submit(_freeze, handed, seed, self.device)] = seed
        for job in as_completed(jobs):
            assert workers is not None
            self._write_all(wanted, jobs[job], digests, workers.result(job))
            self.progress(self.task.updates)

    def _write_all(self, sources: Mapping[str, Source], seed: int, digests: Any, found: Any) -> None:
        judgements, seconds, curve = found
        for name, each in judgements.items():
            with self.own(sources[name]):
                self._write(sources[name], seed, digests[name], each, seconds, curve)

    def _updates(self) -> Callable[[int, int], None]:
        """Return a function of (steps done, all steps) that reports a training's part of its updates."""
        before = 0.0

        def progress(done: int, total: int) -> None:
            nonlocal before
            now = self.task.updates * done / max(1, total)
            self.progress(now - before)
            before = now

        return progress

    def _is_known(self, source: Source, seed: int, digests: tuple[str, str]) -> bool:
        """Whether the very same images have been judged, whatever made them; then their origin is noted."""
        if self._unsaved(seed):
            return False
        key = self._key(seed, digests)
        same = next((each for each in self._known(source) if each.key == key and each.seed == seed), None)
        if same is not None:
            self._add(source, with_origin(same, self.material.origin(source)))
            self.note(f"{source.name}, seed {seed}: the images are the same, done before")
            self.progress(self.task.updates)
        return same is not None

    def _key(self, seed: int, digests: tuple[str, str]) -> str:
        labels = self.material.labels
        return result_key(self.task.name, labels, self.protocol, self.settings, seed, *digests)

    def _write(
        self,
        source: Source,
        seed: int,
        digests: tuple[str, str],
        judgements: Mapping[str, Judgement],
        seconds: float,
        curve: Sequence[float],
    ) -> None:
        labels = self.material.labels
        for name, judgement in judgements.items():
            if "map" in judgement:
                path = predicted_file(source.folder, self.task.name, self.protocol, seed, self.settings, name)
                write_predicted(path, torch.as_tensor(judgement["map"]))
        scenes = {each.name: each.scene for each in self.material.blank(self.material.test)}
        recorded = {name: record_of(each) for name, each in judgements.items()}
        result = Result(
            protocol=self.protocol,
            seed=seed,
            key=self._key(seed, digests),
            settings=self.settings,
            train_sha256=digests[0],
            test_sha256=digests[1],
            seconds=round(seconds, 3),
            scores=protocols.scored(self.task, labels, recorded),
            images={name: {"scene": scenes[name], "judgement": each} for name, each in recorded.items()},
            origin=self.material.origin(source),
            curve=tuple(curve),
        )
        self._add(source, result)

    def _add(self, source: Source, result: Result) -> None:
        add_result(source.folder, self.task.name, self.material.labels, result, self.overwrite)


def check_seeds(seeds: Sequence[int], setting: str) -> None:
    """Require one or more different task seeds.

    Raises:
        UserError: names the setting.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"{setting} is {list(seeds)}; expected one or more different whole numbers")


Found = tuple[dict[str, dict[str, Any]], float, list[float]]


def _retrain(
    task: Task,
    labels: LabelSet,
    train: Sequence[Example],
    test: Sequence[Example],
    seed: int,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Return the judgement of each test image, with maps of the first ones alone, seconds, and the curve."""
    start, losses = monotonic(), list[float]()
    judgements = protocols.retrained(task, labels, train, test, seed, progress, device, losses)
    return _slim(judgements), monotonic() - start, curve(losses)


def _freeze(
    task: Task,
    labels: LabelSet,
    train_of: Mapping[str, Sequence[Example]],
    test_of: Mapping[str, Sequence[Example]],
    seed: int,
    device: str,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, dict[str, dict[str, Any]]], float, list[float]]:
    start, losses = monotonic(), list[float]()
    judgements = protocols.frozen(task, labels, train_of, test_of, seed, progress, device, losses)
    return {name: _slim(each) for name, each in judgements.items()}, monotonic() - start, curve(losses)


def _slim(judgements: Mapping[str, Judgement]) -> dict[str, dict[str, Any]]:
    shown = list(judgements)[:KEPT]
    return {name: dict(each) if name in shown else record_of(each) for name, each in judgements.items()}
