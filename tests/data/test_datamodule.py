import resource
from multiprocessing import current_process
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning import Trainer

from clipfuse.data.datamodule import FusionDataModule, PairCache, StreamSampler
from clipfuse.data.folder import PairedFolder
from clipfuse.data.pairs import Pair
from clipfuse.errors import UserError
from clipfuse.types import FusionBatch


def stream(**changes: int) -> list[list[tuple[int, int]]]:
    settings = {"size": 5, "batch_size": 4, "batches": 6, "start": 0, "seed": 3}
    return list(StreamSampler(**{**settings, **changes}))


def test_every_pass_holds_each_sample_once_in_an_order_of_its_own() -> None:
    keys = [key for batch in stream(batches=10) for key in batch]
    assert [position for position, _ in keys] == list(range(40))
    passes = [[index for _, index in keys[first : first + 5]] for first in range(0, 40, 5)]
    assert all(sorted(indices) == list(range(5)) for indices in passes)
    assert len({tuple(indices) for indices in passes}) > 1
    assert stream(seed=4) != stream(seed=3)


def test_ranks_share_one_stream() -> None:
    single = stream(batch_size=4)
    first, second = (stream(batch_size=2, rank=rank, world_size=2) for rank in (0, 1))
    assert [a + b for a, b in zip(first, second, strict=True)] == single


def test_a_resumed_stream_goes_on() -> None:
    assert stream(start=4) == stream()[4:]
    assert len(StreamSampler(5, 4, batches=6, start=4, seed=3)) == 6


class _Counting:
    """A source that counts how often it decodes; each pair takes 2,000 bytes."""

    name = "counting"

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def parts(self) -> dict[str, list[str]]:
        return {"train": ["a", "b", "c"], "val": ["d"], "test": []}

    def load(self, sample_id: str) -> Pair:
        self.loaded.append(sample_id)
        plane = torch.full((1, 20, 25), ord(sample_id), dtype=torch.uint8)
        return Pair(plane, plane.expand(3, -1, -1).clone())

    def fingerprint(self) -> str:
        return "0" * 64


@pytest.mark.parametrize(("budget_mb", "decoded"), [(1.0, 3), (0.004, 4), (0.0, 6)])
def test_the_cache_keeps_what_fits(budget_mb: float, decoded: int) -> None:
    source = _Counting()
    cache = PairCache(source, budget_mb)
    for _ in range(2):
        for sample_id in "abc":
            assert int(cache.load(sample_id).infrared[0, 0, 0]) == ord(sample_id)
    assert len(source.loaded) == decoded


def trained_on(device: str, updates: int) -> Trainer:
    """Return what the loader reads of a trainer."""
    strategy = SimpleNamespace(root_device=torch.device(device))
    known = SimpleNamespace(max_steps=updates, global_step=0, global_rank=0, world_size=1, strategy=strategy)
    return cast("Trainer", known)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_is_pinned_for_a_training_on_the_gpu_alone(pairs_folder: Path, device: str) -> None:
    data = FusionDataModule(PairedFolder(str(pairs_folder)), batch_size=3, crop_size=24, workers=0)
    data.trainer = trained_on(device, 5)
    assert data.train_dataloader().pin_memory == (device == "cuda")


def loaders(pairs_folder: Path, workers: int) -> list[FusionBatch]:
    data = FusionDataModule(PairedFolder(str(pairs_folder)), batch_size=3, crop_size=24, workers=workers)
    data.trainer = trained_on("cpu", 5)
    return list(data.train_dataloader())


def test_crops_do_not_depend_on_workers(pairs_folder: Path) -> None:
    alone, shared = loaders(pairs_folder, 0), loaders(pairs_folder, 2)
    assert len(alone) == 5
    for first, second in zip(alone, shared, strict=True):
        assert first.sample_ids == second.sample_ids
        for name in ("infrared", "visible", "chroma"):
            assert torch.equal(getattr(first, name), getattr(second, name))


def test_validation_pairs_come_whole_and_one_by_one(pairs_folder: Path) -> None:
    batch = next(iter(FusionDataModule(PairedFolder(str(pairs_folder))).val_dataloader()))
    assert batch.sample_ids == ("val-0",)
    assert batch.visible.shape == (1, 1, 48, 64)
    assert batch.chroma.shape == (1, 2, 48, 64)
    assert batch.target_mask is None


def test_the_example_is_the_first_crop_of_the_training(pairs_folder: Path) -> None:
    data = FusionDataModule(PairedFolder(str(pairs_folder)), crop_size=24)
    example = data.example()
    assert example.sample_ids == (data.parts["train"][0],)
    assert example.chroma.shape == (1, 2, 24, 24)


def test_an_empty_part_is_named() -> None:
    data = FusionDataModule(_Counting())
    data.check_parts("train", "val")
    with pytest.raises(UserError, match=r"'counting' has no test pairs; give it a share, .*test=false"):
        data.check_parts("train", "val", "test")


@pytest.mark.parametrize(
    ("keyword", "least"), [("batch_size", 1), ("crop_size", 16), ("workers", 0), ("cache_mb", 0)]
)
def test_numbers_too_small_are_refused(keyword: str, least: int) -> None:
    with pytest.raises(ValueError, match=f"loader.{keyword} is {least - 1}; expected {least} or more"):
        FusionDataModule(_Counting(), **{keyword: least - 1})


class _Ramp(_Counting):
    """A source whose pairs are larger than the limit below."""

    def load(self, sample_id: str) -> Pair:
        plane = torch.arange(40 * 40).reshape(1, 40, 40).remainder(256).to(torch.uint8)
        return Pair(plane, plane.expand(3, -1, -1).clone())


@pytest.mark.parametrize("size", [0, 2000])
def test_a_full_shared_memory_is_one_line_and_no_wait(size: int) -> None:
    """The system refuses files above the limit, those of the shared memory among them."""
    module = FusionDataModule(_Ramp(), batch_size=2, crop_size=32, workers=1)
    module.trainer = trained_on("cpu", 3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        with pytest.raises(
            UserError, match=r"^loader\.workers needs the shared memory of this machine, /dev/shm"
        ):
            next(iter(module.train_dataloader()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    batch = next(iter(module.train_dataloader()))
    assert batch.infrared.is_shared()


def _loading() -> FusionDataModule:
    module = FusionDataModule(_Ramp(), batch_size=2, crop_size=32, workers=1)
    module.trainer = trained_on("cpu", 3)
    return module


def test_a_folder_of_temporary_files_with_a_long_path_is_one_line_and_no_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)  # the address of a socket has 108 bytes
    folder.mkdir()
    monkeypatch.setitem(current_process()._config, "tempdir", str(folder))  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^loader\.workers needs a socket in .*x{100}.* set TMPDIR"):
        _loading().train_dataloader()


def test_a_batch_that_cannot_be_handed_over_ends_the_loader(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever refuses it, in the thread that hands it over: the loader alone would wait for ever."""

    def refused(batch: FusionBatch) -> None:
        raise OSError("refused by the test")

    loader = _loading().train_dataloader()
    monkeypatch.setattr(FusionBatch, "__reduce__", refused, raising=False)
    monkeypatch.setattr(FusionBatch, "__reduce_ex__", lambda batch, protocol: refused(batch), raising=False)
    with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly"):
        next(iter(loader))
    assert "its batch cannot be handed over: OSError('refused by the test')" in capfd.readouterr().err
