"""HTTP server of the dashboard: a waitress server in threads of this process, behind the access gate."""

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
"""Maximum number of open connections. Idle ones use no thread, so a client with many of them cannot block others."""

Report = Callable[[str], None]


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket (port 0: any free port).

    Raises TfsError when the port is taken (the message names the next free one) or needs administrator rights, and
    UsageError for an unusable address.
    """
    try:
        return _bound(host, port)
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: this machine cannot resolve the address ({error.strerror})") from error
    except PermissionError as error:
        raise TfsError(f"Port {port} needs administrator rights. Use one above 1023: --port {PORT}") from error
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
    """Return True if the address is a loopback address, reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Server:
    """A running dashboard server; `stop` or leaving the `with` block ends it.

    `url` and, while the dashboard is shared, `shared_url` contain the token and so give access to all runs.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        token: str | None,
        names: Iterable[str] = (),
    ) -> None:
        """Serve on a listening socket, for requests whose Host is this machine or one of `names`.

        Requests that need the app block until `show` is called. Without a `token` everyone has access.
        """
        from waitress.server import create_server

        address, port = listener.getsockname()[:2]
        self._any_address = any_address = ipaddress.ip_address(address).is_unspecified
        own = {socket.gethostname() if any_address else _host_form(address)}
        self._token = token
        near = address if not any_address else "::1" if listener.family == socket.AF_INET6 else HOST
        self._local_address = f"{_host_form(near)}:{port}"
        self._front = Front()
        self.gate = Gate(
            self._front, token=token, script_hashes=[script_hash()], names={*LOCAL_NAMES, *own, *names},
            any_address=any_address,
        )  # fmt: skip
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a queued request is no warning
        self._sockets: dict[int, object] = {}
        self._server = create_server(
            self.gate,
            map=self._sockets,
            sockets=[listener],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            ident=None,
            max_request_body_size=MAX_BODY_BYTES,
            inbuf_overflow=64 * 2**10,  # larger request bodies are buffered on disk
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
        """Serve an app whose callbacks are all registered. No inline scripts but the app's own may run."""
        harden(app)
        self.gate.allow_scripts(app.csp_hashes())
        with app.server.test_request_context():
            app.server.preprocess_request()  # Dash sets up at the first request, with a full layout: do it now
        self._front.hand_over(app.server.wsgi_app)

    def read_ahead(self, assets: Path) -> None:
        """Start a second process that decodes the first chart's logs into the cache; it ends with the server."""
        self._reader = read_ahead.start(assets)

    @property
    def url(self) -> str:
        """The address on this machine, with the token."""
        return self.with_token(f"http://{self._local_address}")

    @property
    def network_url(self) -> str:
        """The address for other machines, with the token."""
        if not self._any_address:
            return self.url
        return self.with_token(f"http://{socket.gethostname()}:{self._local_address.rpartition(':')[2]}")

    def wait(self) -> None:
        """Block until the server has stopped."""
        while self._thread.is_alive():
            self._thread.join(timeout=0.5)  # Windows delivers Ctrl-C only between two waits

    def with_token(self, url: str) -> str:
        """Return a base URL with the token appended, if there is one."""
        return f"{url}/?token={self._token}" if self._token else f"{url}/"

    def open_browser(self) -> None:
        """Open the dashboard in a browser, if there is a display, with a single-use ticket instead of the token."""
        if not has_display():
            return
        address = f"http://{self._local_address}/"
        if self._token:
            address += f"?token={self.gate.ticket()}"
        webbrowser.open(address)

    def share(self, via: str, *, hours: float, report: Report, interactive: bool, ssh: Sequence[str] = ("ssh",)) -> str:
        """Open an ssh tunnel and return the public address, token included.

        `report` is called with a message when the address changes and when the tunnel ends. Raises TfsError when no
        tunnel can be opened, and UsageError for a server without a token or a malformed `via`.
        """
        if self._token is None:
            raise UsageError("A dashboard without a token cannot be shared: anyone with the address could see all runs")
        target = parse_target(via)

        def changed(url: str | None, reason: str) -> None:
            self._admit(url)
            report(f"{reason} {'Now: ' + self.with_token(url) if url else 'It still runs here: ' + self.url}")

        self._tunnel = Tunnel(
            target, self._local_address, hours=hours, changed=changed, interactive=interactive, ssh=ssh
        )
        url = self._tunnel.url
        if not target.is_relay and not is_reachable(url):
            report(
                f"{target.host} does not expose the port to other machines (GatewayPorts in its sshd_config): only "
                "users who are logged in there can open the address."
            )
            url = f"http://localhost:{urlsplit(url).port}"
        self._admit(url)
        return self.with_token(url)

    def _admit(self, url: str | None) -> None:
        parts = urlsplit(url or "")
        self.shared_url = url and self.with_token(url)
        self.gate.share(parts.hostname, encrypted=parts.scheme == "https")

    def stop_sharing(self) -> None:
        """Close the tunnel, if there is one. The dashboard keeps running on this machine."""
        if self._tunnel is not None:
            self._tunnel.close()
        self._admit(None)

    def stop(self) -> None:
        """Close the tunnel, then stop the server. Idempotent."""
        self.stop_sharing()
        if self._reader is not None:
            read_ahead.end(self._reader)
        self._front.give_up()
        self._stopping.set()
        self._thread.join(timeout=5)

    def _answer(self) -> None:
        """Run the server's event loop until `stop`."""
        from waitress import wasyncore

        while not self._stopping.is_set():
            # poll instead of select (waitress's default), which fails above 1024 open files, as in some notebooks.
            wasyncore.loop(timeout=0.25, use_poll=True, map=self._sockets, count=1)
        self._listener.close()  # frees the port
        self._server.task_dispatcher.shutdown(timeout=60)  # worker threads still write to the sockets closed next
        wasyncore.close_all(self._sockets, ignore_all=True)

    def __enter__(self) -> "Server":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"The dashboard: {self.url}" + (f" and, shared, {self.shared_url}" if self.shared_url else "")


def _host_form(address: str) -> str:
    """Return an address in the form of a Host header: IPv6 in brackets."""
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
    """Start a server of the dashboard of `assets` and return it.

    `announce` is called with the server as soon as a browser can open the address, so that the browser loads the page
    while the app is imported. `own_process` means that the process runs nothing but the dashboard, so that it may
    import a subset of Mantine's components (few_components.py).

    Raises TfsError when the port is taken, before any run is read, and UsageError for a `host` other than loopback
    without a token.
    """
    if not with_token and not is_loopback(host):
        raise UsageError(f"--no-token is for this machine alone: others can reach --host {host}, so it needs the token")
    listener = listen(host, port)
    token = secrets.token_urlsafe(32) if with_token else None
    server = Server(listener, token=token, names=names)
    turn_seconds = sys.getswitchinterval()
    try:
        server.read_ahead(assets)
        announce(server)
        sys.setswitchinterval(0.0005)  # a tenth of the default: requests wait less for the import
        from tfs_dash.store import open_store

        store = open_store(assets)
        ahead = threading.Thread(target=read_ahead.prefetch_first_chart, args=(store,), daemon=True)
        if is_all_cached := read_ahead.all_cached(assets):
            ahead.start()
        if own_process:
            few_components.load()
        from tfs_dash.app import app_of

        if not is_all_cached:  # decoding would slow the import down
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
    """Serve the dashboard from Python, such as a notebook, and return the server: `.url`, and `.stop()` to end it.

    Like `tfs dash`, but in threads of this process and always with a token. `share_via` names an ssh server
    (`user@host`) to share through for `share_hours` hours: anyone with `.shared_url` can then see all runs.
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
    """Return True if this process has a display on which a browser can be opened."""
    if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return True
    return sys.platform in ("darwin", "win32") and "SSH_CONNECTION" not in os.environ
