"""The reachability check of a host: it is quick in all cases."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tfs_core.data import network
from tfs_core.data.network import can_reach


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.urllib.request, "getproxies", dict)


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_host_that_listens_can_be_reached(port: int) -> None:
    assert can_reach(f"http://127.0.0.1:{port}/any/path")


def test_host_that_rejects_cannot_be_reached(port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refused = closed.getsockname()[1]
    assert not can_reach(f"http://127.0.0.1:{refused}")


def test_slow_name_lookup_counts_as_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, looked_up = threading.Event(), threading.Event()

    def look_up(*arguments: object, **options: object) -> None:
        go_on.wait(60)
        looked_up.set()
        raise OSError("no such name")

    monkeypatch.setattr(network.socket, "create_connection", look_up)
    assert not can_reach("https://example.com", seconds=0.1)
    assert not looked_up.is_set(), "it waited for the lookup"
    go_on.set()


def test_configured_proxy_is_checked_instead(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.urllib.request, "getproxies", lambda: {"https": f"http://127.0.0.1:{port}"})
    monkeypatch.setattr(network.urllib.request, "proxy_bypass", lambda host: False)
    assert can_reach("https://host.invalid")
