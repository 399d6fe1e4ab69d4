"""What it costs to start: CPU seconds of the commands on one pair of 640x480, against `import torch`.

python experiments/benchmarks/start.py
Each figure is user + system time of a fresh process on one thread, best of three, files warm in memory. The
network's own time is that of fusing the pair again in a process that has fused it already. The time of the
metrics, all those of `strict`, is counted with the start.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

LIMITS = {"fuse": 1.6, "score": 2.0}
WARM = """
import resource, sys
from clipfuse import fuse
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
fuse(*sys.argv[1:])
start = spent()
fuse(*sys.argv[1:])
print(spent() - start)
"""
COUNT = "import sys; from clipfuse.cli.__main__ import main; main(sys.argv[1:]); print(len(sys.modules))"


def cpu_seconds(words: list[str], repeats: int) -> float:
    """Return the least user + system time that a process takes."""
    found = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(words, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def write_pair(folder: Path) -> dict[str, Path]:
    """Write a noisy pair of 640x480 pixels, and its average as a fused image."""
    generator = np.random.default_rng(0)
    infrared = generator.integers(0, 256, (480, 640), dtype=np.uint8)
    visible = generator.integers(0, 256, (480, 640, 3), dtype=np.uint8)
    images = {"infrared": infrared, "visible": visible, "fused": infrared // 2 + visible[..., 0] // 2}
    for word, image in images.items():
        (folder / word).mkdir()
        Image.fromarray(image).save(folder / word / "pair.png")
    return {word: folder / word for word in images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    os.environ["OMP_NUM_THREADS"] = "1"
    python = sys.executable
    with tempfile.TemporaryDirectory() as name:
        folders = write_pair(Path(name))
        pair = [word for kind in ("infrared", "visible") for word in (f"--{kind}", str(folders[kind]))]
        commands = {
            "--help": ["--help"],
            "fuse": ["fuse", *pair, "--out", f"{name}/out", "--overwrite"],
            "score": ["score", *pair, "--fused", str(folders["fused"]), "--no-trivial"],
        }
        files = [str(folders[kind] / "pair.png") for kind in ("infrared", "visible")]
        network = min(
            float(subprocess.check_output([python, "-c", WARM, *files], text=True)) for _ in range(repeats)
        )
        torch = cpu_seconds([python, "-c", "import torch"], repeats)
        print(f"import torch: {torch:.2f} s; the network once more: {network:.2f} s")
        print(f"import clipfuse: {cpu_seconds([python, '-c', 'import clipfuse'], repeats):.2f} s")
        for command, words in commands.items():
            seconds = cpu_seconds([python, "-m", "clipfuse", *words], repeats)
            counted = subprocess.check_output([python, "-c", COUNT, *words], text=True)
            own = seconds - (network if command == "fuse" else 0)
            limit = f", at most {LIMITS[command]}" if command in LIMITS else ""
            less = " less the network's" if command == "fuse" else ""
            print(
                f"clipfuse {command}: {seconds:.2f} s, {counted.split()[-1]} modules;{less} "
                f"{own / torch:.2f} x import torch{limit}"
            )


if __name__ == "__main__":
    main()
