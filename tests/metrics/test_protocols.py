import math
from pathlib import Path

import pytest

from clipfuse.metrics import DEFINITIONS, PROTOCOLS, metric
from clipfuse.metrics.protocols import FAST, STRICT, protocol_listing, protocol_named


@metric("test-brightness", higher_is_better=True, bounds=(0, math.inf))
def brightness(fused, infrared=None, visible=None):
    return fused.mean((1, 2, 3))


@pytest.fixture(autouse=True, scope="module")
def _no_trace():
    yield
    DEFINITIONS.pop("test-brightness")


def test_metrics_options_and_marks_name_metrics_that_there_are() -> None:
    for name, protocol in PROTOCOLS.items():
        assert name == protocol.name
        assert set(protocol.options) <= set(protocol.metrics)
        assert protocol.checked | set(protocol.since) <= set(protocol.metrics)
        for each in protocol.metrics:
            protocol.definition(each).check_options(protocol.options.get(each, {}))
    assert set(FAST) <= set(STRICT.metrics)


def test_every_row_of_a_toolkit_is_checked_and_the_listing_shows_which_are() -> None:
    for name, protocol in PROTOCOLS.items():
        assert protocol.evidence
        assert (protocol.checked == set(protocol.metrics)) == (name != "strict")
    header, *rows = protocol_listing().split("\n\n")[0].splitlines()
    assert header.split() == ["metric", *map(str, PROTOCOLS.values())]
    marks = {words[0]: dict(zip(PROTOCOLS, words[1:], strict=True)) for words in map(str.split, rows)}
    assert marks["MI"] == dict.fromkeys(PROTOCOLS, "checked") | {"tang_uint8": "-"}
    assert marks["Nabf"] == dict.fromkeys(PROTOCOLS, "-") | {"strict": "unchecked", "ivif_zoo": "checked"}
    unchecked = {name for name, mark in marks.items() if "unchecked" in mark.values()}
    assert unchecked == set(STRICT.metrics) - STRICT.checked


def test_the_listing_stands_in_the_documents() -> None:
    document = (Path(__file__).parents[2] / "docs/scores.md").read_text()
    table = protocol_listing().split("\n\n")[0]
    assert f"```text\n{table}\n```" in document


def test_versions_of_protocols_whose_numbers_changed_are_new() -> None:
    assert [*map(str, PROTOCOLS.values())] == [
        *("strict-2", "cddfuse-1", "tang-2", "tang_uint8-1", "ivif_zoo-1", "vifb-2"),
    ]
    assert PROTOCOLS["tang"].since == {"MI": 2}
    assert PROTOCOLS["vifb"].since == dict.fromkeys(PROTOCOLS["vifb"].metrics, 2)


def test_sets_and_names_are_resolved_in_the_order_of_the_tables() -> None:
    assert STRICT.choose(["VIF", "EN", "VIF"]) == ["EN", "VIF"]
    assert STRICT.choose(["fast"]) == [name for name in STRICT.metrics if name in FAST]
    assert STRICT.choose(["full", "EN"]) == list(STRICT.metrics)
    assert protocol_named("tang") is PROTOCOLS["tang"]
    assert protocol_named(STRICT) is STRICT


def test_own_metrics_stand_behind_the_others_and_only_once() -> None:
    path = f"{__name__}.brightness"
    own = STRICT.with_own([path])
    assert own.metrics == (*STRICT.metrics, "test-brightness")
    assert own.own == ("test-brightness",)
    assert "test-brightness" not in own.checked
    assert own.choose(["fast", "test-brightness"])[-1] == "test-brightness"
    assert "test-brightness" not in own.choose(["fast"])
    for protocol, paths in ((own, [path]), (STRICT, [path, path])):
        with pytest.raises(ValueError, match=r"protocol strict-2 has 'test-brightness' already"):
            protocol.with_own(paths)
    with pytest.raises(ValueError, match=r"'math\.sqrt' is no metric; put @metric"):
        STRICT.with_own(["math.sqrt"])
    with pytest.raises(ValueError, match=r"'no_such\.thing' cannot be imported"):
        STRICT.with_own(["no_such.thing"])
