from collections.abc import Callable
from pathlib import Path

import pytest

from tfs_core.config import Choice, RunConfig, check_together, folder_name_problem, load_config
from tfs_core.config.relations import without_effect
from tfs_core.config.resolved import flat, plain
from tfs_core.errors import ConfigError

Load = Callable[..., RunConfig]
Errors = Callable[..., list[str]]


def file(*, training: str = "max_steps: 9", more: str = "") -> str:
    """Return a configuration with the section `training` in line 4 and the other sections in line 5."""
    top = "experiment_name: a\ndata: {dataset: tinystories, tokenizer: gpt2}\nmodel: torch\n"
    return f"{top}training: {{{training}}}\n{more}\n"


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        (
            "batch_size: 2",
            "training: give one of training.num_epochs, training.max_steps and training.max_tokens: "
            "it says how long to train",
        ),
        (
            "num_epochs: 1, max_tokens: 9",
            "training.max_tokens: give only one of training.num_epochs, training.max_steps and training.max_tokens, "
            "not training.num_epochs and training.max_tokens",
        ),
        (
            "max_steps: 9, warmup_ratio: 0.1, warmup_steps: 3",
            "training.warmup_steps: give only one of training.warmup_ratio and training.warmup_steps",
        ),
        (
            "max_steps: 9, warmup_steps: 10",
            "training.warmup_steps: 10 steps of warm-up are more than training.max_steps (9)",
        ),
        (
            "max_steps: 9, learning_rate: 1e-4, min_learning_rate: 2e-4",
            "training.min_learning_rate: 0.0002 is more than training.learning_rate (0.0001), which it decays from",
        ),
        (
            "max_steps: 9, lr_decay: constant, min_learning_rate: 1e-5",
            "training.min_learning_rate: has no effect with a constant learning rate. Leave it out",
        ),
        (
            "max_steps: 9, lr_decay: tfs-core/constant, min_learning_rate: 1e-5",
            "training.min_learning_rate: has no effect with a constant learning rate. Leave it out",
        ),
        (
            "max_steps: 9, eval_every: null, early_stopping: 2",
            "training.early_stopping: has no effect without training.eval_every: the only validation is at the end. "
            "Leave it out",
        ),
    ],
)
def test_training_settings_that_do_not_go_together_are_an_error(errors: Errors, training: str, expected: str) -> None:
    assert errors(file(training=training)) == [f"run.yaml:4: {expected}"]


@pytest.mark.parametrize(
    "training",
    [
        "max_steps: 9, warmup_steps: 9",
        "max_steps: 9, warmup_steps: 0",
        "max_steps: 9, warmup_ratio: 0.0",
        "max_steps: 9, lr_decay: constant",
        "max_steps: 9, lr_decay: constant, min_learning_rate: null",
        "max_steps: 9, learning_rate: 1e-4, min_learning_rate: 1e-4",
        "max_steps: 9, min_learning_rate: 0",
        "max_steps: 9, num_epochs: null, max_tokens: null",
        "max_tokens: 100, warmup_steps: 10",
    ],
)
def test_training_settings_that_go_together_are_accepted(load: Load, training: str) -> None:
    assert load(file(training=training)).experiment_name == "a"


def test_missing_length_and_training_section_are_reported_at_the_top(errors: Errors) -> None:
    text = "experiment_name: a\ndata: {dataset: tinystories, tokenizer: gpt2}\nmodel: torch\n"
    assert errors(text)[0].startswith("run.yaml:1: training: give one of")


@pytest.mark.parametrize("setting", ["max_length: 5", "temperature: 0.8", "top_k: 50", "top_p: 1.0", "seed: 0"])
def test_sample_settings_without_prompts_are_an_error_even_at_their_defaults(errors: Errors, setting: str) -> None:
    name = setting.split(":")[0]
    assert errors(file(more=f"samples: {{{setting}}}")) == [
        f"run.yaml:5: samples.{name}: has no effect without samples.prompts. Leave it out"
    ]


@pytest.mark.parametrize("setting", ["top_k: 50", "top_p: 0.9", "seed: 3"])
def test_sampling_settings_at_temperature_0_are_an_error(errors: Errors, setting: str) -> None:
    name = setting.split(":")[0]
    assert errors(file(more=f"samples: {{prompts: [a], temperature: 0, {setting}}}")) == [
        f"run.yaml:5: samples.{name}: has no effect at temperature 0, which always takes the likeliest token. "
        "Leave it out"
    ]


def test_greedy_samples_are_accepted(load: Load) -> None:
    assert load(file(more="samples: {prompts: [''], temperature: 0, max_length: 3}")).samples.temperature == 0


def test_rows_longer_than_the_model_takes_are_an_error_at_the_setting_that_was_given(errors: Errors) -> None:
    message = "tokens are more than the model takes. Lower it, or raise model.max_seq_len"
    text = file(more="").replace("model: torch", "model: {name: torch, max_seq_len: 64}")
    assert errors(text) == [f"run.yaml:3: data.max_length: 256 {message} (64)"], "256 is the default"
    assert errors(text, "data.max_length=65") == [f"--set: data.max_length: 65 {message} (64)"]
    assert errors(file(), "data.max_length=300") == [f"--set: data.max_length: 300 {message} (256)"]


def test_logger_named_twice_is_an_error(errors: Errors) -> None:
    (told,) = errors(file(more="loggers:\n  - jsonl\n  - console\n  - {name: jsonl}\n"))
    assert told == "run.yaml:8: loggers.2: 'jsonl' is given twice with the same options"


def test_logger_named_twice_with_other_options_is_accepted(load: Load) -> None:
    more = "loggers: [{name: console, every_seconds: 1}, {name: console, every_seconds: 2}]"
    assert len(load(file(more=more)).loggers) == 2


def test_experiment_name_that_is_not_a_folder_name_is_an_error(errors: Errors) -> None:
    (told,) = errors(file(), "experiment_name=../a")
    assert told == "--set: experiment_name: a folder's name cannot hold '/', and the run's folder gets this name"


@pytest.mark.parametrize(
    "name",
    [
        *["", ".", "..", ".a", "-a", "~a", " a", "a ", "a.", "a/b", "a\\b", "a:b", "a*", "a?", 'a"', "a<", "a>", "a|"],
        *["con", "NUL", "Com1", "lpt9.txt", "aux.", "a\nb", "a\x00b", "a\u202eb", "\ud800", "x" * 201, "é" * 101],
    ],
)
def test_folder_name_that_is_not_legal_everywhere_has_a_problem(name: str) -> None:
    assert folder_name_problem(name)


@pytest.mark.parametrize(
    "name", ["a", "tiny-stories_2", "2026-01-31", "v1.5", "é" * 100, "日本", "console", "com", "a b"]
)
def test_folder_name_that_is_legal_everywhere_has_none(name: str, tmp_path: Path) -> None:
    assert folder_name_problem(name) is None
    (tmp_path / name).mkdir()


def test_relation_check_includes_the_options_of_a_local_model(load: Load) -> None:
    config = load(file(), "data.max_length=200")
    check_together(config)
    from dataclasses import replace

    short = replace(config.model.options, max_seq_len=100)
    with pytest.raises(ConfigError, match=r"^configuration: data.max_length: 200 tokens are more"):
        check_together(replace(config, model=Choice("x.py:X", short)))


def test_flat_settings_are_the_fields_and_the_options(load: Load) -> None:
    known = flat(plain(load(file())))
    assert known["training.max_steps"] == 9
    assert known["model.max_seq_len"] == 256
    assert known["training.optimizer.eps"] == 1e-8
    assert known["training.lr_decay.name"] == "cosine"


def test_nothing_is_without_effect_when_all_is_used(load: Load) -> None:
    assert without_effect(flat(plain(load(file(more="samples: {prompts: [a]}"))))) == {}


def test_config_of_a_folder_name_in_a_file_loads(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(file().replace("experiment_name: a", "experiment_name: 2026-01-31"), "utf-8")
    assert load_config(tmp_path / "run.yaml").experiment_name == "2026-01-31"
