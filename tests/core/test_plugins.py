"""Plugin discovery: every broken plugin is reported with the reason, and does not affect the others."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from tfs_core.errors import PluginError
from tfs_core.plugins import Plugin, discover, installed_plugins

InstallPlugin = Callable[..., None]

GOOD = """
@hookimpl
def tfs_models():
    return [Component(name="good", summary="A model", factory="x.model:build")]
"""


def offers(source: str) -> str:
    """Return a plugin whose hook `tfs_models` returns the expression `source`."""
    return f"@hookimpl\ndef tfs_models():\n    return {source}\n"


def declares(source: str) -> str:
    """Return a plugin that declares the kind in the expression `source`."""
    return f"@hookimpl\ndef tfs_kinds():\n    return [{source}]\n"


def plugin_of(distribution: str) -> Plugin:
    return next(plugin for plugin in discover() if plugin.distribution == distribution)


def test_installed_plugins_are_those_that_importlib_metadata_finds(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-Good.One", GOOD)
    found = {(plugin.name, plugin.reference, plugin.version) for plugin in installed_plugins()}
    points = metadata.entry_points(group="tfs.plugins")
    assert found == {(point.name, point.value, point.dist.version) for point in points if point.dist}
    assert ("main", "tfs_Good.One.plugin", "1.2") in found


def test_good_plugin_is_ok_and_its_components_are_there(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-good", GOOD)
    plugin = plugin_of("tfs-good")
    assert (plugin.state, plugin.version, plugin.problems) == ("ok", "1.2", [])
    assert [(kind, component.name) for kind, component in plugin.components] == [("model", "good")]


def test_plugins_come_in_the_order_of_their_distributions_after_the_core(install_plugin: InstallPlugin) -> None:
    for name in ("tfs-zebra", "a-plugin", "tfs-middle"):
        install_plugin(name, GOOD)
    distributions = [plugin.distribution for plugin in discover()]
    assert distributions[0] == "tfs-core"
    assert distributions[1:] == sorted(distributions[1:])


BROKEN = {
    "raises on import": ("raise RuntimeError('no licence\\nfor you')", "RuntimeError: no licence for you"),
    "imports what is not there": ("import nosuchmodule", "No module named 'nosuchmodule'"),
    "leaves on import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "panics on import": ("class Panic(BaseException): pass\nraise Panic('rust')", "Panic: rust"),
    "has a syntax error": ("def (", "SyntaxError"),
    "raises in a hook": ("@hookimpl\ndef tfs_models():\n    raise KeyError('x')", "tfs_models failed: KeyError"),
    "leaves in a hook": ("@hookimpl\ndef tfs_models():\n    raise SystemExit(3)", "tfs_models failed: SystemExit: 3"),
    "is a generator that raises late": (
        "@hookimpl\ndef tfs_models():\n    yield Component(name='m', summary='M', factory='a:b')\n    1 / 0",
        "tfs_models failed: ZeroDivisionError",
    ),
    "misspells a hook": ("@hookimpl\ndef tfs_modles():\n    return []", "Did you mean 'tfs_models'?"),
    "takes an argument that the hook has not": ("@hookimpl\ndef tfs_models(register):\n    return []", "register"),
    "returns None": ("@hookimpl\ndef tfs_models():\n    pass", "returned None"),
    "returns one component bare": (offers("Component(name='m', summary='M', factory='a:b')"), "a list of Components"),
    "returns a string": (offers("'abc'"), "'abc' instead of a list"),
    "returns what is no component": (offers("[len]"), "<built-in function len> is not a Component"),
    "gives an upper-case name": (offers("[Component(name='GPT', summary='M', factory='a:b')]"), "'GPT' is not a name"),
    "gives a name with a slash": (offers("[Component(name='a/b', summary='M', factory='a:b')]"), "is not a name"),
    "gives an empty name": (offers("[Component(name='', summary='M', factory='a:b')]"), "'' is not a name"),
    "gives a name that is no string": (offers("[Component(name=3, summary='M', factory='a:b')]"), "3 is not a name"),
    "gives no summary": (offers("[Component(name='m', summary='', factory='a:b')]"), "not one line of text"),
    "gives the factory itself": (offers("[Component(name='m', summary='M', factory=len)]"), "the factory of model 'm'"),
    "gives a factory with no colon": (offers("[Component(name='m', summary='M', factory='a.b')]"), "a.b"),
    "gives a loader where none belongs": (
        offers("[Component(name='m', summary='M', factory='a:b', loader='a:c')]"),
        "which only tokenizers have",
    ),
    "names an option for a path and has none": (
        offers("[Component(name='m', summary='M', factory='a:b', path_option='path')]"),
        "model 'm' has a path_option but no config, which must define that option",
    ),
    "gives a tokenizer no loader": (
        "@hookimpl\ndef tfs_tokenizers():\n    return [Component(name='t', summary='T', factory='a:b')]",
        "tokenizer 't' has no loader",
    ),
    "gives a command options": (
        "@hookimpl\ndef tfs_commands():\n    return [Component(name='c', summary='C', factory='a:b', config='a:c')]",
        "command 'c' has a config",
    ),
    "gives a component of a kind that its hook has not": (
        offers("[Component(name='m', summary='M', factory='a:b', kind='dataset')]"),
        "model 'm' declares the kind 'dataset': return it from tfs_components",
    ),
    "gives a component without a kind": (
        "@hookimpl\ndef tfs_components():\n    return [Component(name='m', summary='M', factory='a:b')]",
        "component 'm' has no valid kind: its kind is None",
    ),
    "gives a model a name with a space": (offers("[Component(name='a b', summary='M', factory='a:b')]"), "not a name"),
    "gives a command a name of three words": (
        "@hookimpl\ndef tfs_commands():\n    return [Component(name='a b c', summary='C', factory='a:b')]",
        "'a b c' is not a name",
    ),
    "declares what is no kind": (declares("'page'"), "tfs_kinds: 'page' is not a Kind"),
    "declares a kind with a bad name": (declares("Kind(name='My Page', keywords=())"), "not the name of a kind"),
    "declares keywords that are one string": (declares("Kind(name='page', keywords=('run'))"), "not a tuple of names"),
    "declares a protocol that is no reference": (
        declares("Kind(name='page', keywords=(), protocol='a.b')"),
        "the protocol of kind 'page' is 'a.b'",
    ),
    "declares a kind of the core": (
        declares("Kind(name='model', keywords=())"),
        "the kind 'model' is already declared by tfs-core",
    ),
    "gives a name twice": (
        offers("[Component(name='m', summary='M', factory='a:b')] * 2"),
        "model 'm' is declared twice by tfs-broken",
    ),
}


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_plugin_is_named_with_its_reason(install_plugin: InstallPlugin, source: str, reason: str) -> None:
    install_plugin("tfs-broken", source)
    install_plugin("tfs-good", GOOD)
    broken = plugin_of("tfs-broken")
    assert broken.state in ("failed", "incomplete")
    assert reason in "\n".join(broken.problems)
    assert plugin_of("tfs-good").components, "a broken plugin took another with it"


@pytest.mark.parametrize(("source", "reason"), BROKEN.values(), ids=BROKEN)
def test_strict_raises_what_is_wrong(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    install_plugin("tfs-broken", source)
    monkeypatch.setenv("TFS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="tfs-broken: ") as caught:
        discover()
    assert reason in str(caught.value)


def test_strict_keeps_the_cause(install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin("tfs-broken", "1 / 0")
    monkeypatch.setenv("TFS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError) as caught:
        discover()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_control_c_while_plugins_load_is_not_taken_for_their_fault(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-slow", "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover()


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("", "does not set TFS_PLUGIN_API = 1"),
        ("TFS_PLUGIN_API = 2", "upgrade tfs-core"),
        ("TFS_PLUGIN_API = 0", "upgrade tfs-old"),
        ("TFS_PLUGIN_API = '1'", "not a whole number"),
    ],
)
def test_plugin_of_another_interface_fails_and_the_reason_says_what_to_upgrade(
    install_plugin: InstallPlugin, statement: str, reason: str
) -> None:
    install_plugin("tfs-old", statement + GOOD, api=None)
    plugin = plugin_of("tfs-old")
    assert (plugin.state, plugin.components) == ("failed", [])
    assert reason in plugin.problems[0]


def test_misspelled_hook_leaves_the_others_usable(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-half", GOOD + "@hookimpl\ndef tfs_modles():\n    return []\n")
    plugin = plugin_of("tfs-half")
    assert plugin.state == "incomplete"
    assert [component.name for _, component in plugin.components] == ["good"]


def test_bad_component_leaves_its_neighbors_usable(install_plugin: InstallPlugin) -> None:
    good = "Component(name='m', summary='M', factory='a:b')"
    install_plugin("tfs-half", offers(f"[{good}, 3]"))
    assert [component.name for _, component in plugin_of("tfs-half").components] == ["m"]


def test_name_of_two_distributions_is_a_clash_of_both(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-one", GOOD)
    install_plugin("tfs-two", GOOD)
    assert plugin_of("tfs-one").clashes == ["model 'good' is also in tfs-two: write tfs-one/good"]
    assert plugin_of("tfs-two").clashes == ["model 'good' is also in tfs-one: write tfs-two/good"]
    assert plugin_of("tfs-two").state == "ok"


def test_command_of_the_core_takes_precedence_and_the_plugin_reports_it(install_plugin: InstallPlugin) -> None:
    install_plugin(
        "tfs-thief",
        "@hookimpl\ndef tfs_commands():\n    return [Component(name='run', summary='R', factory='a:b')]\n",
    )
    assert "`tfs run` is a command of tfs-core" in plugin_of("tfs-thief").clashes[0]
    assert plugin_of("tfs-core").clashes == []


def test_module_with_two_entry_points_is_one_plugin_and_a_problem(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-double", GOOD, entry="one = tfs_double.plugin\ntwo")
    first, second = (plugin for plugin in discover() if plugin.distribution == "tfs-double")
    assert first.problems == []
    assert second.problems == ["model 'good' is declared twice by tfs-double"]


@pytest.mark.parametrize(
    ("variable", "value", "left"),
    [
        ("TFS_PLUGINS", "tfs-one", {"tfs-one"}),
        ("TFS_PLUGINS", "two, Tfs_One", {"tfs-one", "tfs-two"}),
        ("TFS_PLUGINS", "", set()),
        ("TFS_DISABLE_PLUGINS", "two", {"tfs-one"}),
        ("TFS_DISABLE_PLUGINS", "", {"tfs-one", "tfs-two"}),
    ],
)
def test_environment_allows_and_denies_by_distribution_or_entry_point(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, left: set[str]
) -> None:
    install_plugin("tfs-one", GOOD, entry="one")
    install_plugin("tfs-two", "raise RuntimeError", entry="two")
    monkeypatch.setenv(variable, value)
    enabled = {plugin.distribution for plugin in discover() if not plugin.disabled_by}
    assert enabled & {"tfs-one", "tfs-two"} == left
    assert "tfs-core" in enabled


def test_disabled_plugin_is_not_imported(install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    install_plugin("tfs-quiet", GOOD)
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-quiet")
    plugin = plugin_of("tfs-quiet")
    assert (plugin.state, plugin.components) == ("disabled", [])
    assert "tfs_quiet.plugin" not in sys.modules


@pytest.mark.parametrize("variable", ["TFS_PLUGINS", "TFS_DISABLE_PLUGINS"])
def test_unknown_name_in_the_environment_suggests_the_nearest(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    install_plugin("tfs-good", GOOD)
    monkeypatch.setenv(variable, "tfs-godo")
    with pytest.raises(PluginError, match=f"{variable} names 'tfs-godo'.*Did you mean 'tfs-good'"):
        discover()


def test_plugins_are_imported_in_a_process_of_their_own_without_anything_heavy() -> None:
    code = (
        "import sys, json; from tfs_core.plugins import discover; discover();"
        "print(json.dumps(sorted({'torch', 'numpy', 'pydantic', 'datasets', 'dash', 'rich', 'yaml',"
        "} & set(sys.modules))))"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(output) == []


@pytest.mark.parametrize(
    "source",
    [
        "def __getattr__(name):\n    raise RuntimeError(name)\n",
        "from tfs_core import hookimpl\nTFS_PLUGIN_API = 1\nclass Odd:\n    def __repr__(self):\n"
        "        raise RuntimeError\n"
        "@hookimpl\ndef tfs_models():\n    return [Odd()]\n",
        "from tfs_core import hookimpl\nTFS_PLUGIN_API = 1\nclass Odd(Exception):\n    def __str__(self):\n"
        "        raise RuntimeError\n@hookimpl\ndef tfs_models():\n    raise Odd\n",
    ],
    ids=["attribute", "repr", "str"],
)
def test_plugin_that_raises_during_inspection_is_reported(install_plugin: InstallPlugin, source: str) -> None:
    install_plugin("tfs-odd", source, api=None)
    (odd,) = [plugin for plugin in discover() if plugin.distribution == "tfs-odd"]
    assert odd.problems
    assert odd.components == []


GALLERY = """
@hookimpl
def tfs_kinds():
    return [Kind(name="picture", keywords=("run", "width"))]
"""

PICTURE = """
@hookimpl
def tfs_components():
    return [Component(kind="picture", name="loss", summary="A picture", factory="tfs_painter.paint:build")]
"""


def test_component_of_a_kind_that_another_plugin_declares_is_there(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-zoo", GALLERY)  # the order of the names does not matter
    install_plugin("tfs-painter", PICTURE)
    painter = plugin_of("tfs-painter")
    assert (painter.state, painter.unused) == ("ok", [])
    assert [(kind, component.name) for kind, component in painter.components] == [("picture", "loss")]
    assert [kind.name for kind in plugin_of("tfs-zoo").kinds] == ["picture"]


def test_component_of_a_kind_that_no_plugin_declares_is_unused_and_no_problem(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-painter", PICTURE)
    painter = plugin_of("tfs-painter")
    assert (painter.state, painter.problems, painter.components) == ("ok", [], [])
    assert painter.unused == ["picture 'loss' is not used: no installed plugin declares the kind 'picture'"]


def test_kind_of_a_disabled_plugin_is_not_declared(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("tfs-gallery", GALLERY)
    install_plugin("tfs-painter", PICTURE)
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-gallery")
    assert plugin_of("tfs-painter").unused


def test_kind_that_is_declared_twice_is_a_problem_of_the_second(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-one", GALLERY)
    install_plugin("tfs-two", GALLERY)
    assert plugin_of("tfs-one").problems == []
    assert plugin_of("tfs-two").problems == ["the kind 'picture' is already declared by tfs-one"]
    assert plugin_of("tfs-two").kinds == []


def test_strict_raises_a_name_of_two_distributions(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "@hookimpl\ndef tfs_commands():\n    return [Component(name='config x', summary='S', factory='a:b')]\n"
    install_plugin("tfs-one", source)
    install_plugin("tfs-two", source)
    monkeypatch.setenv("TFS_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="tfs-one: command 'config x' is also in tfs-two"):
        discover()


def test_command_that_joins_no_group_is_unused_and_no_problem(install_plugin: InstallPlugin) -> None:
    install_plugin(
        "tfs-lonely",
        "@hookimpl\ndef tfs_commands():\n    return [Component(name='nosuch do', summary='S', factory='a:b')]\n",
    )
    lonely = plugin_of("tfs-lonely")
    assert (lonely.state, lonely.components) == ("ok", [])
    assert lonely.unused == ["command 'nosuch do' is not used: no installed plugin has its command group"]


def test_joined_command_of_two_distributions_says_how_to_call_each(install_plugin: InstallPlugin) -> None:
    source = "@hookimpl\ndef tfs_commands():\n    return [Component(name='config x', summary='S', factory='a:b')]\n"
    install_plugin("tfs-one", source)
    install_plugin("tfs-two", source)
    assert plugin_of("tfs-one").clashes == ["command 'config x' is also in tfs-two: write config tfs-one/x"]


@pytest.mark.parametrize("content", [b"[tfs.plugins]\nno equals sign\n", b"\xff\xfe\x00", b"[console_scripts]\nx\n"])
def test_damaged_distribution_takes_no_plugin_with_it(
    install_plugin: InstallPlugin, tmp_path: Path, content: bytes
) -> None:
    install_plugin("tfs-good", GOOD)
    damaged = tmp_path / "site-packages" / "damaged-1.dist-info"
    damaged.mkdir()
    (damaged / "entry_points.txt").write_bytes(content)
    assert plugin_of("tfs-good").state == "ok"


def test_first_distribution_on_the_path_is_the_one_that_counts(
    install_plugin: InstallPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("tfs-good", GOOD)
    information = tmp_path / "older" / "tfs_good-0.9.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tfs-good\nVersion: 0.9\n", "utf-8")
    (information / "entry_points.txt").write_text("[tfs.plugins]\nmain = tfs_good.plugin\n", "utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "older")])
    assert [plugin.version for plugin in discover() if plugin.distribution == "tfs-good"] == ["1.2"]
