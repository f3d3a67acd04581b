"""Sharing the dashboard through a reverse ssh tunnel, opened with the installed `ssh`.

The remote end is either a server of the user (any account that ssh can log in to) or the public relay localhost.run.
The public address is parsed from ssh's output. Host keys are always checked. The tunnel closes when the process that
opened it ends, even if that process is killed: see `keep`.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, Queue

from tfs_core.errors import TfsError, UsageError
from tfs_core.terminal import escape_control_characters

RELAY = "localhost.run"
"""A public relay that is used with plain ssh, without an account. https://localhost.run/docs/cli"""

RELAY_ACCOUNT = f"nokey@{RELAY}"

MAX_HOURS = 24.0
"""Upper limit of a tunnel's lifetime, so that a forgotten tunnel closes."""

_TARGET = re.compile(r"(?:(?P<user>[A-Za-z0-9_][\w.+-]*)@)?(?P<host>[A-Za-z0-9_][\w.-]*)(?::(?P<port>\d{1,5}))?")
_ALLOCATED = re.compile(r"Allocated port (\d+) for remote forward")
_RELAYED = re.compile(r"tunneled with tls termination, (https://[A-Za-z0-9.-]+)\s*$")

Changed = Callable[[str | None, str], None]
"""Callback with the tunnel's new address (None when it has closed) and the reason in a sentence."""


@dataclass(frozen=True)
class Target:
    """The ssh server of a tunnel: `user@host:port`, or a Host of the user's ssh configuration."""

    account: str  # [user@]host
    host: str
    port: int | None = None

    @property
    def is_relay(self) -> bool:
        """True for the public relay, which prints its address in its own format."""
        return self.host.lower() == RELAY


def parse_target(text: str) -> Target:
    """Parse `[user@]host[:port]`. Raises UsageError for anything else, such as text that ssh reads as an option."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise UsageError(
            f"--share-via {escape_control_characters(text)}: expected user@host or user@host:port, as in ssh"
        )
    account = f"{found['user']}@{found['host']}" if found["user"] else found["host"]
    return Target(account, found["host"], int(found["port"]) if found["port"] else None)


class Tunnel:
    """An open tunnel. `url` is its public address, without the token."""

    def __init__(
        self,
        target: Target,
        local_address: str,
        *,
        hours: float,
        changed: Changed,
        interactive: bool = False,
        ssh: Sequence[str] = ("ssh",),
    ) -> None:
        """Open the tunnel, and return when the remote end listens.

        `local_address` is the dashboard's address, such as `127.0.0.1:7860`. `hours` is the lifetime, at most
        MAX_HOURS. With `interactive`, ssh may ask in the terminal for a password or to confirm a new host key.
        `changed` is called from another thread when the relay assigns a new address and when the tunnel closes.

        Raises UsageError for `hours` out of range, and TfsError with the reason when no tunnel can be opened.
        """
        if not 0 < hours <= MAX_HOURS:
            raise UsageError(f"--share-hours {hours:g}: expected more than 0, and {MAX_HOURS:g} at most")
        if shutil.which(ssh[0]) is None:
            raise TfsError(
                "There is no ssh on this machine. Install OpenSSH's client (Debian, Ubuntu: apt install "
                "openssh-client), or send a file: tfs dash export report.html"
            )
        self._target = target
        self._changed = changed
        self._said: list[str] = []
        self._opened: Queue[bool] = Queue()
        self._asked_to_end = False
        self.url = ""
        self._remote_host = target.host if target.is_relay else _resolved_name([*ssh], target)
        self._keeper = subprocess.Popen(
            [sys.executable, "-P", "-m", "tfs_dash.tunnel", *ssh_command(ssh, target, local_address, interactive)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        threading.Thread(target=self._listen, daemon=True, name="tunnel").start()
        self._deadline = threading.Timer(hours * 3600, self._expire, [hours])
        self._deadline.daemon = True
        try:
            if not self._opened.get(timeout=180 if interactive else 30):
                raise TfsError(explain(target, self._said))
        except Empty:
            raise TfsError(f"{target.host} did not open a tunnel in time.{self._last_output()}") from None
        finally:
            if not self.url:
                self.close()
        self._deadline.start()

    def close(self) -> None:
        """Close the tunnel and end ssh, without calling `changed`."""
        self._asked_to_end = True
        self._deadline.cancel()
        if self._keeper.stdin and not self._keeper.stdin.closed:
            self._keeper.stdin.close()  # signals `keep` to end ssh
        try:
            self._keeper.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()

    def _expire(self, hours: float) -> None:
        self.close()
        self._changed(None, f"Sharing ended after {hours:g} h.")

    def _listen(self) -> None:
        """Read ssh's output until ssh ends; report address changes and the end."""
        assert self._keeper.stdout is not None
        for raw in self._keeper.stdout:
            line = escape_control_characters(raw.decode("utf-8", "replace")).strip()
            self._said = [*self._said[-50:], line]
            url = self._address_in(line)
            if url is None or url == self.url:
                continue
            is_first, self.url = not self.url, url
            if is_first:
                self._opened.put(True)
            else:
                self._changed(url, "The relay assigned the dashboard a new address.")
        if not self.url:
            self._opened.put(False)
        elif not self._asked_to_end:
            self._changed(None, f"The tunnel closed unexpectedly.{self._last_output()}")

    def _address_in(self, line: str) -> str | None:
        if self._target.is_relay:
            found = _RELAYED.search(line)
            return found[1] if found else None
        allocated = _ALLOCATED.search(line)
        return f"http://{self._remote_host}:{allocated[1]}" if allocated else None

    def _last_output(self) -> str:
        said = [line for line in self._said if line]
        return f" ssh said: {said[-1]}" if said else ""


def ssh_command(ssh: Sequence[str], target: Target, local_address: str, interactive: bool) -> list[str]:
    """Return the ssh command that opens the tunnel. Its options override the user's ssh configuration."""
    remote = "80" if target.is_relay else "*:0"
    options = {
        "StrictHostKeyChecking": "ask" if interactive else "yes",
        "BatchMode": "no" if interactive else "yes",
        "ExitOnForwardFailure": "yes",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "3",
        "ConnectTimeout": "15",
        "ControlMaster": "no",  # over a shared connection the tunnel would outlive this ssh process
        "ControlPath": "none",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "PermitLocalCommand": "no",
        "Compression": "yes",
        "LogLevel": "INFO",  # the level at which ssh prints the allocated port
    }
    command = [*ssh, "-T", "-R", f"{remote}:{local_address}"]
    command += [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    if target.port is not None:
        command += ["-p", str(target.port)]
    if not target.is_relay:
        command.append("-N")  # the relay prints its address in the remote session, so it needs one
    return [*command, "--", target.account]


def _resolved_name(ssh: list[str], target: Target) -> str:
    """Return the target's full host name, resolved through the user's ssh configuration."""
    answer = subprocess.run(
        [*ssh, "-G", "--", target.account], capture_output=True, text=True, encoding="utf-8", errors="replace"
    )
    found = re.search(r"^hostname (\S+)$", answer.stdout, re.MULTILINE)
    return found[1] if found else target.host


def is_reachable(url: str) -> bool:
    """Return True if the tunnel's remote port accepts connections from here; a server may bind it to loopback only."""
    host, _, port = url.partition("://")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def explain(target: Target, said: Sequence[str]) -> str:
    """Return the reason why ssh opened no tunnel, and advice, from ssh's output lines."""
    text = "\n".join(said)
    by_hand = f"ssh {'-p ' + str(target.port) + ' ' if target.port else ''}{target.account}"
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in text:
        return (
            f"{target.host} has a different host key than the one known here: the connection may be intercepted. Ask "
            "its administrator before you continue; nothing was shared."
        )
    if "Host key verification failed" in text:
        return (
            f"The host key of {target.host} is not known here, so its identity cannot be verified. Connect once by "
            f"hand and compare its fingerprint: {by_hand}"
        )
    if "Permission denied" in text or "Too many authentication failures" in text:
        return f"{target.host} refused the login of {target.account}. Make sure that this works first: {by_hand}"
    if "remote port forwarding failed" in text or "forwarding request denied" in text:
        return f"{target.host} does not allow this account to forward ports (AllowTcpForwarding in its sshd_config)."
    last = next((line for line in reversed(said) if line), "ssh ended without a message")
    return f"No tunnel to {target.host}: {last}. Make sure that this works first: {by_hand}"


def keep(command: Sequence[str]) -> int:
    """Run ssh until it ends or stdin closes, and return its exit status.

    The operating system closes stdin when the parent process ends, even if it is killed. Then the tunnel closes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    ssh = subprocess.Popen(command, stdin=subprocess.PIPE)

    def end_with_our_input() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held at interpreter exit
        ssh.terminate()

    threading.Thread(target=end_with_our_input, daemon=True).start()
    return ssh.wait()


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
