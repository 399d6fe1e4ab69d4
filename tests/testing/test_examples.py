import torch

from clipfuse.testing.examples import SmallNetwork, converted, example_inputs, part_of, pass_of, sized


def test_parts_are_taken_in_order() -> None:
    inputs = example_inputs(features={"deep": torch.rand(4, 2, 3, 3)})
    part = part_of(inputs, [3, 1])
    assert part.sample_ids == ("sample-3", "sample-1")
    assert torch.equal(part.fused, inputs.fused[[3, 1]])
    assert torch.equal(part.features["deep"], inputs.features["deep"][[3, 1]])
    assert part.captions == ("a warm square, image 3", "a warm square, image 1")


def test_another_size_keeps_what_belongs_together() -> None:
    inputs = sized(example_inputs(side=48, features={"deep": torch.rand(4, 2, 12, 12)}), 36, 60)
    assert inputs.fused.shape == inputs.chroma[:, :1].shape == (4, 1, 36, 60)
    assert inputs.fused.is_leaf
    assert inputs.fused.requires_grad
    assert inputs.features["deep"].shape == (4, 2, 9, 15)
    assert inputs.boxes is not None
    assert inputs.classes is not None
    assert inputs.target_mask is not None
    left, top, right, bottom = (int(each) for each in inputs.boxes[0].xyxy[0])
    box = torch.zeros(36, 60, dtype=torch.bool)
    box[top:bottom, left:right] = True
    assert torch.equal(inputs.classes[0] == 1, box)
    assert torch.equal(inputs.target_mask[0, 0], box)
    again = sized(example_inputs(), 48, 48)
    assert torch.equal(again.visible, example_inputs().visible)


def test_types_are_converted_where_they_are_named() -> None:
    inputs = converted(example_inputs(features={"deep": torch.rand(4, 2, 3, 3)}), torch.float64)
    assert inputs.fused.dtype == inputs.chroma.dtype == inputs.features["deep"].dtype == torch.float64
    assert inputs.target_mask is not None
    assert inputs.target_mask.dtype == torch.bool
    some = converted(example_inputs(), torch.bfloat16, "fused")
    assert (some.fused.dtype, some.visible.dtype) == (torch.bfloat16, torch.float32)
    assert some.fused.requires_grad


def test_the_small_network_is_the_same_at_each_call_and_takes_other_weights() -> None:
    state = torch.random.get_rng_state()
    inputs, network = example_inputs(), SmallNetwork()
    assert torch.equal(torch.random.get_rng_state(), state)
    given = pass_of(network)
    first = given(inputs.infrared, inputs.visible).fused
    assert torch.equal(first, network(inputs.infrared, inputs.visible).fused)
    zeros = {name: torch.zeros_like(value) for name, value in given.parameters().items()}
    half = given(inputs.infrared, inputs.visible, zeros).fused
    assert torch.equal(half, torch.full_like(half, 0.5))
