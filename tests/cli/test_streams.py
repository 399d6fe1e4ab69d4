"""What becomes of the screen changes no exit code and no file: every command, two process starts."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import pytest

from clipfuse.cli.streams import keep_streams

# Runs each command in turn; what they return goes to a file, as there is no screen.
DRIVER = """
import json, os, sys
from pathlib import Path
from clipfuse.cli.__main__ import main

codes = {}
for words in json.loads(sys.argv[1]):
    sys.argv[1:] = words
    try:
        codes[words[0]] = main(words)
    except SystemExit as end:
        codes[words[0]] = end.code
    print("\\u2713", flush=True)
    print("\\u2713", file=sys.stderr, flush=True)
lowest = os.open(os.devnull, os.O_RDONLY)
Path("codes.json").write_text(json.dumps({**codes, "lowest free descriptor": lowest}))
"""


def every_command(pairs: Path) -> list[list[str]]:
    bands = ["--infrared", str(pairs / "test/ir"), "--visible", str(pairs / "test/vi")]
    run = ["trainer=cpu", "data=folder", f"data.root='{pairs}'"]
    tiny = ["backbone=conv_tiny", "steps=2", "loader.batch_size=1", "loader.crop_size=32"]
    last = "run/checkpoints/last.ckpt"
    return [
        ["train", *run, *tiny, "run_dir=run", "metrics.test=[SSIM]", "metrics.validation=[SSIM]"],
        ["evaluate", *run, f"checkpoint={last}", "run_dir=scored", "metrics.test=[SSIM]"],
        ["fuse", "--checkpoint", last, *bands, "--out", "fused"],
        ["score", "--fused", "fused", *bands, "--metrics", "SSIM", "--out", "scores.csv"],
        ["compare", "run", "--csv", "table.csv", "--metrics", "SSIM"],
        ["export", "--checkpoint", last, "--out", "network.safetensors"],
        ["new-loss", "my_edge"],
        ["doctor"],
        ["--help"],
        ["tr\u00e4in"],
    ]


FILES = [
    *("run/status.json", "run/test/per_image.csv", "scored/test/metrics.json"),
    *("scores.csv", "table.csv", "network.safetensors", "my_edge.py"),
]


@contextmanager
def hostile(kind: str) -> Iterator[dict[str, object]]:
    """Give arguments of Popen for a reader that has gone and a full disk, or for closed streams."""
    if kind == "closed":
        yield {"preexec_fn": lambda: os.closerange(0, 3)}
        return
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with open("/dev/full", "wb") as full:
            yield {"stdout": writing, "stderr": full}
    finally:
        os.close(writing)


@pytest.mark.parametrize("kind", ["gone and full", "closed"])
def test_every_command_does_its_work_without_a_screen(kind: str, pairs_folder: Path, tmp_path: Path) -> None:
    pairs = copytree(pairs_folder, tmp_path / "p\u00e4\u2713rs")
    for path in (pairs / "test").rglob("test-0.png"):
        path.rename(path.with_name("test-\u00e4\u2713.png"))
    environment = {**os.environ, "PYTHONIOENCODING": "ascii" if kind == "closed" else "latin-1"}
    with hostile(kind) as streams:
        subprocess.run(  # type: ignore[call-overload]
            [sys.executable, "-c", DRIVER, json.dumps(every_command(pairs))],
            cwd=tmp_path,
            env=environment,
            timeout=300,
            **streams,
        )
    codes = json.loads((tmp_path / "codes.json").read_text())
    assert codes.pop("lowest free descriptor") > 2, "the next file would be standard output"
    assert codes.pop("tr\u00e4in") == 2
    assert set(codes.values()) == {0}, codes
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "finished"
    assert [name for name in FILES if not (tmp_path / name).stat().st_size] == []
    assert "test-\u00e4\u2713" in (tmp_path / "scores.csv").read_text(encoding="utf-8")


def test_a_program_that_has_replaced_its_streams_keeps_them(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    keep_streams()
    assert (sys.stdout, sys.stderr) == before
