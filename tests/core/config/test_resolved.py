import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tfs_core.config import (
    Choice,
    RunConfig,
    config_differences,
    config_from_mapping,
    folder_name_problem,
    load_config,
    resolved,
    to_yaml,
)

Load = Callable[..., RunConfig]

counts = st.integers(1, 2**40)
numbers = st.floats(min_value=1e-300, max_value=1e300)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [
        "1e3",
        "yes",
        "null",
        "~",
        "0x1F",
        "0o17",
        "1_0",
        "1:30",
        "2026-01-31",
        "",
        " a ",
        "- a",
        "a: b",
        "#",
        "'",
        "\n\n",
        "=",
        "<<",
        "!x",
        "\x85",
        "\ufeff",
    ]
)
models = st.fixed_dictionaries(
    {"name": st.just("odd")},
    optional={
        "dropout": st.floats(0, 0.99),
        "rotation": st.fixed_dictionaries({}, optional={"base": numbers}),
        "extra": st.none() | st.fixed_dictionaries({"base": numbers}),
        "layers": st.lists(st.fixed_dictionaries({"base": numbers}), max_size=2),
        "scales": st.dictionaries(texts, numbers, max_size=3),
        "levels": st.sampled_from([1, 2]),
        "fused": st.booleans(),
    },
)
trainings = st.fixed_dictionaries(
    {"max_steps": counts},
    optional={
        "learning_rate": numbers,
        "weight_decay": st.floats(0, 10),
        "max_grad_norm": st.none() | numbers,
        "lr_decay": st.sampled_from(["constant", "cosine", {"name": "warmup-stable-decay", "decay_ratio": 0.3}]),
        "warmup_ratio": st.floats(0, 0.99),
        "checkpoint_every": st.none() | counts,
        "optimizer": st.sampled_from(["sgd", {"eps": 1e-7}, {"name": "tfs-core/adamw", "betas": [0, 0.5]}]),
    },
)
samples = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"prompts": st.lists(texts, min_size=1), "top_k": st.integers(0, 9), "temperature": numbers}),
    st.fixed_dictionaries({"prompts": st.lists(texts, min_size=1), "temperature": st.just(0)}),
)
runs = st.fixed_dictionaries(
    {
        "experiment_name": st.from_regex(r"[a-zA-Z0-9_]{1,9}", fullmatch=True),
        "data": st.fixed_dictionaries(
            {
                "dataset": st.just("tinystories")
                | st.fixed_dictionaries({"name": st.just("jsonl"), "path": st.just("a b.jsonl"), "text_key": texts}),
                "tokenizer": st.just({"name": "bpe", "vocab_size": 300}),
            },
        ),
        "model": models,
        "training": trainings,
    },
    optional={
        "tags": st.lists(texts, max_size=3),
        "group": st.none() | texts,
        "seed": st.integers(0, 2**63 - 1),
        "samples": samples,
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=runs)
def test_yaml_of_a_configuration_loads_as_an_equal_one(tmp_path: Path, values: dict[str, Any]) -> None:
    assume(folder_name_problem(values["experiment_name"]) is None)
    config = config_from_mapping(values)
    text = to_yaml(config)
    file = tmp_path / "elsewhere.yaml"
    file.write_text(text, encoding="utf-8", newline="\n")
    assert load_config(file) == config
    assert to_yaml(load_config(file)) == text
    assert yaml.safe_load(text) == resolved(config), "a reader of YAML 1.1 sees the same values"


def test_resolved_fills_in_every_default_in_the_order_of_the_schema(load: Load, small: str) -> None:
    values = resolved(load(small))
    assert list(values) == [
        *["experiment_name", "group", "tags", "seed", "data", "model", "training", "samples", "runtime", "loggers"]
    ]
    assert values["model"]["max_seq_len"] == 256
    assert values["training"]["optimizer"] == {"name": "adamw", "betas": [0.9, 0.95], "eps": 1e-8}
    assert values["loggers"][0] == {"name": "jsonl"}
    assert values["samples"] == {"prompts": []}, "the rest would have no effect, and giving it is an error"


def test_resolved_makes_paths_absolute_text(load: Load, small: str, tmp_path: Path) -> None:
    values = resolved(load(small, "data.dataset={name: text, path: [a.txt]}"))
    assert values["data"]["dataset"]["path"] == [str(tmp_path / "a.txt")]


@pytest.mark.parametrize(
    ("number", "written"), [(3e-4, "0.0003"), (3e-5, "3.0e-05"), (1e22, "1.0e+22"), (1.0, "1.0"), (5e-324, "5.0e-324")]
)
def test_yaml_floats_are_read_equally_by_every_reader(load: Load, small: str, number: float, written: str) -> None:
    text = to_yaml(load(small, f"training.learning_rate={number!r}"))
    assert f"  learning_rate: {written}\n" in text
    assert math.isclose(yaml.safe_load(text)["training"]["learning_rate"], number, rel_tol=0)


def test_yaml_quotes_text_that_looks_like_something_else(load: Load, small: str) -> None:
    text = to_yaml(load(small, "tags=['1e3', 'yes', '0o17', '1:30']"))
    assert "tags:\n  - '1e3'\n  - 'yes'\n  - '0o17'\n  - '1:30'\n" in text


def test_setting_made_in_python_that_has_no_effect_is_not_hidden(load: Load, small: str) -> None:
    config = load(small)
    config = replace(config, samples=replace(config.samples, temperature=0.1))
    assert resolved(config)["samples"] == {"prompts": [], "temperature": 0.1}


def test_differences_are_the_dotted_keys_with_both_values(load: Load, small: str) -> None:
    first = load(small, "loggers=[jsonl, {name: console, every_seconds: 1}]")
    second = load(
        small,
        "training.batch_size=4",
        "tags=[x]",
        "model.d_model=64",
        "loggers=[jsonl, {name: console, every_seconds: 2}]",
    )
    assert config_differences(first, second) == [
        ("tags", [], ["x"]),
        ("model.d_model", 256, 64),
        ("training.batch_size", 32, 4),
        ("loggers.1.every_seconds", 1.0, 2.0),
    ]
    assert config_differences(first, first) == []


def test_differences_of_components_show_options_that_one_has(load: Load, small: str) -> None:
    differences = config_differences(load(small), load(small, "data.tokenizer=bpe"))
    assert differences == [("data.tokenizer.name", "gpt2", "bpe"), ("data.tokenizer.vocab_size", None, 4096)]


def test_choice_made_in_python_without_options_resolves_to_its_name(load: Load, small: str) -> None:
    config = replace(load(small), model=Choice("torch"))
    assert resolved(config)["model"] == {"name": "torch"}
    assert config_from_mapping(resolved(config)) == load(small)
