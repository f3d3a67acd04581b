"""Fixtures: run folders in the format of docs/formats.md, installed pages, the served dashboard, and a browser."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tfs_core.registry import get_registry

if TYPE_CHECKING:
    from tfs_dash.serve import Server

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

MakeRun = Callable[..., Path]
Install = Callable[..., None]


def line(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":")) + "\n"


def metrics_row(step: int, loss: float | None, *, flops_per_step: float = 1e9, **more: Any) -> dict[str, Any]:
    row = {
        "step": step, "epoch": 0, "tokens": step * 512, "flops": step * flops_per_step,
        "elapsed_seconds": step * 0.1, "loss": loss, "learning_rate": 1e-3, "grad_norm": 1.0,
        "tokens_per_second": 5120.0, "nonfinite": [] if loss is not None else ["loss"],
    }  # fmt: skip
    return {**row, **more}


def validation_row(step: int, loss: float, *, flops_per_step: float = 1e9) -> dict[str, Any]:
    return {
        "step": step, "tokens": step * 512, "flops": step * flops_per_step, "elapsed_seconds": step * 0.1, "loss": loss,
        "perplexity": float(np.exp(loss)), "bits_per_byte": loss / np.log(2) / 2, "tokens_evaluated": 4096,
    }  # fmt: skip


@pytest.fixture(autouse=True)
def pages_filled_without_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page be filled however long it takes, so that a busy machine sends the same page."""
    from tfs_dash import app
    from tfs_dash.filled import fill, in_time

    monkeypatch.setattr(app, "in_time", partial(in_time, seconds=60))
    monkeypatch.setattr(app, "fill", partial(fill, seconds=60))


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path


@pytest.fixture
def make_run(assets: Path) -> MakeRun:
    """Return `make(name, losses, ...)`, which writes a run folder and returns it."""
    count = iter(range(1000))

    def make(
        name: str, losses: Any = None, *, validate_every: int = 10, flops_per_step: float = 1e9, info: Any = (),
        config: Any = (), samples: Any = (), events: Any = (),
    ) -> Path:  # fmt: skip
        position = next(count)
        losses = [5.0 / (1 + 0.1 * step) + 1 for step in range(100)] if losses is None else losses
        folder = assets / "runs" / name
        folder.mkdir()
        rows = [metrics_row(step, loss, flops_per_step=flops_per_step) for step, loss in enumerate(losses, start=1)]
        (folder / "metrics.jsonl").write_text("".join(map(line, rows)), encoding="utf-8")
        chosen = [(row["step"], row["loss"]) for row in rows if row["step"] % validate_every == 0 and row["loss"]]
        validations = [validation_row(step, loss, flops_per_step=flops_per_step) for step, loss in chosen]
        (folder / "validation.jsonl").write_text("".join(map(line, validations)), encoding="utf-8")
        (folder / "samples.jsonl").write_text("".join(map(line, samples)), encoding="utf-8")
        (folder / "events.jsonl").write_text("".join(map(line, events)), encoding="utf-8")
        (folder / "config.yaml").write_text(
            json.dumps({"experiment_name": name, "seed": position, **dict(config)}), "utf-8"
        )
        best = min(chosen, key=lambda pair: pair[1], default=None)
        values = {
            "format_version": 1, "run_id": f"{position:016x}", "name": name, "experiment_name": name,
            "status": "finished", "started_at": f"2026-01-01T00:{position // 60:02}:{position % 60:02}.000+00:00",
            "heartbeat_at": "2026-01-01T00:00:00.000+00:00", "host": "my-laptop", "pid": 1, "group": None,
            "seed": position, "tags": [], "model": "torch", "total_steps": len(losses),
            "parameters": {"total": 24_256_000, "without_embeddings": 100}, "flops_per_token": 1.5e8,
            "summary": {
                "last_step": len(losses), "tokens": len(losses) * 512, "flops": len(losses) * flops_per_step,
                "best_validation": {"step": best[0], "loss": best[1]} if best else None,
            },
            **dict(info),
        }  # fmt: skip
        (folder / "run.json").write_text(json.dumps(values), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Return `install(distribution, source, name, page)`, which installs a distribution with a page for this test."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))

    def install(distribution: str, source: str, name: str = "steps", page: str = "Steps") -> None:
        package = folder / distribution.replace("-", "_")
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "plugin.py").write_text(
            "from tfs_core import Component, hookimpl\nTFS_PLUGIN_API = 1\n@hookimpl\ndef tfs_components():\n"
            f"    return [Component(kind='page', name={name!r}, summary='A page.', "
            f"factory='{package.name}.page:{page}')]\n"
        )
        (package / "page.py").write_text(source)
        information = folder / f"{package.name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[tfs.plugins]\nmain = {package.name}.plugin\n")
        get_registry.cache_clear()

    yield install
    get_registry.cache_clear()
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a Chromium browser; skip the test without one (`make browser` installs it)."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("Chromium is missing: make browser")
    playwright_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: make setup")
    with playwright_api.sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield chrome
        chrome.close()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the user's cache folder to a temporary one, and return it."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def serve(assets: Path) -> Iterator[Callable[[], "Server"]]:
    """Return `serve()`, which starts the dashboard of the test's runs behind the access gate, like `tfs dash`."""
    from tfs_dash import create_app
    from tfs_dash.serve import Server, listen

    with ExitStack() as servers:

        def start() -> Server:
            server = servers.enter_context(Server(listen("127.0.0.1", 0), token="the-right-token"))
            server.show(create_app(assets))
            return server

        yield start


class Watched:
    """A browser page that records console errors (content policy violations included) and requests to other hosts."""

    def __init__(self, page: Any, base: str) -> None:
        self.page, self.base = page, base
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(60_000)
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._look)

    def _look(self, request: Any) -> None:
        if not request.url.startswith((self.base, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def open(self, path: str) -> Any:
        self.page.goto(self.base + path)
        self.page.wait_for_selector("h1")
        return self.page


@pytest.fixture
def watch(browser: Any, serve: Callable[[], "Server"]) -> Iterator[Callable[..., Watched]]:
    """Return `watch(**options)`, which opens a Watched page of the dashboard; options are the browser context's."""
    contexts = []

    def start(**options: Any) -> Watched:
        server = serve()
        context = browser.new_context(viewport={"width": 1300, "height": 900}, **options)
        contexts.append(context)
        assert context.request.get(server.url).ok  # sets the token's cookie
        return Watched(context.new_page(), server.url.partition("/?")[0])

    yield start
    for context in contexts:
        context.close()
