import torch

from clipfuse.metrics import trivial_fusions


def test_trivial_fusions_have_8_bit_values_and_halves_are_rounded_up() -> None:
    infrared = torch.tensor([0, 1, 200, 255]).view(1, 1, 2, 2) / 255
    visible = torch.tensor([1, 4, 100, 255]).view(1, 1, 2, 2) / 255 + 0.4 / 255
    fusions = {
        name: (255 * plane).flatten().tolist() for name, plane in trivial_fusions(infrared, visible).items()
    }
    assert fusions == {
        "trivial:infrared": [0, 1, 200, 255],
        "trivial:visible": [1, 4, 100, 255],
        "trivial:average": [1, 3, 150, 255],
        "trivial:maximum": [1, 4, 200, 255],
    }
