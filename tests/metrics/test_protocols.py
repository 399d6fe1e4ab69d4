import math

import pytest

from clipfuse.metrics import DEFINITIONS, PROTOCOLS, metric
from clipfuse.metrics.protocols import FAST, STRICT, protocol_named


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
