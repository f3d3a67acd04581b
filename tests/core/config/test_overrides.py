import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tfs_core.config import Choice, RunConfig, config_from_yaml, to_yaml

Load = Callable[..., RunConfig]
Errors = Callable[..., list[str]]


def test_set_changes_one_setting_and_leaves_the_rest(load: Load, good: str) -> None:
    config = load(good, "training.batch_size=64", "seed=7")
    assert config.training.batch_size == 64
    assert config.seed == 7
    assert config.training.learning_rate == 3e-4


def test_set_value_is_yaml(load: Load, small: str) -> None:
    config = load(small, "training.learning_rate=1e-2", "group=", "samples.prompts=[Once, 'a: b=c']", "tags=[]")
    assert config.training.learning_rate == 0.01
    assert config.group is None
    assert config.samples.prompts == ("Once", "a: b=c")
    assert config.tags == ()


def test_set_makes_the_section_that_is_not_there(load: Load, small: str) -> None:
    assert load(small, "runtime.threads=2").runtime.threads == 2


def test_set_onto_a_name_makes_it_a_mapping(load: Load, small: str) -> None:
    assert load(small, "model.d_model=64").model.options.d_model == 64


def test_set_of_a_component_drops_the_options_of_the_one_before(load: Load, small: str, tmp_path: Path) -> None:
    text = small.replace("tinystories", "{name: jsonl, path: a.jsonl, text_key: story}")
    dataset = load(text, "data.dataset=text", "data.dataset.path=my.txt").data.dataset
    assert dataset.name == "text"
    assert dataset.options.path == tmp_path / "my.txt"
    assert dataset.options.text_key == "text"


def test_set_of_a_name_keeps_the_options(load: Load, small: str, tmp_path: Path) -> None:
    text = small.replace("tinystories", "{name: jsonl, path: a.jsonl, text_key: story}")
    dataset = load(text, "data.dataset.name=text").data.dataset
    assert dataset.name == "text"
    assert dataset.options.text_key == "story"


def test_set_indexes_a_list(load: Load, small: str) -> None:
    text = small + "loggers: [console, jsonl]\n"
    assert load(text, "loggers.0.every_seconds=5").loggers[0].options.every_seconds == 5.0


def test_set_indexes_the_default_list(load: Load, small: str) -> None:
    loggers = load(small, "loggers.1.every_seconds=5").loggers
    assert [logger.name for logger in loggers] == ["jsonl", "console"]
    assert loggers[1].options.every_seconds == 5.0


def test_set_replaces_a_list(load: Load, small: str) -> None:
    assert load(small, "loggers=[jsonl]").loggers == (Choice("jsonl"),)


def test_later_set_wins_over_an_earlier_one(load: Load, small: str) -> None:
    assert load(small, "seed=1", "seed=2").seed == 2


def test_set_of_a_length_takes_the_place_of_the_files_other(load: Load, good: str) -> None:
    training = load(good, "training.max_steps=5", "training.warmup_steps=2").training
    assert (training.num_epochs, training.max_steps) == (None, 5)
    assert (training.warmup_ratio, training.warmup_steps) == (None, 2)


def test_set_of_two_lengths_is_an_error(errors: Errors, good: str) -> None:
    (told,) = errors(good, "training.max_steps=5", "training.max_tokens=9")
    assert told.startswith("--set: training.max_tokens: give only one of")


def test_set_of_null_takes_nothing_away(load: Load, good: str) -> None:
    assert load(good, "training.max_steps=null").training.num_epochs == 10


def test_set_corrects_errors_in_the_file(load: Load, small: str) -> None:
    assert load(small.replace("max_steps: 9", "max_steps: many"), "training.max_steps=3").training.max_steps == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.batch_sise=64", "training.batch_sise is not a setting. Did you mean 'batch_size'?"),
        ("trainin.batch_size=64", "trainin is not a setting. Did you mean 'training'?"),
        ("training.batch_size", "expected key=value, such as training.batch_size=64, not 'training.batch_size'"),
        ("=3", "expected key=value"),
        ("training..x=3", "expected key=value"),
        (".=3", "expected key=value"),
        ("training.max_steps.x=3", "training.max_steps is 9, with no settings of its own"),
        ("loggers.2.x=3", "loggers.2: loggers has the items 0 to 1"),
        ("loggers.x=3", "loggers.x: loggers has the items 0 to 1"),
        ("tags=[a", "tags: not YAML: expected ',' or ']'"),
        ("group={a}", "group: expected text, or null, not a mapping. Text with braces or ': ' needs quotes: "),
        ("group=a: b", "group: expected text, or null, not a mapping. Text with braces or ': ' needs quotes: "),
        ("tags={a: 1, a: 2}", "tags.a is given twice. Remove one of them"),
        ("0=3", "0 is not a setting."),
        ("experiment_name.x=3", "experiment_name: expected text, not a mapping."),
    ],
)
def test_set_that_is_wrong_is_an_error_with_its_key(errors: Errors, small: str, override: str, expected: str) -> None:
    assert errors(small, override)[0].startswith(f"--set: {expected}")


@pytest.mark.parametrize("text", ["{a} {b}", "*", "a: b: c", "{a}: {b}\\n", "it's: a: b"])
def test_set_of_text_that_is_not_yaml_says_what_to_type(load: Load, errors: Errors, small: str, text: str) -> None:
    (told,) = errors(small, f"group={text}")
    option, override = shlex.split(told.partition("Text needs quotes: ")[2])
    assert (option, load(small, override).group) == ("--set", text.replace("\\n", "\n"))


def test_set_that_would_undo_an_earlier_one_is_an_error(errors: Errors, small: str) -> None:
    assert errors(small, "data.dataset.path=a", "data.dataset=text") == [
        "--set: data.dataset would undo data.dataset.path: put data.dataset first"
    ]


def test_model_option_names_the_model(load: Load, small: str) -> None:
    assert load(small.replace("model: torch", "model: {d_model: 64}"), model="torch").model.options.d_model == 64
    assert load(small.replace("model: torch\n", ""), model="torch").model.name == "torch"


def test_model_option_keeps_the_options_the_other_model_has(load: Load, small: str) -> None:
    text = small.replace("model: torch", "model: {name: torch, dropout: 0.5}")
    assert load(text, model="odd").model.options.dropout == 0.5


def test_model_option_that_names_no_model_is_an_error(errors: Errors, small: str) -> None:
    (told,) = errors(small, model="torsh")
    assert told.startswith("--model: model.name: there is no model 'torsh'. Did you mean 'torch'?")


MOOT = """\
experiment_name: a
data: {dataset: tinystories, tokenizer: gpt2, document_masks: true}
model: {name: odd, fused: true, dropout: 0.5}
training: {max_steps: 9, eval_every: 2, early_stopping: 3, min_learning_rate: 1e-6}
samples: {prompts: [a], temperature: 0.5, top_k: 3, max_length: 7}
"""


@pytest.mark.parametrize(
    ("override", "notes"),
    [
        ("samples.prompts=[]", ["samples.temperature", "samples.top_k", "samples.max_length"]),
        ("samples.temperature=0", ["samples.top_k"]),
        ("training.eval_every=null", ["training.early_stopping"]),
        ("training.lr_decay=constant", ["training.min_learning_rate"]),
        ("data.batching=padded", ["data.document_masks"]),
        ("model.name=torch", ["model.fused"]),
    ],
)
def test_setting_that_an_override_makes_moot_is_a_note(
    override: str, notes: list[str], load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    config = load(MOOT, override)
    told = [record.getMessage() for record in caplog.records]
    assert sorted(line.split()[1] for line in told) == sorted(notes)
    assert all(line.startswith("run.yaml:") and line.endswith(". It is ignored.") for line in told)
    caplog.clear()
    assert config_from_yaml(to_yaml(config)) == config, "the configuration that is saved has no moot setting"
    assert not caplog.records


def test_model_of_the_command_line_makes_the_options_of_the_files_model_moot(
    load: Load, caplog: pytest.LogCaptureFixture
) -> None:
    model = load(MOOT, model="torch").model
    assert (model.name, model.options.dropout) == ("torch", 0.5)
    assert "run.yaml:3: model.fused is not a setting of the model 'torch'. It is ignored." in caplog.text


@pytest.mark.parametrize(
    ("overrides", "model", "expected"),
    [
        (["samples.prompts=[]", "samples.top_p=0.5"], None, "samples.top_p: has no effect without samples.prompts"),
        (["model.fused=true"], "torch", "model.fused is not a setting of the model 'torch'"),
    ],
)
def test_moot_setting_of_the_command_line_itself_is_an_error(
    overrides: list[str], model: str | None, expected: str, errors: Errors
) -> None:
    assert any(expected in line for line in errors(MOOT, *overrides, model=model))


def test_misspelled_option_is_an_error_beside_another_model_too(errors: Errors) -> None:
    (line,) = errors(MOOT.replace("fused", "fusd"), model="torch")
    assert line.startswith("run.yaml:3: model.fusd is not a setting of the model 'torch'.")


@pytest.mark.parametrize(
    ("override", "ours"),
    [
        ("training.lr=1", "learning_rate"),
        ("model.n_layer=2", "n_blocks"),
        ("model.block_size=2", "max_seq_len"),
        ("data.block_size=2", "max_length"),
        ("training.Epochs=2", "num_epochs"),
        ("epochs=2", "training.num_epochs"),
        ("training.grad_clip=2", "max_grad_norm"),
    ],
)
def test_name_of_another_tool_leads_to_ours(override: str, ours: str, errors: Errors, small: str) -> None:
    (line,) = errors(small, override)
    assert f" Did you mean '{ours}'?" in line
