"""The commands `tfs dash` and `tfs dash export`, run from the command line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import types
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tfs_core.cli.main import tfs
from tfs_core.runs import Run

TFS = """
import sys, types

def app_of(store):
    import dash, dash_mantine_components
    app = dash.Dash("small", enable_mcp=False)
    app.layout = dash.html.Div("the runs")
    return app

sys.modules["tfs_dash.app"] = types.ModuleType("tfs_dash.app")
sys.modules["tfs_dash.app"].app_of = app_of
from tfs_core.cli.main import main
main()
"""
"""The command `tfs` with a small app instead of the whole dashboard."""

Typed = Callable[..., Result]
Started = Callable[..., "subprocess.Popen[str]"]

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals of POSIX")


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFS_ASSETS", raising=False)
    return lambda *words: CliRunner().invoke(tfs, ["dash", *words], prog_name="tfs")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str, **options: object) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
        settings: dict[str, object] = {
            **dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.PIPE),
            **{"text": True, "encoding": "utf-8", "cwd": tmp_path, "env": environment},
        }
        process = subprocess.Popen([sys.executable, "-u", "-c", TFS, "dash", *words], **{**settings, **options})  # type: ignore[call-overload]
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def make_run(assets: Path, name: str) -> None:
    folder = assets / "runs" / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"status": "finished", "started_at": name}), encoding="utf-8")


def first_address(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, line + (process.stderr.read() if process.stderr else "")
    return found[0]


# Serving


@posix_only
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_dash_serves_until_a_signal_and_ends_cleanly(started: Started, number: signal.Signals) -> None:
    process = started("--port", "0")
    url = first_address(process)
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())

    assert "react-entry-point" in browser.open(url, timeout=60).read().decode()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(url.partition("?")[0], timeout=60)

    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.strip() == "The dashboard has ended."


@posix_only
@pytest.mark.parametrize("words", [[], ["--no-browser"]])
def test_browser_is_opened_unless_it_is_not_wanted(started: Started, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "browser").write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/opened\n', encoding="utf-8")
    (tmp_path / "browser").chmod(0o755)
    environment = {**os.environ, "BROWSER": f"{tmp_path}/browser", "DISPLAY": ":99"}
    process = started("--port", "0", *words, env=environment)
    url = first_address(process)
    # The layout is answered only after the app was imported, and the import begins after the browser was opened.
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    browser.open(url, timeout=60).close()
    browser.open(url.partition("?")[0] + "_dash-layout", timeout=60).close()

    opened = (tmp_path / "opened").read_text(encoding="utf-8") if (tmp_path / "opened").exists() else ""
    addresses = [line.partition("?")[0] for line in opened.splitlines()]
    assert addresses == ([] if words else [url.partition("?")[0]])


def test_taken_port_is_an_error_that_names_the_next_free_one(typed: Typed) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = typed("--port", str(port))

    assert result.exit_code == 1
    assert re.search(rf"Port {port} is taken\. The next free one: tfs dash --port \d+", result.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--share", "--no-token"], "--share needs the token"),
        (["--no-token", "--host", "0.0.0.0"], "--no-token is for this machine alone"),
        (["--share-via", "me@box"], "add --share"),
        (["--share-hours", "3"], "add --share"),
        (["--share", "--share-hours", "25"], "--share-hours"),
        (["--share", "--share-hours", "0"], "--share-hours"),
        (["--share", "--share-via", "-oProxyCommand=evil"], "expected user@host"),
        (["--port", "70000"], "--port"),
        (["--port", "80", "--allow-host", "a", "export", "report.html"], "--port, --allow-host: of no effect on tfs"),
        (["nonsense"], "nonsense"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(typed: Typed, words: list[str], message: str) -> None:
    result = typed(*words)

    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("words", [["--help"], ["dash", "--help"], ["dash", "export", "--help"]])
def test_help_imports_neither_dash_nor_flask(words: list[str]) -> None:
    script = (
        "import sys; from tfs_core.cli.main import main; sys.argv = ['tfs', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'dash', 'flask', 'waitress', 'plotly', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=True).stdout

    assert "dash" in told
    assert told.splitlines()[-1] == "[]"


# Sharing


def test_share_without_a_terminal_is_refused(typed: Typed, tmp_path: Path) -> None:
    make_run(tmp_path / "assets", "one")
    result = typed("--share")

    assert result.exit_code == 2
    assert "stdin is not a terminal" in result.stderr
    assert "--share-via nokey@localhost.run" in result.stderr
    assert "The operator of https://localhost.run can read all traffic" in result.stdout
    assert "(1 now)" in result.stdout
    assert "configurations, curves and samples" in result.stdout


@posix_only
@pytest.mark.parametrize("answer", ["n\n", "\n"])
def test_share_that_is_declined_shares_and_serves_nothing(started: Started, tmp_path: Path, answer: str) -> None:
    import pty

    terminal, end = pty.openpty()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n", encoding="utf-8")
    (tools / "ssh").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    process = started("--port", "0", "--share", stdin=end, env=environment)
    os.write(terminal, answer.encode())
    output, errors = process.communicate(timeout=60)
    os.close(terminal)
    os.close(end)

    assert process.returncode == 1
    assert "Share through localhost.run? [y/N]" in output
    assert "Nothing was shared" in errors
    assert "http://127" not in output
    assert not (tmp_path / "called").exists()


@posix_only
def test_share_via_lists_shared_data_and_prints_the_address(started: Started, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ssh").write_text(
        "#!/bin/sh\n"
        'for word; do test "$word" = -G && { echo hostname box.invalid; exit; }; done\n'
        f'echo "$@" > {tmp_path}/called\n'
        "echo Allocated port 40123 for remote forward to 127.0.0.1 >&2\n"
        "exec sleep 600\n",
        encoding="utf-8",
    )
    (tools / "ssh").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "DISPLAY": ""}
    process = started("--port", "0", "--share", "--share-via", "me@box", "--share-hours", "2", env=environment)
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(5)]
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)

    assert "Sharing shows all runs in" in said[0]
    assert "plain http" in said[1]
    assert re.fullmatch(r"Shared, for 2 h at most: http://localhost:40123/\?token=\S{43}\n", said[4])
    assert "GatewayPorts" in errors
    assert "StrictHostKeyChecking=yes" in (tmp_path / "called").read_text(encoding="utf-8")
    assert process.returncode == 143


# Exporting


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], Path]]:
    """Replace the export by a recorder of the requested runs and paths."""
    asked: list[tuple[list[str], Path]] = []

    def export_report(runs: list[Run], path: Path) -> None:
        asked.append(([run.name for run in runs], path))

    module = types.ModuleType("tfs_dash.exports")
    module.export_report = export_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tfs_dash.exports", module)
    return asked


Exported = list[tuple[list[str], Path]]


def test_export_writes_all_runs_when_none_is_named(typed: Typed, exported: Exported, tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_run(tmp_path / "assets", name)
    result = typed("export", "report.html")

    assert (result.exit_code, exported) == (0, [(["one", "two"], Path("report.html"))])
    assert "report.html: 2 runs" in result.stdout


def test_export_writes_the_runs_that_are_named(typed: Typed, exported: Exported, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        make_run(tmp_path / "elsewhere", name)
    typed("export", "--assets", "elsewhere", "report.html", "three", "one")
    typed("--assets", "elsewhere", "export", "report.html", "two")

    assert [names for names, _ in exported] == [["three", "one"], ["two"]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["report.html", "tow"], 1, "Did you mean 'two'?"),
        (["two"], 2, "ends in .html"),
        (["no/such/report.html"], 2, "there is no folder no/such"),
        (["--assets", "empty", "report.html"], 1, "There are no runs yet in empty/runs. Make one: make demo"),
    ],
)
def test_failing_export_explains_the_reason(
    typed: Typed, exported: Exported, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    make_run(tmp_path / "assets", "two")
    result = typed("export", *words)

    assert (result.exit_code, exported) == (code, [])
    assert message in result.stderr
