"""No command calls anybody, or writes beside its outputs: not in the home, current or temporary folder."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

# Python imports it at every start, also in jobs and loader processes: each call to another machine is noted
# and refused.
SITE = """
import os, socket

def watched(name, find):
    function = getattr(socket, name) if find is None else getattr(socket.socket, name)

    def call(*arguments, **options):
        address = arguments[0] if find is None else arguments[find]
        if find is None or arguments[0].family != socket.AF_UNIX:
            with open(os.environ["CALLS"], "a") as file:
                print(name, address, file=file)
            raise OSError(101, "blocked by the test")
        return function(*arguments, **options)

    setattr(socket if find is None else socket.socket, name, call)

watched("getaddrinfo", None)
watched("gethostbyname", None)
for name in ("connect", "connect_ex"):
    watched(name, 1)
watched("sendto", -1)
"""
# All commands in one process, as each start takes ten seconds.
DRIVER = """
import os, sys
from pathlib import Path
from clipfuse.cli.__main__ import main

DATA = sys.argv[1]
COMMON = ["steps=1", "validate_every=1", "trainer=cpu", "loader.crop_size=32", "loader.batch_size=2"]
COMMON += ["metrics.validation=[SSIM]", "metrics.test=[SSIM,EN]", "clip=micro"]
TINY = [*COMMON, "backbone=conv_tiny", "backbone.width=4", "backbone.depth=0"]
FOLDER = ["data=folder", f"data.root={DATA}"]
SMALL = [*TINY, *FOLDER]
SYNTHETIC = ["data=synthetic", "data.train=2", "data.val=1", "data.test=1", "data.size=64"]
BANDS = ["--infrared", f"{DATA}/test/ir", "--visible", f"{DATA}/test/vi"]
CKPT = ["--checkpoint", "run/checkpoints/last.ckpt"]

for words in [
    ["train", *SMALL, "run_dir=run"],
    *(["train", *SMALL, f"loss={loss}", "test=false"] for loss in ("ldfusion", "clip_ratio")),
    ["train", *COMMON, *FOLDER, "loss=promptfusion", "backbone=contourlet_tiny", "test=false"],
    ["train", *TINY, *SYNTHETIC, "logger=tensorboard", "loader.workers=1", "test=false"],
    ["train", "-m", *SMALL, "seed=0,1", "hydra.sweep.dir=sweep", "hydra.launcher.max_parallel=2"],
    ["evaluate", f"checkpoint={CKPT[1]}", *FOLDER, "trainer=cpu", "metrics.test=[SSIM]", "run_dir=scored"],
    ["fuse", *CKPT, *BANDS, "--out", "fused"],
    ["export", *CKPT, "--out", "net.safetensors"],
    ["export", *CKPT, "--out", "net.onnx"],
    ["fuse", "--onnx", "net.onnx", *BANDS, "--out", "fused_onnx"],
    ["score", "--fused", "x=fused", *BANDS, "--metrics", "EN", "--out", "x.csv", "--json", "x.json"],
    ["compare", "sweep", "--html", "page.html", "--csv", "page.csv", "--figures", "figures"],
    ["new-loss", "mine"],
    ["train", *SMALL, "hydra.searchpath=[file://conf]", "loss=mine", "test=false"],
    ["doctor"],
    ["train", "--help"],
    ["--help"],
]:
    print("COMMAND", *words, flush=True)
    code = main(words)
    assert code == 0, (words, code)
"""
OURS = {"run", "runs", "sweep", "scored", "fused", "fused_onnx", "net.safetensors", "net.onnx", "figures"}
OURS |= {
    "x.csv",
    "x.json",
    "page.html",
    "page.csv",
    "mine.py",
    "test_mine.py",
    "conf",
    "__pycache__",
}


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Empty folders of their own: home, current, temporary, and that of `sitecustomize`."""
    found = {name: tmp_path / name for name in ("home", "here", "site")}
    for folder in found.values():
        folder.mkdir()
    with TemporaryDirectory() as temporary:  # a short path: loader processes have their sockets there
        yield {**found, "temporary": Path(temporary)}
    shutil.rmtree(tmp_path)


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_every_command_is_quiet(places: dict[str, Path], pairs_folder: Path, tmp_path: Path) -> None:
    (places["site"] / "sitecustomize.py").write_text(SITE)
    calls, driver = tmp_path / "calls", tmp_path / "driver.py"
    driver.write_text(DRIVER)
    passed = {key: os.environ[key] for key in ("PATH", "LANG", "OMP_NUM_THREADS") if key in os.environ}
    path = os.pathsep.join([str(places["site"]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**passed, "HOME": str(places["home"]), "TMPDIR": str(places["temporary"])}
    environment |= {"CALLS": str(calls), "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", str(driver), str(pairs_folder)]
    traced = tmp_path / "traced"
    if strace := shutil.which("strace"):  # it also sees the calls of libraries that are not written in Python
        options = ["-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", str(traced)]
        if subprocess.run([strace, *options, "true"], check=False).returncode == 0:
            command = [strace, *options, *command]
    result = subprocess.run(command, cwd=places["here"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    assert not calls.exists(), calls.read_text()
    outside = (
        [line for line in traced.read_text().splitlines() if "AF_INET" in line] if traced.exists() else []
    )
    assert not outside
    assert {each.name for each in places["here"].iterdir()} <= OURS
    assert files_in(places["temporary"]) == set()
    # Two caches that docs/security.md names: what was computed from the data's files, matplotlib's fonts.
    kept = {re.sub(r"-v[\d.]+json", "", name) for name in files_in(places["home"])}
    assert kept == {".cache/clipfuse/files.sqlite", ".cache/matplotlib/fontlist"}
