"""The dashboard, served: a socket, a gate before it, and threads of this process that answer. No debug server."""

import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tfs_core.errors import TfsError, UsageError
from tfs_core.runs import assets_folder
from tfs_dash import few_components, read_ahead
from tfs_dash.front import Front, script_hash
from tfs_dash.security import LOCAL_NAMES, MAX_BODY_BYTES, Gate, harden
from tfs_dash.tunnel import MAX_HOURS, Tunnel, is_reachable, parse_target

if TYPE_CHECKING:
    from subprocess import Popen

    from dash import Dash

PORT = 7860
HOST = "127.0.0.1"
THREADS = 8
CONNECTIONS = 1000
"""Open at a time, and those that say nothing cost no thread: who opens a hundred and waits must not lock others out."""

Report = Callable[[str], None]


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there (port 0: any free one). Raises TfsError that names the next free port."""
    try:
        return _bound(host, port)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: this machine knows no such address ({error.strerror})") from error
    except PermissionError as error:
        raise TfsError(f"Port {port} needs the administrator's rights. Take one above 1023: --port {PORT}") from error
    except OSError as error:
        free = _next_free(host, port)
        if free is None:
            raise UsageError(f"--host {host}: cannot listen there ({error.strerror})") from error
        raise TfsError(f"Port {port} is taken. The next free one: tfs dash --port {free}") from error


def _bound(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family)


def _next_free(host: str, port: int) -> int | None:
    for candidate in range(port + 1, min(port + 200, 65536)):
        try:
            _bound(host, candidate).close()
        except OSError:
            continue
        return candidate
    return None


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server:
    """A dashboard that is being served, until `stop`.

    `url` and, while it is shared, `shared_url` have the token in them: whoever has one sees everything.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        token: str | None,
        names: Iterable[str] = (),
    ) -> None:
        """Answer on a socket that listens, for requests that name this machine or one of `names`.

        What needs the app waits until `show` brings it.
        """
        from waitress.server import create_server

        address, port = listener.getsockname()[:2]
        self._any_address = any_address = ipaddress.ip_address(address).is_unspecified
        own = {socket.gethostname() if any_address else _written(address)}
        self._token = token
        near = address if not any_address else "::1" if listener.family == socket.AF_INET6 else HOST
        self._local_address = f"{_written(near)}:{port}"
        self._front = Front()
        self.gate = Gate(
            self._front, token=token, script_hashes=[script_hash()], names={*LOCAL_NAMES, *own, *names},
            any_address=any_address,
        )  # fmt: skip
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a question that waits its turn is no news
        self._sockets: dict[int, object] = {}
        self._server = create_server(
            self.gate,
            map=self._sockets,
            sockets=[listener],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            ident=None,
            max_request_body_size=MAX_BODY_BYTES,
            inbuf_overflow=64 * 2**10,  # what somebody sends before the gate has looked waits on the disk
            max_request_header_size=64 * 2**10,
            channel_timeout=60,
        )
        self._listener = listener
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True, name="dashboard")
        self._thread.start()
        self._tunnel: Tunnel | None = None
        self._reader: Popen[bytes] | None = None
        self.shared_url: str | None = None

    def show(self, app: "Dash") -> None:
        """Hand requests on to an app whose callbacks are all registered: the gate lets its inline scripts run alone."""
        harden(app)
        self.gate.allow_scripts(app.csp_hashes())
        with app.server.test_request_context():
            app.server.preprocess_request()  # what Dash does at the first request, a whole layout among it, is done now
        self._front.hand_over(app.server.wsgi_app)

    def read_ahead(self, assets: Path) -> None:
        """Have a second process read what the first chart will want; it ends with the server."""
        self._reader = read_ahead.start(assets)

    @property
    def url(self) -> str:
        """The address on this machine, with the token."""
        return self.with_token(f"http://{self._local_address}")

    @property
    def network_url(self) -> str:
        """The address by which other machines may reach it, with the token."""
        if not self._any_address:
            return self.url
        return self.with_token(f"http://{socket.gethostname()}:{self._local_address.rpartition(':')[2]}")

    def wait(self) -> None:
        """Return when it no longer answers."""
        while self._thread.is_alive():
            self._thread.join(timeout=0.5)  # Windows hears of Ctrl-C only between two waits

    def with_token(self, url: str) -> str:
        """Return the address that lets somebody in who comes by this one."""
        return f"{url}/?token={self._token}" if self._token else f"{url}/"

    def open_browser(self) -> None:
        """Open the dashboard in the browser, where there is one to be seen."""
        if not has_display():
            return
        address = f"http://{self._local_address}/"
        if self._token:
            address += f"?token={self.gate.ticket()}"
        webbrowser.open(address)

    def share(self, via: str, *, hours: float, report: Report, interactive: bool, ssh: Sequence[str] = ("ssh",)) -> str:
        """Open a tunnel and return the address to pass on, token included; raises TfsError when none can be opened.

        `report` hears of another address, and of the end.
        """
        if self._token is None:
            raise UsageError("A dashboard without a token is not shared: whoever found the address would see it all")
        target = parse_target(via)

        def changed(url: str | None, reason: str) -> None:
            self._admit(url)
            report(f"{reason} {'Now: ' + self.with_token(url) if url else 'The dashboard goes on here: ' + self.url}")

        self._tunnel = Tunnel(
            target, self._local_address, hours=hours, changed=changed, interactive=interactive, ssh=ssh
        )
        url = self._tunnel.url
        if not target.is_relay and not is_reachable(url):
            report(
                f"{target.host} keeps the port to itself (GatewayPorts in its sshd_config): only who is logged in "
                "there can open the address."
            )
            url = f"http://localhost:{urlsplit(url).port}"
        self._admit(url)
        return self.with_token(url)

    def _admit(self, url: str | None) -> None:
        parts = urlsplit(url or "")
        self.shared_url = url and self.with_token(url)
        self.gate.share(parts.hostname, encrypted=parts.scheme == "https")

    def stop_sharing(self) -> None:
        """End the tunnel, if there is one; the dashboard goes on here."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._admit(None)

    def stop(self) -> None:
        """End the tunnel, then the server."""
        self.stop_sharing()
        if self._reader is not None:
            read_ahead.end(self._reader)
        self._front.give_up()
        self._stopping.set()
        self._thread.join(timeout=5)

    def _answer(self) -> None:
        """Move bytes between the browsers and the threads that answer them, until `stop`."""
        from waitress import wasyncore

        while not self._stopping.is_set():
            # Not select, waitress's default: a notebook may have more files open than it can count.
            wasyncore.loop(timeout=0.25, use_poll=True, map=self._sockets, count=1)
        self._listener.close()  # the port is free from now on
        self._server.task_dispatcher.shutdown(timeout=60)  # who still answers writes to what is closed next
        wasyncore.close_all(self._sockets, ignore_all=True)

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"The dashboard: {self.url}" + (f" and, shared, {self.shared_url}" if self.shared_url else "")


def _written(address: str) -> str:
    """Return an address as it stands in a Host header: IPv6 in brackets."""
    return f"[{address}]" if ":" in address else address


def serve(
    assets: Path,
    *,
    port: int = PORT,
    host: str = HOST,
    names: Iterable[str] = (),
    with_token: bool = True,
    announce: Callable[[Server], None] = lambda _: None,
    own_process: bool = False,
) -> Server:
    """Return a server of the dashboard of `assets`. Raises TfsError when the port is taken, before anything is read.

    `announce` is called as soon as a browser can be sent to the address: it then loads while the rest is made ready.
    `own_process` says that this process is the dashboard's alone: it then imports no more of Mantine than it needs.
    """
    if not with_token and not is_loopback(host):
        raise UsageError(f"--no-token is for this machine alone: others reach --host {host}, so they need the token")
    listener = listen(host, port)
    token = secrets.token_urlsafe(32) if with_token else None
    server = Server(listener, token=token, names=names)
    turn_seconds = sys.getswitchinterval()
    try:
        server.read_ahead(assets)
        announce(server)
        sys.setswitchinterval(0.0005)  # an import gives way ten times sooner than it would to who answers the browser
        from tfs_dash.store import open_store

        store = open_store(assets)
        ahead = threading.Thread(target=read_ahead.draw_first_chart, args=(store,), daemon=True)
        if all_is_kept := read_ahead.nothing_to_decode(assets):
            ahead.start()
        if own_process:
            few_components.load()
        from tfs_dash.app import app_of

        if not all_is_kept:  # what is decoded here too would hold the import up
            ahead.start()
        server.show(app_of(store))
    except BaseException:
        server.stop()
        raise
    finally:
        sys.setswitchinterval(turn_seconds)
    return server


def launch(
    assets: str | Path | None = None,
    *,
    port: int = PORT,
    host: str = HOST,
    open_browser: bool = True,
    allow_hosts: Iterable[str] = (),
    share_via: str | None = None,
    share_hours: float = MAX_HOURS,
) -> Server:
    """Serve the dashboard from Python, a notebook say, and return the server: `.url` is its address, `.stop()` ends it.

    What `tfs dash` does, in threads of this process, with a token always. `share_via` names the ssh server
    (`user@host`) that makes all runs visible from elsewhere, to whoever has `.shared_url`.
    """
    server = serve(assets_folder(assets), port=port, host=host, names=allow_hosts)
    try:
        if share_via is not None:
            server.share(share_via, hours=share_hours, report=logging.getLogger(__name__).warning, interactive=False)
    except BaseException:
        server.stop()
        raise
    if open_browser:
        server.open_browser()
    return server


def has_display() -> bool:
    """Say whether a browser that is opened here would be seen by somebody."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    return sys.platform in ("darwin", "win32") and "SSH_CONNECTION" not in os.environ
