import sys
from pathlib import Path

import pytest

from clipfuse.lazy import attach


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "lazy_sample"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text(
        "from clipfuse.lazy import attach\n"
        "eager = 1\n"
        '__getattr__, __dir__ = attach(__name__, {"inner.part": ("number",), "inner": ()})\n'
    )
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "part.py").write_text("number = 7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "lazy_sample"
    for name in [name for name in sys.modules if name.startswith("lazy_sample")]:
        del sys.modules[name]


def test_names_are_imported_when_they_are_used(package: str) -> None:
    found = __import__(package)
    assert {"eager", "number", "inner"} <= set(dir(found))
    assert "lazy_sample.inner.part" not in sys.modules
    assert found.number == 7
    assert "lazy_sample.inner.part" in sys.modules
    assert found.inner is sys.modules["lazy_sample.inner"]
    assert vars(found)["number"] == 7  # the second time it is an attribute like any other


def test_an_unknown_name_is_an_attribute_error() -> None:
    load, _ = attach("clipfuse", {})
    with pytest.raises(AttributeError, match="module 'clipfuse' has no attribute 'nothing'"):
        load("nothing")
