import torch
from hypothesis import given
from hypothesis import strategies as st

from clipfuse.ops.padding import crop_to, pad_to_multiple


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9))
def test_padding_repeats_the_border_and_is_undone(height: int, width: int, multiple: int) -> None:
    image = torch.arange(float(height * width)).view(1, 1, height, width)
    padded = pad_to_multiple(image, multiple)
    rows, columns = padded.shape[2:]
    assert rows % multiple == columns % multiple == 0
    assert rows - height < multiple
    assert columns - width < multiple
    assert torch.equal(crop_to(padded, (height, width)), image)
    assert torch.equal(padded[..., height:, :width], image[..., -1:, :].expand(-1, -1, rows - height, -1))
    assert torch.equal(
        padded[..., width:], padded[..., width - 1 : width].expand(-1, -1, -1, columns - width)
    )
