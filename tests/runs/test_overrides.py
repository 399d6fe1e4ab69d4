import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from clipfuse.runs.overrides import quoted, raw, search_words


@pytest.mark.parametrize(
    "value",
    [
        "runs/a",
        "it's a=sweep",
        "a\\b",
        "a\\'b",
        "a\\\\'",
        "ends\\",
        "[1,2]",
        "${x}",
        "null",
        " spaced ",
        "{a: 1}",
        'a"b',
    ],
)
def test_hydra_reads_back_what_was_quoted(value: str) -> None:
    override = OverridesParser.create().parse_override(f"run_dir={quoted(value)}")
    assert override.value() == value


def test_only_search_paths_are_handed_on() -> None:
    words = ["hydra.searchpath=[file://conf]", "hydra.mode=MULTIRUN", "hydra/launcher=ray"]
    assert search_words(words) == words[:1]


def test_words_are_read_as_they_were_written() -> None:
    words = ["a=${oc.env:CLIPFUSE_TEST_ABSENT}", "b=1"]
    assert raw(OmegaConf.create(words)) == raw(words) == words
