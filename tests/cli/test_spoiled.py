"""Every file of a sweep folder spoiled in every way: `compare`, a resumed run and a resumed sweep go on, or
stop in one line; no traceback, no wait, no memory beyond a bound."""

import csv
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from clipfuse.runs.train import train
from clipfuse.tracking.csv_file import CsvLogger
from hydra_plugins.clipfuse_launcher._jobs import Job

Clipfuse = Callable[..., tuple[int, str, str]]
Memory = Callable[[int], AbstractContextManager[None]]
Spoil = Callable[[Path], object]

SECONDS, MEGABYTES = 30, 1500
# Of a run folder, and of the sweep folder around it.
OF_A_RUN = ("status.json", "config.yaml", "metrics.csv", "test/metrics.json", "test/per_image.csv")
IMAGES = ("test/color/test-0.png", "test/fused/test-0.png", "test/infrared/test-0.png")
VALUES: list[Any] = [None, True, -1, 0, 1.5, 2**80, float("nan"), float("inf"), "", "x", "1", [], [[1]], {}]
VALUES += [{"a": 1}, "${oc.env:HOME}", "\x1b[2J", "../../..", "=1+1", 1e308, -(2**62), "9" * 5000]
CELLS = ["", "x", "nan", "inf", "-1", "1e308", "1e400", "=1", "../x", "\x1b[2J", "é" * 300, "0x10", "1_0"]


class Hang(BaseException):
    """A case took too long; no `except Exception` swallows it."""


@contextmanager
def limited_time(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"no answer in {seconds} s")

    handler = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


# What can happen to a file


def put(content: bytes) -> Spoil:
    return lambda path: path.write_bytes(content)


def put_made(make: Callable[[], str]) -> Spoil:
    """As `put`, of what takes long to make: of thousands of cases a test takes a few."""
    return lambda path: path.write_text(make())


def instead(make: Spoil) -> Spoil:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def bomb() -> str:
    lines = ["a0: &a0 [x, x]"]
    return "\n".join(lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)])


def of_any_kind(content: bytes) -> Iterator[tuple[str, Spoil]]:
    """Yield names and ways to spoil a file, whatever it holds."""
    for share in range(20):
        yield f"cut to {share}/20", put(content[: len(content) * share // 20])
    ends = [place + 1 for place, byte in enumerate(content) if byte == 10]
    for end in ends[:: max(1, len(ends) // 8)]:
        yield f"cut at line end {end}", put(content[:end])
    for place in range(0, len(content), max(1, len(content) // 12)):
        for mask in (1, 128):
            yield (
                f"flip {place} {mask}",
                put(content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]),
            )
    yield "twice", put(content * 2)
    yield "UTF-16", put(content.decode("latin-1").encode("utf-16"))
    yield "with a mark", put(b"\xef\xbb\xbf" + content)
    yield "zeros", put(bytes(len(content)))
    yield "binary", put(bytes(range(256)) * 40)
    yield "deep lists", put(b"[" * 100_000)
    yield "deep mappings", put(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "deep blocks", put(b"- " * 100_000)
    yield "alias bomb", put(bomb().encode())
    yield "itself", put(b"a: &a [*a]\n")
    yield "tag", put(b"!!python/object/apply:os.system [touch pwned]\n")
    yield "large", put(b'"' + b"x" * 2**26 + b'"')
    yield "many", put(b"[" + b"[]," * 4_000_000 + b"[]]")
    yield "wide", put(b"," * 2**22)
    yield "huge", huge
    yield "gone", instead(lambda path: None)
    yield "a folder", instead(lambda path: path.mkdir())
    yield "a pipe", instead(lambda path: os.mkfifo(path))
    yield "a circle of links", instead(lambda path: path.symlink_to(path.name))
    yield "a broken link", instead(lambda path: path.symlink_to("nowhere"))
    yield "a device", instead(lambda path: path.symlink_to("/dev/zero"))
    yield "a link out", instead(lambda path: path.symlink_to(outside(path, content)))


def outside(path: Path, content: bytes) -> Path:
    target = next(each for each in path.parents if each.name == "case") / "private"
    target.write_bytes(content)
    return target


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key in node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
        yield from places(node[key], (*path, key))


def changed(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = json.loads(json.dumps(content)) if isinstance(content, list) else dict(content)
    copy[place[0]] = changed(copy[place[0]], place[1:], value)
    return copy


def of_records(path: Path) -> Iterator[tuple[str, Spoil]]:
    """Yield every value of a JSON or YAML file replaced by each of `VALUES`, and every key removed."""
    is_json = path.suffix == ".json"
    content = json.loads(path.read_text()) if is_json else yaml.safe_load(path.read_text())
    dump: Callable[[Any], str] = json.dumps if is_json else yaml.safe_dump

    def with_value(place: tuple[Any, ...], value: Any) -> str:
        return dump(changed(content, place, value))

    def without(place: tuple[Any, ...]) -> str:
        copy = deepcopy(content)
        node = copy
        for key in place[:-1]:
            node = node[key]
        del node[place[-1]]
        return dump(copy)

    for place in places(content):
        name = ".".join(map(str, place))
        for value in VALUES:
            yield f"{name} = {value!r:.20}", put_made(partial(with_value, place, value))
        if place and not isinstance(place[-1], int):
            yield f"without {name}", put_made(partial(without, place))


def of_tables(path: Path) -> Iterator[tuple[str, Spoil]]:
    """Yield every column removed, renamed or doubled, and cells of the first and last line replaced."""
    with path.open(newline="") as file:
        rows = list(csv.reader(file))

    def write(table: list[list[str]]) -> Spoil:
        return put("".join(",".join(row) + "\r\n" for row in table).encode())

    for column in range(len(rows[0])):
        yield f"without column {column}", write([[*row[:column], *row[column + 1 :]] for row in rows])
        yield f"column {column} twice", write([[*row[: column + 1], *row[column:]] for row in rows])
        for cell in CELLS:
            for line in (0, 1, len(rows) - 1):
                row = [*rows[line][:column], cell, *rows[line][column + 1 :]]
                yield f"cell {line},{column} = {cell:.10}", write([*rows[:line], row, *rows[line + 1 :]])
    for line in range(len(rows)):
        yield f"without line {line}", write([*rows[:line], *rows[line + 1 :]])
        yield f"line {line} twice", write([*rows[: line + 1], *rows[line:]])
    yield "lines turned", write([rows[0], *rows[:0:-1]])
    yield "a quote", put(path.read_bytes() + b'"')


def spoils(path: Path) -> list[tuple[str, Spoil]]:
    more = of_tables(path) if path.suffix == ".csv" else iter(())
    more = of_records(path) if path.suffix in (".json", ".yaml") else more
    return [*of_any_kind(path.read_bytes()), *more]


# What is called


class Bench:
    """Spoils copies of a sweep folder and holds what is called against the promise; counts how it ended."""

    def __init__(self, clipfuse: Clipfuse, memory: Memory, whole: Path, pairs: Path, tmp_path: Path) -> None:
        self.clipfuse, self.memory, self.whole, self.pairs = clipfuse, memory, whole, pairs
        self.case = tmp_path / "case"
        self.ends: Counter[str] = Counter()

    def words(self, command: str) -> list[str]:
        sweep = self.case / "sweep"
        if command == "compare":
            files = ["--html", f"{self.case}/x.html", "--csv", f"{self.case}/x.csv"]
            return ["compare", str(sweep), *files]
        if command == "sweep":
            return ["train", "-m", f"sweep.resume={sweep}"]
        return ["train", *TRAIN, f"data.root={self.pairs}", f"run_dir={sweep}/broken", "auto_resume=true"]

    def call(self, command: str, file: str, name: str, spoil: Spoil) -> None:
        shutil.copytree(self.whole, self.case / "sweep")
        try:
            spoil(self.case / "sweep" / file)
            about = f"{command} with {file}: {name}"
            with self.memory(MEGABYTES), limited_time(SECONDS):
                try:
                    code, output, errors = self.clipfuse(*self.words(command))
                except Exception as error:
                    raise AssertionError(about) from error
            assert "Traceback" not in errors, about
            assert code in (0, 2), about
            if code == 2:
                lines = [line for line in errors.splitlines() if line.startswith("clipfuse: error: ")]
                assert len(lines) == 1, f"{about}\n{errors}"
                assert len(lines[0]) < 1500, about
            run = str(self.case / "sweep" / Path(file).parts[0])
            left_out = [line for line in output.lower().splitlines() if "left out: " in line and run in line]
            if command == "compare" and code == 0:
                assert (self.case / "x.html").is_file(), about
                assert b"PRIVATE" not in (self.case / "x.html").read_bytes(), about
                assert not {"\x1b", "\x07"} & set(output), about
            self.ends["refused" if code else "left out" if left_out else "done"] += 1
        finally:
            shutil.rmtree(self.case)


TRAIN = ["name=tiny", "trainer=cpu", "data=folder", "backbone=conv_tiny", "backbone.width=8"]
TRAIN += ["backbone.depth=1", "steps=6", "validate_every=3", "loader.batch_size=2", "loader.crop_size=32"]
TRAIN += ["trainer.log_every_n_steps=1", "~callbacks.progress", "+trainer.enable_progress_bar=false"]
TRAIN += ["test=false", "metrics.validation=[SSIM]"]


@pytest.fixture(scope="session")
def whole_sweep(
    tmp_path_factory: pytest.TempPathFactory,
    pairs_folder: Path,
    compose_run: Callable[..., DictConfig],
) -> Path:
    """A sweep of two trainings that can be compared, of one that has not started, and of one broken off."""
    sweep = tmp_path_factory.mktemp("whole") / "sweep"
    few = ("metrics.validation=[SSIM]", "metrics.test=[SSIM,EN]", "callbacks.test.save_sources=true")
    for number in (0, 1):
        words = (*few, f"loss.gradient_weight={3 + number}")
        train(compose_run(sweep / str(number), pairs_folder, words, "train"))
    jobs = {number: ["trainer=cpu", f"seed={number}"] for number in range(3)}
    record = {"words": ["trainer=cpu", "seed=0,1,2"], "jobs": jobs}
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(record))
    log_metrics = CsvLogger.log_metrics

    def stop(self: CsvLogger, metrics: Any, step: int | None = None) -> None:
        if step == 4:
            raise KeyboardInterrupt
        log_metrics(self, metrics, step)

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt, SystemExit):
        patch.setattr(CsvLogger, "log_metrics", stop)
        overrides = ("test=false", "metrics.validation=[SSIM]")
        train(compose_run(sweep / "broken", pairs_folder, overrides, "train"))
    assert (sweep / "broken/checkpoints/last.ckpt").is_file()
    assert "failed" in (sweep / "broken/status.json").read_text()
    return sweep


@pytest.fixture
def bench(
    clipfuse: Clipfuse,
    limited_memory: Memory,
    whole_sweep: Path,
    pairs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    monkeypatch.setattr(Job, "start", lambda job, *_: setattr(job, "started", 0.0))  # no job runs here
    monkeypatch.setattr(Job, "close", lambda job: "FAILED")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Bench(clipfuse, limited_memory, whole_sweep, pairs_folder, tmp_path)


COMMANDS: dict[str, list[str]] = {
    "compare": [*(f"0/{file}" for file in (*OF_A_RUN, *IMAGES)), "sweep.yaml"],
    "resume": ["broken/status.json", "broken/metrics.csv"],
    "sweep": ["sweep.yaml", "0/status.json"],
}
MOST = 60  # of a file, evenly taken; the values of a configuration would be thousands
SHORT = {"compare": 4, "resume": 6, "sweep": 6}


@pytest.mark.parametrize("command", COMMANDS)
def test_some_spoiled_files(bench: Bench, command: str) -> None:
    """A part of all cases, evenly taken."""
    for file in COMMANDS[command]:
        cases = spoils(bench.whole / file)
        for case in cases[7 :: len(cases) // SHORT[command]]:
            bench.call(command, file, *case)
    assert bench.ends.total() >= SHORT[command] * len(COMMANDS[command])
    assert bench.ends["refused"] + bench.ends["left out"] > bench.ends.total() / 4
    assert not list(Path.cwd().iterdir()), "something was left in the current folder"


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("command", "file"), [(command, file) for command, files in COMMANDS.items() for file in files]
)
def test_all_spoiled_files(bench: Bench, command: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases, wrong = spoils(bench.whole / file), []
    for case in cases[:: -(-len(cases) // MOST)]:
        try:
            bench.call(command, file, *case)
        except (AssertionError, Hang) as error:
            wrong.append(f"{error}: {error.__cause__!r}")
            with capsys.disabled():
                print(f"\n{wrong[-1]}", flush=True)
    with capsys.disabled():
        print(f"\n{command}, {file}: {bench.ends.total()} cases, {dict(bench.ends)}, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong)
