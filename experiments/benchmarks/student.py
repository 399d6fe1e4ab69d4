"""What does the student cost beside its teacher? One pair of 640x480, in turns, by torch and by ONNX.

Each figure is the least of its rounds: wall seconds, which other processes of a loaded machine lengthen, and
CPU seconds of this process, which they lengthen less. Pairs per second are of the network alone; files are
read and written beside it (`fuse.py`).

    OMP_NUM_THREADS=2 python experiments/benchmarks/student.py [--rounds 20] [--student S]
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from clipfuse.networks.export import write_onnx
from clipfuse.networks.load import load_network

Spent = tuple[float, float]  # wall and CPU seconds


def least(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, Spent]:
    """Return the least wall and CPU seconds of each, taken in turns after one call to warm up."""
    found = {name: (float("inf"), float("inf")) for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            spent = time.perf_counter() - wall, time.process_time() - cpu
            if turn:
                found[name] = min(found[name][0], spent[0]), min(found[name][1], spent[1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--student", default="student", help="a file, or the one in the package")
    options = parser.parse_args()
    teacher, student = load_network("first"), load_network(options.student)
    planes = torch.rand(2, 1, 1, 480, 640).unbind()
    with TemporaryDirectory() as folder, torch.inference_mode():
        file = Path(folder) / "student.onnx"
        with torch.inference_mode(False):
            write_onnx(file, student, "student")
        onnx = load_network(file)
        networks = {"teacher": teacher, "student": student, "student, ONNX": onnx}
        ways: dict[str, Callable[[], object]] = {
            name: partial(network, *planes) for name, network in networks.items()
        }
        found = least(ways, options.rounds)
    print(f"640x480, {torch.get_num_threads()} threads, least of {options.rounds}")
    print(f"{'':<15}{'parameters':>11}{'wall s':>9}{'CPU s':>9}{'pairs/s':>9}{'of the teacher (CPU)':>22}")
    for name, (wall, cpu) in found.items():
        count = sum(each.numel() for each in networks[name].parameters()) or ""
        share = cpu / found["teacher"][1]
        print(f"{name:<15}{count:>11}{wall:>9.4f}{cpu:>9.4f}{1 / wall:>9.1f}{share:>22.3f}")


if __name__ == "__main__":
    main()
