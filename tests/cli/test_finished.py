"""A stopped `clipfuse fuse` keeps what is finished, and a repeat goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipfuse.cli.finished import RECORD, Finished
from clipfuse.networks import apply

Clipfuse = Callable[..., tuple[int, str, str]]
COUNT = 8


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Eight pairs of noise."""
    generator = np.random.default_rng(0)
    for band, shape in (("ir", (24, 32)), ("vi", (24, 32, 3))):
        (tmp_path / band).mkdir()
        for number in range(COUNT):
            image = generator.integers(0, 256, shape).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / band / f"{number}.png")
    return tmp_path


def command(pairs: Path, checkpoint: Path, *words: str) -> list[str]:
    folders = ["--infrared", f"{pairs}/ir", "--visible", f"{pairs}/vi", "--out", f"{pairs}/out"]
    return ["fuse", "--checkpoint", str(checkpoint), *folders, *words]


@pytest.fixture
def checkpoint(trained: Path) -> Path:
    return trained / "checkpoints/last.ckpt"


@pytest.fixture
def expected(clipfuse: Clipfuse, pairs: Path, checkpoint: Path) -> dict[str, bytes]:
    """The files of a run in one go."""
    assert clipfuse(*command(pairs, checkpoint))[0] == 0
    files = contents(pairs / "out")
    shutil.rmtree(pairs / "out")
    assert len(files) == COUNT
    return files


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stop_after(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> None:
    """Let the network fail after some images."""
    calls = []

    def failing(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > number:
            raise error
        return apply_in_color(*arguments)  # type: ignore[arg-type]

    apply_in_color = apply.apply_in_color
    monkeypatch.setattr(apply, "apply_in_color", failing)


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError(), 2)])
def test_a_repeat_goes_on(
    clipfuse: Clipfuse,
    pairs: Path,
    checkpoint: Path,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 3, error)
        result = clipfuse(*command(pairs, checkpoint))
    assert result[0] == code
    assert "3 of 8 images are finished in" in result[2]
    assert sorted(os.listdir(pairs / "out")) == [RECORD, "0.png", "1.png", "2.png"]
    times = {name: (pairs / "out" / name).stat().st_mtime_ns for name in ("0.png", "1.png", "2.png")}
    code, out, _ = clipfuse(*command(pairs, checkpoint))
    assert code == 0
    assert "8 fused images" in out
    assert "3 of them from the run that was stopped" in out
    assert contents(pairs / "out") == expected
    assert times == {name: (pairs / "out" / name).stat().st_mtime_ns for name in times}
    # Now the folder is like that of a run in one go: it is not replaced unasked.
    assert clipfuse(*command(pairs, checkpoint))[0] == 2


def test_a_damaged_file_costs_nothing_that_is_finished(
    clipfuse: Clipfuse, pairs: Path, checkpoint: Path, expected: dict[str, bytes]
) -> None:
    path = pairs / "vi/5.png"
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes(100) + whole[600:])  # which no header and no end shows
    code, _, errors = clipfuse(*command(pairs, checkpoint))
    assert code == 2
    assert "5.png: cannot be read" in errors
    assert contents(pairs / "out").items() >= {f"{n}.png": expected[f"{n}.png"] for n in range(5)}.items()
    path.write_bytes(whole)
    assert clipfuse(*command(pairs, checkpoint))[0] == 0
    assert contents(pairs / "out") == expected


@pytest.mark.parametrize("change", ["network", "source", "output", "record", "setting"])
def test_only_what_this_command_would_write_is_taken_as_finished(
    clipfuse: Clipfuse,
    pairs: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 2, KeyboardInterrupt())
        clipfuse(*command(pairs, checkpoint))
    words: list[str] = []
    if change == "network":
        words = command(pairs, checkpoint)[3:]
        words = ["fuse", *words]
    elif change == "source":
        shutil.copy(pairs / "ir/7.png", pairs / "ir/0.png")
    elif change == "output":
        (pairs / "out/0.png").write_bytes(b"mine")
    elif change == "record":
        (pairs / "out" / RECORD).unlink()
    words = words or command(pairs, checkpoint)
    if change == "setting":
        words += ["--range", "0,255"]
    code, _, errors = clipfuse(*words)
    if change == "setting":
        assert code == 2 or "has no effect" in errors
        return
    assert code == 2
    assert "already holds 0.png" in errors
    assert clipfuse(*words, "--overwrite")[0] == 0
    assert sorted(os.listdir(pairs / "out")) == [f"{number}.png" for number in range(COUNT)]
    shutil.move(pairs / "out", pairs / "first")
    assert clipfuse(*words)[0] == 0
    assert contents(pairs / "out") == contents(pairs / "first")


def test_a_file_that_appears_meanwhile_is_not_replaced(
    clipfuse: Clipfuse, pairs: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = apply.apply_in_color

    def and_write(*arguments: object) -> object:
        (pairs / "out").mkdir(exist_ok=True)
        (pairs / "out/7.png").write_bytes(b"mine")
        return fuse(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(apply, "apply_in_color", and_write)
    code, _, errors = clipfuse(*command(pairs, checkpoint))
    assert code == 2
    assert "7.png: exists already" in errors
    assert (pairs / "out/7.png").read_bytes() == b"mine"


def test_a_record_is_read_whatever_was_cut_off(tmp_path: Path) -> None:
    for name in ("a.png", "s.png"):
        (tmp_path / name).write_bytes(name.encode())
    sources = [tmp_path / "s.png"]
    finished = Finished(tmp_path, {"network": "1"})
    (tmp_path / "a.png").rename(finished.staged)
    finished.add("a", sources)
    assert (tmp_path / "a.png").is_file()
    record = tmp_path / RECORD
    for torn in ("", '\n{"image": "b.p', '\n["a"]', "\n" + "[" * 100_000, "\n\x00\xff"):
        record.write_text(record.read_text() + torn, encoding="utf-8")
        assert Finished(tmp_path, {"network": "1"}).holds("a", sources)
        assert not Finished(tmp_path, {"network": "2"}).holds("a", sources)
        assert not Finished(tmp_path, {"network": "1"}).holds("b", sources)
    record.write_bytes(b"\xff\xfe{")
    assert not Finished(tmp_path, {"network": "1"}).holds("a", sources)
    record.unlink()
    record.mkdir()
    assert not Finished(tmp_path, {"network": "1"}).holds("a", sources)


def test_signals_keep_what_is_finished(
    clipfuse: Clipfuse, pairs: Path, checkpoint: Path, expected: dict[str, bytes]
) -> None:
    words = command(pairs, checkpoint)
    slow = (
        "import sys, time\nfrom clipfuse.networks import apply\nfuse = apply.apply_in_color\n"
        "def slowly(*arguments):\n    time.sleep(0.3)\n    return fuse(*arguments)\n"
        "apply.apply_in_color = slowly\nfrom clipfuse.cli.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    )
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)):
        before = len(list(pairs.glob("out/*.png")))
        process = subprocess.Popen([sys.executable, "-c", slow, *words], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(list(pairs.glob("out/*.png"))) <= before and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert ("images are finished" in errors) == (number != signal.SIGKILL)
        assert before < len(list(pairs.glob("out/*.png"))) < COUNT
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (pairs / f"out/.7.png.{gone.pid}.partial").write_bytes(b"half")
    code, out, _ = clipfuse(*words)
    assert code == 0
    assert "from the run that was stopped" in out
    assert contents(pairs / "out") == expected


def test_pairs_of_one_folder_are_fused_by_the_marks_of_their_names(
    clipfuse: Clipfuse, pairs: Path, checkpoint: Path, expected: dict[str, bytes]
) -> None:
    both = pairs / "both"
    both.mkdir()
    for number in range(COUNT):
        shutil.copy(pairs / f"ir/{number}.png", both / f"IR{number}.png")
        shutil.copy(pairs / f"vi/{number}.png", both / f"VIS{number}.png")
    words = ["--checkpoint", str(checkpoint), "--infrared", str(both), "--visible", str(both)]
    code, out, _ = clipfuse("fuse", *words, "--out", f"{pairs}/out")
    assert code == 0
    assert out.startswith("8 pairs: 8 by names that mark the band\n")
    assert contents(pairs / "out") == expected
    pattern = ["--pairs", "IR{id} | VIS{id}", "--out", f"{pairs}/again"]
    assert clipfuse("fuse", *words, *pattern)[0] == 0
    assert contents(pairs / "again") == expected


def test_swapped_bands_get_one_warning(clipfuse: Clipfuse, pairs: Path, checkpoint: Path) -> None:
    words = ["--checkpoint", str(checkpoint), "--infrared", f"{pairs}/vi", "--visible", f"{pairs}/ir"]
    code, _, errors = clipfuse("fuse", *words, "--out", f"{pairs}/out")
    assert code == 0
    assert errors.count("the bands look swapped") == 1


def test_one_folder_of_unmarked_images_is_refused(clipfuse: Clipfuse, pairs: Path) -> None:
    words = ["--infrared", f"{pairs}/ir", "--visible", f"{pairs}/ir", "--out", f"{pairs}/out"]
    code, _, errors = clipfuse("fuse", *words)
    assert code == 2
    assert "was given as the folder of both bands" in errors
    assert not (pairs / "out").exists()
