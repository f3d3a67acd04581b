"""The command `tfs`: the core's commands and those of plugins, each imported when it is called and not before.

A TfsError ends a command with one message on stderr and its exit code; `--debug` or TFS_DEBUG=1 adds the traceback.
Anything else that is raised is our own bug and keeps its traceback.
"""

import errno
import os
import sys
from contextlib import suppress
from typing import NoReturn

import click

import tfs_core
from tfs_core.builtin.plugin import tfs_commands
from tfs_core.errors import PluginError, TfsError
from tfs_core.plugins import CORE, did_you_mean
from tfs_core.registry import Entry, get_registry


class LazyCommand(click.Command):
    """A command that is known by its summary; what it does is imported when its arguments are to be parsed."""

    def __init__(self, name: str, entry: Entry) -> None:
        super().__init__(name, help=entry.component.summary, short_help=entry.component.summary)
        self.entry = entry

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: object
    ) -> click.Context:
        """Return the context of the real command, whose `command` click then goes on with."""
        command = self.entry.load_factory()
        if not isinstance(command, click.Command):
            raise PluginError(f"{self.entry}: its factory '{self.entry.component.factory}' is not a click command")
        return command.make_context(info_name, args, parent=parent, **extra)


class Failure(click.ClickException):
    """A TfsError on its way to the terminal."""

    def __init__(self, error: TfsError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc]  # click declares it as the class's


class CommandLine(click.Group):
    """The group `tfs`: the core's commands need no plugin to be found, the rest comes from the registry."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the core's commands, then the plugins', those by their full name that share the short one."""
        core = list(core_commands())
        try:
            entries = [entry for entry in get_registry().entries("command") if entry.distribution != CORE]
        except TfsError:
            return core  # `format_epilog` says why
        names = [entry.component.name for entry in entries]
        return core + sorted(
            entry.component.name if names.count(entry.component.name) == 1 else entry.qualified_name
            for entry in entries
            if entry.component.name not in core
        )

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name; None when there is none. Raises PluginError when two plugins have it."""
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
        """Return the command to run. Raises UsageError, naming the nearest and the plugins that failed."""
        name = args[0]
        if name.startswith("-") or ctx.resilient_parsing or self.get_command(ctx, name) is not None:
            return super().resolve_command(ctx, args)
        broken = [f"{plugin.distribution} is {plugin.state}: {reason}." for plugin, reason in get_registry().broken()]
        message = f"there is no command '{name}'.{did_you_mean(name, self.list_commands(ctx))}"
        raise click.UsageError(" ".join([message, *broken]), ctx)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; a TfsError becomes a message, Ctrl-C exit code 130."""
        try:
            return super().invoke(ctx)
        except TfsError as error:
            if ctx.params["debug"]:
                import traceback

                traceback.print_exception(error)
            raise Failure(error) from error
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            ctx.exit(130)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Say under the commands why the plugins' are missing, when they are."""
        super().format_epilog(ctx, formatter)
        try:
            get_registry()
        except TfsError as error:
            formatter.write_paragraph()
            formatter.write_text(f"The commands of plugins are missing: {error}")


def core_commands() -> dict[str, Entry]:
    """Return the core's own commands by name."""
    return {component.name: Entry("command", component, CORE, tfs_core.__version__) for component in tfs_commands()}


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tfs_core.__version__, prog_name="tfs")
@click.option("--debug", is_flag=True, envvar="TFS_DEBUG", help="Show the traceback of an error (or TFS_DEBUG=1).")
def tfs(debug: bool) -> None:  # read from the context, by CommandLine.invoke
    """Train transformers that you can read, on your own text, and talk to them.

    `tfs COMMAND --help` explains a command. Start with `tfs run --config configs/quickstart.yaml`.
    """


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character is no reason to fail
    try:
        tfs.main(sys.argv[1:], prog_name="tfs")
    except OSError as error:
        _end_without_output(error)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, `head` say, has seen enough
            _discard_stdout()
        except OSError as error:
            _end_without_output(error)


def _end_without_output(error: OSError) -> NoReturn:
    """End with a sentence when what is behind stdout takes no more: a full disk, a terminal that is gone."""
    if error.errno not in (errno.ENOSPC, errno.EIO) or error.filename is not None:
        raise error
    _discard_stdout()
    with suppress(OSError):  # stderr may lead to the same place
        click.echo(f"Error: the output cannot be written: {error.strerror}.", err=True)
    sys.exit(1)


def _discard_stdout() -> None:
    """Keep Python from complaining, at its exit, of what is still to be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
