"""The parts that train nothing: contourlet, fusing, exported files, torch.compile."""

import functools
import shutil
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import torch
from experiments.benchmarks.contourlet import SHAPES, flat
from experiments.common import compose_run
from experiments.gpu.case import Case, Machine, Part, verdict
from experiments.gpu.meter import synchronise
from torch import Tensor, nn

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.cli import fuse as fuse_command
from clipfuse.contourlet import ContourletTransform
from clipfuse.data.synthetic import render
from clipfuse.images import write_png
from clipfuse.networks.export import TOLERANCE, write_onnx
from clipfuse.networks.load import BUNDLED, load_backbone
from clipfuse.networks.onnx import Fuse, read_onnx
from clipfuse.ops.depth import to_unit
from clipfuse.runs.build import build


def seconds(device: torch.device, work: Callable[[], object], rounds: int) -> float:
    """Return the median time of a call, after two to warm up; the GPU is waited for in each."""
    times = []
    for turn in range(rounds + 2):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        if turn > 1:
            times.append(time.perf_counter() - start)
    return median(times)


def peak_memory(device: torch.device, work: Callable[[], object]) -> float | None:
    """Return the most that tensors took on the GPU during a call, in MB (10^6 bytes); None on a CPU."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    synchronise(device)
    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)


# Contourlet ---------------------------------------------------------------------------------------------


def contourlet_settings(machine: Machine) -> dict[str, Any]:
    return {"levels": "(0, 3, 3, 3)", "dtype": "float32", "rounds": 3 if machine.tiny else 30}


def measure_contourlet(machine: Machine, shape: tuple[int, ...], backward: bool) -> dict[str, Any]:
    """Time the transform and rfft2 + irfft2 of the same planes."""
    device = machine.device
    transform = ContourletTransform().to(device)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
    leaf = image.clone().requires_grad_()
    upward = [torch.ones_like(band) for band in flat(transform(image))]

    def there_and_back(planes: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(planes), s=planes.shape[-2:])

    work: dict[str, Callable[[], object]] = {
        "ours": lambda: transform(image),
        "plain": lambda: there_and_back(image),
    }
    if backward:
        work["ours"] = lambda: torch.autograd.grad(flat(transform(leaf)), leaf, upward)
        work["plain"] = lambda: torch.autograd.grad(there_and_back(leaf), leaf, image)
    rounds = contourlet_settings(machine)["rounds"]
    own, other = (seconds(device, work[name], rounds) for name in ("ours", "plain"))
    return {"contourlet_ms": 1000 * own, "fft_ms": 1000 * other, "ratio": own / other}


def contourlet_cases(machine: Machine) -> list[Case]:
    shapes = ((1, 1, 32, 32),) if machine.tiny else (*SHAPES, (16, 64, 224, 224))
    return [
        Case(
            {"planes": "x".join(map(str, shape)), "pass": "forward + backward" if backward else "forward"},
            functools.partial(measure_contourlet, machine, shape, backward),
        )
        for shape in shapes
        for backward in (False, True)
    ]


# Fusing -------------------------------------------------------------------------------------------------


def fuse_settings(machine: Machine) -> dict[str, Any]:
    return {"network": "bundled", "pairs": 3 if machine.tiny else 24, "rounds": 2 if machine.tiny else 20}


@functools.cache
def pairs_folder(folder: Path, width: int, height: int, count: int) -> Path:
    """Write `count` pairs of files, two different ones in turns, and return their folder."""
    root = folder / f"pairs-{width}x{height}"
    top = (width - height) // 2
    for index in range(count):
        for band in ("ir", "vi"):
            (root / band).mkdir(parents=True, exist_ok=True)
            if index > 1:
                shutil.copy(root / band / f"{index % 2}.png", root / band / f"{index}.png")
        if index < 2:
            pair = render(0, index, width)
            for band, image in {"ir": pair.infrared, "vi": pair.visible}.items():
                plane = to_unit(image[:, top : top + height])
                write_png(root / band / f"{index}.png", plane, overwrite=True)
    return root


def measure_network(machine: Machine, width: int, height: int) -> dict[str, Any]:
    """Time the network alone, one pair at a time, the planes lying on the device."""
    network = load_backbone(BUNDLED).to(machine.device)
    planes = torch.rand(2, 1, 1, height, width, generator=torch.Generator().manual_seed(0)).to(machine.device)

    @torch.inference_mode()
    def work() -> None:
        network(planes[0], planes[1])

    memory = peak_memory(machine.device, work)
    taken = seconds(machine.device, work, fuse_settings(machine)["rounds"])
    return {"pairs_per_second": 1 / taken, "peak_memory_mb": memory}


def measure_command(machine: Machine, width: int, height: int) -> dict[str, Any]:
    """Time `clipfuse fuse` on PNG files, less what it takes for a single pair: loading, and the first use."""
    count = fuse_settings(machine)["pairs"]
    root = pairs_folder(machine.folder, width, height, count)
    taken: list[float] = []

    def work(*infrared_and_visible: Path) -> None:
        infrared, visible = infrared_and_visible
        arguments = ["--infrared", infrared, "--visible", visible, "--out", root / "fused", "--overwrite"]
        start = time.perf_counter()
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            fuse_command.main([*map(str, arguments), "--device", str(machine.device)])
        taken.append(time.perf_counter() - start)

    single = functools.partial(work, root / "ir/0.png", root / "vi/0.png")
    single()
    single()
    memory = peak_memory(machine.device, functools.partial(work, root / "ir", root / "vi"))
    longer = taken[2] - taken[1]
    if longer <= 0:
        return {"peak_memory_mb": memory, "remark": f"{count} pairs took no longer than one"}
    return {"pairs_per_second": (count - 1) / longer, "peak_memory_mb": memory}


def fuse_cases(machine: Machine) -> list[Case]:
    ways = {"network alone": measure_network, "clipfuse fuse, PNG to PNG": measure_command}
    return [
        Case({"size": f"{width}x{height}", "what": what}, functools.partial(measure, machine, width, height))
        for width, height in (((64, 48), (80, 64)) if machine.tiny else ((640, 480), (1280, 1024)))
        for what, measure in ways.items()
    ]


# Exported files -----------------------------------------------------------------------------------------

GREY_LEVEL = 1 / 255


def network_to_export(machine: Machine) -> nn.Module:
    """Return the bundled network, or one that is exported in seconds."""
    torch.manual_seed(0)
    return ConvTiny(width=8, depth=1).eval() if machine.tiny else load_backbone(BUNDLED)


@functools.cache
def exported(machine: Machine) -> tuple[Fuse, float]:
    """Return what an exported file computes, on the CPU, and the seconds of exporting."""
    start, path = time.perf_counter(), machine.folder / "network.onnx"
    write_onnx(path, network_to_export(machine), "network")
    return read_onnx(path), time.perf_counter() - start


def measure_export(machine: Machine, width: int, height: int, tf32: bool) -> dict[str, Any]:
    """Return the largest difference of the network on the device from its exported file on the CPU."""
    fuse, taken = exported(machine)
    network = network_to_export(machine).to(machine.device)
    planes = torch.rand(2, 1, 1, height, width, generator=torch.Generator().manual_seed(1)).unbind()
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        with torch.inference_mode():
            found = network(*(plane.to(machine.device) for plane in planes)).fused.cpu()
            difference = float((found - fuse(*planes)).abs().max())
    finally:
        torch.backends.cudnn.allow_tf32 = before
    return {"export_seconds": taken, **verdict(difference=(difference, GREY_LEVEL if tf32 else TOLERANCE))}


def export_cases(machine: Machine) -> list[Case]:
    """Return first what must agree by rounding, then convolutions in TF32, as torch computes by default."""
    return [
        Case(
            {"file": ".onnx", "size": f"{width}x{height}", "tf32": "on" if tf32 else "off"},
            functools.partial(measure_export, machine, width, height, tf32),
        )
        for width, height in ((87, 53), (96, 64) if machine.tiny else (640, 480))
        for tf32 in (False, True)
    ]


# torch.compile ------------------------------------------------------------------------------------------


def compile_settings(machine: Machine) -> dict[str, Any]:
    small = {"batch": 1, "crop_size": 32, "rounds": 1, "backend": "aot_eager"}
    return small if machine.tiny else {"batch": 16, "crop_size": 96, "rounds": 10, "backend": "inductor"}


def measure_compile(machine: Machine, name: str, precision: str, compiled: bool) -> dict[str, Any]:
    """Time forward and backward of a backbone; a compiler that fails is a result."""
    settings, device = compile_settings(machine), machine.device
    torch.manual_seed(0)
    network: Any = build(compose_run([f"backbone={name}", "run_dir=x"]).backbone, "backbone").to(device)
    side = settings["crop_size"]
    planes = torch.rand(2, settings["batch"], 1, side, side, generator=torch.Generator().manual_seed(0))
    infrared, visible = planes.to(device).unbind()
    mixed = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")

    def work(run: Any) -> Tensor:
        network.zero_grad()
        with mixed:
            fused: Tensor = run(infrared, visible).fused
        fused.float().mean().backward()
        return fused.detach().float()

    if not compiled:
        return {"milliseconds": 1000 * seconds(device, lambda: work(network), settings["rounds"])}
    plain = work(network)
    torch._dynamo.reset()
    try:
        run = torch.compile(network, backend=settings["backend"])
        start = time.perf_counter()
        fused = work(run)
        synchronise(device)
        first = time.perf_counter() - start
        taken = seconds(device, lambda: work(run), settings["rounds"])
    except Exception as error:  # whatever a compiler raises
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        return {"remark": f"not compiled: {type(error).__name__}: {lines[0][:200]}"}
    finally:
        torch._dynamo.reset()
    difference = float((fused - plain).abs().max())
    return {"milliseconds": 1000 * taken, "compile_seconds": first, "difference": difference}


def compile_cases(machine: Machine) -> list[Case]:
    names = ("conv_tiny",) if machine.tiny else ("contourlet_tiny", "contourlet_small")
    precisions = ("32-true",) if machine.tiny else ("32-true", "bf16-mixed")
    return [
        Case(
            {"backbone": name, "precision": precision, "torch.compile": "on" if compiled else "off"},
            functools.partial(measure_compile, machine, name, precision, compiled),
        )
        for name in names
        for precision in precisions
        for compiled in (False, True)
    ]


PARTS = {
    "contourlet": Part(
        "What does the contourlet transform cost, in FFTs of the same planes?",
        10,
        contourlet_settings,
        contourlet_cases,
    ),
    "fuse": Part("How many pairs are fused in a second?", 25, fuse_settings, fuse_cases),
    "export": Part(
        "Does an exported file compute what the network computes on this device?",
        45,
        lambda machine: {"network": "ConvTiny" if machine.tiny else "bundled", "file_runs_on": "cpu"},
        export_cases,
    ),
    # What the parts before it leave of the limit: the first call alone may take minutes.
    "compile": Part("Does torch.compile make the backbone faster?", 400, compile_settings, compile_cases),
}
