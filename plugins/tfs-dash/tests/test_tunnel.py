"""The tunnel, with a real ssh and sshd on the loopback interface and temporary keys."""

import getpass
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import dash
import pytest
from dash import html
from tfs_dash.serve import Server, listen
from tfs_dash.tunnel import Tunnel, explain, parse_target, ssh_command

from tfs_core.errors import TfsError, UsageError

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(
    not (SSHD and shutil.which("ssh-keygen")), reason="no sshd here: apt install openssh-server"
)
TOKEN = "the-right-token"

StartSshd = Callable[..., list[str]]


def free_port(address: str = "127.0.0.1") -> int:
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


def answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=60).close()
    except OSError:
        return False
    return True


def write_key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text(encoding="utf-8")


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[StartSshd]:
    """Return `start(...)`, which starts an sshd on loopback and returns an ssh command that knows it as `box`."""
    servers: list[subprocess.Popen[bytes]] = []
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd needs it; normally its service creates it

    def start(*settings: str, known: bool = True, authorized: bool = True, address: str = "127.0.0.1") -> list[str]:
        port = free_port(address)
        host_key = write_key(tmp_path / "host_key")
        own_key = write_key(tmp_path / "own_key")
        (tmp_path / "authorized_keys").write_text(own_key if authorized else "", encoding="utf-8")
        (tmp_path / "known_hosts").write_text(f"[{address}]:{port} {host_key}" if known else "", encoding="utf-8")
        lines = [
            f"ListenAddress {address}:{port}",
            f"HostKey {tmp_path / 'host_key'}",
            f"AuthorizedKeysFile {tmp_path / 'authorized_keys'}",
            f"PidFile {tmp_path / 'sshd.pid'}",
            *["StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no"],
            *settings,
        ]
        (tmp_path / "sshd_config").write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert SSHD
        command = [SSHD, "-D", "-e", "-f", str(tmp_path / "sshd_config")]
        servers.append(subprocess.Popen(command, stderr=(tmp_path / "sshd.log").open("wb")))
        wait_for(lambda: answers(address, port), "sshd: " + (tmp_path / "sshd.log").read_text(encoding="utf-8"))
        client = [
            "Host box",
            f"  HostName {address}",
            f"  Port {port}",
            f"  User {getpass.getuser()}",
            f"  IdentityFile {tmp_path / 'own_key'}",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {tmp_path / 'known_hosts'}",
            "  GlobalKnownHostsFile none",
            "  StrictHostKeyChecking no",  # a careless setting, which the tunnel must override
        ]
        (tmp_path / "ssh_config").write_text("\n".join(client) + "\n", encoding="utf-8")
        return ["ssh", "-F", str(tmp_path / "ssh_config")]

    yield start
    for server in servers:
        server.terminate()
        server.wait(timeout=60)


@pytest.fixture
def server() -> Iterator[Server]:
    app = dash.Dash("small", enable_mcp=False)
    app.layout = html.Div("the runs")
    with Server(listen("127.0.0.1", 0), token=TOKEN) as server:
        server.show(app)
        yield server


def status(url: str, path: str = "/", **headers: str) -> int:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=60)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return connection.getresponse().status
    finally:
        connection.close()


def share(server: Server, ssh: list[str], said: list[str], hours: float = 1) -> str:
    return server.share("box", hours=hours, report=said.append, interactive=False, ssh=ssh)


@needs_sshd
def test_tunnel_serves_the_dashboard_with_the_token_only(server: Server, start_sshd: StartSshd) -> None:
    said: list[str] = []
    url = share(server, start_sshd(), said)

    assert urlsplit(url).port != urlsplit(server.url).port
    assert status(url) == 401
    assert status(url, "/_dash-layout?token=wrong") == 401
    assert status(url, f"/?token={TOKEN}") == 303
    assert status(url, Host="evil.example") == 400
    assert status(url, Sec_Fetch_Site="cross-site") == 403


@needs_sshd
@pytest.mark.skipif(sys.platform != "linux", reason="the second loopback address, 127.0.0.2, is Linux's")
def test_tunnels_name_alone_is_answered_and_only_while_it_is_open(server: Server, start_sshd: StartSshd) -> None:
    assert status(server.url, Host="127.0.0.2") == 400
    said: list[str] = []
    url = share(server, start_sshd("GatewayPorts clientspecified", address="127.0.0.2"), said)

    assert url.startswith("http://127.0.0.2:")
    assert (status(url), status(server.url, Host="127.0.0.2"), status(server.url, Host="127.0.0.3")) == (401, 401, 400)
    server.stop_sharing()
    assert status(server.url, Host="127.0.0.2") == 400
    assert status(server.url) == 401


@needs_sshd
@pytest.mark.skipif(sys.platform != "linux", reason="the second loopback address, 127.0.0.2, is Linux's")
def test_port_on_loopback_of_the_server_is_reported(server: Server, start_sshd: StartSshd) -> None:
    said: list[str] = []
    url = share(server, start_sshd("GatewayPorts no", address="127.0.0.2"), said)

    assert url.startswith("http://localhost:")
    assert "GatewayPorts" in said[0]
    assert status(url) == 401


@needs_sshd
def test_tunnel_ends_with_the_server(server: Server, start_sshd: StartSshd) -> None:
    said: list[str] = []
    url = urlsplit(share(server, start_sshd(), said))
    assert answers("127.0.0.1", url.port or 0)
    server.stop()

    wait_for(lambda: not answers("127.0.0.1", url.port or 0), "the far end closes")
    assert said == []


@needs_sshd
def test_tunnel_ends_when_its_time_is_over(server: Server, start_sshd: StartSshd) -> None:
    said: list[str] = []
    url = urlsplit(share(server, start_sshd(), said, hours=1 / 3600))

    wait_for(lambda: bool(said), "the end is told")
    assert "Sharing ended after" in said[0]
    assert server.url in said[0]
    wait_for(lambda: not answers("127.0.0.1", url.port or 0), "the far end closes")
    assert status(server.url) == 401


@needs_sshd
def test_tunnel_ends_when_the_command_is_killed(start_sshd: StartSshd, tmp_path: Path) -> None:
    script = tmp_path / "victim.py"
    script.write_text(
        "import sys, time\n"
        "from tfs_dash.tunnel import Tunnel, parse_target\n"
        "ignore = lambda url, reason: None\n"
        "tunnel = Tunnel(parse_target('box'), '127.0.0.1:9', hours=1, changed=ignore, ssh=sys.argv[1:])\n"
        "print(tunnel.url, flush=True)\n"
        "time.sleep(600)\n",
        encoding="utf-8",
    )
    victim = subprocess.Popen([sys.executable, script, *start_sshd()], stdout=subprocess.PIPE)
    assert victim.stdout is not None
    port = urlsplit(victim.stdout.readline().decode().strip()).port or 0
    assert answers("127.0.0.1", port)
    victim.kill()
    victim.wait()
    victim.stdout.close()

    wait_for(lambda: not answers("127.0.0.1", port), "the far end closes")


@needs_sshd
def test_unknown_host_key_is_refused_whatever_the_users_configuration_says(
    server: Server, start_sshd: StartSshd
) -> None:
    with pytest.raises(TfsError, match=r"key of box is not known here.* compare its fingerprint: ssh box"):
        share(server, start_sshd(known=False), [])


@needs_sshd
def test_changed_host_key_is_an_alarm(server: Server, start_sshd: StartSshd, tmp_path: Path) -> None:
    ssh = start_sshd()
    known = (tmp_path / "known_hosts").read_text(encoding="utf-8").split(" ")[0]
    (tmp_path / "known_hosts").write_text(f"{known} {write_key(tmp_path / 'other_key')}", encoding="utf-8")

    with pytest.raises(TfsError, match="the connection may be intercepted"):
        share(server, ssh, [])


@needs_sshd
def test_refused_login_says_what_to_try(server: Server, start_sshd: StartSshd) -> None:
    with pytest.raises(TfsError, match=r"refused the login.*: ssh box"):
        share(server, start_sshd(authorized=False), [])


@needs_sshd
def test_server_that_forwards_nothing_is_named(server: Server, start_sshd: StartSshd) -> None:
    with pytest.raises(TfsError, match="AllowTcpForwarding"):
        share(server, start_sshd("AllowTcpForwarding no"), [])


@pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh here: apt install openssh-client")
def test_server_that_is_not_there_is_named(server: Server) -> None:
    with pytest.raises(TfsError, match=r"No tunnel to 127\.0\.0\.1: .*refused"):
        server.share(f"me@127.0.0.1:{free_port()}", hours=1, report=print, interactive=False)


def test_missing_ssh_says_what_to_install(server: Server) -> None:
    with pytest.raises(TfsError, match=r"no ssh on this machine.*tfs dash export"):
        server.share("me@box", hours=1, report=print, interactive=False, ssh=["no-such-ssh"])


def test_server_without_a_token_is_not_shared() -> None:
    with Server(listen("127.0.0.1", 0), token=None) as server, pytest.raises(UsageError, match="without a token"):
        server.share("me@box", hours=1, report=print, interactive=False)


# The ssh command


@pytest.mark.parametrize(
    "text", ["-oProxyCommand=evil", "me@-oProxyCommand=evil", "me@box -v", "me@box;evil", "", "@box", "me@", "me@box:x"]
)
def test_text_that_ssh_reads_as_an_option_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected user@host"):
        parse_target(text)


def test_target_has_user_host_and_port() -> None:
    target = parse_target("me@box.example:2222")

    assert (target.account, target.host, target.port) == ("me@box.example", "box.example", 2222)
    assert not target.is_relay
    assert parse_target("nokey@localhost.run").is_relay


@pytest.mark.parametrize("interactive", [True, False])
@pytest.mark.parametrize("via", ["me@box", "nokey@localhost.run"])
def test_host_keys_are_checked_always(via: str, interactive: bool) -> None:
    command = ssh_command(["ssh"], parse_target(via), "127.0.0.1:7860", interactive)

    assert f"StrictHostKeyChecking={'ask' if interactive else 'yes'}" in command
    assert {"ExitOnForwardFailure=yes", "ControlPath=none", "ForwardAgent=no"} <= set(command)
    assert command[-2:] == ["--", via]


def test_relay_is_asked_for_http_and_a_server_for_any_port() -> None:
    relay = ssh_command(["ssh"], parse_target("nokey@localhost.run"), "127.0.0.1:7860", True)
    own = ssh_command(["ssh"], parse_target("me@box:22"), "127.0.0.1:7860", True)

    assert "80:127.0.0.1:7860" in relay
    assert "*:0:127.0.0.1:7860" in own
    assert own[own.index("-p") + 1] == "22"


def test_unknown_failure_quotes_ssh_without_its_control_characters() -> None:
    said = explain(parse_target("me@box:22"), ["first", "ssh: something new", ""])

    assert said == "No tunnel to box: ssh: something new. Make sure that this works first: ssh -p 22 me@box"


# The relay, simulated by a script


WAIT = """
import sys, time
from pathlib import Path
def wait_to_go_on():
    deadline = time.monotonic() + 600
    while not Path(__file__).with_name("go-on").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
"""
"""Wait until the test creates the file `go-on` next to the script."""

RELAY = f"""{WAIT}
print("Welcome! See https://admin.localhost.run/ and https://localhost.run/docs/")
print("** your connection id is 1234 **")
for number, name in enumerate(sys.argv[1].split(",")):
    if number:
        wait_to_go_on()
    print(f"{{name}} tunneled with tls termination, https://{{name}}", flush=True)
time.sleep(600)
"""


@pytest.fixture
def relay(tmp_path: Path) -> Callable[..., list[str]]:
    def command(*names: str) -> list[str]:
        script = tmp_path / "relay.py"
        script.write_text(RELAY, encoding="utf-8")
        return [sys.executable, str(script), ",".join(names)]

    return command


def test_relays_name_is_read_from_its_greeting(relay: Callable[..., list[str]]) -> None:
    target = parse_target("nokey@localhost.run")
    tunnel = Tunnel(target, "127.0.0.1:9", hours=1, changed=lambda *_: None, ssh=relay("ab12.lhr.life"))

    assert tunnel.url == "https://ab12.lhr.life"
    tunnel.close()


def test_new_name_of_the_relay_replaces_the_old_one(
    server: Server, relay: Callable[..., list[str]], tmp_path: Path
) -> None:
    said: list[str] = []
    ssh = relay("one.lhr.life", "two.lhr.life")
    first = server.share("nokey@localhost.run", hours=1, report=said.append, interactive=False, ssh=ssh)
    (tmp_path / "go-on").touch()
    wait_for(lambda: bool(said), "the new name is told")

    assert first == f"https://one.lhr.life/?token={TOKEN}"
    assert f"https://two.lhr.life/?token={TOKEN}" in said[0]
    assert status(server.url, Host="one.lhr.life") == 400
    assert status(server.url, Host="two.lhr.life") == 401


def test_broken_tunnel_is_reported(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text(
        f"{WAIT}\n"
        "print('x tunneled with tls termination, https://one.lhr.life', flush=True)\n"
        "wait_to_go_on()\n"
        "print('client_loop: send disconnect: Broken pipe\\x1b[31m')\n",
        encoding="utf-8",
    )
    said: list[str] = []
    ssh = [sys.executable, str(script)]
    server.share("nokey@localhost.run", hours=1, report=said.append, interactive=False, ssh=ssh)
    (tmp_path / "go-on").touch()
    wait_for(lambda: bool(said), "the end is told")

    assert "closed unexpectedly. ssh said: client_loop: send disconnect: Broken pipe\\x1b[31m" in said[0]
    assert server.url in said[0]
    assert status(server.url, Host="one.lhr.life") == 400
