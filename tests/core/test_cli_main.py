"""The command line: lazy imports, no unnecessary output, and failing plugins do not affect other commands."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tfs_core.cli.main import tfs
from tfs_core.cli.plugins import install_command
from tfs_core.registry import get_registry

InstallPlugin = Callable[..., None]

HELLO = """
@hookimpl
def tfs_commands():
    return [Component(name="{name}", summary="Says hello.", factory="{package}.hello:hello")]
"""

HELLO_PY = """
import click
from tfs_core.errors import ConfigError, TfsError

@click.command()
@click.option("--fail", is_flag=True)
@click.option("--misconfigure", is_flag=True)
@click.option("--interrupt", is_flag=True)
@click.option("--twice", is_flag=True)
def hello(fail, misconfigure, interrupt, twice):
    "Say hello."
    if misconfigure:
        raise ConfigError("no such language")
    if fail:
        raise TfsError("no hello today")
    if interrupt:
        raise KeyboardInterrupt
    click.echo("hello " * (2 if twice else 1))
"""


def call(*arguments: str) -> Result:
    return CliRunner().invoke(tfs, list(arguments), prog_name="tfs")


def in_a_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tfs` in a new process."""
    code = "import sys; from tfs_core.cli.main import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.fixture
def hello(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=HELLO_PY)


HEAVY = {"torch", "numpy", "pydantic", "datasets", "dash", "rich", "yaml"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["plugins"], ["plugins", "--json"]], ids=" ".join)
def test_command_imports_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom tfs_core.cli.main import main\n"
        f"sys.argv = ['tfs', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "heavy: []"


def test_version_finds_no_plugins(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-broken", "raise KeyboardInterrupt")
    assert call("--version").output.startswith("tfs, version ")


def test_help_lists_the_core_first_and_then_plugins(hello: None) -> None:
    output = call("--help").output
    assert "Says hello." in output
    assert output.index("  run ") < output.index("  plugins ") < output.index("  hello ")
    assert "tfs_hello.hello" not in sys.modules


def test_command_of_a_plugin_parses_its_own_options(hello: None) -> None:
    assert call("hello", "--twice").output == "hello hello \n"
    assert "--twice" in call("hello", "--help").output
    result = call("hello", "--thrice")
    assert result.exit_code == 2
    assert "--thrice" in result.stderr


def test_command_is_found_by_its_full_name(hello: None) -> None:
    assert call("tfs-hello/hello").output == "hello \n"


def test_group_of_a_plugin_has_commands_of_its_own(install_plugin: InstallPlugin) -> None:
    source = "import click\n@click.group()\ndef hello(): pass\n@hello.command()\ndef you(): click.echo('hello you')\n"
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=source)
    assert call("hello", "you").output == "hello you\n"


JOINED_PY = "import click\n@click.command()\ndef hello(): click.echo('joined')\n"
GROUP_PY = "import click\n@click.group()\ndef hello(): pass\n@hello.command()\ndef you(): click.echo('own')\n"


@pytest.mark.parametrize("group", ["plugins", "config"])
def test_command_of_a_plugin_joins_a_group_of_the_core(install_plugin: InstallPlugin, group: str) -> None:
    install_plugin("tfs-more", HELLO.format(name=f"{group} more", package="tfs_more"), hello=JOINED_PY)
    output = call(group, "--help").output
    assert "more" in output
    assert "Says hello." in output
    assert "tfs_more.hello" not in sys.modules  # not imported: the help uses the summary
    for other in [[], ["plugins" if group == "config" else "config"]]:
        assert "Says hello." not in call(*other, "--help").output
    assert call(group, "more").output == "joined\n"


def test_command_joins_a_group_of_another_plugin_whose_own_command_wins(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=GROUP_PY)
    for name in ("you", "me"):
        install_plugin(f"tfs-{name}", HELLO.format(name=f"hello {name}", package=f"tfs_{name}"), hello=JOINED_PY)
    assert call("hello", "you").output == "own\n"
    assert call("hello", "me").output == "joined\n"
    assert call("tfs-hello/hello", "me").output == "joined\n"


def test_joined_command_of_two_plugins_is_called_by_its_full_name(install_plugin: InstallPlugin) -> None:
    for name in ("one", "two"):
        install_plugin(f"tfs-{name}", HELLO.format(name="config more", package=f"tfs_{name}"), hello=JOINED_PY)
    output = call("config", "--help").output
    assert "tfs-one/more" in output
    assert "tfs-two/more" in output
    assert call("config", "tfs-two/more").output == "joined\n"
    assert call("config", "more").exit_code == 2


def test_joined_command_that_cannot_be_imported_does_not_affect_others(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-more", HELLO.format(name="plugins more", package="tfs_more"), hello="1 / 0")
    assert call("plugins", "list").exit_code == 0
    result = call("plugins", "more")
    assert result.exit_code == 1
    assert "command 'plugins more' of tfs-more" in result.stderr


def test_joined_commands_are_gone_with_their_plugin(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("tfs-more", HELLO.format(name="config more", package="tfs_more"), hello=JOINED_PY)
    assert "more" in call("config", "--help").output
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-more")
    get_registry.cache_clear()
    assert "more" not in call("config", "--help").output


def test_command_that_returns_a_number_ends_with_0(install_plugin: InstallPlugin) -> None:
    hello_py = "import click\n@click.command()\ndef hello(): return 3\n"
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=hello_py)
    assert call("hello").exit_code == 0


def test_command_may_end_the_process_itself(install_plugin: InstallPlugin) -> None:
    hello_py = "import sys, click\n@click.command()\ndef hello(): print('x'); sys.exit(3)\n"
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=hello_py)
    assert call("hello").exit_code == 3


def test_only_one_frame_of_the_core_is_below_a_command(install_plugin: InstallPlugin) -> None:
    hello_py = (
        "import click, traceback\n@click.command()\ndef hello():\n"
        "    click.echo(sum('tfs_core' in frame.filename for frame in traceback.extract_stack()))\n"
    )
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=hello_py)
    assert in_a_process("hello").stdout == "1\n"


@pytest.mark.parametrize(
    ("hello_py", "reason"),
    [("import nosuchmodule", "No module named 'nosuchmodule'"), ("hello = len", "is not a click command")],
)
def test_command_that_cannot_be_imported_does_not_affect_others(
    install_plugin: InstallPlugin, hello_py: str, reason: str
) -> None:
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=hello_py)
    assert call("--help").exit_code == 0
    result = call("hello")
    assert result.exit_code == 1
    assert "command 'hello' of tfs-hello" in result.stderr
    assert reason in result.stderr


def test_command_of_two_plugins_is_an_error_only_when_used_bare(install_plugin: InstallPlugin) -> None:
    for name in ("one", "two"):
        install_plugin(f"tfs-{name}", HELLO.format(name="hello", package=f"tfs_{name}"), hello=HELLO_PY)
    help_text = call("--help").output
    assert "tfs-one/hello" in help_text
    assert "tfs-two/hello" in help_text
    assert call("tfs-two/hello").output == "hello \n"
    result = call("hello")
    assert result.exit_code == 1
    assert "write 'tfs-one/hello' or 'tfs-two/hello'" in result.stderr


def test_command_of_the_core_takes_precedence_over_a_plugin(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-thief", HELLO.format(name="plugins", package="tfs_thief"), hello=HELLO_PY)
    output = call("plugins").output
    assert "! `tfs plugins` is a command of tfs-core: call this one `tfs tfs-thief/plugins`" in output
    assert call("--help").output.count("  plugins ") == 1


def test_unknown_command_suggests_the_nearest_and_names_failed_plugins(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-broken", "1 / 0")
    result = call("pluginz")
    assert result.exit_code == 2
    assert "there is no command 'pluginz'. Did you mean 'plugins'?" in result.stderr
    assert "tfs-broken is failed: tfs_broken.plugin cannot be imported: ZeroDivisionError" in result.stderr


@pytest.mark.parametrize(
    ("option", "exit_code", "message"), [("--fail", 1, "no hello today"), ("--misconfigure", 2, "no such language")]
)
def test_tfs_error_is_one_message_and_its_exit_code(hello: None, option: str, exit_code: int, message: str) -> None:
    result = call("hello", option)
    assert (result.exit_code, result.stdout, result.stderr) == (exit_code, "", f"Error: {message}\n")


@pytest.mark.parametrize(("arguments", "environment"), [(["--debug"], {}), ([], {"TFS_DEBUG": "1"})])
def test_debug_adds_the_traceback(hello: None, arguments: list[str], environment: dict[str, str]) -> None:
    process = in_a_process(*arguments, "hello", "--fail", **environment)
    assert process.returncode == 1
    assert "Traceback" in process.stderr
    assert process.stderr.endswith("Error: no hello today\n")


def test_control_c_ends_with_130_and_no_traceback(hello: None) -> None:
    process = in_a_process("hello", "--interrupt")
    assert process.returncode == 130
    assert process.stderr == "\nInterrupted.\n"


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends the process on Windows")
def test_control_c_within_an_import_that_swallows_exceptions_ends_the_process(install_plugin: InstallPlugin) -> None:
    careless = "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n    pass\n"
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=careless + HELLO_PY)
    process = in_a_process("hello")
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "Interrupted.\n")


@pytest.mark.skipif(os.name == "nt", reason="a pipe breaks differently on Windows")
def test_reader_that_leaves_early_causes_no_traceback(install_plugin: InstallPlugin) -> None:
    hello_py = "import click\n@click.command()\ndef hello():\n    print('x')\n    click.get_current_context().exit()\n"
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=hello_py)
    for arguments in (["plugins"], ["hello"]):
        read, write = os.pipe()
        os.close(read)
        code = "import sys; from tfs_core.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", code, *arguments]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        process = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment)
        os.close(write)
        assert process.stderr == ""


full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")


@full_device
@pytest.mark.parametrize("arguments", [["plugins"], ["--help"], ["plugins", "--help"]], ids=" ".join)
def test_output_to_a_full_disk_is_reported_without_traceback(arguments: list[str]) -> None:
    code = "import sys; from tfs_core.cli.main import main; sys.exit(main())"
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", code, *arguments]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.stderr == "Error: the output cannot be written: No space left on device.\n"
    assert process.returncode == 1


def test_terminal_encoding_without_a_character_is_not_an_error(install_plugin: InstallPlugin) -> None:
    hello_py = "import click\n@click.command()\ndef hello():\n    click.echo('\u2192')\n"
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=hello_py)
    process = in_a_process("hello", PYTHONIOENCODING="latin-1")
    assert (process.returncode, process.stdout) == (0, "\\u2192\n")


def test_broken_plugin_is_one_line_on_stderr_and_not_for_help(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-broken", "1 / 0")
    source = (
        "import click\n@click.command()\ndef hello():\n    from tfs_core.registry import get_registry\n"
        "    for name in ('cosine', 'linear'): get_registry().find('scheduler', name)\n"
    )
    install_plugin("tfs-hello", HELLO.format(name="hello", package="tfs_hello"), hello=source)
    assert in_a_process("--help").stderr == ""
    assert in_a_process("plugins").stderr == ""
    lines = in_a_process("hello").stderr.splitlines()
    assert len(lines) == 1
    assert "plugin tfs-broken is failed" in lines[0]


def test_help_works_when_the_environment_names_no_plugin(monkeypatch: pytest.MonkeyPatch, hello: None) -> None:
    monkeypatch.setenv("TFS_PLUGINS", "tfs-nosuch")
    result = call("--help")
    assert result.exit_code == 0
    assert "commands of plugins are missing: TFS_PLUGINS names 'tfs-nosuch'" in " ".join(result.output.split())
    for arguments in (["plugins"], ["plugins", "nosuch"], ["nosuch"]):
        result = call(*arguments)
        assert result.exit_code == 1
        assert "TFS_PLUGINS names 'tfs-nosuch'" in result.stderr
    assert "validate" in call("config", "--help").output


def test_strict_makes_a_broken_plugin_an_error(monkeypatch: pytest.MonkeyPatch, install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-broken", "1 / 0")
    monkeypatch.setenv("TFS_STRICT_PLUGINS", "1")
    result = call("plugins")
    assert result.exit_code == 1
    assert "tfs-broken: tfs_broken.plugin cannot be imported: ZeroDivisionError" in result.stderr


def test_plugins_lists_state_reason_and_how_to_install(install_plugin: InstallPlugin, hello: None) -> None:
    install_plugin("tfs-broken", "import nosuchmodule")
    output = call("plugins").output
    assert output == call("plugins", "list").output
    assert "tfs-broken 1.2: failed\n  ! tfs_broken.plugin cannot be imported: ModuleNotFoundError" in output
    assert "tfs-hello 1.2: ok\n  commands    hello\n" in output
    assert f"To install another plugin: {install_command('NAME')}" in output


def test_plugins_lists_what_nothing_can_use(install_plugin: InstallPlugin) -> None:
    install_plugin(
        "tfs-painter",
        "@hookimpl\ndef tfs_components():\n"
        "    return [Component(kind='picture', name='loss', summary='A picture', factory='a:b')]\n",
    )
    line = "picture 'loss' is not used: no installed plugin declares the kind 'picture'"
    assert f"tfs-painter 1.2: ok\n  - {line}\n" in call("plugins").output
    (values,) = [one for one in json.loads(call("plugins", "--json").stdout) if one["distribution"] == "tfs-painter"]
    assert values["unused"] == [line]


def test_plugins_as_json_has_every_plugin(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-broken", "1 / 0")
    for arguments in (["plugins", "--json"], ["plugins", "list", "--json"]):
        values = {plugin["distribution"]: plugin for plugin in json.loads(call(*arguments).stdout)}
        assert values["tfs-core"]["state"] == "ok"
        assert values["tfs-broken"]["state"] == "failed"
        assert "ZeroDivisionError" in values["tfs-broken"]["problems"][0]


def test_show_has_options_with_types_defaults_and_docs() -> None:
    output = call("plugins", "show", "warmup-stable-decay").output
    assert "decay_ratio: a number; default 0.2" in output
    assert "The fraction of all steps in which the learning rate decays" in output
    (values,) = json.loads(call("plugins", "show", "tfs-core/warmup-stable-decay", "--json").stdout)
    assert [option["name"] for option in values["options"]] == ["decay_ratio", "shape"]
    assert values["options"][0]["default"] == 0.2
    assert values["file"].endswith("schedules.py")


def test_show_of_a_distribution_lists_all_its_components(hello: None) -> None:
    output = call("plugins", "show", "Tfs_Hello").output
    assert "tfs-hello 1.2: ok" in output
    assert "command hello: Says hello." in output


def test_show_of_a_failed_distribution_has_the_reason(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-broken", "1 / 0")
    result = call("plugins", "show", "tfs-broken")
    assert result.exit_code == 0
    assert "ZeroDivisionError" in result.output


def test_unknown_name_suggests_the_nearest() -> None:
    result = call("plugins", "show", "cosin")
    assert result.exit_code == 1
    assert "neither a component nor a distribution 'cosin'. Did you mean 'cosine'?" in result.stderr


@pytest.mark.parametrize(
    ("marker", "command"),
    [("uv-receipt.toml", "uv tool install tfs-core --with NAME"), ("pipx_metadata.json", "pipx inject tfs-core NAME")],
)
def test_install_command_is_for_the_tool_that_made_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str, command: str
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    (tmp_path / marker).touch()
    assert install_command("NAME") == command


def test_install_command_is_pip_of_this_python_or_uv_without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    assert install_command("NAME") == f"{sys.executable} -m pip install NAME"
    monkeypatch.setattr("tfs_core.cli.plugins.find_spec", lambda name: None)
    assert install_command("NAME") == f"uv pip install --python {sys.executable} NAME"
