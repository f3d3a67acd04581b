import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tfs_core.config import Choice, RunConfig, config_from_mapping, load_config
from tfs_core.errors import ConfigError, PluginError

Load = Callable[..., RunConfig]
Errors = Callable[..., list[str]]


def test_yaml_of_the_design_is_valid_as_it_stands(load: Load, good: str) -> None:
    config = load(good)
    assert config.experiment_name == "tinystories_torch"
    assert config.training.learning_rate == 3e-4
    assert config.data.dataset == Choice("tinystories")
    assert config.model.name == "torch"
    assert config.model.options.d_ffn == 1024
    assert config.training.optimizer.options.betas == (0.9, 0.95)


def test_all_errors_are_reported_together_in_file_order(errors: Errors) -> None:
    told = errors(
        """\
experiment_name: 12
lerning_rate: 1
data:
  tokenizer: gpt3
  max_length: 512
  max_length: 513
model:
  name: torch
  n_heads: 3
  n_head: 4
  dtype: bflaot16
  max_seq_len: 256
training:
  batch_size: yes
  warmup_ratio: 0.1
  warmup_steps: 3
""",
        "training.weight_decay=-1",
    )
    assert [line.split(" ")[:2] for line in told] == [
        ["run.yaml:1:", "experiment_name:"],
        ["run.yaml:2:", "lerning_rate"],
        ["run.yaml:3:", "data.dataset"],
        ["run.yaml:4:", "data.tokenizer:"],
        ["run.yaml:5:", "data.max_length:"],
        ["run.yaml:6:", "data.max_length"],
        ["run.yaml:9:", "model.n_heads:"],
        ["run.yaml:10:", "model.n_head"],
        ["run.yaml:11:", "model.dtype:"],
        ["run.yaml:13:", "training:"],
        ["run.yaml:14:", "training.batch_size:"],
        ["run.yaml:16:", "training.warmup_steps:"],
        ["--set:", "training.weight_decay:"],
    ]


def test_unknown_setting_suggests_the_nearest_and_lists_all(errors: Errors, small: str) -> None:
    (told,) = errors(small + "runtime: {devise: cpu}\n")
    assert told == (
        "run.yaml:5: runtime.devise is not a setting. Did you mean 'device'? Settings: device, threads, matmul, "
        "compile, activation_checkpointing, loss_chunk."
    )


def test_unknown_option_of_a_component_names_the_component(errors: Errors, small: str) -> None:
    (told,) = errors(small, "model={name: torch, n_head: 4}")
    assert told.startswith(
        "--set: model.n_head is not a setting of the model 'torch'. Did you mean 'n_heads'? Settings: "
    )


def test_setting_in_the_wrong_section_suggests_the_right_section(errors: Errors, small: str) -> None:
    assert "There is a training.learning_rate." in errors(small + "learning_rate: 1\n")[0]
    assert "There is a data.max_length." in errors(small, "model.max_length=3")[0]


def test_option_of_a_component_without_options_is_an_error(errors: Errors, small: str) -> None:
    assert errors(small, "data.tokenizer.size=3") == [
        "--set: data.tokenizer.size: the tokenizer 'gpt2' takes no options"
    ]


def test_options_of_another_component_are_errors(errors: Errors, small: str) -> None:
    (told,) = errors(small, "data.dataset={name: jsonl, path: a, vocab_size: 3}")
    assert "data.dataset.vocab_size is not a setting of the dataset 'jsonl'" in told


def test_missing_required_settings_say_what_they_are(errors: Errors) -> None:
    told = errors("model: torch\ntraining: {max_steps: 1}\ndata: {tokenizer: gpt2, dataset: jsonl}\n")
    assert told == [
        "run.yaml:1: experiment_name is missing. "
        "The name of the run's folder; from the second run on, a number is appended.",
        "run.yaml:3: data.dataset.path is missing. Where the text is.",
    ]


def test_missing_model_name_mentions_the_option(errors: Errors, small: str) -> None:
    (told,) = errors(small.replace("model: torch", "model: {d_model: 8}"))
    assert told.startswith("run.yaml:3: model.name is missing (or --model NAME): which model? Installed: torch, ")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.batch_size=true", "expected a whole number of at least 1 and of at most 1048576, not true."),
        ("training.batch_size=1.5", "expected a whole number of at least 1 and of at most 1048576, not 1.5."),
        ("training.batch_size=0", "expected a whole number of at least 1 and of at most 1048576, not 0."),
        ("training.batch_size=null", "expected a whole number of at least 1 and of at most 1048576, not null."),
        (
            "training.max_tokens=1e6",
            "expected a whole number of at least 1 and of at most 1000000000000000, or null, not 1000000.0. "
            "Write 1000000.",
        ),
        (
            "training.max_tokens=1_000",
            "expected a whole number of at least 1 and of at most 1000000000000000, or null, not '1_000'. Write 1000.",
        ),
        ("training.learning_rate=fast", "expected a number above 0, not 'fast'."),
        ("training.learning_rate=true", "expected a number above 0, not true."),
        ("training.learning_rate=.inf", "expected a number above 0, not inf. It must be finite."),
        ("training.weight_decay=.nan", "expected a number of at least 0, not nan. It must be finite."),
        ("training.weight_decay=1e999", "expected a number of at least 0, not inf. It must be finite."),
        ("seed=99999999999999999999", "the number is too large"),
        ("seed=-1", "expected a whole number of at least 0, not -1."),
        ("experiment_name=2026", "expected text, not 2026. Put it in quotes: '2026'."),
        ("group=true", "expected text, or null, not true. Put it in quotes: 'true'."),
        ("tags=fast", "expected a list, each item text, not 'fast'. Write [fast]."),
        ("tags.0=1", "expected text, not 1. Put it in quotes: '1'."),
        ("runtime.threads=all", "expected a whole number of at least 1 and of at most 1024, or 'auto', not 'all'."),
        ("runtime.threads=2000", "expected a whole number of at least 1 and of at most 1024, or 'auto', not 2000."),
        ("runtime.device=cudaa", "expected 'auto', 'cpu', 'cuda' or 'mps', not 'cudaa'. Did you mean 'cuda'?"),
        ("data.validation_fraction=1", "expected a number above 0 and below 1, not 1."),
        ("training=3", "expected settings of its own, not 3"),
        ("training.optimizer=[adamw]", "expected a name, or a mapping with a name, of an optimizer, not a list"),
        ("data.dataset.name=3", "expected the name of a dataset, not 3"),
        ("model.max_seq_len={a: 1}", "expected a whole number, not a mapping."),
    ],
)
def test_value_of_the_wrong_type_says_what_was_expected(
    errors: Errors, small: str, override: str, expected: str
) -> None:
    overrides = ["tags=[a]", override] if override.startswith("tags.0") else [override]
    told = errors(small, *overrides)
    assert f"--set: {override.split('=')[0]}: {expected}" in told


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("levels: true", "model.levels: expected 1 or 2, not true."),
        ("fused: 'no'", "model.fused: expected true or false, not 'no'."),
        ("fused: 1", "model.fused: expected true or false, not 1."),
        ("rotation: {bas: 1}", "model.rotation.bas is not a setting. Did you mean 'base'? Settings: base."),
        ("rotation: 3", "model.rotation: expected settings of its own, not 3"),
        ("extra: x", "model.extra: expected settings of its own, or null, not 'x'."),
        ("extra: {base: x}", "model.extra.base: expected a number, not 'x'."),
        ("layers: [{}, {base: x}]", "model.layers.1.base: expected a number, not 'x'."),
        ("layers: {base: 1}", "model.layers: expected a list, each item settings of its own, not a mapping."),
        ("scales: {a: 1, b: x}", "model.scales.b: expected a number, not 'x'."),
    ],
)
def test_nested_options_are_checked_to_the_bottom(errors: Errors, small: str, options: str, expected: str) -> None:
    assert errors(small, f"model={{name: odd, {options}}}") == [f"--set: {expected}"]


def test_nested_options_become_their_classes(load: Load, small: str) -> None:
    options = load(small, "model={name: odd, layers: [{base: 2}, {}], extra: {}, scales: {a: 1}}").model.options
    assert options.rotation.base == 500.0, "the default of the outer class, not of the inner"
    assert [layer.base for layer in options.layers] == [2.0, 1e4]
    assert options.extra.base == 1e4
    assert options.scales == {"a": 1.0}
    assert type(options.layers) is tuple


def test_instances_are_of_the_plugins_own_class(load: Load, small: str) -> None:
    import stand_ins.options

    assert type(load(small).model.options) is stand_ins.options.TransformerConfig
    assert load(small).model.options == stand_ins.options.TransformerConfig()
    assert type(load(small)) is RunConfig


def test_whole_number_for_a_float_becomes_a_float(load: Load, small: str) -> None:
    value = load(small, "training.max_grad_norm=2").training.max_grad_norm
    assert value == 2.0
    assert type(value) is float


def test_relation_that_a_model_raises_is_reported_at_the_line_of_its_setting(errors: Errors, small: str) -> None:
    text = small.replace("model: torch", "model:\n  name: torch\n  d_model: 8\n  n_heads: 3")
    assert errors(text) == ["run.yaml:6: model.n_heads: n_heads must divide d_model; 3 does not divide 8"]


def test_relation_of_invalid_settings_is_not_reported(errors: Errors, small: str) -> None:
    told = errors(small, "model={name: torch, d_model: wide, n_heads: 3, n_blocks: deep}")
    assert [line.split(" ")[1] for line in told] == ["model.d_model:", "model.n_blocks:"]


def test_configuration_class_that_raises_is_reported_without_traceback(errors: Errors, small: str) -> None:
    (told,) = errors(small, "model={name: brittle, parts: 0}")
    assert "model: BrittleConfig cannot check these settings: ZeroDivisionError" in told


def test_unknown_component_suggests_the_nearest(errors: Errors, small: str) -> None:
    (told,) = errors(small, "data.dataset=tinystorys")
    assert told.startswith("--set: data.dataset: there is no dataset 'tinystorys'. Did you mean 'tinystories'?")


def test_component_is_found_by_its_full_name(load: Load, small: str) -> None:
    assert load(small, "model=stand-ins/torch").model.options.d_model == 256


def test_ambiguous_component_is_an_error_that_names_both(
    errors: Errors, small: str, install_plugin: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tfs_core.registry import get_registry

    install_plugin(
        "other", "@hookimpl\ndef tfs_models():\n    return [Component(name='torch', summary='s', factory='a:b')]\n"
    )
    monkeypatch.setenv("TFS_PLUGINS", "stand-ins,other")
    get_registry.cache_clear()
    (told,) = errors(small)
    assert told.startswith("run.yaml:3: model: model 'torch' is in more than one distribution")
    assert "'other/torch'" in told
    assert "'stand-ins/torch'" in told


def test_typo_in_tfs_plugins_is_reported_once(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tfs_core.registry import get_registry

    Path("run.yaml").write_text(small, encoding="utf-8")
    monkeypatch.setenv("TFS_PLUGINS", "stand-inz")
    get_registry.cache_clear()
    with pytest.raises(PluginError, match=r"^TFS_PLUGINS names 'stand-inz'.*Did you mean 'stand-ins'"):
        load_config(Path("run.yaml"))


def test_component_whose_options_cannot_be_imported_is_an_error(errors: Errors, small: str) -> None:
    (told,) = errors(small, "data.tokenizer=broken")
    assert "cannot be imported" in told
    assert told.startswith("--set: data.tokenizer: ")


def test_mapping_without_a_name_means_the_default_component(load: Load, small: str) -> None:
    optimizer = load(small, "training.optimizer={eps: 1e-6}").training.optimizer
    assert optimizer.name == "adamw"
    assert optimizer.options.eps == 1e-6


def test_section_with_nothing_below_it_is_the_default(load: Load, small: str) -> None:
    assert load(small + "samples:\nruntime:\n") == load(small)


def test_paths_in_a_file_are_relative_to_the_file(tmp_path: Path, small: str) -> None:
    folder = tmp_path / "configs"
    folder.mkdir()
    dataset = "{name: jsonl, path: [../a.jsonl, b.jsonl], folder: x}"
    text = small.replace("tinystories", dataset)
    (folder / "run.yaml").write_text(text, encoding="utf-8")
    options = load_config(Path("configs/run.yaml"), overrides=["data.dataset.folder=y"]).data.dataset.options
    assert options.path == (tmp_path / "a.jsonl", folder / "b.jsonl")
    assert options.folder == tmp_path / "y"


def test_path_with_a_tilde_is_in_the_home(load: Load, small: str) -> None:
    options = load(small, "data.dataset={name: text, path: ~/a.txt}").data.dataset.options
    assert options.path == Path.home() / "a.txt"


def test_path_with_the_tilde_of_nobody_is_a_name(load: Load, small: str, tmp_path: Path) -> None:
    options = load(small, "data.dataset={name: text, path: ~nobody-of-this-name/a.txt}").data.dataset.options
    assert options.path == tmp_path / "~nobody-of-this-name/a.txt"


def test_empty_path_is_an_error(errors: Errors, small: str) -> None:
    (told,) = errors(small, "data.dataset={name: text, path: ''}")
    assert "expected a path, or a list, each item a path, not ''" in told


def test_mapping_is_checked_like_a_file(tmp_path: Path) -> None:
    values = {
        "experiment_name": "a",
        "data": {"dataset": {"name": "text", "path": Path("a.txt")}, "tokenizer": Choice("gpt2")},
        "model": "torch",
        "training": {"max_steps": 3},
        "tags": ("x", "y"),
    }
    config = config_from_mapping(values, base=tmp_path / "elsewhere")
    assert config.tags == ("x", "y")
    assert config.data.dataset.options.path == tmp_path / "elsewhere" / "a.txt"


def test_mapping_with_errors_names_its_source() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_mapping({"tags": object(), "seed": "x", 3: 4}, source="my script")
    told = str(caught.value).splitlines()
    assert any(line.startswith("my script: experiment_name is missing.") for line in told)
    assert any(line.startswith("my script: tags: expected a list, each item text, not <object") for line in told)
    assert any(line.startswith("my script: 3 is not a setting") for line in told)


def test_loading_a_configuration_imports_no_torch_and_no_model(small: str) -> None:
    Path("run.yaml").write_text(small, encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from tfs_core.config import load_config; load_config(Path('run.yaml'))\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'numpy', 'datasets')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_importing_the_package_leaves_pydantic_for_later() -> None:
    code = "import sys, tfs_core.config; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
