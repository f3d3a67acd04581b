"""The command `tfs`: a click group of the core's and the plugins' commands, each imported lazily, when it is called.

A TfsError ends a command with one message on stderr and its exit code; `--debug` or TFS_DEBUG=1 adds the traceback.
Any other exception is a bug in tfs and keeps its traceback.
"""

import copy
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import click

import tfs_core
from tfs_core import progress
from tfs_core.builtin.plugin import tfs_commands
from tfs_core.errors import PluginError, TfsError
from tfs_core.plugins import CORE, did_you_mean
from tfs_core.registry import Entry, get_registry
from tfs_core.stop_signal import interrupt
from tfs_core.terminal import say


class LazyCommand(click.Command):
    """A command with a name and a summary; its implementation is imported when its arguments are parsed."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.component.summary, short_help=entry.component.summary)
        self.entry = entry

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Import the command and return its context. Click then invokes the command of the context.

        Plugin commands of a group are added to a copy of the group; the group's own commands take precedence.
        Raises PluginError when the factory is not a click command.
        """
        command = self.entry.load_factory()
        if not isinstance(command, click.Command):
            raise PluginError(f"{self.entry}: its factory '{self.entry.component.factory}' is not a click command")
        if isinstance(command, click.Group):
            command = copy.copy(command)
            try:
                own = command.commands
                command.commands = {**own, **plugin_commands(self.entry.component.name), **own}
            except TfsError:
                if args and not args[0].startswith("-") and args[0] not in command.commands:
                    raise
        return command.make_context(info_name, args, parent=parent, **extra)


class CommandLine(click.Group):
    """The group `tfs`. The core's commands are found without loading plugins; all others come from the registry."""

    debug = False

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command and exit the process: a TfsError becomes a message, Ctrl-C exit code 130.

        With `standalone_mode=False` (click's option for calls from Python), exceptions are passed on unchanged.
        """
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            with suppress(ValueError):  # in another thread than the main one
                signal.signal(signal.SIGINT, interrupt)
        closed = open_closed_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # a character may be missing
        try:
            try:
                for name in closed:
                    say(f"{name} is closed: nothing is read or printed there.", err=True)
                args = sys.argv[1:] if args is None else args
                code = super().main(args, standalone_mode=False, **{"prog_name": "tfs", **extra})
            except SystemExit as end:
                code = end.code
            except TfsError as error:
                if self.debug:
                    import traceback

                    say("".join(traceback.format_exception(error)), err=True, nl=False)
                say(f"Error: {error}", err=True)
                code = error.exit_code
            except ModuleNotFoundError as error:
                if (error.name or "").partition(".")[0] not in ("torch", "safetensors"):
                    raise
                install = f'{sys.executable} -m pip install "tfs-core[train]"'
                say(f"Error: this command needs {error.name}, which is not installed: {install}", err=True)
                code = 1
            except click.ClickException as error:
                shown = io.StringIO()
                error.show(shown)
                say(shown.getvalue(), err=True, nl=False)
                if isinstance(error, click.NoSuchOption) and (advice := _option_advice(error)):
                    say(advice, err=True)
                code = error.exit_code
            except click.Abort as error:
                code = 130 if isinstance(error.__cause__, KeyboardInterrupt) else 1
                say("Interrupted." if code == 130 else "Aborted!", err=True)
            sys.stdout.flush()
        except OSError as error:
            if self.debug or error.errno is None:
                raise
            if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF):
                say(f"Error: the system refused: {error}. TFS_DEBUG=1 shows where.", err=True)
                sys.exit(1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
            if error.errno != errno.EPIPE:  # EPIPE is no error: the reader, such as `head`, is done
                with suppress(OSError):  # stderr may be the same file
                    say(f"Error: the output cannot be written: {error.strerror}.", err=True)
                code = 1
        sys.exit(code)

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        """Return the context with the group's own options parsed: `--debug` for `main`, `--quiet` for `progress`."""
        context = super().make_context(*arguments, **extra)
        self.debug = context.params["debug"]
        progress.is_shown = not context.params["quiet"]
        return context

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the core's commands, then of the plugins'; ambiguous ones as `distribution/name`."""
        core = list(core_commands())
        with suppress(TfsError):  # reported by `format_epilog`
            return core + sorted(name for name in plugin_commands() if name.rpartition("/")[2] not in core)
        return core

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name, or None. Raises PluginError when two plugins have it."""
        if cmd_name in core_commands():
            return LazyCommand(cmd_name, core_commands()[cmd_name])
        registry = get_registry()
        named = [e for e in registry.entries("command") if cmd_name in (e.component.name, e.qualified_name)]
        if len(named) > 1:
            registry.find("command", cmd_name)  # raises, naming both
        return LazyCommand(cmd_name, named[0]) if named else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command to run. Raises UsageError with the nearest name and the plugins that failed."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        broken = [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in get_registry().broken()]
        from tfs_core.config.other_names import our_names  # reads YAML

        if ours := our_names("commands").get(name):
            raise click.UsageError(f"there is no command '{name}'. {ours[0]}.", ctx)
        message = f"there is no command '{name}'.{did_you_mean(name, self.list_commands(ctx))}"
        elsewhere = "It may come from a plugin that is not installed: `tfs plugins` lists those that are."
        raise click.UsageError(" ".join([message, elsewhere, *broken]), ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """If loading the plugins failed, write the error below the list of commands."""
        super().format_epilog(ctx, formatter)
        try:
            get_registry()
        except TfsError as error:
            formatter.write_paragraph()
            formatter.write_text(f"The commands of plugins are missing: {error}")


def _option_advice(error: click.NoSuchOption) -> str:
    """Return the advice for an option that a command does not have, "" if there is none."""
    from tfs_core.config.other_names import setting_of_option  # reads YAML

    option = error.option_name
    if option in ("--debug", "--quiet"):
        return f"{option} comes before the command: tfs {option} COMMAND"
    has_settings = error.ctx is not None and any(one.name == "overrides" for one in error.ctx.command.params)
    setting = setting_of_option(option) if has_settings else ""
    return setting and f"Settings are given with --set: --set {setting}=VALUE"


def open_closed_streams() -> list[str]:
    """Open the null device in place of standard streams that the caller has closed (`>&-`). Return their names.

    Otherwise the next file that is opened would take the place of the stream, and receive what is printed.
    """
    closed = []
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
            closed.append(name)
    return closed


def core_commands() -> dict[str, Entry]:
    """Return the core's own commands by name."""
    return {component.name: Entry("command", component, CORE, tfs_core.__version__) for component in tfs_commands()}


def plugin_commands(group: str = "") -> dict[str, click.Command]:
    """Return the plugins' commands of a click group by name; the group "" is `tfs` itself.

    A name that several distributions use has the prefix `distribution/`.
    """
    entries = [
        entry
        for entry in get_registry().entries("command")
        if entry.distribution != CORE and entry.component.name.rpartition(" ")[0] == group
    ]
    names = [entry.component.name for entry in entries]
    commands: dict[str, click.Command] = {}
    for entry in entries:
        owner = f"{entry.distribution}/" if names.count(entry.component.name) > 1 else ""
        name = owner + entry.component.name.rpartition(" ")[2]
        commands[name] = LazyCommand(name, entry)
    return commands


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tfs_core.__version__, prog_name="tfs")
@click.option("--debug", is_flag=True, envvar="TFS_DEBUG", help="Show the traceback of an error (or set TFS_DEBUG=1).")
@click.option("--quiet", is_flag=True, envvar="TFS_QUIET", help="Show no progress of long work (or set TFS_QUIET=1).")
def tfs(debug: bool, quiet: bool) -> None:  # read from the context, by CommandLine.make_context
    """Train readable transformers on your own text, and chat with them.

    `tfs COMMAND --help` explains a command. Start with `tfs run configs/quickstart.yaml`, or with text of yours:
    `tfs run my.txt`.
    """


@tfs.result_callback()
def _no_exit_code(_result: object, debug: bool, quiet: bool) -> None:
    """Discard the return value of a command, which `main` would use as the exit code."""


main = tfs
"""The console entry point in pyproject.toml."""
