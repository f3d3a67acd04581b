"""Lookup of components by name, and the error messages for unknown names."""

import sys
from collections.abc import Callable

import pytest

from tfs_core.errors import PluginError
from tfs_core.registry import Registry, get_registry

InstallPlugin = Callable[..., None]

MODEL = """
@hookimpl
def tfs_models():
    model = "{package}.model"
    return [Component(name="llama", summary="A model", factory=model + ":build", config=model + ":Config")]
"""

MODEL_PY = """
from dataclasses import dataclass
from tfs_core.contracts import ModelConfig

@dataclass(frozen=True, kw_only=True)
class Config(ModelConfig):
    pass

def build(config, *, vocab_size, generator):
    return vocab_size
"""


@pytest.fixture
def llama(install_plugin: InstallPlugin) -> Registry:
    install_plugin("tfs-llama", MODEL.format(package="tfs_llama"), model=MODEL_PY)
    return get_registry()


def test_bare_and_qualified_names_find_the_same_component(llama: Registry) -> None:
    entry = llama.find("model", "llama")
    assert entry == llama.find("model", "tfs-llama/llama") == llama.find("model", "Tfs_Llama/llama")
    assert (entry.qualified_name, entry.version, str(entry)) == ("tfs-llama/llama", "1.2", "model 'llama' of tfs-llama")


def test_factory_and_config_are_imported_on_first_use(llama: Registry) -> None:
    entry = llama.find("model", "llama")
    assert "tfs_llama.model" not in sys.modules
    assert entry.load_factory()(None, vocab_size=7, generator=None) == 7
    config = entry.load_config_class()
    assert config is not None
    assert config.__name__ == "Config"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("scheduler", "constant"),
        ("scheduler", "linear"),
        ("scheduler", "cosine"),
        ("scheduler", "warmup-stable-decay"),
        ("optimizer", "adamw"),
        ("optimizer", "sgd"),
        ("logger", "jsonl"),
        ("logger", "console"),
    ],
)
def test_components_of_the_core_use_the_same_hooks(kind: str, name: str) -> None:
    entry = get_registry().find(kind, name)
    assert entry.distribution == "tfs-core"
    assert callable(entry.load_factory())
    entry.load_config_class()


def test_registry_has_a_name_in_its_own_kind_only() -> None:
    registry = get_registry()
    assert registry.owners("optimizer", "adamw") == ["tfs-core"]
    assert registry.owners("model", "adamw") == []
    assert registry.owners("logger", "adamw") == []


def test_unknown_name_error_has_the_nearest_name_the_installed_names_and_the_searched_places(llama: Registry) -> None:
    with pytest.raises(PluginError) as caught:
        llama.find("model", "lama")
    message = str(caught.value)
    assert "there is no model 'lama'. Did you mean 'llama'?" in message
    assert f"Plugins are looked for in {sys.prefix}" in message


def test_unknown_qualified_name_suggests_a_qualified_name(llama: Registry) -> None:
    with pytest.raises(PluginError, match="Did you mean 'tfs-llama/llama'"):
        llama.find("model", "tfs-lama/llama")


def test_unknown_name_error_says_if_another_kind_has_the_name(llama: Registry) -> None:
    with pytest.raises(PluginError, match="There is: optimizer 'adamw' of tfs-core"):
        llama.find("model", "adamw")


def test_unknown_name_error_names_broken_and_disabled_plugins(
    install_plugin: InstallPlugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_plugin("tfs-broken", "import nosuchmodule")
    install_plugin("tfs-off", MODEL.format(package="tfs_off"))
    monkeypatch.setenv("TFS_DISABLE_PLUGINS", "tfs-off")
    with pytest.raises(PluginError) as caught:
        get_registry().find("model", "llama")
    assert "tfs-broken is failed: tfs_broken.plugin cannot be imported: ModuleNotFoundError" in str(caught.value)
    assert "tfs-off is disabled: TFS_DISABLE_PLUGINS" in str(caught.value)


def test_name_of_two_distributions_is_an_error_only_when_used_bare(install_plugin: InstallPlugin) -> None:
    install_plugin("tfs-one", MODEL.format(package="tfs_one"))
    install_plugin("tfs-two", MODEL.format(package="tfs_two"))
    registry = get_registry()
    assert registry.find("scheduler", "cosine")
    assert registry.find("model", "tfs-two/llama").distribution == "tfs-two"
    with pytest.raises(PluginError, match="write 'tfs-one/llama' or 'tfs-two/llama'"):
        registry.find("model", "llama")


def test_name_of_the_core_stays_the_core_s(install_plugin: InstallPlugin) -> None:
    install_plugin(
        "tfs-x",
        "@hookimpl\ndef tfs_optimizers():\n    return [Component(name='adamw', summary='A', factory='a:b')]\n",
    )
    assert get_registry().find("optimizer", "adamw").distribution == "tfs-core"
    assert get_registry().find("optimizer", "tfs-x/adamw").distribution == "tfs-x"


@pytest.mark.parametrize(
    ("model_py", "reason"),
    [
        ("import nosuchmodule", "cannot be imported: ModuleNotFoundError: No module named 'nosuchmodule'. Install"),
        ("x = 1", "cannot be imported: AttributeError: module 'tfs_x.model' has no attribute 'build'. TFS_DEBUG=1"),
        ("import tfs_x.modle", "cannot be imported: ModuleNotFoundError: No module named 'tfs_x.modle'. TFS_DEBUG=1"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("build = 3", "cannot be called"),
    ],
)
def test_factory_that_cannot_be_imported_is_an_error_that_names_its_distribution(
    install_plugin: InstallPlugin, model_py: str, reason: str
) -> None:
    install_plugin("tfs-x", MODEL.format(package="tfs_x"), model=model_py)
    with pytest.raises(PluginError, match="model 'llama' of tfs-x: its factory ") as caught:
        get_registry().find("model", "llama").load_factory()
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "model_py",
    [
        "Config = 3",
        "class Config: pass",
        "from dataclasses import dataclass\n@dataclass\nclass Config:\n    x: int = 1\n",
    ],
    ids=["a number", "a plain class", "not frozen"],
)
def test_config_that_is_not_a_frozen_dataclass_is_an_error(install_plugin: InstallPlugin, model_py: str) -> None:
    install_plugin("tfs-x", MODEL.format(package="tfs_x"), model=model_py)
    with pytest.raises(PluginError, match="is not a frozen dataclass"):
        get_registry().find("model", "llama").load_config_class()


def test_first_lookup_warns_once_of_broken_plugins(
    install_plugin: InstallPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    install_plugin("tfs-broken", "1 / 0")
    registry = get_registry()
    registry.entries()
    assert caplog.messages == []
    registry.find("scheduler", "cosine")
    registry.find("scheduler", "linear")
    assert len(caplog.messages) == 1
    assert "plugin tfs-broken is failed" in caplog.messages[0]


def test_registry_is_made_once_in_a_process() -> None:
    assert get_registry() is get_registry()


def test_component_of_a_declared_kind_is_built_with_its_keywords(install_plugin: InstallPlugin) -> None:
    install_plugin(
        "tfs-gallery",
        "@hookimpl\ndef tfs_kinds():\n    return [Kind(name='picture', keywords=('width',))]\n"
        "@hookimpl\ndef tfs_components():\n    return [Component(kind='picture', name='square', summary='S', "
        "factory='tfs_gallery.paint:build')]\n",
        paint="def build(options, *, width):\n    return width * width\n",
    )
    registry = get_registry()
    assert registry.kinds["picture"].keywords == ("width",)
    assert registry.kinds["logger"].keywords == ("run",)
    (entry,) = registry.entries("picture")
    assert entry == registry.find("picture", "square")
    assert entry.build(None, width=3) == 9
