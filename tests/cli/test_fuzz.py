"""Whatever a file, name or setting is turned into: success, or one clear error and nothing left behind."""

import copy
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from clipfuse.images import SUFFIXES

Clipfuse = Callable[..., tuple[int, str, str]]
Memory = Callable[[int], AbstractContextManager[None]]
Files = dict[Path, bytes | None]

SECONDS, MEGABYTES = 30, 1500


class Hang(BaseException):
    """A case took too long; no `except Exception` swallows it."""


@contextmanager
def limited_time(seconds: int) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"no answer in {seconds} s")

    handler = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def listing(folder: Path) -> Files:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


class Bench:
    """Runs cases in folders of their own and holds each against the promise; counts how they ended."""

    def __init__(
        self, clipfuse: Clipfuse, limited_memory: Memory, trained: Path, pairs: Path, tmp_path: Path
    ) -> None:
        self.clipfuse, self.limited_memory = clipfuse, limited_memory
        self.trained, self.pairs, self.tmp_path = trained, pairs, tmp_path
        self.ends: Counter[str] = Counter()

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Give an empty folder; "in" is for what a case is made of, everything else for what it leaves."""
        folder = self.tmp_path / "case"
        (folder / "in").mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def call(self, folder: Path, words: Sequence[str], left: Sequence[str], run: str | None = None) -> None:
        """Run one command.

        Args:
            folder: of this case.
            words: the command line.
            left: files that must be there after success.
            run: a run folder, in which a failure is allowed to leave its status.
        """
        before = listing(folder)
        with self.limited_memory(MEGABYTES), limited_time(SECONDS):
            code, _, errors = self.clipfuse(*words)
        after = listing(folder)
        assert {path: after.get(path) for path in before} == before, "a file was changed"
        if code == 0:
            assert all((folder / name).is_file() for name in left)
            assert not [path for path in after if ".partial" in path.name or ".probe" in path.name]
        else:
            assert code == 2
            lines = [line for line in errors.splitlines() if line.startswith("clipfuse: error: ")]
            assert len(lines) == 1, errors
            assert len(lines[0]) > len("clipfuse: error: ") + 10
            assert "Traceback" not in errors
            if run is not None and (folder / run).exists():
                assert json.loads((folder / run / "status.json").read_text())["status"] == "failed"
                after = {path: content for path, content in after.items() if folder / run not in path.parents}
                after.pop(folder / run)
            assert after == before, "something was left behind"
        self.ends["done" if code == 0 else "refused"] += 1


@pytest.fixture
def bench(
    clipfuse: Clipfuse,
    limited_memory: Memory,
    trained: Path,
    pairs_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Bench:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Bench(clipfuse, limited_memory, trained, pairs_folder, tmp_path)


# What can happen to bytes

Change = Callable[[bytes], bytes]


@st.composite
def changes(draw: st.DrawFn) -> Change:
    """Cut the end off, flip bits, write extreme numbers, or repeat a piece."""
    kind = draw(st.sampled_from(["cut", "flip", "extreme", "repeat"]))
    places = draw(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=8))
    if draw(st.booleans()):
        places = [place**6 for place in places]  # headers stand in front
    bits = draw(st.lists(st.integers(0, 7), min_size=8, max_size=8))
    extreme = draw(
        st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"])
    )

    def change(content: bytes) -> bytes:
        spoiled = bytearray(content)
        if kind == "cut":
            return content[: int(places[0] * len(content))]
        for place, bit in zip(places, bits, strict=False):
            at = int(place * len(spoiled))
            if kind == "flip":
                spoiled[at] ^= 1 << bit
            elif kind == "extreme":
                spoiled[at : at + 4] = extreme
            else:
                spoiled[at:at] = spoiled[at : at + 40]
        return bytes(spoiled)

    return change


# Images

RANDOM = np.random.default_rng(0)
PLANE = (np.mgrid[:24, :30].sum(axis=0) * 4 + RANDOM.integers(0, 30, (24, 30))).astype(np.uint8)


def encode(kind: str) -> bytes:
    wide = PLANE.astype(np.uint16) * 257
    stream, suffix = BytesIO(), kind.split()[0]
    if kind in ("png 16", "tiff 16"):
        return cv2.imencode(f".{suffix}", wide)[1].tobytes()
    if kind in ("png 16 rgb", "tiff 16 rgb"):
        return cv2.imencode(f".{suffix}", np.dstack([wide, wide[::-1], wide]))[1].tobytes()
    if kind in ("tiff planes", "tiff tiles", "tiff 12"):
        options = {"tiff tiles": {"tile": (16, 16), "compression": "zlib"}, "tiff 12": {"bitspersample": 12}}
        planes = {"planarconfig": "separate", "photometric": "rgb", "compression": "lzw"}
        array = np.stack([wide] * 3) if kind == "tiff planes" else wide >> (4 if kind == "tiff 12" else 0)
        tifffile.imwrite(stream, array, **options.get(kind, planes))
        return stream.getvalue()
    image = {
        "tiff float": lambda: Image.fromarray(PLANE / np.float32(255)),
        "png palette": lambda: Image.fromarray(PLANE).convert("P"),
        "png 1": lambda: Image.fromarray(PLANE > 90),
        "jpg cmyk": lambda: Image.fromarray(PLANE).convert("CMYK"),
    }.get(kind, lambda: Image.fromarray(np.dstack([PLANE, PLANE[::-1], PLANE])))()
    options = {"compression": "tiff_lzw"} if kind == "tiff lzw" else {}
    image.save(stream, format={"jpg": "jpeg"}.get(suffix, suffix), **options)
    return stream.getvalue()


IMAGES = {
    kind: encode(kind)
    for kind in (
        *("png", "png palette", "png 1", "png 16", "png 16 rgb", "jpg", "jpg cmyk", "bmp"),
        *("tiff", "tiff lzw", "tiff 16", "tiff 16 rgb", "tiff float", "tiff planes", "tiff tiles", "tiff 12"),
        "webp",
    )
}


def fuse_words(folder: Path, checkpoint: Path) -> list[str]:
    bands = ["--infrared", f"{folder}/in/ir", "--visible", f"{folder}/in/vi", "--out", f"{folder}/out"]
    return ["fuse", "--checkpoint", str(checkpoint), *bands]


def try_image(bench: Bench, case: tuple[str, Change, bool, bool]) -> None:
    kind, change, in_infrared, scored = case
    with bench.folder() as folder:
        for band in ("ir", "vi"):
            content = change(IMAGES[kind]) if (band == "ir") is in_infrared else IMAGES["png"]
            suffix = kind.split()[0] if (band == "ir") is in_infrared else "png"
            for name, data in {"a": IMAGES["png"], "b": content}.items():
                path = folder / "in" / band / f"{name}.{suffix if name == 'b' else 'png'}"
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
        if scored:
            words = ["score", "--fused", f"x={folder}/in/ir", "--infrared", f"{folder}/in/ir"]
            words += ["--visible", f"{folder}/in/vi", "--metrics", "EN,CC", "--out", f"{folder}/scores.csv"]
            bench.call(folder, words, ["scores.csv"])
        else:
            words = fuse_words(folder, bench.trained / "checkpoints/last.ckpt")
            bench.call(folder, words, ["out/a.png", "out/b.png"])


# Names

# What a listing can return: all but "/" and NUL, and bytes that are no UTF-8 as surrogates.
letters = st.one_of(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]),
    st.sampled_from("..--~$*?\\:\n\r\t\x1b '\"=,{}[]%\udc80\udcff"),
)
names = st.lists(
    st.tuples(st.text(letters, min_size=1, max_size=260), st.sampled_from(SUFFIXES)), min_size=1, max_size=3
)


def try_names(bench: Bench, case: list[tuple[str, str]]) -> None:
    with bench.folder() as folder:
        for band in ("ir", "vi"):
            (folder / "in" / band).mkdir()
            for stem, suffix in case:
                try:
                    (folder / "in" / band / f"{stem}{suffix}").write_bytes(IMAGES["png"])
                except (OSError, UnicodeError):  # no file can have this name
                    assume(False)
        words = fuse_words(folder, bench.trained / "checkpoints/last.ckpt")
        bench.call(folder, words, [])
        if (folder / "out").exists():
            visible = {Path(f"{stem}{suffix}") for stem, suffix in case if stem[0] != "."}
            assert {path.name for path in (folder / "out").iterdir()} == {f"{p.stem}.png" for p in visible}


# Settings

KEYS = """
    seed validate_every accumulate gradient_clip input_noise ema objective checkpoint overwrite test name
    backbone backbone.width backbone.depth backbone._target_ loss loss.gradient_weight loss.intensity_weight
    loss._target_ solver solver._target_ clip clip.model data.val data.test data.split data.infrared
    loader.batch_size loader.crop_size loader.cache_mb optimizer optimizer.lr optimizer.betas
    optimizer._target_ scheduler scheduler._target_ trainer.precision trainer.accelerator trainer.max_time
    metrics.test metrics.validation metrics.protocol callbacks.test.panel_rows callbacks.best.monitor logger
""".split()  # noqa: SIM905
VALUES = """
    0 -1 1 2 1.5 1e400 nan -inf 99999999999999999999 null true '' [] {} [1,2] {a:1} [[[[[[[[1]]]]]]]] ??? abc
    ${seed} ${oc.env:HOME} ${nothing} ${oc.decode:x} ${ ../../x /dev/zero a=b a,b !!python/name:os.system \\
    os.system builtins.eval clipfuse.backbones.conv_tiny.ConvTiny " [ } 0x10 1_000 \u00e9 100000000
""".split()  # noqa: SIM905
entries = st.tuples(st.sampled_from(["", "", "", "+", "~"]), st.sampled_from(KEYS), st.sampled_from(VALUES))
overrides = st.lists(
    st.one_of(
        entries.map(lambda entry: "{}{}={}".format(*entry)),
        st.builds("{}={}".format, st.sampled_from(KEYS), st.text(letters, max_size=12)),
        st.text(letters, min_size=1, max_size=12).filter(lambda word: not word.startswith("-")),
    ),
    min_size=1,
    max_size=3,
)


def try_settings(bench: Bench, case: list[str]) -> None:
    with bench.folder() as folder:
        fixed = ["steps=1", "trainer=cpu", "data=folder", f"data.root={bench.pairs}", "loader.workers=0"]
        fixed += ["~callbacks.progress", "+trainer.enable_progress_bar=false", f"run_dir={folder}/run"]
        small = [
            "backbone=conv_tiny",
            "backbone.width=4",
            "backbone.depth=0",
            "loader.crop_size=32",
            "test=false",
        ]
        bench.call(folder, ["train", *small, *case, *fixed], ["run/status.json"], run="run")


# Checkpoints

NODES: list[Any] = [None, True, -1, 0, 3, 2**40, 2**80, 1.5, float("nan"), "", "x", "${oc.env:HOME}", "???"]
NODES += [[], {}, [[1]], {"a": 1}, {"_target_": "os.system"}, {"_target_": "torch.nn.ReLU"}, b"x"]
TENSORS: list[Any] = [
    torch.zeros(0),
    torch.zeros(3),
    torch.tensor(1),
    torch.full((1,), torch.nan),
    5,
    None,
    "x",
]
TENSORS += [torch.zeros(8, 8, 3, 3, dtype=dtype) for dtype in (torch.int64, torch.bool, torch.complex64)]
TENSORS += [torch.zeros(1).expand(100_000, 100_000), torch.eye(3).to_sparse(), torch.empty(8, device="meta")]
replaced = st.one_of(
    st.tuples(st.sampled_from(["width", "depth", "_target_", "more"]), st.sampled_from(NODES)),
    st.tuples(st.integers(0, 100), st.sampled_from(TENSORS)),
    st.tuples(st.sampled_from(["config", "clipfuse", "state_dict", "global_step"]), st.sampled_from(NODES)),
)


def try_checkpoint(bench: Bench, case: tuple[str, str, Change | tuple[Any, Any]]) -> None:
    suffix, command, change = case
    with bench.folder() as folder:
        source, path = bench.trained / "checkpoints/last.ckpt", folder / "in" / f"x{suffix}"
        if callable(change):
            if suffix == ".safetensors":
                bench.clipfuse("export", "--checkpoint", str(source), "--out", str(path))
                source = path
            path.write_bytes(change(source.read_bytes()))
        else:
            where, value = change
            content = copy.deepcopy(torch.load(source, weights_only=True))
            weights = content["state_dict"]
            if isinstance(where, int):
                weights[sorted(weights)[where % len(weights)]] = value
            elif where == "config":
                content["clipfuse"]["config"] = value
            elif where in content:
                content[where] = value
            else:
                content["clipfuse"]["config"]["backbone"][where] = value
            torch.save(content, path)
        data = ["trainer=cpu", "data=folder", f"data.root={bench.pairs}", f"run_dir={folder}/run"]
        if command == "fuse":
            shutil.copytree(bench.pairs / "test", folder / "in", dirs_exist_ok=True)
            bench.call(folder, fuse_words(folder, path), ["out/test-0.png", "out/test-1.png"])
        elif command == "export":
            words = ["export", "--checkpoint", str(path), "--out", f"{folder}/y.safetensors"]
            bench.call(folder, words, ["y.safetensors"])
        else:
            words = [command, *data, f"checkpoint={path}"]
            bench.call(folder, words, ["run/status.json"], run="run")


KINDS: dict[str, tuple[Callable[[Bench, Any], None], st.SearchStrategy[Any]]] = {
    "images": (
        try_image,
        st.tuples(st.sampled_from(sorted(IMAGES)), changes(), st.booleans(), st.booleans()),
    ),
    "names": (try_names, names),
    "settings": (try_settings, overrides),
    "checkpoints": (
        try_checkpoint,
        st.tuples(
            st.sampled_from([".ckpt", ".safetensors"]),
            st.sampled_from(["fuse", "fuse", "export", "evaluate", "train"]),
            st.one_of(changes(), replaced),
        ),
    ),
}


def explore(bench: Bench, kind: str, cases: int) -> None:
    attempt, strategy = KINDS[kind]

    @settings(
        max_examples=cases,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        attempt(bench, case)

    each()
    assert not list(Path.cwd().iterdir()), "something was left in the current folder"
    assert bench.ends.total() >= cases, "the cases ran out"


@pytest.mark.parametrize("kind", KINDS)
def test_25_cases_of_each_kind(bench: Bench, kind: str) -> None:
    explore(bench, kind, 25)


@pytest.mark.reliability
@pytest.mark.parametrize("kind", KINDS)
def test_125_cases_of_each_kind(bench: Bench, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    explore(bench, kind, 125)
    with capsys.disabled():
        print(f"\n{kind}: {bench.ends.total()} cases, {dict(bench.ends)}")
