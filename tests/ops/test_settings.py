"""Nested settings as dotted keys."""

from omegaconf import OmegaConf

from clipfuse.ops.settings import leaves


def test_mappings_are_opened_and_lists_are_values() -> None:
    node = {"a": {"b": 1, "c": {"d": None}}, "e": [1, {"f": 2}], 3: "x", "g": {}}
    assert leaves(node) == {"a.b": 1, "a.c.d": None, "e": [1, {"f": 2}], "3": "x"}
    assert leaves({"b": 1}, "a") == {"a.b": 1}
    assert leaves(5, "a.b") == {"a.b": 5}


def test_a_configuration_of_omegaconf_is_a_mapping_once_it_is_plain() -> None:
    config = OmegaConf.create({"a": {"b": [1, 2]}})
    assert leaves(OmegaConf.to_container(config)) == {"a.b": [1, 2]}
