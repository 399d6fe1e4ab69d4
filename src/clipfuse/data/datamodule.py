"""Batches of pairs: one endless, numbered stream of samples that any number of ranks can share."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from multiprocessing.connection import Listener
from multiprocessing.queues import Queue
from multiprocessing.util import get_temp_dir
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from clipfuse.data.labels.files import require_labels
from clipfuse.data.pairs import Pair, PairSource
from clipfuse.data.transforms import SMALLEST_CROP, collate, paired_crop, whole
from clipfuse.errors import UserError
from clipfuse.images import check_name
from clipfuse.ops.seeding import derived_seed
from clipfuse.ops.shelf import Shelf
from clipfuse.types import FusionBatch

Key = tuple[int, int]


@dataclass(eq=False)
class StreamSampler(Sampler[list[Key]]):
    """Batches of (position, index), where position counts all samples of the training, over all ranks.

    Position p takes sample p mod n of the shuffle seeded by (seed, p // n). The batches of all ranks
    together are therefore the same for any number of ranks, and a resumed training continues the stream.

    Args:
        size: number of samples n in the training set.
        batch_size: samples per rank and batch.
        batches: number of batches in the whole training.
        start: batches already done.
        seed: seeds the shuffles.
        rank: number of this process.
        world_size: number of processes.
    """

    size: int
    batch_size: int
    batches: int
    start: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Key]]:
        shuffled, order = -1, torch.empty(0)
        for batch in range(self.start, self.batches):
            first = (batch * self.world_size + self.rank) * self.batch_size
            keys = []
            for position in range(first, first + self.batch_size):
                if position // self.size != shuffled:
                    shuffled = position // self.size
                    generator = torch.Generator().manual_seed(derived_seed(self.seed, shuffled))
                    order = torch.randperm(self.size, generator=generator)
                keys.append((position, int(order[position % self.size])))
            yield keys


class PairCache:
    """Keeps the first decoded pairs that fit a budget, so that small data sets are decoded once.

    Nothing is evicted: under shuffled passes the oldest pair is as likely needed next as the newest.

    Args:
        source: the data set the pairs are read from.
        budget_mb: memory for pairs, in MB (10^6 bytes); 0 keeps none. Each loader process has its own.
    """

    def __init__(self, source: PairSource, budget_mb: float) -> None:
        self.source = source
        self.left = budget_mb * 1e6
        self.pairs: dict[str, Pair] = {}
        self._shelf = Shelf()

    def load(self, sample_id: str) -> Pair:
        """Return the pair, from memory if it is there."""
        if sample_id in self.pairs:
            return self.pairs[sample_id]
        pair = self.source.load(sample_id)
        size = pair.nbytes()
        if size <= self.left:
            self.left -= size
            own = {each.name: getattr(pair, each.name) for each in fields(pair)}
            kept: Any = {
                key: self._shelf.keep(value) for key, value in own.items() if isinstance(value, Tensor)
            }
            pair = self.pairs[sample_id] = replace(pair, **kept)
        return pair


@dataclass(eq=False)
class _Crops(Dataset[FusionBatch]):
    cache: PairCache
    ids: Sequence[str]
    crop_size: int
    seed: int

    def __getitem__(self, key: Key) -> FusionBatch:
        position, index = key
        sample_id = self.ids[index]
        return paired_crop(self.cache.load(sample_id), self.crop_size, self.seed, position, sample_id)


@dataclass(eq=False)
class _Whole(Dataset[FusionBatch]):
    cache: PairCache
    ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> FusionBatch:
        return whole(self.cache.load(self.ids[index]), self.ids[index])


def collate_shared(batches: Sequence[FusionBatch]) -> FusionBatch:
    """Join batches; in a loader process, put the result where the training process finds it.

    Left to the loader, this would be done in a thread whose errors reach nobody: the training would wait.

    Raises:
        UserError: the shared memory of this machine is full.
    """
    batch = collate(batches)
    if get_worker_info() is not None:
        values = [getattr(batch, each.name) for each in fields(batch)]
        values += [tensor for boxes in batch.boxes or () for tensor in (boxes.xyxy, boxes.classes)]
        with _shared_memory_named():
            for value in values:
                if isinstance(value, Tensor):
                    value.share_memory_()
    return batch


@contextmanager
def _shared_memory_named() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"loader.workers needs the shared memory of this machine, /dev/shm, which is full ({error}); "
            "make room in it (a container has 64 MB by default: --shm-size=1g), or take loader.workers=0"
        ) from error


def _check_socket() -> None:
    """Require that a loader process can hand tensors over, by a socket in the folder of temporary files."""
    folder = get_temp_dir()
    try:
        Listener().close()
    except OSError as error:
        raise UserError(
            f"loader.workers needs a socket in the folder of temporary files, {folder}, which is refused "
            f"({error}); set TMPDIR to a folder with a short path on a local disk, or take loader.workers=0"
        ) from error


def _end_on_failure(worker: int) -> None:
    """End a loader process whose batch cannot be handed over; the loader alone would wait for ever."""

    def end(error: BaseException, batch: object) -> None:
        reason = f"loader process {worker}: its batch cannot be handed over: {error!r}"
        print(reason, file=sys.stderr, flush=True)
        os._exit(1)

    Queue._on_queue_feeder_error = staticmethod(end)  # type: ignore[attr-defined]


class FusionDataModule(L.LightningDataModule):
    """Training crops as a numbered stream; validation and test pairs whole, one by one.

    Args:
        source: the data set.
        batch_size: crops per process and micro-batch, 1 or more.
        crop_size: side of a training crop in pixels, 16 or more.
        workers: loader processes; 0 loads in the training process.
        cache_mb: memory for decoded pairs in MB: half for training, shared out among the workers, and
            half for whole images.
        accumulate: micro-batches per update.
        seed: seeds shuffles and crops.

    Raises:
        ValueError: a number is too small.
        UserError: a sample's id could not name a file, as `check_name`.
    """

    def __init__(
        self,
        source: PairSource,
        batch_size: int = 8,
        crop_size: int = 96,
        workers: int = 0,
        cache_mb: float = 1000.0,
        accumulate: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        limits = {"batch_size": (batch_size, 1), "crop_size": (crop_size, SMALLEST_CROP)}
        limits |= {"workers": (workers, 0)}
        for key, (value, least) in {**limits, "cache_mb": (cache_mb, 0)}.items():
            if value < least:
                raise ValueError(f"loader.{key} is {value}; expected {least} or more")
        self.source = source
        self.parts = source.parts()
        for sample_id in (sample for part in self.parts.values() for sample in part):
            check_name(sample_id)  # the fused images of the run folder get this name
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.workers = workers
        self.accumulate = accumulate
        self.seed = seed
        self.train_cache = PairCache(source, cache_mb / 2 / max(1, workers))
        self.whole_cache = PairCache(source, cache_mb / 2)

    def check_parts(self, *needed: str, ranks: int = 1) -> None:
        """Require pairs in the parts a run will use: for validation and test, one for each rank.

        Raises:
            UserError: names the part and the remedy.
        """
        remedies = {
            "train": "add some, or lower data.val and data.test",
            "val": "give it a share, as in data.val=0.1",
            "test": "give it a share, as in data.test=0.2, or train with test=false",
        }
        for part in needed:
            if not self.parts[part]:
                raise UserError(f"the data set '{self.source.name}' has no {part} pairs; {remedies[part]}")
            if part != "train" and (found := len(self.parts[part])) < ranks:
                # Lightning skips validation on a rank without images; the other ranks would wait for it.
                raise UserError(
                    f"the data set '{self.source.name}' has {found} {part} pairs for {ranks} processes; "
                    f"take fewer devices, or more pairs: {remedies[part]}"
                )

    def check_labels(self, needs: Mapping[str, str]) -> None:
        """Require the labels that a loss needs.

        Args:
            needs: some of "classes", "boxes" and "captions", each with what needs it.

        Raises:
            UserError: as `require_labels`.
        """
        require_labels(self.source, needs)

    def _crops(self) -> _Crops:
        return _Crops(self.train_cache, self.parts["train"], self.crop_size, self.seed)

    def whole(self, sample_id: str) -> FusionBatch:
        """Return a pair of any part whole, as a batch of one."""
        return whole(self.whole_cache.load(sample_id), sample_id)

    def example(self) -> FusionBatch:
        """Return the first training crop as a batch of one: training checks network and loss with it."""
        return self._crops()[0, 0]

    def train_dataloader(self) -> DataLoader[FusionBatch]:
        """Return the rest of the training's stream: one pass over it is the whole training."""
        assert self.trainer is not None
        crops = self._crops()
        if self.workers:  # as the loader will; its own failure is reported as another, or by nobody
            with _shared_memory_named():
                torch.multiprocessing.Queue()
                torch.zeros(1).share_memory_()
            _check_socket()
        sampler = StreamSampler(
            len(crops.ids),
            self.batch_size,
            batches=self.trainer.max_steps * self.accumulate,
            start=self.trainer.global_step * self.accumulate,
            seed=self.seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(
            crops,
            batch_sampler=sampler,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",  # else it takes GPU memory
            collate_fn=collate_shared,
            worker_init_fn=_end_on_failure,
            # The loader draws a base seed for its workers; nothing may depend on the global state.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def _whole_loader(self, part: str) -> DataLoader[FusionBatch]:
        ids = self.parts[part]
        if self.trainer is not None:
            ids = ids[self.trainer.global_rank :: self.trainer.world_size]
        # With batch_size=None the loader yields each batch of one as it is.
        generator = torch.Generator().manual_seed(self.seed)
        return DataLoader(_Whole(self.whole_cache, ids), batch_size=None, generator=generator)

    def val_dataloader(self) -> DataLoader[FusionBatch]:
        """Return the validation pairs, whole."""
        return self._whole_loader("val")

    def test_dataloader(self) -> DataLoader[FusionBatch]:
        """Return the test pairs, whole."""
        return self._whole_loader("test")
