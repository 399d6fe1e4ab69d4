"""Train the student in the package, from the training parts of MSRS, RoadScene and rendered pairs.

    OMP_NUM_THREADS=1 python -m experiments.student.train --roadscene D/roadscene --msrs D/msrs [--out FILE]

It draws crops as `clipfuse distill` does, and has the teacher fuse them; the student learns from the middle
of each, where the teacher has seen what is around. Two minutes of one quiet CPU core for the crops, one for
the student. The same machine and one thread give the same weights.
"""

from dataclasses import fields
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import torch
from experiments.common import MSRS_SCENES, make_parser

from clipfuse.backbones.student import Student
from clipfuse.cli.distill import draw_lessons
from clipfuse.data.folder import PairedFolder
from clipfuse.data.mixed import MixedPairs
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.files import file_sha256
from clipfuse.networks.distilling import Lesson, distil
from clipfuse.networks.load import BUNDLED, load_network, named
from clipfuse.networks.weights import write_safetensors
from clipfuse.tracking.progress import amount_bar

CROPS = SimpleNamespace(crops=2000, crop_size=128, seed=0, cache_mb=1500)
SIDE, UPDATES, BATCH, RATE = 96, 1500, 4, 0.004


def middle(lesson: Lesson) -> Lesson:
    """Return the middle of a lesson, `SIDE` pixels each way."""
    edge = (lesson.infrared.shape[-1] - SIDE) // 2
    planes: dict[str, Any] = {field.name: getattr(lesson, field.name) for field in fields(Lesson)}
    cut: dict[str, Any] = {
        name: each if each is None else each[..., edge:-edge, edge:-edge] for name, each in planes.items()
    }
    return Lesson(**cut)


def main() -> None:
    """Draw, train and write."""
    parser = make_parser(__doc__, roadscene=True)
    parser.add_argument("--msrs", required=True, help="folder of MSRS, with its parts train and test")
    parser.add_argument("--out", type=Path, default=BUNDLED.with_name("student.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = MixedPairs(
        {
            "msrs": PairedFolder(options.msrs, scenes=MSRS_SCENES, name="msrs"),
            "roadscene": PairedFolder(options.roadscene, split="roadscene", name="roadscene"),
            "synthetic": SyntheticPairs(train=200),
        }
    )
    with amount_bar("the teacher fuses", " crops", CROPS.crops) as advance:
        lessons = draw_lessons(source, load_network("first"), named("first"), CROPS, advance)
    torch.manual_seed(0)
    student = Student()
    with amount_bar("the student learns", " updates", UPDATES) as advance:
        losses = distil(student, [*map(middle, lessons)], UPDATES, BATCH, RATE, 0, advance)
    print("losses", *(f"{fmean(losses[at : at + 100]):.4f}" for at in range(0, UPDATES, 100)))
    node = {"_target_": "clipfuse.backbones.student.Student", "width": 24, "chroma": False}
    write_safetensors(options.out, node, student)
    print(options.out, file_sha256(options.out))


if __name__ == "__main__":
    main()
