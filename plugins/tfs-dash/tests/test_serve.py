"""The dashboard server, through a real socket."""

import base64
import hashlib
import http.client
import re
import socket
import sys
import threading
import time
import types
import webbrowser
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import dash
import pytest
from dash import html
from tfs_dash import serve as serving
from tfs_dash.security import MAX_BODY_BYTES
from tfs_dash.serve import Server, launch, listen, serve
from tfs_dash.store import RunStore

from tfs_core.errors import TfsError, UsageError

TOKEN = "the-right-token"


def small_app(store: RunStore | None = None) -> dash.Dash:
    app = dash.Dash("small", enable_mcp=False)
    app.layout = html.Div(f"the runs of {store.index.assets.name if store else 'nobody'}")
    return app


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(listen("127.0.0.1", 0), token=TOKEN) as server:
        server.show(small_app())
        yield server


@pytest.fixture
def small_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the dashboard by a small app."""
    module = types.ModuleType("tfs_dash.app")
    module.app_of = small_app  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tfs_dash.app", module)


def port_of(server: Server) -> int:
    return int(server.url.split("/")[2].rpartition(":")[2])


def ask(
    server: Server, path: str, *, method: str = "GET", body: bytes | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    try:
        connection.request(method, path, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        response = connection.getresponse()
        return response.status, response.read().decode("utf-8", "replace")
    finally:
        connection.close()


def speak(server: Server, *lines: str) -> str:
    """Return the status line of the response to a raw request."""
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return connection.makefile("rb").readline().decode("latin-1").strip()


def cookie(server: Server) -> str:
    return f"tfs-dash-{port_of(server)}={TOKEN}"


def test_address_with_the_token_opens_the_dashboard(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    connection.request("GET", "/" + server.url.split("/", 3)[3])
    welcome = connection.getresponse()
    welcome.read()
    connection.request("GET", "/_dash-layout", headers={"Cookie": welcome.headers["Set-Cookie"].partition(";")[0]})

    assert (welcome.status, welcome.headers["Location"]) == (303, "/")
    assert "the runs of" in connection.getresponse().read().decode()
    connection.close()


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["GET / HTTP/1.1", "Host: evil.example"], "400"),
        (["GET / HTTP/1.0"], "400"),
        (["GET http://evil.example/ HTTP/1.1", "Host: evil.example"], "400"),
        (["GET / HTTP/1.1", "Host: 127.0.0.1", "Host: evil.example"], "400"),
        (["GET / HTTP/1.1", "Host: 127.0.0.1"], "401"),
        (["GET /_dash-layout?token=wrong HTTP/1.1", "Host: 127.0.0.1"], "401"),
        (["PUT / HTTP/1.1", "Host: 127.0.0.1"], "405"),
        (["DELETE /_dash-layout HTTP/1.1", "Host: 127.0.0.1"], "405"),
        (["POST /_dash-update-component HTTP/1.1", "Host: 127.0.0.1", "Origin: http://evil.example"], "403"),
        (["GET /../../../../etc/passwd HTTP/1.1", "Host: 127.0.0.1"], "401"),
        (["GET / HTTP/1.1", "Host: 127.0.0.1", "X: " + "x" * 70_000], "431"),
    ],
)
def test_attack_through_the_socket_is_refused(server: Server, lines: list[str], status: str) -> None:
    assert speak(server, *lines).split(" ")[1] == status


def test_redirect_of_a_double_slash_stays_on_this_host(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) as connection:
        connection.sendall(f"GET //evil.example/?token={TOKEN} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answer = connection.makefile("rb").read().decode("latin-1")

    assert "Location: /evil.example/\r\n" in answer


def test_path_out_of_the_assets_is_not_followed(server: Server) -> None:
    status, text = ask(server, "/assets/../../../../../etc/passwd", Cookie=cookie(server))

    assert status == 404
    assert "root:" not in text


def test_idle_connections_do_not_block_others(server: Server) -> None:
    with ExitStack() as idle:
        for position in range(150):
            connection = idle.enter_context(socket.create_connection(("127.0.0.1", port_of(server)), timeout=60))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: 127" if position % 2 else b"")
        assert ask(server, "/", Cookie=cookie(server))[0] == 200


def test_huge_body_is_cut_off(server: Server) -> None:
    lines = ["POST /_dash-update-component HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {MAX_BODY_BYTES * 1000}"]

    assert speak(server, *lines).split(" ")[1] == "413"


def test_huge_chunked_body_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) as connection:
        connection.sendall(
            b"POST /_dash-update-component HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(2 * MAX_BODY_BYTES // 0x10000):
                connection.sendall(chunk)
            answer = connection.makefile("rb").readline()
        except ConnectionError:  # the server closed the connection
            answer = b"HTTP/1.1 413"

    assert answer.split(b" ")[1] == b"413"


def test_slow_clients_do_not_keep_others_waiting(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) for _ in range(3 * serving.THREADS)]
    try:
        for connection in slow:
            connection.sendall(
                b"POST /_dash-update-component HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{"
            )

        assert ask(server, "/_dash-layout", Cookie=cookie(server))[0] == 200
    finally:
        for connection in slow:
            connection.close()


def test_answer_names_no_server_software(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    connection.request("GET", "/")
    response = connection.getresponse()

    assert response.getheader("Server") is None
    connection.close()


def test_token_is_never_printed(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    ask(server, f"/?token={TOKEN}")
    ask(server, f"/no/such?token={TOKEN}x")
    ask(server, "/_dash-component-suites/none/none.js", Cookie=cookie(server))

    assert TOKEN not in "".join(capfd.readouterr())


def test_stopped_server_frees_its_port_and_its_threads() -> None:
    before = threading.active_count()
    server = Server(listen("127.0.0.1", 0), token=TOKEN)
    port = port_of(server)
    ask(server, "/")
    server.stop()

    listen("127.0.0.1", port).close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert threading.active_count() <= before
    server.stop()  # idempotent


# Listening


def test_taken_port_names_the_next_free_one() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(
            TfsError, match=rf"Port {port} is taken\. The next free one: tfs dash --port (\d+)"
        ) as error:
            listen("127.0.0.1", port)
        named = int(str(error.value).rpartition(" ")[2])
        assert named > port
        listen("127.0.0.1", named).close()


def test_address_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(UsageError, match=r"--host 203\.0\.113\.7"):
        listen("203.0.113.7", 0)


def test_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)

    with pytest.raises(UsageError, match=r"--host no\.such\.host"):
        listen("no.such.host", 0)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "box.example"])
def test_no_token_is_refused_where_others_reach_it(host: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--no-token is for this machine alone"):
        serve(tmp_path, host=host, with_token=False)


@pytest.mark.usefixtures("small_dashboard")
def test_no_token_serves_this_machine_without_one(tmp_path: Path) -> None:
    with serve(tmp_path, port=0, with_token=False) as server:
        assert "token" not in server.url
        assert ask(server, "/")[0] == 200


@pytest.mark.usefixtures("small_dashboard")
@pytest.mark.skipif(sys.platform != "linux", reason="the second loopback address, 127.0.0.2, is Linux's")
def test_server_listens_on_loopback_only(tmp_path: Path) -> None:
    with serve(tmp_path, port=0) as server:
        assert server.url.startswith("http://127.0.0.1:")
        socket.create_connection(("127.0.0.1", port_of(server)), timeout=60).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port_of(server)), timeout=60).close()


@pytest.mark.usefixtures("small_dashboard")
@pytest.mark.parametrize("host", ["0.0.0.0", "::1", "::", "localhost"])
def test_url_reaches_the_server_wherever_it_listens(tmp_path: Path, host: str) -> None:
    if ":" in host and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with serve(tmp_path, port=0, host=host) as server:
        for url in (server.url, server.url.replace("127.0.0.1", "localhost")):
            parts = urlsplit(url)
            connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
            connection.request("GET", f"/?{parts.query}")
            assert connection.getresponse().status == 303
            connection.close()


def test_broken_app_frees_the_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tfs_dash.app")
    monkeypatch.setitem(sys.modules, "tfs_dash.app", module)
    with listen("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]

    with pytest.raises(ImportError, match="app_of"):
        serve(tmp_path, port=port)
    listen("127.0.0.1", port).close()


def test_every_inline_script_of_the_whole_dashboard_is_in_its_policy(tmp_path: Path) -> None:
    with serve(tmp_path, port=0, with_token=False) as server:
        connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=60)
        connection.request("GET", "/")
        response = connection.getresponse()
        policy = response.headers["Content-Security-Policy"]
        page = re.sub("<!--.*?-->", "", response.read().decode(), flags=re.DOTALL)  # Internet Explorer only
        connection.close()
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    inline = [text for attributes, text in scripts if "src=" not in attributes and "application/json" not in attributes]

    assert inline
    for text in inline:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy


# From Python


@pytest.mark.usefixtures("small_dashboard")
def test_launch_serves_and_shows_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setenv("DISPLAY", ":99")
    with launch(tmp_path, port=0) as server:
        token = server.url.partition("token=")[2]

        assert server.url in repr(server)
        assert len(token) >= 43
        assert ask(server, f"/?token={token}")[0] == 303
        assert opened[0].startswith(server.url.partition("?")[0])
        assert token not in opened[0]  # every account can read a browser's command line
        assert ask(server, opened[0].partition(f":{port_of(server)}")[2])[0] == 303


@pytest.mark.usefixtures("small_dashboard")
@pytest.mark.parametrize("hours", [0, -1, 24.5, float("nan")])
def test_launch_shares_for_a_day_at_most(tmp_path: Path, hours: float) -> None:
    with pytest.raises(UsageError, match="24 at most"):
        launch(tmp_path, port=0, share_via="user@host", share_hours=hours)


@pytest.mark.usefixtures("small_dashboard")
def test_launch_that_cannot_share_serves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Server] = []
    truly_stop = Server.stop
    monkeypatch.setattr(Server, "stop", lambda server: (stopped.append(server), truly_stop(server)))

    with pytest.raises(UsageError, match="--share-via"):
        launch(tmp_path, port=0, share_via="-oProxyCommand=evil")
    assert len(stopped) == 1


def test_no_browser_is_opened_without_a_display(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    server.open_browser()

    assert opened == []
