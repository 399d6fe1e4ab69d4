import socket
from contextlib import closing
from time import monotonic
from typing import Any

import pytest
from huggingface_hub import constants, is_offline_mode

from clipfuse.clip import fetching
from clipfuse.clip.fetching import fetch


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    fetching._answers.cache_clear()


def test_what_is_here_is_taken_without_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("asks the network"))
    assert fetch(is_offline_mode) is True
    assert not is_offline_mode()


def test_what_is_not_here_is_loaded_where_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def load() -> str:
        calls.append(is_offline_mode())
        if calls[-1]:
            raise FileNotFoundError("not in the cache")
        return "weights"

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert fetch(load) == "weights"
        assert calls == [True, False]
        proxy = f"127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
        monkeypatch.setenv("https_proxy", proxy)
        assert fetch(load) == "weights"


def never(*_: Any, **__: Any) -> Any:
    raise FileNotFoundError("not in the cache")


@pytest.mark.parametrize("case", ["nobody", "no such name", "a name that is looked up for ever"])
def test_without_a_network_it_takes_seconds(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(fetching, "WAIT_S", 0.2)
    monkeypatch.setattr(
        constants, "ENDPOINT", "http://127.0.0.1:9" if case == "nobody" else "https://x.invalid"
    )
    if "ever" in case:
        import threading

        monkeypatch.setattr(socket, "create_connection", lambda *_, **__: threading.Event().wait(30))
    start = monotonic()
    with pytest.raises(ConnectionError, match="does not answer"):
        fetch(never)
    assert monotonic() - start < 10
