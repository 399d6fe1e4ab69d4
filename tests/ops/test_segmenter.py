import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call

from clipfuse.ops.segmenter import Segmenter, load_weights, weights_of


def test_it_is_a_pure_function_of_weights_and_of_each_image() -> None:
    network, images = Segmenter(5, width=4).train(), torch.rand(3, 3, 21, 34)
    assert not list(network.buffers())
    before = network(images)
    assert before.shape == (3, 5, 21, 34)
    network(torch.zeros(1, 3, 16, 16))
    assert torch.equal(network(images), before)
    # One image beside others, by convolutions of another batch size: float32.
    torch.testing.assert_close(network(images[1:2]), before[1:2], rtol=1e-5, atol=1e-5)
    other = Segmenter(5, width=4, seed=1)
    values: dict[str, torch.Tensor] = dict(other.named_parameters())
    assert torch.equal(functional_call(network, values, (images,)), other(images))


def test_the_seed_alone_decides_its_start_and_nothing_else_is_drawn() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first, again, other = (list(Segmenter(2, 4, seed).parameters()) for seed in (7, 7, 8))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_size() -> None:
    assert sum(each.numel() for each in Segmenter().parameters()) == 146272


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1,), "classes is 1; expected two or more"),
        ((["car", "car"],), "classes is car, car; expected two or more, no name twice"),
        ((3, 6), "width is 6; expected a multiple of 4"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segmenter(*arguments)  # type: ignore[arg-type]


def checkpoint(network: Segmenter, place: str, node: dict[str, object]) -> dict[str, object]:
    state = {f"{place}network.{name}": value for name, value in network.state_dict().items()}
    return {"state_dict": {"backbone.x": torch.zeros(1), **state}, "clipfuse": {"config": node}}


def test_weights_survive_a_file_a_bare_state_and_a_checkpoint(tmp_path: Path) -> None:
    kept = Segmenter(["road", "car"], 4, seed=2)
    node = {"network": {"classes": ["road", "car"]}}
    contents = [
        weights_of(kept),
        kept.state_dict(),
        checkpoint(kept, "loss.", {"loss": node}),
        checkpoint(kept, "loss.of.task.", {"loss": {"of": {"task": node}}}),
    ]
    for content in contents:
        torch.save(content, tmp_path / "weights.pt")
        network = Segmenter(["road", "car"], 4)
        load_weights(network, tmp_path / "weights.pt")
        assert all(map(torch.equal, network.parameters(), kept.parameters()))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (None, "no file of the network's weights at"),
        (os.mkfifo, "no file of the network's weights at"),
        (lambda path: path.write_bytes(b"nothing"), "cannot be read as weights"),
        (
            lambda path: torch.save([1], path),
            "another architecture than Segmenter: fine.0.0.weight is missing",
        ),
        (
            lambda path: torch.save(weights_of(Segmenter(["road", "bus"], 4)), path),
            "finds the classes road, bus; the data have road, car: take",
        ),
        (lambda path: torch.save(Segmenter(3, 4).state_dict(), path), "is of 3 classes; expected 2"),
        (
            lambda path: torch.save(weights_of(Segmenter(["road", "car"], 8)), path),
            r"fine.0.0.weight is \(8, 3, 3, 3\); expected \(4, 3, 3, 3\)",
        ),
        (
            lambda path: torch.save(nn.Conv2d(3, 2, 1).state_dict(), path),
            "fine.0.0.weight is missing",
        ),
        (
            lambda path: torch.save({"state_dict": {}, "clipfuse": {"config": {}}}, path),
            "is the checkpoint of a training without a task network; take loss=task",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    write: Callable[[Path], None] | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pt"
    if write is not None:
        write(path)
    with pytest.raises(ValueError, match=message):
        load_weights(Segmenter(["road", "car"], 4), path)


def test_a_file_of_a_downstream_training_fits_its_network(tmp_path: Path) -> None:
    from clipfuse.downstream.networks import segmentation_network, weights_of

    def network(seed: int) -> nn.Module:
        return segmentation_network("fpn_mobilenet_v3_small", "none", 2, 3, seed).eval()

    kept, path, images = network(1), tmp_path / "network.pt", torch.rand(1, 3, 32, 32)
    torch.save(weights_of(kept, "fpn_mobilenet_v3_small", ["road", "car"]), path)  # type: ignore[arg-type]
    other = network(2)
    assert not torch.equal(other(images), kept(images))
    load_weights(other, path)
    assert torch.equal(other(images), kept(images))
    with pytest.raises(ValueError, match="of another architecture than Segmenter"):
        load_weights(Segmenter(["road", "car"], 4), path)
