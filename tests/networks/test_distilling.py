"""One network learns from another: the loss against a second implementation, and what it comes to."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from clipfuse.backbones.conv_tiny import ConvTiny
from clipfuse.backbones.student import Student
from clipfuse.networks.distilling import Lesson, distil, distillation_terms
from clipfuse.types import FusionOutput


def planes(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def lessons(count: int = 6) -> list[Lesson]:
    """The teacher keeps a quarter of the infrared band, and three quarters of the visible one."""
    made = []
    for index in range(count):
        infrared, visible = planes(1, 1, 32, 33 + index)[..., :32], planes(1, 1, 32, 63 + index)[..., :32]
        made.append(Lesson(infrared.half(), visible.half(), (infrared / 4 + 3 * visible / 4).half()))
    return made


def test_the_terms_are_those_of_the_docstring() -> None:
    fused, taught, colour, other = (
        planes(2, 1, 16, 18),
        planes(2, 1, 16, 19)[..., :18],
        *planes(2, 2, 2, 16, 18),
    )
    output, lesson = FusionOutput(fused, chroma=colour), Lesson(fused, fused, taught, colour, other)
    terms = {name: float(term) for name, term in distillation_terms(output, lesson).items()}
    assert terms["intensity"] == pytest.approx(np.abs(fused.numpy() - taught.numpy()).mean(), abs=1e-12)
    assert terms["chroma"] == pytest.approx(np.abs(colour.numpy() - other.numpy()).mean(), abs=1e-12)
    difference = np.pad((fused - taught).numpy()[:, 0], ((0, 0), (1, 1), (1, 1)))
    total = 0.0
    for kernel in (
        np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        np.array([[-1, -2, -1], [0, 0, 0], [1, 2, 1]]),
    ):
        for top in range(16):
            for left in range(18):
                total += np.abs((difference[:, top : top + 3, left : left + 3] * kernel).sum((1, 2))).sum()
    assert terms["gradient"] == pytest.approx(total / (2 * 2 * 16 * 18), abs=1e-12)
    assert 0 < terms["ssim"] < 2
    same = distillation_terms(FusionOutput(taught, chroma=other), lesson)
    assert all(abs(float(term)) < 1e-9 for term in same.values())  # SSIM of equal images, to rounding
    small = Lesson(*(planes(1, 1, 8, 8) for _ in range(3)))
    assert set(distillation_terms(FusionOutput(small.visible), small)) == {"intensity", "gradient"}


def test_a_student_learns_and_again_the_same() -> None:
    students, counts = [], []
    for _ in range(2):
        torch.manual_seed(0)
        students.append(Student(width=4))
        losses = distil(students[-1], lessons(), 16, 4, 2e-2, seed=3, advance=counts.append)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert (len(losses), len(counts), students[0].training) == (16, 32, False)
    for one, other in zip(*(each.state_dict().values() for each in students), strict=True):
        assert torch.equal(one, other)
    before = torch.get_rng_state()
    distil(students[0], lessons(2), 1, 4)  # fewer lessons than a batch
    assert torch.equal(torch.get_rng_state(), before)


def test_chroma_is_learned_and_a_network_may_return_a_plane() -> None:
    colour = planes(1, 2, 32, 32)
    taught = [
        Lesson(each.infrared, each.visible, each.taught, colour, 0 * colour + 0.5) for each in lessons(2)
    ]
    torch.manual_seed(0)
    student = ConvTiny(width=4, depth=0, chroma=True)
    losses = distil(student, taught, 20, 2, 1e-2)
    assert losses[-1] < losses[0]
    output = student(*(each.float() for each in (taught[0].infrared, taught[0].visible, colour)))
    assert (output.chroma - 0.5).abs().mean() < 0.9 * (colour - 0.5).abs().mean()

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.share = nn.Parameter(torch.tensor(0.5))

        def forward(self, infrared: Tensor, visible: Tensor) -> Tensor:
            return self.share * infrared + (1 - self.share) * visible

    plain = Plain()
    distil(plain, lessons(), 60, 6, 2e-2)
    assert abs(float(plain.share.detach()) - 0.25) < 0.05


def test_a_loss_that_is_not_finite_names_its_update() -> None:
    bad = [Lesson(each.infrared, each.visible, each.taught * torch.nan) for each in lessons(1)]
    with pytest.raises(ValueError, match="the loss is nan at update 1; lower the learning rate"):
        distil(Student(width=4), bad, 3, 1)
