"""The commands `tfs dash` (serve the dashboard) and `tfs dash export` (write runs to one HTML file)."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tfs_core.errors import TfsError, UsageError
from tfs_core.terminal import say

if TYPE_CHECKING:
    from tfs_dash.serve import Server

ASSETS_HELP = "Folder that holds the runs. [TFS_ASSETS, else ./assets]"


@click.group(invoke_without_command=True)
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0: any free port.")
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--assets", metavar="DIR", help=ASSETS_HELP)
@click.option("--no-browser", is_flag=True, help="Open no browser; print the address only.")
@click.option("--no-token", is_flag=True, help="Give every account of this machine access. Not for sharing.")
@click.option("--allow-host", "names", metavar="NAME", multiple=True, help="Accept this host name too. Repeatable.")
@click.option("--share", is_flag=True, help="Share it through an ssh tunnel; asks before it uses a public relay.")
@click.option("--share-via", metavar="USER@HOST", help="Share through this ssh server, such as your own.")
@click.option(
    "--share-hours",
    default=24.0,
    show_default=True,
    type=click.FloatRange(0, 24, min_open=True),
    help="Stop sharing after this many hours.",
)
@click.pass_context
def dash(
    ctx: click.Context,
    port: int,
    host: str,
    assets: str | None,
    no_browser: bool,
    no_token: bool,
    names: Sequence[str],
    share: bool,
    share_via: str | None,
    share_hours: float,
) -> None:
    """Compare runs in the browser, live and finished: tfs dash

    The dashboard can be reached from this machine only, and only with the token in its address. Ctrl-C ends it. The
    simplest way to show runs to others is a file: tfs dash export report.html
    """
    given = {
        str(option.name): option.opts[0]
        for option in ctx.command.params
        if ctx.get_parameter_source(str(option.name)) is not ParameterSource.DEFAULT
    }
    if ctx.invoked_subcommand is not None:
        ctx.obj = assets
        without_effect = [option for name, option in given.items() if name != "assets"]
        if without_effect:
            raise UsageError(f"{', '.join(without_effect)}: of no effect on tfs dash {ctx.invoked_subcommand}")
        return
    if not share and {"share_via", "share_hours"} & given.keys():
        raise UsageError("--share-via and --share-hours have no effect without --share: add --share")
    if share and no_token:
        raise UsageError("--share needs the token: anyone with the address would see all runs. Remove --no-token")

    from tfs_core.runs import assets_folder
    from tfs_dash.serve import is_loopback, serve

    folder = assets_folder(assets)
    via = _confirm_sharing(share_via, folder) if share else None

    def announce(server: "Server") -> None:
        say(f"The dashboard of {folder}: {server.url}")
        if not is_loopback(host):
            say(f"From other machines: {server.network_url} (plain http: the network path can read it)")
        say("Ctrl-C ends it.")
        if not no_browser:
            server.open_browser()

    options = {"port": port, "host": host, "names": names, "with_token": not no_token, "own_process": True}
    try:
        with _raise_on_signals(), serve(folder, announce=announce, **options) as server:  # type: ignore[arg-type]
            if via is not None:
                address = server.share(via, hours=share_hours, report=_report, interactive=sys.stdin.isatty())
                say(f"Shared, for {share_hours:g} h at most: {address}")
            server.wait()
    except _Signal as received:
        say("\nThe dashboard has ended.", err=True)
        ctx.exit(128 + received.number)
    raise TfsError("The dashboard stopped unexpectedly. Start it again: tfs dash")


class _Signal(KeyboardInterrupt):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def _raise_on_signals() -> Iterator[None]:
    """Raise _Signal on the first SIGINT or SIGTERM; the previous handlers get the second one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def stop(number: int, frame: object) -> None:  # noqa: ARG001
        restore()
        raise _Signal(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        restore()


def _confirm_sharing(via: str | None, assets: Path) -> str:
    """Print the data to share and who can read it; return the ssh server. Without `via`, ask before using the relay.

    Raises UsageError when it cannot ask because stdin is not a terminal, and TfsError when the user declines.
    """
    from tfs_core.runs import list_runs
    from tfs_dash.tunnel import RELAY, RELAY_ACCOUNT, parse_target

    target = parse_target(via or RELAY_ACCOUNT)
    say(
        f"Sharing shows all runs in {assets / 'runs'} ({len(list_runs(assets))} now), and all future ones: "
        "their names, notes, configurations, curves and samples, to anyone who has the address with its token."
    )
    if target.is_relay:
        say(
            f"{RELAY} is a public relay on the internet. The operator of https://{RELAY} can read all traffic, "
            "the token included, because encryption ends there. The relay is not part of tfs."
        )
    else:
        say(
            f"Between {target.host} and the viewers the connection is plain http: {target.host} and anyone on the "
            "network path can read all traffic, the token included."
        )
    if via is not None:
        return via
    own = f"to share through a server of your own: --share-via user@host; or send a file: {EXPORT}"
    if not sys.stdin.isatty():
        raise UsageError(
            f"--share asks before it uses {RELAY}, but stdin is not a terminal. "
            f"To agree: --share-via {RELAY_ACCOUNT}; {own}"
        )
    if not click.confirm(f"Share through {RELAY}?", default=False):
        raise TfsError(f"Nothing was shared. {own[0].upper()}{own[1:]}")
    return RELAY_ACCOUNT


EXPORT = "tfs dash export report.html"


def _report(line: str) -> None:
    say(line, err=True)


@dash.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("runs", metavar="[RUN]...", nargs=-1)
@click.option("--assets", metavar="DIR", help=ASSETS_HELP)
@click.pass_context
def export(ctx: click.Context, file: Path, runs: Sequence[str], assets: str | None) -> None:
    """Write runs to one HTML file: tfs dash export report.html

    Without names, all runs are written. The file opens in any browser, loads nothing from the network, and holds the
    names, configurations, curves and samples of the runs.
    """
    from tfs_core.runs import assets_folder, find_run, list_runs

    if file.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{file}: the report's name comes first and ends in .html: {EXPORT} RUN ...")
    folder = assets_folder(assets or ctx.obj)
    chosen = [find_run(name, folder) for name in runs] if runs else list_runs(folder)
    if not chosen:
        raise TfsError(f"There are no runs yet in {folder / 'runs'}. Make one: make demo")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{file}: there is no folder {file.parent}")

    from tfs_dash.exports import export_report

    export_report(chosen, file)
    say(f"{file}: {len(chosen)} {'run' if len(chosen) == 1 else 'runs'}, in one file.")
