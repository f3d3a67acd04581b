"""Quick reachability check, so that a missing network fails in under a second instead of after a library's retries."""

import os
import socket
import urllib.request
from threading import Thread
from urllib.parse import urlsplit


def is_offline_mode() -> bool:
    """Return whether HF_HUB_OFFLINE is 1, on, yes or true (in any case), as in the Hugging Face libraries."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def can_reach(url: str, *, seconds: float = 0.8) -> bool:
    """Return whether the host of the URL, or the proxy configured for it, accepts a connection within a timeout."""
    address = urlsplit(url)
    if not urllib.request.proxy_bypass(address.hostname or ""):
        proxy = urllib.request.getproxies().get(address.scheme)
        address = urlsplit(proxy) if proxy else address
    port = address.port or (80 if address.scheme == "http" else 443)
    reached = []

    def connect() -> None:
        try:
            socket.create_connection((address.hostname or "", port), timeout=seconds).close()
        except OSError:
            return
        reached.append(True)

    thread = Thread(target=connect, daemon=True)  # a thread, because name resolution has no timeout
    thread.start()
    thread.join(seconds)
    return bool(reached)
