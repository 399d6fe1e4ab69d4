"""What LDFusion's loss says of images nobody trained: which it prefers, which defects it sees.

    python -m experiments.ldfusion.probe

Markdown tables of its weighted terms with the micro CLIP, means over test scenes and three draws of patches.
"""

from dataclasses import replace

import torch
from experiments.common import stack_scenes
from kornia.filters import gaussian_blur2d
from torch import Tensor

from clipfuse.clip.encoder import FrozenClip
from clipfuse.data.synthetic import SyntheticPairs
from clipfuse.losses.ldfusion import LDFusionLoss
from clipfuse.types import LossInputs

DRAWS = 3
LEVELS = 12 / 255  # amplitude of the defects


def weighted_terms(loss: LDFusionLoss, inputs: LossInputs) -> dict[str, float]:
    """Return each term times its weight, and their sum."""
    found: dict[str, float] = {}
    for step in range(DRAWS):
        with torch.no_grad():
            output = loss(replace(inputs, step=step))
        for name, weight in loss.weights.items():
            found[name] = found.get(name, 0) + weight * float(output.terms[name]) / DRAWS
    return found | {"total": sum(found.values())}


def main() -> None:
    torch.set_num_threads(1)
    source = SyntheticPairs(test=24)
    planes = stack_scenes(source, "test", ("infrared", "visible", "reference"))
    loss = LDFusionLoss(FrozenClip.load("micro", "micro_1"))

    def row(name: str, fused: Tensor, infrared: Tensor, visible: Tensor) -> None:
        inputs = LossInputs(fused, infrared, visible)
        terms = weighted_terms(loss, inputs)
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in terms.values()) + " |")

    head = "".join(f" {name} |" for name in [*loss.weights, "total"])
    infrared, visible = planes["infrared"], planes["visible"]
    print(f"| image |{head}\n|" + "---|" * 6)
    images = {
        "infrared": infrared,
        "visible": visible,
        "average": (infrared + visible) / 2,
        "maximum": infrared.maximum(visible),
        "ideal reference": planes["reference"],
    }
    for name, image in images.items():
        row(name, image, infrared, visible)
    for side in (224, 112):
        edge = (224 - side) // 2
        infrared, visible = (planes[name][..., edge : 224 - edge, edge : 224 - edge] for name in planes if
                             name != "reference")  # fmt: skip
        average = (infrared + visible) / 2
        sign = torch.tensor([1.0, -1.0]).repeat(side // 2)
        noise = torch.randn(average.shape, generator=torch.Generator().manual_seed(0))
        print(f"\nAverage, {side} x {side}, and its defects:\n\n| image |{head}\n|" + "---|" * 6)
        row("average", average, infrared, visible)
        row("checkerboard", (average + LEVELS * sign[:, None] * sign).clamp(0, 1), infrared, visible)
        row("stripes", (average + LEVELS * sign[:, None]).clamp(0, 1), infrared, visible)
        row("white noise", (average + LEVELS * noise).clamp(0, 1), infrared, visible)
        row("blur, sigma 1", gaussian_blur2d(average, (5, 5), (1.0, 1.0)), infrared, visible)


if __name__ == "__main__":
    main()
