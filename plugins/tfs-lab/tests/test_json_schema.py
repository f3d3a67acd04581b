"""The JSON schema accepts and rejects the same configurations as loading, and documents the settings."""

import json
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import yaml
from tfs_lab.json_schema import json_schema

from tfs_core.config import RunConfig, resolved

Load = Callable[..., RunConfig]


def fixtures_of_the_configuration_tests() -> ModuleType:
    """Return the core's conftest.py, which defines the components of its tests."""
    path = Path(__file__).parents[3] / "tests" / "core" / "config" / "conftest.py"
    spec = spec_from_file_location("configuration_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_fixtures = fixtures_of_the_configuration_tests()
stand_ins, good, small, load = _fixtures.stand_ins, _fixtures.good, _fixtures.small, _fixtures.load


@pytest.fixture
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture
def values(small: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(small)
    return loaded


def test_schema_accepts_the_yaml_of_the_design(validator: jsonschema.Draft202012Validator, good: str) -> None:
    values = yaml.safe_load(good.replace("3e-", "3.0e-"))
    validator.validate(values)


def test_schema_accepts_a_resolved_configuration(
    validator: jsonschema.Draft202012Validator, load: Load, small: str
) -> None:
    validator.validate(resolved(load(small, "data.dataset={name: jsonl, path: [a, b]}", "model=odd")))


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": 1},
        {"seed": -1},
        {"seed": "1"},
        {"training": {"batch_size": 0}},
        {"training": {"batch_size": 1.5}},
        {"training": {"lr_decay": "cosinus"}},
        {"training": {"optimizer": {"name": "adamw", "momentum": 1}}},
        {"model": {"name": "torch", "n_head": 3}},
        {"model": {"d_model": 3}},
        {"data": {"dataset": "jsonl"}},
        {"loggers": "jsonl"},
        {"runtime": {"device": "gpu"}},
    ],
)
def test_schema_rejects_what_loading_rejects(
    validator: jsonschema.Draft202012Validator, values: dict[str, Any], change: dict[str, Any]
) -> None:
    validator.validate(values)
    assert not validator.is_valid(values | change)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"name": "odd", "rotation": {"base": 1}, "layers": [{}], "scales": {"a": 1}, "extra": None}},
        {"model": "stand-ins/torch"},
        {"model": "./my_model.py:MyModel"},
        {"model": {"name": "./my_model.py:MyModel", "anything": 1}},
        {"training": {"max_steps": 1, "lr_decay": {"name": "cosine"}, "optimizer": {"name": "sgd", "momentum": 0.9}}},
        {"training": {"max_steps": 1, "optimizer": {"eps": 1e-6}}},
        {"data": {"dataset": {"name": "text", "path": "a.txt"}, "tokenizer": "bpe"}},
        {"loggers": ["jsonl", {"name": "console", "every_seconds": 1}]},
        {"runtime": {"threads": "auto"}},
    ],
)
def test_schema_accepts_what_loading_accepts(
    validator: jsonschema.Draft202012Validator, values: dict[str, Any], change: dict[str, Any]
) -> None:
    validator.validate(values | change)


def test_schema_explains_settings_and_options_and_gives_defaults() -> None:
    schema = json_schema()
    batch_size = schema["properties"]["training"]["properties"]["batch_size"]
    assert batch_size["default"] == 32
    assert batch_size["minimum"] == 1
    assert batch_size["description"].startswith("Rows ")
    (torch,) = [item for item in schema["$defs"]["model"]["anyOf"] if item.get("title") == "torch (stand-ins)"]
    assert torch["properties"]["name"]["description"] == "the torch"
    assert torch["properties"]["d_ffn"]["description"] == "The hidden width; null for four times the width."


def test_schema_survives_a_component_whose_options_cannot_be_imported() -> None:
    (broken,) = [item for item in json_schema()["$defs"]["tokenizer"]["anyOf"] if "broken" in item.get("title", "")]
    assert "cannot be imported" in broken["description"]
