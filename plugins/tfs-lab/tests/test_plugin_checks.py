"""`tfs plugins check`: problems of a plugin are found and reported."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from tfs_core.cli.main import tfs

InstallPlugin = Callable[..., None]


def call(*arguments: str) -> Result:
    return CliRunner().invoke(tfs, list(arguments))


MODEL = """
@hookimpl
def tfs_models():
    return [Component(name="m", summary="M", factory="tfs_x.model:build", config="tfs_x.config:Config")]
"""

CONFIG = '''
from dataclasses import dataclass
from tfs_core.contracts import ModelConfig

@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    width: int = 8
    """How wide."""
'''

BUILD = "def build(config, *, vocab_size, generator): pass\n"

FAULTY = {
    "heavy plugin module": (MODEL + "import numpy", CONFIG, BUILD, "it imports numpy"),
    "heavy configuration": (MODEL, CONFIG + "import numpy", BUILD, "it imports numpy"),
    "no factory": (MODEL, CONFIG, "", "has no attribute 'build'"),
    "factory of another form": (MODEL, CONFIG, "def build(config): pass", "unexpected keyword argument 'vocab_size'"),
    "factory that wants more": (
        MODEL,
        CONFIG,
        "def build(config, assets, *, vocab_size, generator): pass",
        "missing a required argument: 'assets'",
    ),
    "undocumented option": (MODEL, CONFIG.replace('"""How wide."""', ""), BUILD, "undocumented: width"),
    "model without what all models have": (
        MODEL,
        CONFIG.replace("Config(ModelConfig)", "Config"),
        BUILD,
        "does not extend",
    ),
    "path option that is none": (
        MODEL.replace("Component(", "Component(path_option='path', "),
        CONFIG,
        BUILD,
        "it has no option 'path', which the component's path_option names",
    ),
    "not frozen": (MODEL, CONFIG.replace("frozen=True", "frozen=False").replace("(ModelConfig)", ""), BUILD, "frozen"),
    "defaults that do not go together": (
        MODEL,
        CONFIG + "    def __post_init__(self): raise ValueError('odd')",
        BUILD,
        "its defaults do not go together: ValueError: odd",
    ),
    "misspelled hook": (MODEL + "@hookimpl\ndef tfs_modles(): return []", CONFIG, BUILD, "Did you mean 'tfs_models'"),
    "failed plugin": ("1 / 0", CONFIG, BUILD, "ZeroDivisionError"),
}


def test_check_passes_a_plugin_that_is_as_it_should_be(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-x", MODEL, config=CONFIG, model="import torch\n" + BUILD)
    result = call("plugins", "check", "tfs-x")
    assert "FAIL" not in result.output
    assert result.exit_code == 0
    assert "ok    model 'm': factory tfs_x.model:build" in result.output


@pytest.mark.parametrize(("plugin_py", "config_py", "model_py", "reason"), FAULTY.values(), ids=FAULTY)
def test_check_fails_a_plugin_and_says_why(
    install_plugin: InstallPlugin, plugin_py: str, config_py: str, model_py: str, reason: str
) -> None:
    install_plugin("tfs-x", plugin_py, config=config_py, model=model_py)
    result = call("plugins", "check", "tfs-x", "--json")
    assert result.exit_code == 1
    assert any(reason in (finding["problem"] or "") for finding in json.loads(result.stdout))


def test_check_of_a_component_prints_what_fails_in_its_plugin(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-x", MODEL, config=CONFIG, model="")
    result = call("plugins", "check", "tfs-x/m")
    assert result.exit_code == 1
    assert "FAIL  model 'm': factory tfs_x.model:build: AttributeError" in result.output


def test_unknown_name_suggests_the_nearest() -> None:
    result = call("plugins", "check", "cosin")
    assert result.exit_code == 1
    assert "neither a component nor a distribution 'cosin'. Did you mean 'cosine'?" in result.stderr


GALLERY = """
@hookimpl
def tfs_kinds():
    return [Kind(name="picture", keywords=("width",), protocol="tfs_gallery.paint:Picture")]

@hookimpl
def tfs_components():
    return [Component(kind="picture", name="square", summary="S", factory="tfs_gallery.paint:build")]
"""


@pytest.mark.parametrize(
    ("paint_py", "reason"),
    [
        ("class Picture: pass\ndef build(options, *, width): pass\n", None),
        ("class Picture: pass\ndef build(options): pass\n", "unexpected keyword argument 'width'"),
        ("Picture = 3\ndef build(options, *, width): pass\n", "it is not a class"),
        ("def build(options, *, width): pass\n", "has no attribute 'Picture'"),
    ],
)
def test_check_knows_the_kinds_that_plugins_declare(
    install_plugin: InstallPlugin, paint_py: str, reason: str | None
) -> None:
    install_plugin("tfs-gallery", GALLERY, paint=paint_py)
    problems = [line["problem"] for line in json.loads(call("plugins", "check", "tfs-gallery", "--json").stdout)]
    assert any(reason in (problem or "") for problem in problems) if reason else problems == [None] * len(problems)


def test_check_says_what_nothing_can_use_and_does_not_fail(install_plugin: InstallPlugin) -> None:
    source = (
        "@hookimpl\ndef tfs_components():\n    return [Component(kind='tune', name='x', summary='X', factory='a:b')]"
    )
    install_plugin("tfs-x", source)
    result = call("plugins", "check", "tfs-x")
    assert result.exit_code == 0
    assert "ok    tune 'x' is not used: no installed plugin declares the kind 'tune'" in result.output


def test_strict_mode_fails_a_plugin_that_is_broken(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("tfs-x", "1 / 0")
    monkeypatch.setenv("TFS_STRICT_PLUGINS", "1")
    result = call("plugins", "check", "tfs-x")
    assert result.exit_code == 1
    assert "tfs-x: tfs_x.plugin cannot be imported: ZeroDivisionError" in result.stderr


def test_core_is_as_it_should_be() -> None:
    result = call("plugins", "check", "tfs-core")
    assert "FAIL" not in result.output
