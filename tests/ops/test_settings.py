"""Nested settings as dotted keys."""

import pytest
from omegaconf import OmegaConf

from clipfuse.ops.settings import leaves, plugin_name


def test_mappings_are_opened_and_lists_are_values() -> None:
    node = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], 3: "x", "g": {}}
    assert leaves(node) == {"a.b": 1, "a.c.d": None, "e": [1, {"f": 2}], "3": "x"}
    assert leaves({"b": 1}, "a") == {"a.b": 1}
    assert leaves(5, "a.b") == {"a.b": 5}


def test_a_configuration_of_omegaconf_is_a_mapping_once_it_is_plain() -> None:
    config = OmegaConf.create({"a": {"b": [1, 2]}})
    assert leaves(OmegaConf.to_container(config)) == {"a.b": [1, 2]}


@pytest.mark.parametrize(
    ("target", "several", "name"),
    [
        ("clipfuse.losses.pixel.PixelLoss", False, "pixel"),
        ("my_loss.Mine", False, "my_loss"),
        ("theirs.loss.EdgeAware", False, "edge_aware"),
        ("theirs.losses.SSIM2Loss", False, "ssim2_loss"),
        ("__main__._Mine", False, "mine"),
        ("theirs.edges.EdgeAware", True, "edge_aware"),
        ("Mine", False, "mine"),
    ],
)
def test_a_plugin_is_named_by_its_file_or_by_its_class(target: str, several: bool, name: str) -> None:
    assert plugin_name(target, several) == name
