"""Do two ranks learn what one process with twice the batch learns, and what do they say to each other?

    python -m experiments.reliability.distributed

For each loss: 20 updates of contourlet_tiny in float64 on one process and on two ranks with half the batch,
and the largest difference in all that was learned; then collectives and bytes per update, counted by torch's
profiler in float32 as the difference between a run of 20 and one of 10 updates.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from clipfuse.cli.config import conf_dir
from clipfuse.networks.checkpoints import read_checkpoint
from clipfuse.runs.train import train
from clipfuse.testing.ranks import Ranks

LOSSES = {
    "pixel": [],
    "pixel, accumulate=2": ["accumulate=2"],
    "ldfusion": ["loss=ldfusion"],
    "promptfusion, value_penalty": ["loss=promptfusion", "loss.warmup=2", "solver=value_penalty"],
    "promptfusion, alternate": ["loss=promptfusion", "loss.warmup=2", "solver=alternate"],
    "promptfusion, joint": ["loss=promptfusion", "loss.warmup=2", "solver=joint"],
}
SMALL = ["name=equality", "data=synthetic", "data.train=12", "data.val=2", "data.test=2", "data.size=128"]
SMALL += [
    "loader.crop_size=64",
    "test=false",
    "objective=val/loss/total",
    "callbacks.best=null",
    "callbacks.notes=null",
    "logger=none",
]
SMALL += ["~callbacks.progress", "+trainer.enable_progress_bar=false"]
BYTES = {"float": 4, "double": 8, "long int": 8, "int": 4, "unsigned char": 1, "signed char": 1, "bool": 1}


def configuration(folder: Path, *words: str) -> dict[str, Any]:
    """Compose a small run in plain types."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", [*SMALL, f"run_dir={folder}", *words])
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def run(plain: dict[str, Any]) -> None:
    """Train one rank."""
    with redirect_stdout(StringIO()):
        train(OmegaConf.create(plain))


def traffic(plain: dict[str, Any]) -> tuple[int, int]:
    """Train one rank and return how many collectives it took part in, with how many bytes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen:
        run(plain)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        seen.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    calls = [event["args"] for event in events if str(event.get("name")).startswith("gloo:")]
    sizes = [
        prod(shape) * BYTES[kind]
        for call in calls
        for shape, kind in zip(call.get("Input Dims", ()), call.get("Input type", ()), strict=True)
    ]
    return len(calls), sum(sizes)


def learned(folder: Path) -> Iterator[torch.Tensor]:
    """Yield weights, prompts, moments of the optimiser and the state of the solver."""
    checkpoint = read_checkpoint(folder / "checkpoints/last.ckpt")

    def visit(node: Any) -> Iterator[torch.Tensor]:
        if isinstance(node, torch.Tensor):
            yield node.double()
        elif isinstance(node, dict):
            for child in node.values():
                yield from visit(child)
        elif isinstance(node, list | tuple):
            for child in node:
                yield from visit(child)

    for part in (checkpoint["state_dict"], checkpoint["optimizer_states"], checkpoint["clipfuse"]["solver"]):
        yield from visit(part)


def main() -> None:
    """Print the table."""
    print("| loss | largest difference after 20 updates | collectives per update | kB per update |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, Ranks(2, timeout_s=600) as ranks:
        folder = Path(name)
        for index, (loss, words) in enumerate(LOSSES.items()):
            alone, both = folder / f"{index}/alone", folder / f"{index}/both"
            exact = [*words, "trainer.precision=64-true", "steps=20", "validate_every=20"]
            run(configuration(alone, *exact, "trainer=cpu", "loader.batch_size=4"))
            ranks.run(run, configuration(both, *exact, "trainer=ddp_cpu", "loader.batch_size=2"))
            pairs = zip(learned(alone), learned(both), strict=True)
            difference = max(float((a - b).abs().max()) for a, b in pairs if a.numel())
            counts = []
            for steps in (10, 20):
                short = [*words, f"steps={steps}", f"validate_every={steps}", "trainer=ddp_cpu"]
                short += ["loader.batch_size=2", "trainer.log_every_n_steps=1000"]
                counts.append(ranks.run(traffic, configuration(folder / f"{index}/{steps}", *short))[0])
            (calls, size), (more, larger) = counts
            print(
                f"| {loss} | {difference:.1e} | {(more - calls) / 10:.2f} | {(larger - size) / 10000:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
