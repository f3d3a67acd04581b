"""Every file and command line gives a configuration or a ConfigError, and no other exception.

Most examples are valid or have a single error, so that the later checks run too. Each test asserts that at least half
of its examples give a configuration.
"""

import copy
import dataclasses
import typing
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs_core.config import config_from_mapping, load_config, resolved
from tfs_core.config.schema import Choice, DataConfig, RunConfig, RuntimeConfig, SamplesConfig, TrainingConfig
from tfs_core.errors import ConfigError

sections = (RunConfig, DataConfig, TrainingConfig, SamplesConfig, RuntimeConfig)
names = st.sampled_from(sorted({name for section in sections for name in section.__dataclass_fields__} | {"name", "0"}))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["torch", "odd", "jsonl"])
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4))
pieces = st.sampled_from(
    [
        *[
            "data",
            "model",
            "training",
            ": ",
            ":",
            "\n",
            "  ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ",",
            "&a ",
            "*a",
            "!!int ",
            "'",
            '"',
        ],
        *["\t", "1e5", "# c", "|", ">", "---\n", "? ", "~", "max_steps", "\\x", "\x00", "é", "%YAML 1.1\n", "<<"],
    ]
)
quick = settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SMALL: dict[str, Any] = {
    "experiment_name": "a",
    "data": {"dataset": "tinystories", "tokenizer": "gpt2"},
    "model": {"name": "torch"},
    "training": {"max_steps": 9},
    "samples": {"prompts": ["Once"]},
}
"""A valid configuration, in which each setting of `right` is valid too."""

right: dict[str, st.SearchStrategy[Any]] = {
    f"{prefix}{name}": st.from_type(hint)
    for section, prefix in zip(sections, ("", "data.", "training.", "samples.", "runtime."), strict=True)
    for name, hint in typing.get_type_hints(section, include_extras=True).items()
    if hint is not Choice and not dataclasses.is_dataclass(hint) and hint != tuple[Choice, ...]
}
right |= {  # these have rules besides their types
    "experiment_name": st.from_regex(r"[a-z0-9_]{1,9}", fullmatch=True),
    "data.max_length": st.integers(1, 256),
    "training.min_learning_rate": st.none() | st.floats(0, 3e-4),
    "training.warmup_steps": st.none() | st.integers(0, 9),
}
"""Setting -> its valid values, from the types of the schema."""


@st.composite
def small_changes(draw: st.DrawFn) -> dict[str, Any]:
    """Return up to four settings with values, of which about one in sixteen is of any kind."""
    changed = draw(st.lists(st.sampled_from(sorted(right)), max_size=4, unique=True))
    return {name: draw(values if draw(st.integers(0, 15)) == 9 else right[name]) for name in changed}


def with_changes(changes: dict[str, Any]) -> dict[str, Any]:
    """Return SMALL with these settings."""
    changed = copy.deepcopy(SMALL)
    for name, value in changes.items():
        section, _, setting = name.rpartition(".")
        (changed.setdefault(section, {}) if section else changed)[setting] = value
    if changes.keys() & {"training.num_epochs", "training.max_tokens"} and "training.max_steps" not in changes:
        del changed["training"]["max_steps"]
    return changed


def as_overrides(changes: dict[str, Any]) -> list[str]:
    """Return the settings as of `--set`."""
    return [f"{name}={yaml.safe_dump(value, default_flow_style=True).strip()}" for name, value in changes.items()]


@st.composite
def files(draw: st.DrawFn) -> str:
    """Return the YAML of SMALL with small changes, and in one of ten with a piece of text at any place."""
    text = yaml.safe_dump(with_changes(draw(small_changes())))
    if draw(st.integers(0, 9)) != 3:
        return text
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(pieces) + text[at:]


def most_of(near: st.SearchStrategy[Any], anything: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return examples of `near`, and in one of ten of `anything`."""
    return st.integers(0, 9).flatmap(lambda kind: anything if kind == 7 else near)


def gives_a_configuration(load: Callable[[], RunConfig]) -> bool:
    """Return False for a ConfigError. A configuration must be the one that its plain values give."""
    try:
        config = load()
    except ConfigError:
        return False
    assert config_from_mapping(resolved(config)) == config
    return True


def test_any_mapping_gives_a_configuration_or_a_config_error() -> None:
    """About 60 % of the examples are configurations."""
    outcomes: Counter[bool] = Counter()

    @quick
    @given(values=most_of(small_changes().map(with_changes), st.dictionaries(names, values, max_size=8)))
    def check(values: dict[str, Any]) -> None:
        outcomes[gives_a_configuration(lambda: config_from_mapping(values))] += 1

    check()
    assert outcomes[True] >= outcomes[False]


def test_any_file_gives_a_configuration_or_a_config_error() -> None:
    """About 65 % of the examples are configurations."""
    outcomes: Counter[bool] = Counter()

    @quick
    @given(text=most_of(files(), st.lists(pieces, max_size=25).map("".join)))
    def check(text: str) -> None:
        Path("run.yaml").write_text(text, encoding="utf-8")
        outcomes[gives_a_configuration(lambda: load_config(Path("run.yaml")))] += 1

    check()
    assert outcomes[True] >= outcomes[False]


def test_any_override_gives_a_configuration_or_a_config_error() -> None:
    """About 75 % of the examples are configurations."""
    Path("run.yaml").write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    anything = st.lists(names | pieces | st.sampled_from([".", "="]), max_size=9).map("".join)
    outcomes: Counter[bool] = Counter()

    @quick
    @given(overrides=most_of(small_changes().map(as_overrides), anything.map(lambda override: [override])))
    def check(overrides: list[str]) -> None:
        outcomes[gives_a_configuration(lambda: load_config(Path("run.yaml"), overrides=overrides))] += 1

    check()
    assert outcomes[True] >= outcomes[False]
