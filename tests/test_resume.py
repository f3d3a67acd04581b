"""A resumed run equals an uninterrupted run byte for byte, whenever and however it was killed.

Every run is its own process. The files of killed and resumed runs are compared with those of an uninterrupted run:
weights, optimizer, random states, pointers, and every log line without its wall-clock fields.
"""

import json
import multiprocessing
import random
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from same_run import assert_same_run, left_behind

import tfs_core
from tfs_core.errors import CheckpointError, ConfigError, TrainingError
from tfs_core.run_folder import RunFolder
from tfs_core.runs import find_run

MORTAL_RUN = str(Path(__file__).parent / "mortal_run.py")
STEPS = 26
STEPS_IN_EPOCH = 8

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and a fork server")

Start = Callable[..., int]


@pytest.fixture(scope="module")
def start() -> Start:
    """Return a function that runs `mortal_run.py` in a new process and returns its exit code (-9: killed)."""
    context = multiprocessing.get_context("forkserver")  # imports torch once, and forks from there
    context.set_forkserver_preload(
        ["tfs_core.run", "tfs_core.builtin.console", "tfs_torch.model", "tfs_datasets.text", "torch._dynamo"]
    )

    def run(**arguments: Any) -> int:
        process = context.Process(
            target=runpy.run_path, args=(MORTAL_RUN,), kwargs={"init_globals": {"arguments": arguments}}
        )
        process.start()
        process.join(120)
        assert process.exitcode is not None
        return process.exitcode

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the configuration of a tiny run with dropout.

    It has 8 steps per epoch; checkpoints and validations have other intervals.
    """
    words = random.Random(0).choices(["one ", "two ", "three ", "four.\n", "five, "], k=210)
    text = tmp_path_factory.mktemp("text") / "words.txt"
    text.write_text("".join(words), encoding="utf-8")
    return {
        "experiment_name": "mortal",
        "data": {
            "dataset": {"name": "text", "path": str(text)},
            "tokenizer": "byte",
            "max_length": 16,
            "validation_fraction": 0.1,
        },
        "model": {"name": "torch", "d_model": 16, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16, "dropout": 0.2},
        "training": {
            "batch_size": 8,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "warmup_steps": 3,
            "eval_every": 5,
            "checkpoint_every": 3,
            "keep_checkpoints": 3,
        },
        "samples": {"prompts": ["one"], "max_length": 8},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }


@pytest.fixture(scope="module")
def uninterrupted(start: Start, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the uninterrupted run."""
    assets = tmp_path_factory.mktemp("uninterrupted")
    assert start(config=config, assets=str(assets), calls_path=str(assets / "calls")) == 0
    return assets / "runs" / "mortal"


def test_uninterrupted_run_writes_each_line_once_in_order(uninterrupted: Path) -> None:
    lines = left_behind(uninterrupted)
    assert [line["step"] for line in lines["metrics"]] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines["validation"]] == [5, 10, 15, 20, 25, 26]
    assert [line["epoch"] for line in lines["metrics"]][STEPS_IN_EPOCH] == 1


def test_same_configuration_gives_the_same_bytes(
    start: Start, config: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    assert start(config=config, assets=str(tmp_path)) == 0
    assert_same_run(tmp_path / "runs" / "mortal", uninterrupted)


def test_other_seed_gives_other_bytes(
    start: Start, config: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    assert start(config={**config, "seed": 7}, assets=str(tmp_path)) == 0
    found, expected = left_behind(tmp_path / "runs" / "mortal"), left_behind(uninterrupted)
    for name in (f"checkpoints/step-{STEPS:08}/model.safetensors", "metrics", "validation"):
        assert found[name] != expected[name]


KILLS = {
    "in an epoch": [5],
    "twice in an epoch": [11, 14],
    "at the end of an epoch": [STEPS_IN_EPOCH],
    "at a step that validates": [15],
    "at a step that saves": [9],
    "at the last step": [STEPS],
    "again and again": [4, 7, 12, 13, 19, 22],
}
SAMPLED = ("in an epoch", "twice in an epoch", "at the end of an epoch")


@pytest.mark.parametrize(
    "when", [when if when in SAMPLED else pytest.param(when, marks=pytest.mark.long) for when in KILLS]
)
def test_killed_run_resumes_as_if_never_stopped(
    when: str, start: Start, config: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    first, *others = KILLS[when]
    assert start(config=config, assets=str(tmp_path), die_after_step=first) == -signal.SIGKILL
    for step in others:
        assert start(resume="mortal", assets=str(tmp_path), die_after_step=step) == -signal.SIGKILL
    assert start(resume="mortal", assets=str(tmp_path)) == 0
    assert_same_run(tmp_path / "runs" / "mortal", uninterrupted)


_random = random.Random(1)
MOMENTS = [round(_random.uniform(0.1, 1.0), 3) for _ in range(3)]
ALL_MOMENTS = [number / 60 for number in range(60)]


@pytest.mark.parametrize(
    "moment", [*MOMENTS, *(pytest.param(moment, marks=pytest.mark.long) for moment in ALL_MOMENTS)]
)
def test_run_killed_in_the_middle_of_saving_resumes_as_if_never_stopped(
    moment: float, start: Start, config: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    """`moment` is a fraction of all calls that sync, move or delete a file; the process is killed at this call."""
    calls = int((uninterrupted.parent.parent / "calls").read_text(encoding="utf-8"))
    die_at = 1 + int(moment * (calls - 1))
    assert start(config=config, assets=str(tmp_path), die_at_file_call=die_at) == -signal.SIGKILL
    run = tmp_path / "runs" / "mortal"
    if not list((run / "checkpoints").glob("step-*")):
        assert start(resume="mortal", assets=str(tmp_path)) == 1  # --resume never starts a new run
        return
    assert start(resume="mortal", assets=str(tmp_path)) == 0
    assert_same_run(run, uninterrupted)
    leftovers = [path for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]
    assert leftovers == []


VARIANTS: dict[str, dict[str, Any]] = {
    "padded": {"data": {"batching": "padded", "dataset": {"separator": ".\n"}}},
    "accumulation": {"training": {"batch_size": 4, "gradient_accumulation_steps": 2}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "float64": {"model": {"dtype": "float64"}},
    "sgd with momentum": {"training": {"optimizer": {"name": "sgd", "momentum": 0.9}}},
    "epochs": {"training": {"max_steps": None, "num_epochs": 3}},
    "tokens": {"training": {"max_steps": None, "max_tokens": 2500}},
    "sparse log": {"training": {"log_every": 4}},
    "early stopping": {"training": {"early_stopping": 2, "learning_rate": 0.5}},
    "by hand": {"model": {"name": "custom"}},
    "muon and document masks": {
        "model": {"name": "baseline", "n_kv_heads": 1},
        "data": {"document_masks": True},
        "training": {"optimizer": "muon"},
    },
    "loss in parts": {
        "model": {"name": "baseline"},
        "runtime": {"loss_chunk": 24, "activation_checkpointing": True},
    },
    "compiled": {"model": {"name": "baseline"}, "runtime": {"compile": True}},
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, change in changes.items():
        result[key] = merged(result[key], change) if isinstance(change, dict) and key in result else change
    return result


@pytest.mark.parametrize("variant", [pytest.param(name, marks=pytest.mark.long) for name in VARIANTS])
def test_every_kind_of_run_resumes_as_if_never_stopped(
    variant: str, start: Start, config: dict[str, Any], tmp_path: Path
) -> None:
    changed = merged(config, VARIANTS[variant])
    assert start(config=changed, assets=str(tmp_path / "one")) == 0
    assert start(config=changed, assets=str(tmp_path / "two"), die_after_step=8) == -signal.SIGKILL
    assert start(resume="mortal", assets=str(tmp_path / "two")) == 0
    assert_same_run(tmp_path / "two" / "runs" / "mortal", tmp_path / "one" / "runs" / "mortal")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_signal_saves_at_the_step_boundary_and_exits_with_its_number(
    number: signal.Signals, start: Start, config: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    code = start(config={**config}, assets=str(tmp_path), signal_after_step=(int(number), 7))
    run = tmp_path / "runs" / "mortal"
    assert code == 128 + number
    assert (run / "checkpoints" / "latest").read_text(encoding="utf-8") == "step-00000007\n"
    assert json.loads((run / "run.json").read_bytes())["status"] == "stopped"

    assert start(resume="mortal", assets=str(tmp_path)) == 0
    lines, expected = left_behind(run), left_behind(uninterrupted)
    for name in ("metrics", "validation", "samples", "checkpoints/step-00000026/model.safetensors"):
        assert lines[name] == expected[name]


def damage_by_cutting(checkpoint: Path) -> str:
    path = checkpoint / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    return path.name


def damage_by_flipping_a_bit(checkpoint: Path) -> str:
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    return path.name


def damage_by_losing_the_manifest(checkpoint: Path) -> str:
    (checkpoint / "manifest.json").unlink()
    return "manifest.json"


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_flipping_a_bit,
        pytest.param(damage_by_cutting, marks=pytest.mark.long),
        pytest.param(damage_by_losing_the_manifest, marks=pytest.mark.long),
    ],
)
def test_damaged_newest_checkpoint_is_reported_and_skipped(
    damage: Callable[[Path], str], start: Start, config: dict[str, Any], uninterrupted: Path, tmp_path: Path
) -> None:
    assert start(config=config, assets=str(tmp_path), die_after_step=14) == -signal.SIGKILL
    run = tmp_path / "runs" / "mortal"
    file = damage(run / "checkpoints" / "step-00000012")
    assert start(resume="mortal", assets=str(tmp_path)) == 0
    assert_same_run(run, uninterrupted)
    warnings = [event for event in map(json.loads, (run / "events.jsonl").open()) if event["kind"] == "warning"]
    assert "step-00000012" in warnings[0]["details"]["message"]
    assert file in warnings[0]["details"]["message"]
    assert (run / "aside" / "step-00000012").is_dir()


# Accepted and rejected resumes, in this process.


@pytest.fixture
def finished(uninterrupted: Path, tmp_path: Path) -> Path:
    """Return the assets folder of a copy of the uninterrupted run."""
    return Path(shutil.copytree(uninterrupted.parent.parent, tmp_path / "assets"))


def test_resume_from_an_older_checkpoint_moves_newer_ones_aside_and_gives_the_same_run(
    finished: Path, uninterrupted: Path
) -> None:
    run = finished / "runs" / "mortal"
    tfs_core.run(resume=run / "checkpoints" / "step-00000024", assets=finished)
    assert sorted(path.name for path in (run / "aside").glob("step-*")) == ["step-00000025", "step-00000026"]
    assert_same_run(run, uninterrupted)


def test_finished_run_resumed_without_more_steps_says_so_and_changes_nothing(
    finished: Path, uninterrupted: Path
) -> None:
    said: list[str] = []
    run = tfs_core.run(resume="mortal", assets=finished, report=said.append)
    assert run.status == "finished"
    assert "is finished" in said[-1]
    assert "training.max_steps" in said[-1]
    assert_same_run(run.folder, uninterrupted)


def test_finished_run_continues_with_more_steps(finished: Path) -> None:
    run = tfs_core.run(resume="mortal", assets=finished, overrides=[f"training.max_steps={STEPS + 3}"])
    assert [line["step"] for line in run.metrics()] == list(range(1, STEPS + 4))
    resumed = next(event for event in run.events() if event["kind"] == "resumed")
    assert resumed["details"]["changed"] == {"training.max_steps": [STEPS, STEPS + 3]}


def test_resume_with_more_steps_says_that_the_schedule_changes_with_them(finished: Path) -> None:
    said: list[str] = []
    tfs_core.run(resume="mortal", assets=finished, overrides=[f"training.max_steps={STEPS + 1}"], report=said.append)
    assert (
        f"the run now has {STEPS + 1} steps, not {STEPS}: from here on it follows the schedule of {STEPS + 1}" in said
    )


def test_resume_with_other_settings_is_rejected_with_each_key_and_both_values(
    finished: Path, config: dict[str, Any]
) -> None:
    changed = merged(config, {"seed": 7, "training": {"batch_size": 4, "eval_every": 2}})
    with pytest.raises(ConfigError) as error:
        tfs_core.run(changed, resume=True, assets=finished)
    assert "seed (was 1337, now 7), training.batch_size (was 8, now 4)" in str(error.value)
    assert "eval_every" not in str(error.value)


def test_rejected_resume_leaves_the_run_finished(finished: Path, config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"seed \(was 1337, now 7\)"):
        tfs_core.run({**config, "seed": 7}, resume=True, assets=finished)
    assert find_run("mortal", finished).status == "finished"


def test_resume_with_changed_text_is_rejected(config: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("something else altogether. " * 60, encoding="utf-8")
    changed = merged(config, {"data": {"dataset": {"path": str(text)}}, "training": {"max_steps": 30}})
    with pytest.raises(TrainingError, match="the text of the data set has changed"):
        tfs_core.run(changed, resume=True, assets=finished)


def test_resume_with_moved_text_is_the_same_run(config: dict[str, Any], finished: Path, tmp_path: Path) -> None:
    moved = shutil.copy(config["data"]["dataset"]["path"], tmp_path / "moved.txt")
    changed = merged(config, {"data": {"dataset": {"path": str(moved)}}, "training": {"max_steps": STEPS + 1}})
    assert tfs_core.run(changed, resume=True, assets=finished).status == "finished"


def test_resume_with_another_tokenizer_is_rejected(config: dict[str, Any], finished: Path) -> None:
    changed = merged(config, {"data": {"tokenizer": "character"}, "training": {"max_steps": 30}})
    with pytest.raises(TrainingError, match="the tokenizer has changed"):
        tfs_core.run(changed, resume=True, assets=finished)


def test_resume_with_a_name_begins_a_new_run_from_the_checkpoint(finished: Path, uninterrupted: Path) -> None:
    checkpoint = finished / "runs" / "mortal" / "checkpoints" / "step-00000025"
    fork = tfs_core.run(resume=checkpoint, name="fork", assets=finished)
    assert [line["step"] for line in fork.metrics()] == [26]
    assert fork.info["forked_from"] == {"run": "mortal", "step": 25}
    assert_same_run(finished / "runs" / "mortal", uninterrupted)
    weights = "checkpoints/step-00000026/model.safetensors"
    assert (fork.folder / weights).read_bytes() == (uninterrupted / weights).read_bytes()


def test_resume_of_a_run_without_a_checkpoint_does_not_start_from_scratch(finished: Path) -> None:
    shutil.rmtree(finished / "runs" / "mortal" / "checkpoints")
    with pytest.raises(CheckpointError, match="'mortal' has no checkpoint to resume from: none was saved"):
        tfs_core.run(resume="mortal", assets=finished)


def test_resume_where_every_checkpoint_is_damaged_names_the_damage(finished: Path) -> None:
    for checkpoint in (finished / "runs" / "mortal" / "checkpoints").glob("step-*"):
        damage_by_flipping_a_bit(checkpoint)
    with pytest.raises(CheckpointError, match=r"each is damaged: .*step-00000026: model\.safetensors is damaged"):
        tfs_core.run(resume="mortal", assets=finished)


def test_resume_of_a_requested_damaged_checkpoint_is_rejected(finished: Path) -> None:
    checkpoint = finished / "runs" / "mortal" / "checkpoints" / "step-00000025"
    damage_by_cutting(checkpoint)
    with pytest.raises(CheckpointError, match=r"step-00000025: optimizer\.safetensors is damaged"):
        tfs_core.run(resume=checkpoint, assets=finished)


def test_bare_resume_takes_the_last_run_of_the_experiment(config: dict[str, Any], finished: Path) -> None:
    tfs_core.run(merged(config, {"training": {"max_steps": 3}}), assets=finished)
    run = tfs_core.run(merged(config, {"training": {"max_steps": 4}}), resume=True, assets=finished)
    assert run.name == "mortal-2"
    assert len(run.metrics()) == 4


def test_bare_resume_without_a_run_does_not_start_one(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no run of 'mortal'"):
        tfs_core.run(config, resume=True, assets=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_run_in_use_is_not_resumed(finished: Path) -> None:
    with RunFolder.open(finished / "runs" / "mortal"), pytest.raises(TrainingError, match="in use"):
        tfs_core.run(resume="mortal", assets=finished, overrides=["training.max_steps=30"])


def test_resume_on_another_machine_is_warned_of_once(finished: Path) -> None:
    run = tfs_core.run(resume="mortal", assets=finished, overrides=["training.max_steps=28", "runtime.matmul=medium"])
    warnings = [event["details"]["message"] for event in run.events() if event["kind"] == "warning"]
    assert len(warnings) == 1
    assert "matmul was highest, is medium" in warnings[0]


def test_mirror_of_the_run_s_model_replaces_it(finished: Path) -> None:
    run = tfs_core.run(resume="mortal", model="custom", assets=finished, overrides=[f"training.max_steps={STEPS + 2}"])
    assert run.info["model"] == "custom"
    assert len(run.metrics()) == STEPS + 2
    again = tfs_core.run(resume="mortal", model="torch", assets=finished, overrides=["training.max_steps=30"])
    assert len(again.metrics()) == 30
