"""Every setting is classified: a resume may change it, for a reason given here, or rejects the change by name.

The settings come from the dataclasses of the schema, so a new setting fails a test until it is classified below.
"""

import dataclasses
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tfs_core.checkpoint_folder import checkpoint_name, list_checkpoints
from tfs_core.config.schema import Choice, DataConfig, RunConfig, SamplesConfig, TrainingConfig
from tfs_core.errors import CheckpointError, ConfigError, TrainingError, UsageError
from tfs_core.resume import (
    MAY_CHANGE,
    ResumePoint,
    check_config,
    current_versions,
    find_resume_point,
    machine_differences,
    rewind_run_folder,
)

ALLOWED: dict[str, tuple[Any, str]] = {
    "group": ("widths", "a label"),
    "tags": (("wide",), "labels"),
    "training.num_epochs": (3, "the length of the run"),
    "training.max_steps": (60, "the length of the run"),
    "training.max_tokens": (10**6, "the length of the run"),
    "training.eval_every": (7, "validation does not change training"),
    "training.max_eval_batches": (2, "validation does not change training"),
    "training.checkpoint_every": (9, "saving does not change training"),
    "training.checkpoint_interval_minutes": (1.0, "saving does not change training"),
    "training.keep_checkpoints": (1, "saving does not change training"),
    "training.log_every": (10, "the log does not change training"),
    "training.early_stopping": (4, "the length of the run"),
    "samples.prompts": (("Once", "Then"), "samples have random numbers of their own"),
    "samples.max_length": (9, "samples have random numbers of their own"),
    "samples.temperature": (0.5, "samples have random numbers of their own"),
    "samples.top_k": (5, "samples have random numbers of their own"),
    "samples.top_p": (0.5, "samples have random numbers of their own"),
    "samples.seed": (1, "samples have random numbers of their own"),
    "runtime.device": ("cuda", "the machine; a change of the last bits is reported"),
    "runtime.threads": (2, "the machine; a change of the last bits is reported"),
    "runtime.matmul": ("medium", "the machine; a change of the last bits is reported"),
    "runtime.compile": (True, "the machine; a change of the last bits is reported"),
    "runtime.activation_checkpointing": (True, "memory only: the results are bit-identical"),
    "runtime.loss_chunk": (64, "memory only, up to the last bits"),
    "loggers": ((Choice("jsonl"),), "loggers do not change training"),
    "data.dataset": (Choice("text", {"path": "moved.txt"}), "files may move: the fingerprint of the text is compared"),
    "data.tokenizer": (Choice("file", {"path": "moved.json"}), "files may move: its fingerprint is compared"),
}
"""Setting -> a changed value, and why a resume may change the setting."""

WHOLE_SECTIONS = ("samples", "runtime")
"""Sections that `MAY_CHANGE` names instead of their settings."""

REFUSED: dict[str, Any] = {
    "experiment_name": "another",
    "seed": 1,
    "model": Choice("custom", {"d_model": 16}),
    "wrappers": (Choice("adapter"),),
    "data.max_length": 8,
    "data.batching": Choice("padded"),
    "data.document_masks": True,
    "data.subset_size": 5,
    "data.val_subset_size": 5,
    "data.validation_fraction": 0.5,
    "data.shard_tokens": 64,
    "training.batch_size": 5,
    "training.gradient_accumulation_steps": 2,
    "training.learning_rate": 0.5,
    "training.min_learning_rate": 0.25,
    "training.lr_decay": Choice("linear"),
    "training.warmup_ratio": 0.5,
    "training.warmup_steps": 3,
    "training.optimizer": Choice("sgd"),
    "training.weight_decay": 0.5,
    "training.max_grad_norm": 0.5,
}
"""Setting -> a changed value. These decide the result of a step; `experiment_name` decides which run is resumed."""

BEFORE = RunConfig(
    experiment_name="tiny",
    data=DataConfig(dataset=Choice("text", {"path": "here.txt"}), tokenizer=Choice("file", {"path": "here.json"})),
    model=Choice("custom", {"d_model": 8}),
    training=TrainingConfig(max_steps=40),
    samples=SamplesConfig(prompts=("Once",)),  # without a prompt, the other settings of samples have no effect
)


def settings_of(section: type, prefix: str = "") -> list[str]:
    """Return the dotted names of a section's settings, those of the sections in it included."""
    names: list[str] = []
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        kind = hints[field.name]
        is_section = dataclasses.is_dataclass(kind) and kind is not Choice
        names += settings_of(kind, f"{prefix}{field.name}.") if is_section else [prefix + field.name]
    return names


def with_setting(config: RunConfig, name: str, value: Any) -> RunConfig:
    """Return the configuration with one setting changed."""
    section, _, setting = name.rpartition(".")
    if not section:
        return dataclasses.replace(config, **{setting: value})
    changed = dataclasses.replace(getattr(config, section), **{setting: value})
    return dataclasses.replace(config, **{section: changed})


def changes_on_resume(now: RunConfig, *, is_fork: bool = False) -> dict[str, list[Any]]:
    """Return what `check_config` returns for a run that had the configuration BEFORE."""
    checkpoint = Path("runs", "tiny", "checkpoints", "step-00000040")
    previous = ResumePoint(checkpoint=checkpoint, config=BEFORE, state={}, run=None, siblings=[], damaged=[])
    return check_config(previous, now, is_fork=is_fork)


def test_every_setting_of_the_schema_is_classified_once() -> None:
    assert sorted([*ALLOWED, *REFUSED]) == sorted(settings_of(RunConfig))


def test_settings_that_may_change_are_those_with_a_reason() -> None:
    named = {name.split(".")[0] if name.startswith(WHOLE_SECTIONS) else name for name in ALLOWED}
    assert set(MAY_CHANGE) == named
    assert all(reason for _, reason in ALLOWED.values())


@pytest.mark.parametrize("name", settings_of(RunConfig))
def test_changed_setting_is_reported_or_rejected_by_name(name: str) -> None:
    if name in ALLOWED:
        changes = changes_on_resume(with_setting(BEFORE, name, ALLOWED[name][0]))
        assert changes
        assert all(f"{key}.".startswith(f"{name}.") for key in changes), changes
    else:
        with pytest.raises(ConfigError, match=rf"cannot be resumed with changed settings: {name}\b.* \(was .*, now "):
            changes_on_resume(with_setting(BEFORE, name, REFUSED[name]))


def test_every_rejected_setting_is_named_at_once() -> None:
    now = BEFORE
    for name, value in REFUSED.items():
        now = with_setting(now, name, value)
    with pytest.raises(ConfigError) as caught:
        changes_on_resume(now)
    assert [name for name in REFUSED if f" {name}" not in str(caught.value)] == []


def test_fork_may_change_the_experiment_name_and_nothing_else_that_a_resume_rejects() -> None:
    named = with_setting(BEFORE, "experiment_name", "another")
    assert changes_on_resume(named, is_fork=True) == {"experiment_name": ["tiny", "another"]}
    for name in REFUSED.keys() - {"experiment_name"}:
        with pytest.raises(ConfigError, match=name):
            changes_on_resume(with_setting(BEFORE, name, REFUSED[name]), is_fork=True)


def test_unchanged_configuration_changes_nothing() -> None:
    assert changes_on_resume(BEFORE) == {}


def test_differences_of_the_machine_are_those_of_versions_and_facts() -> None:
    saved = {"versions": current_versions(), "machine": {"device": "cpu", "threads": 4}}
    assert machine_differences(saved, {"device": "cpu", "threads": 4, "compiled": False}) == []
    assert machine_differences(saved, {"device": "cpu", "threads": 2, "compiled": True}) == [
        "threads was 4, is 2",
        "compiled was False, is True",
    ]
    other = {**saved, "versions": {**current_versions(), "torch": "2.0"}}
    assert machine_differences(other, {}) == [f"torch was 2.0, is {current_versions()['torch']}"]


def test_resume_of_nothing_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--resume needs a run, a checkpoint, or a --config"):
        find_resume_point(None, experiment_name=None, assets=tmp_path)
    with pytest.raises(CheckpointError, match="there is no run of 'tiny'"):
        find_resume_point(None, experiment_name="tiny", assets=tmp_path)


def test_run_that_another_process_has_changed_is_not_rewound(tmp_path: Path) -> None:
    folders = [tmp_path / "checkpoints" / checkpoint_name(step) for step in (40, 80)]
    for folder in folders:
        folder.mkdir(parents=True)
    state = {"progress": {"best_step": None}}
    previous = ResumePoint(folders[0], BEFORE, state=state, run=None, siblings=folders[:1], damaged=[])
    run_folder: Any = SimpleNamespace(folder=tmp_path)  # the part that is used
    with pytest.raises(TrainingError, match="another process has just changed the run"):
        rewind_run_folder(previous, run_folder, keep=1)
    assert list_checkpoints(tmp_path / "checkpoints") == folders
    rewind_run_folder(dataclasses.replace(previous, siblings=folders), run_folder, keep=1)
    assert list_checkpoints(tmp_path / "checkpoints") == folders[:1]
    assert (tmp_path / "aside" / folders[1].name).is_dir()
