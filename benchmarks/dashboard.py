"""Speed and memory of the dashboard against TensorBoard, on the same four runs of a million steps, alternately.

    .venv/bin/python benchmarks/dashboard.py [--tensorboard [PYTHON]] [--quick] [--parts charts all-points load server]

Parts: `charts` (process start to the first chart, with a cold and a warm cache; memory; spikes; zoom; an idle poll),
`all-points` (memory of a TensorBoard that keeps every point), `load` (the same information read from both formats),
`server` (the index of 1,000 runs, 30 runs in one chart). Medians of --rounds rounds.

Needs Chromium (make browser). TensorBoard is not a dependency: --tensorboard measures it too, in this Python or in the
given one (python -m venv tb && tb/bin/pip install tensorboard, then --tensorboard tb/bin/python). --quick uses fewer
steps and one round, to test the script.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

RUNS, SPIKES = 4, 20
SETTLING_SECONDS = 2.0
"""Waiting time after the start of Chromium, which first loads its own resources."""

PARTS = ("charts", "all-points", "load", "server")
SCALARS = ("loss", "learning_rate", "grad_norm", "tokens_per_second")

ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

DASH_DRAWN = "document.querySelector('.js-plotly-plot')?.data?.length >= 8"
# The lines are on a canvas and cannot be queried. Axis ticks in thousands show that the data is loaded.
TENSORBOARD_DRAWN = (
    "[...document.querySelectorAll('line-chart text')].some(t => /[0-9][kM]$/.test(t.textContent.trim()))"
)

LOAD = (
    "import sys; from pathlib import Path; from tfs_dash.store import RunStore; store = RunStore(Path(sys.argv[1]));"
    "store.index.refresh(); "
    "assert all(len(column) == int(sys.argv[2]) for run in store.runs()"
    " for column in run.training('step', 'elapsed_seconds', *sys.argv[3].split(',')).values())"
)


def losses_of(steps: int) -> Iterator[np.ndarray]:
    """Iterate over the losses of each run, with twenty spikes of a single step."""
    rng = np.random.default_rng(0)
    for run in range(RUNS):
        loss = 2 + 6 * (np.arange(steps) + 50.0) ** -0.3 + 0.05 * rng.standard_normal(steps) + 0.1 * run
        loss[np.linspace(steps * 0.05, steps * 0.95, SPIKES).astype(int)] += 5
        yield loss


def write_run(folder: Path, loss: np.ndarray) -> None:
    """Write a run folder with all columns of a real run."""
    folder.mkdir(parents=True)
    steps = len(loss)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for step, value in enumerate(loss.tolist(), start=1):
            file.write(
                f'{{"step":{step},"epoch":0,"tokens":{step * 4096},"flops":{step * 1.2e9!r},"elapsed_seconds":'
                f'{step * 0.02!r},"loss":{value!r},"learning_rate":0.0003,"grad_norm":1.0,"tokens_per_second":2e5,'
                '"nonfinite":[]}\n'
            )
    with (folder / "validation.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        for step in range(steps // 40, steps + 1, steps // 40):
            row = {"step": step, "tokens": step * 4096, "flops": step * 1.2e9, "elapsed_seconds": step * 0.02}
            row |= {"loss": float(loss[step - 1]), "perplexity": 1.0, "bits_per_byte": 1.0, "tokens_evaluated": 1}
            file.write(json.dumps(row) + "\n")
    started_at = f"2026-01-01T00:00:{int(folder.name[4:]):02}+00:00"
    info = {"format_version": 1, "run_id": folder.name, "name": folder.name, "status": "finished",
            "started_at": started_at, "summary": {"last_step": steps}}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")


def write_runs(assets: Path, steps: int) -> Path:
    """Write the four runs, unless they exist, and return their assets folder."""
    for position, loss in enumerate(losses_of(steps)):
        folder = assets / "runs" / f"run-{position}"
        if not folder.exists():
            write_run(folder, loss)
    return assets


def write_events(folder: Path, steps: int, scalars: list[str]) -> None:
    """Write the same runs as TensorBoard event files. Called in the Python that has TensorBoard."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    others = {"learning_rate": 0.0003, "grad_norm": 1.0, "tokens_per_second": 2e5}
    for position, loss in enumerate(losses_of(steps)):
        writer = EventFileWriter(str(folder / f"run-{position}"), max_queue_size=10_000)
        for step, value in enumerate(loss.tolist(), start=1):
            values = [Summary.Value(tag=tag, simple_value=value if tag == "loss" else others[tag]) for tag in scalars]
            writer.add_event(Event(step=step, wall_time=1.7e9 + 0.02 * step, summary=Summary(value=values)))
        writer.close()


def make_events(python: str, folder: Path, steps: int, scalars: tuple[str, ...]) -> Path:
    """Write event files with TensorBoard's Python, unless they exist, and return their folder."""
    if not folder.exists():
        code = (
            "import sys; from pathlib import Path; import dashboard; "
            "dashboard.write_events(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])"
        )
        command = [python, "-c", code, str(folder), str(steps), *scalars]
        subprocess.run(command, check=True, cwd=Path(__file__).parent)
    return folder


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def dashboard_command(assets: Path, port: int) -> list[str]:
    """Return the command of `tfs dash`."""
    tfs = [sys.executable, "-c", "from tfs_core.cli.main import main; main()"]
    return [*tfs, "dash", "--assets", str(assets), "--port", str(port), "--no-browser", "--no-token"]


def tensorboard_command(python: str, events: Path, port: int, *more: str) -> list[str]:
    """Return TensorBoard's command."""
    return [python, "-m", "tensorboard.main", "--logdir", str(events), "--port", str(port), *more]


@contextmanager
def serving(command: list[str], url: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Context manager: start a server and wait until it responds; terminate it on exit."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **environment}, **quiet)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=30)


def memory_mb(process_id: int) -> float:
    """Return the resident memory of a process and its children, in MB; 0 except on Linux."""
    total = 0.0
    with suppress(OSError, StopIteration):
        status = Path(f"/proc/{process_id}/status").read_text(encoding="utf-8")
        total = float(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
        children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text(encoding="utf-8")
        total += sum(memory_mb(int(child)) for child in children.split())
    return total


def get(url: str, **query: str) -> Any:
    """Return the JSON response of a server."""
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=60) as answer:
        return json.load(answer)


def get_with_retries(url: str, **query: str) -> Any:
    """Return the JSON response, and retry while it is 404: TensorBoard serves only the runs that it has read so far."""
    while True:
        try:
            return get(url, **query)
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            time.sleep(0.05)


# The first chart


class Browser:
    """A new Chromium with one empty page, controlled by the DevTools protocol through two pipes.

    Playwright is not used, because it makes V8 record the full stack of every error, to report uncaught ones. plotly.js
    creates an error, and to find the line numbers of its stack, V8 parses all of plotly.js twice: half a second that a
    user would not wait.
    """

    def __init__(self, chromium: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        (questions, self._questions), (self._answers, answers) = os.pipe(), os.pipe()
        # Chromium reads from descriptor 3 and writes to 4.
        wired = ["/bin/bash", "-c", f'exec "$0" "$@" 3<&{questions} 4>&{answers}', chromium]
        options = ["--headless", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", *ARGUMENTS]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([*wired, *options], pass_fds=(questions, answers), **quiet)  # type: ignore[call-overload]
        for descriptor in (questions, answers):
            os.close(descriptor)
        self._count, self._read, self._session = 0, b"", ""
        targets = self._ask("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        self._ask("Emulation.setDeviceMetricsOverride", width=1400, height=900, deviceScaleFactor=1, mobile=False)
        time.sleep(SETTLING_SECONDS)

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return the result."""
        self._count += 1
        question = {"id": self._count, "method": method, "params": parameters}
        question |= {"sessionId": self._session} if self._session else {}
        os.write(self._questions, json.dumps(question).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                self._read += os.read(self._answers, 1 << 20)
            line, _, self._read = self._read.partition(b"\0")
            message = json.loads(line)
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]  # type: ignore[no-any-return]

    def open(self, url: str) -> None:
        """Begin to load a page."""
        self._ask("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str, *, seconds: float = 120) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(RuntimeError):  # during navigation there is no page
                if self.evaluate(expression):
                    return
            time.sleep(0.01)
        raise TimeoutError(expression)

    def drag(self, start: float, end: float, y: float) -> None:
        """Drag with the mouse from left to right."""
        pressed = {"button": "left", "clickCount": 1}
        self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=start, y=y)
        self._ask("Input.dispatchMouseEvent", type="mousePressed", x=start, y=y, **pressed)
        for x in np.linspace(start, end, 10).tolist():
            self._ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self._ask("Input.dispatchMouseEvent", type="mouseReleased", x=end, y=y, **pressed)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._questions)
        os.close(self._answers)
        self._profile.cleanup()


@contextmanager
def first_chart(
    chromium: str, command: list[str], url: str, drawn: str, **environment: str
) -> Iterator[tuple[float, int, Browser]]:
    """Start the server and open the page; yield the seconds to the chart, the process id, the browser."""
    with Browser(chromium) as browser:
        started_at = time.perf_counter()
        with serving(command, url, **environment) as process:
            browser.open(url)
            browser.wait_for(drawn)
            yield time.perf_counter() - started_at, process.pid, browser


def dashboard_chart(chromium: str, assets: Path, cache: Path) -> dict[str, float]:
    """Start the dashboard, and return the measured times, counts and memory."""
    port = free_port()
    command, url = dashboard_command(assets, port), f"http://127.0.0.1:{port}/compare"
    environment = {"XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache)}
    with first_chart(chromium, command, url, DASH_DRAWN, **environment) as (seconds, process_id, page):
        seen = {"spikes": spikes_on(page), "zoom_seconds": zoom_seconds(page), "poll_bytes": poll_bytes(port)}
        return {"seconds": seconds, "memory_mb": memory_mb(process_id), **seen}


def tensorboard_chart(chromium: str, python: str, events: Path) -> dict[str, float]:
    """Return the same for TensorBoard."""
    port = free_port()
    command, url = tensorboard_command(python, events, port), f"http://127.0.0.1:{port}"
    with first_chart(chromium, command, f"{url}/#timeseries", TENSORBOARD_DRAWN) as (seconds, process_id, _):
        scalars = f"{url}/data/plugin/scalars/scalars"
        points = [get_with_retries(scalars, run=f"run-{run}", tag="loss") for run in range(RUNS)]
        spikes = min(sum(value > 6 for _, _, value in of_run) for of_run in points)
        return {"seconds": seconds, "memory_mb": memory_mb(process_id), "spikes": spikes}


def spikes_on(page: Browser) -> int:
    """Return the number of drawn spikes, of the run with the fewest."""
    return int(
        page.evaluate(
            "Math.min(...document.querySelector('.js-plotly-plot')._fullData"
            ".filter(t => t.name.endsWith('as logged')).map(t => [...t.y].filter(y => y > 6).length))"
        )
    )


def zoom_seconds(page: Browser) -> float:
    """Return the seconds from the end of a mouse drag until the selected range is drawn in full resolution."""
    left, y, width = page.evaluate(
        "(box => [box.x, box.y + box.height / 2, box.width])"
        "(document.querySelector('.js-plotly-plot .nsewdrag').getBoundingClientRect())"
    )
    time.sleep(0.5)  # a drag during drawing is ignored
    page.drag(left + width * 0.4, left + width * 0.42, y)
    released_at = time.perf_counter()
    page.wait_for(
        "(c => { const [low, high] = c.layout.xaxis.range;"
        " return c.layout.xaxis.autorange === false && [...c._fullData[0].x].filter(x => x >= low && x <= high).length"
        " > 0.9 * Math.min(high - low, 1900) })(document.querySelector('.js-plotly-plot'))",
    )
    return time.perf_counter() - released_at


def poll_bytes(port: int) -> int:
    """Return the size of the response to a poll without new data, headers included."""
    look = next(
        callback
        for callback in get(f"http://127.0.0.1:{port}/_dash-dependencies")
        if callback["output"] == "..now.data...index.data.."
    )

    def ask(now: Any, index: Any) -> tuple[int, Any]:
        known = {"tick": 1, "url": "", "now": now, "index": index}
        question = {
            "output": look["output"],
            "outputs": [{"id": "now", "property": "data"}, {"id": "index", "property": "data"}],
            "inputs": [{**place, "value": known[place["id"]]} for place in look["inputs"]],
            "state": [{**place, "value": known[place["id"]]} for place in look["state"]],
            "changedPropIds": ["tick.data"],
        }
        body = json.dumps(question).encode()
        head = (
            f"POST /_dash-update-component HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + body)
            answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        content = answer.partition(b"\r\n\r\n")[2]
        return len(answer), json.loads(content) if content.startswith(b"{") else None

    _, first = ask(None, None)
    return ask(first["response"]["now"]["data"], first["response"]["index"]["data"])[0]


def measure_charts(data: Path, steps: int, rounds: int, tensorboard: str | None) -> None:
    """Measure and print the part `charts`."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("charts: not measured, Chromium is missing (make browser)")
        return
    assets = write_runs(data / "assets", steps)
    events = make_events(tensorboard, data / "events", steps, ("loss",)) if tensorboard else None
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            found.setdefault("cold", []).append(dashboard_chart(chromium, assets, Path(cache)))
            found.setdefault("warm", []).append(dashboard_chart(chromium, assets, Path(cache)))
        if tensorboard and events:
            found.setdefault("TensorBoard", []).append(tensorboard_chart(chromium, tensorboard, events))
        print("; ".join(f"{side} {of_side[-1]['seconds']:.2f} s" for side, of_side in found.items()), flush=True)
    median = {
        side: {key: statistics.median(round_[key] for round_ in rounds) for key in rounds[0]}
        for side, rounds in found.items()
    }
    for side, values in median.items():
        print(f"{side}: " + ", ".join(f"{key} {value:.2f}" for key, value in values.items()))
    cold, warm = median["cold"], median["warm"]
    if theirs := median.get("TensorBoard"):
        report("first chart, cold cache, of TensorBoard's", cold["seconds"] / theirs["seconds"], 1.2)
        report("first chart, warm cache, of TensorBoard's", warm["seconds"] / theirs["seconds"], 0.7)
        report("memory, of TensorBoard's", cold["memory_mb"] / theirs["memory_mb"], 2.5)
        print(f"spikes of a single step that are drawn: {cold['spikes']:.0f}, TensorBoard {theirs['spikes']:.0f}")
    else:
        print(f"spikes of a single step that are drawn: {cold['spikes']:.0f} of {SPIKES}")
    report("zoom by mouse to full resolution, seconds", max(cold["zoom_seconds"], warm["zoom_seconds"]), 0.3)
    report("answer to an idle poll, bytes", cold["poll_bytes"], 300)


# Every point


def measure_all_points(data: Path, steps: int, tensorboard: str) -> None:
    """Print the dashboard's memory with every point read, against a TensorBoard that keeps every point."""
    assets, events = write_runs(data / "assets", steps), make_events(tensorboard, data / "events", steps, ("loss",))
    port = free_port()
    with serving(dashboard_command(assets, port), f"http://127.0.0.1:{port}") as process:
        time.sleep(5)  # it prefetches the columns of the first chart, with every point
        ours = memory_mb(process.pid)
    theirs = load_tensorboard(tensorboard, events, steps, ("loss",))["memory_mb"]
    print(f"memory with every point: dashboard {ours:.0f} MB, TensorBoard {theirs:.0f} MB")
    report("memory, of TensorBoard's with every point", ours / theirs, 0.2)


def load_tensorboard(python: str, events: Path, steps: int, scalars: tuple[str, ...]) -> dict[str, float]:
    """Start a TensorBoard that keeps every point; return the seconds until all points are served, and its memory."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = tensorboard_command(python, events, port, "--samples_per_plugin", f"scalars={steps + 1}")
    started_at = time.perf_counter()
    with serving(command, url) as process:
        for run in range(RUNS):
            for tag in scalars:
                while True:
                    with suppress(urllib.error.HTTPError):  # not loaded yet
                        if len(get(f"{url}/data/plugin/scalars/scalars", run=f"run-{run}", tag=tag)) == steps:
                            break
                    time.sleep(0.1)
        return {"seconds": time.perf_counter() - started_at, "memory_mb": memory_mb(process.pid)}


def measure_load(data: Path, steps: int, rounds: int, tensorboard: str | None) -> None:
    """Print the seconds from process start until the scalars of four runs are loaded, for both formats."""
    assets = write_runs(data / "assets-load", steps)
    events = make_events(tensorboard, data / "events-load", steps, SCALARS) if tensorboard else None
    ours, theirs = [], []
    for _ in range(rounds):
        started_at = time.perf_counter()
        subprocess.run([sys.executable, "-c", LOAD, str(assets), str(steps), ",".join(SCALARS)], check=True)
        ours.append(time.perf_counter() - started_at)
        if tensorboard and events:
            theirs.append(load_tensorboard(tensorboard, events, steps, SCALARS)["seconds"])
    print(f"{RUNS} runs of {steps:,} steps, {len(SCALARS)} scalars each: {statistics.median(ours):.2f} s", end="")
    print(f", TensorBoard {statistics.median(theirs):.2f} s" if theirs else "")
    if theirs:
        report(
            "the same information loaded, of TensorBoard's", statistics.median(ours) / statistics.median(theirs), 0.3
        )


# The server alone


def measure_server(data: Path, rounds: int, quick: bool) -> None:
    """Print the seconds for the index of many runs, and for thirty runs in one chart."""
    from tfs_dash.figures.loss import loss_figure
    from tfs_dash.figures.style import encoded
    from tfs_dash.store import RunIndex, RunStore
    from tfs_dash.view import View

    many, thirty = data / "thousand", data / "thirty"
    for position in range(1000 if not many.exists() else 0):
        folder = many / "runs" / f"run-{position}"
        folder.mkdir(parents=True)
        info = {"format_version": 1, "name": folder.name, "status": "finished", "group": "all", "tags": ["a", "b"],
                "started_at": f"2026-01-01T00:{position // 60:02}:{position % 60:02}+00:00",
                "versions": {f"package-{number}": "1.2.3" for number in range(30)},
                "summary": {"last_step": 1000, "tokens": 10**6}}  # fmt: skip
        (folder / "run.json").write_text(json.dumps(info), encoding="utf-8")
    steps = 5_000 if quick else 50_000
    loss = next(losses_of(steps))
    for position in range(30 if not thirty.exists() else 0):
        write_run(thirty / "runs" / f"run-{position}", loss + 0.01 * position)
    index: list[float] = []
    first: list[float] = []
    again: list[float] = []
    for _ in range(rounds):
        started_at = time.perf_counter()
        RunIndex(many).refresh()
        index.append(time.perf_counter() - started_at)
        store = RunStore(thirty)
        store.index.refresh()
        for seconds in (first, again):
            started_at = time.perf_counter()
            encoded(loss_figure(store.runs(), View()))
            seconds.append(time.perf_counter() - started_at)
    report("index of 1,000 runs, ms", 1000 * statistics.median(index), 100)
    report(f"30 runs of {steps:,} steps in one chart, read for the first time, seconds", statistics.median(first), 1.0)
    report("the same again, seconds", statistics.median(again), 1.0)


def report(what: str, value: float, aim: float) -> None:
    """Print a figure with its target."""
    print(f"{what}: {value:.3g} (at most {aim:g}{'' if value <= aim else ': MISSED'})", flush=True)


def main() -> None:
    """Write the runs and measure the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorboard", metavar="PYTHON", nargs="?", const=sys.executable, help="measure it too")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps of each of the four runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="folder that keeps the generated data for later calls")
    parser.add_argument("--quick", action="store_true", help="100,000 steps, one round")
    arguments = parser.parse_args()
    steps, rounds = (100_000, 1) if arguments.quick else (arguments.steps, arguments.rounds)
    with tempfile.TemporaryDirectory() as temporary:
        data = arguments.data / str(steps) if arguments.data else Path(temporary)
        print(f"{RUNS} runs of {steps:,} steps, medians of {rounds} rounds", flush=True)
        if "charts" in arguments.parts:
            measure_charts(data, steps, rounds, arguments.tensorboard)
        if "all-points" in arguments.parts and arguments.tensorboard:
            measure_all_points(data, steps, arguments.tensorboard)
        if "load" in arguments.parts:
            measure_load(data, steps // 5, rounds, arguments.tensorboard)
        if "server" in arguments.parts:
            measure_server(data, rounds, arguments.quick)


if __name__ == "__main__":
    main()
