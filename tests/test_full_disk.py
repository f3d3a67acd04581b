"""Full disks: a run on a small tmpfs that becomes full at a chosen moment loses nothing, or ends resumable and says so.

The last tests kill the run at the same moments, those of its start included. Every run is a process of its own
(`full_disk_run.py`), which fills the disk itself. The results are compared with those of a run on a roomy disk:
weights, optimizer, random states, pointers, and every log line without its wall-clock fields.
"""

import json
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from same_run import assert_same_run

from tfs_core.runs import find_run

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL and a fork server")

FULL_DISK_RUN = str(Path(__file__).parent / "full_disk_run.py")
WALL_CLOCK = {"elapsed_seconds", "tokens_per_second"}
BYTES = 4 << 20
STEPS = 40
SHORT_RETRIES = {"tfs_core.builtin.jsonl.RETRY_SECONDS": 0.2}
EVERY_HEARTBEAT = {"tfs_core.run_folder.HEARTBEAT_SECONDS": 0.0}


def mount(folder: Path) -> str:
    """Mount a tmpfs of BYTES, and return an empty string, or the reason why that is impossible."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "only root on Linux can mount a tmpfs"
    options = f"size={BYTES},nr_inodes=400,mode=700"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True, check=False
    )
    return done.stderr.strip()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of an empty disk of BYTES; unmounted afterwards."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if problem := mount(folder):
        pytest.skip(f"no small disk: {problem}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    output: str

    @property
    def error(self) -> str:
        """The message of the error; it must be one paragraph without a traceback."""
        assert "Traceback" not in self.output, self.output
        (message,) = re.findall(r"^Error: (.*)", self.output, re.MULTILINE)
        return str(message)


Tfs = Callable[..., Ended]


@pytest.fixture(scope="module")
def tfs(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Tfs:
    """Return a function that runs `full_disk_run.py` in a new process: `tfs run` with a configuration or `--resume`."""
    context = multiprocessing.get_context("forkserver")  # imports torch once, and forks from there
    context.set_forkserver_preload(
        ["tfs_core.run", "tfs_core.builtin.console", "tfs_torch.model", "tfs_datasets.text", "torch._dynamo"]
    )
    output = tmp_path_factory.mktemp("output") / "output.txt"

    def run(disk: Path, *words: str, **arguments: Any) -> Ended:
        words = words or ("--config", str(config), "--name", "small")
        arguments = {
            "command": ["run", *words, "--assets", str(disk / "assets")],
            "disk": str(disk),
            "output_path": str(output),
            "constants": SHORT_RETRIES,
            **arguments,
        }
        process = context.Process(
            target=runpy.run_path, args=(FULL_DISK_RUN,), kwargs={"init_globals": {"arguments": arguments}}
        )
        process.start()
        process.join(120)
        assert process.exitcode is not None
        return Ended(process.exitcode, output.read_text(encoding="utf-8"))

    return run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the configuration of a tiny run; its checkpoints and validations have other intervals."""
    folder = tmp_path_factory.mktemp("config")
    words = random.Random(0).choices(["one ", "two ", "three ", "four.\n", "five, "], k=210)
    (folder / "words.txt").write_text("".join(words), encoding="utf-8")
    values = {
        "experiment_name": "small",
        "data": {
            "dataset": {"name": "text", "path": "words.txt"},
            "tokenizer": "byte",
            "max_length": 16,
            "validation_fraction": 0.1,
        },
        "model": {"name": "torch", "d_model": 16, "n_heads": 2, "n_blocks": 1, "max_seq_len": 16, "dropout": 0.2},
        "training": {
            "batch_size": 8,
            "max_steps": STEPS,
            "learning_rate": 1e-2,
            "eval_every": 8,
            "checkpoint_every": 6,
            "keep_checkpoints": 2,
        },
        "samples": {"prompts": ["one"], "max_length": 8},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
    }
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def roomy(tfs: Tfs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a disk with room, with the finished run, and the list of its moments in `moments.json`."""
    folder = tmp_path_factory.mktemp("roomy")
    ended = tfs(folder, moments_path=str(folder / "moments.json"))
    assert ended.code == 0, ended.output
    return folder


def assert_same_small_run(disk: Path, roomy: Path) -> None:
    """Compare two finished runs, and look for files left behind."""
    assert_same_run(disk / "assets" / "runs" / "small", roomy / "assets" / "runs" / "small")
    assert find_run("small", disk / "assets").status == "finished"
    hidden = [path for path in (disk / "assets").rglob("*") if path.name.startswith(".")]
    assert hidden == []
    assert list((disk / "assets").rglob("*.unfinished")) == []


def assert_checkpoints_cover_their_lines(disk: Path) -> None:
    """Check that all lines up to the newest checkpoint are on the disk."""
    run = disk / "assets" / "runs" / "small"
    steps = [int(path.name.removeprefix("step-")) for path in run.glob("checkpoints/step-*")]
    if steps:
        lines = find_run(str(run), disk / "assets").metrics()
        assert [line["step"] for line in lines][: max(steps)] == list(range(1, max(steps) + 1))


def make_room(disk: Path) -> None:
    shutil.rmtree(disk / "filler", ignore_errors=True)


def finish(ended: Ended, disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    """Check a run that the full disk may have ended; then make room, continue as its error says, and compare."""
    assert_checkpoints_cover_their_lines(disk)
    make_room(disk)
    if ended.code != 0:
        assert ended.code == 1, ended.output
        assert re.search(r"No space left|full", ended.error), ended.error
        assert re.search(r"[Mm]ake room", ended.error), ended.error
        run = disk / "assets" / "runs" / "small"
        resumable = list(run.glob("checkpoints/step-*"))
        words = ("--resume", "small") if resumable else ("--config", str(config), "--resume", "auto", "--name", "small")
        again = tfs(disk, *words)
        assert again.code == 0, again.output
    assert_same_small_run(disk, roomy)


MOMENTS = {
    "tokens, the first write": ("open train.tokens.npy", 2),
    "tokens, made durable": ("fsync train.tokens.npy", 1),
    "tokens, their description": ("open tokens.json", 1),
    "the run's folder": ("mkdir small", 2),
    "the first run.json": ("open run.json", 1),
    "the configuration": ("replace run.json", 1),
    "the first event": ("write events.jsonl", 1),
    "the first log line": ("write metrics.jsonl", 1),
    "a log line": ("write metrics.jsonl", 17),
    "the first validation line": ("write validation.jsonl", 1),
    "the first sample": ("write samples.jsonl", 1),
    "the lines before a checkpoint": ("fsync metrics.jsonl", 3),
    "the first checkpoint": ("mkdir checkpoints", 1),
    "the weights": ("save model.safetensors", 3),
    "the optimizer": ("save optimizer.safetensors", 3),
    "the state": ("open state.json", 5),
    "the tokenizer": ("open tokenizer.json", 5),
    "the manifest": ("open manifest.json", 3),
    "the checkpoint's final name": ("replace step-00000012", 1),
    "the pointer latest": ("open latest", 3),
    "the pointer best": ("open best", 2),
    "run.json after a checkpoint": ("open run.json", 5),
}
SAMPLED = ("tokens, the first write", "the first run.json", "the first log line", "the optimizer", "the manifest")


@pytest.mark.parametrize(
    "when", [when if when in SAMPLED else pytest.param(when, marks=pytest.mark.long) for when in MOMENTS]
)
@pytest.mark.parametrize("full", ["bytes", pytest.param("inodes", marks=pytest.mark.long)])
def test_full_disk_ends_the_run_which_continues_as_if_there_had_been_room(
    when: str, full: str, disk: Path, tfs: Tfs, config: Path, roomy: Path
) -> None:
    ended = tfs(disk, fill_at=MOMENTS[when], takes_names=full == "inodes")
    assert (disk / "filler").exists(), "the disk was never full"
    assert ended.code == 1, ended.output
    finish(ended, disk, tfs, config, roomy)


@pytest.mark.parametrize("file", ["metrics", "validation", "samples", "events"])
def test_lines_wait_for_room_and_none_is_missing(file: str, disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    ended = tfs(disk, fill_at=(f"write {file}.jsonl", 1), free_after=3)
    assert (ended.code, (disk / "filler").exists()) == (0, False), ended.output
    assert_same_small_run(disk, roomy)
    assert "lines of the record wait until there is room" in ended.output


def test_checkpoint_waits_for_the_lines_before_it(disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    moments = json.loads((roomy / "moments.json").read_bytes())
    first_line, sync = moments.index("write metrics.jsonl"), moments.index("fsync metrics.jsonl")
    ended = tfs(disk, fill_at=("write metrics.jsonl", 1), free_after=sync - first_line + 5)
    assert (ended.code, (disk / "filler").exists()) == (0, False), ended.output
    assert_same_small_run(disk, roomy)


def test_heartbeat_waits_for_room(disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    ended = tfs(disk, fill_at=("write metrics.jsonl", 3), free_after=9, constants=SHORT_RETRIES | EVERY_HEARTBEAT)
    assert (ended.code, (disk / "filler").exists()) == (0, False), ended.output
    assert_same_small_run(disk, roomy)


def test_full_disk_when_a_run_is_marked_finished(disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    moments = json.loads((roomy / "moments.json").read_bytes())
    ended = tfs(disk, fill_at=("open run.json", moments.count("open run.json")))
    assert (ended.code, (disk / "filler").exists()) == (1, True), ended.output
    finish(ended, disk, tfs, config, roomy)


RESUMING = {
    "the lines that stay": ("open metrics.jsonl.kept", 1),
    "the lines that are moved": ("open metrics-1.jsonl", 1),
    "validation lines": ("open validation-1.jsonl", 1),
    "run.json": ("open run.json", 1),
    "the pointer latest": ("open latest", 1),
    "the configuration": ("open config.yaml", 1),
    "the first event": ("write events.jsonl", 1),
}


@pytest.mark.parametrize("full", ["bytes", pytest.param("inodes", marks=pytest.mark.long)])
@pytest.mark.parametrize("when", RESUMING)
def test_full_disk_while_resuming(when: str, full: str, disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    ended = tfs(disk, fill_at=("save model.safetensors", 4))
    assert ended.code == 1, ended.output
    make_room(disk)
    again = tfs(disk, "--resume", "small", fill_at=RESUMING[when], takes_names=full == "inodes")
    assert (again.code, (disk / "filler").exists()) == (1, True), again.output
    finish(again, disk, tfs, config, roomy)
    if "lines" in when:
        aside = list((disk / "assets" / "runs" / "small" / "aside").glob("metrics-*.jsonl"))
        assert len(aside) == 1, "an attempt that failed leaves a copy of the lines"


@pytest.mark.parametrize("when", ["the lines that stay", "the lines that are moved"])
def test_run_whose_lines_cannot_be_moved_does_not_go_on_without_a_log(
    when: str, disk: Path, tfs: Tfs, config: Path, roomy: Path
) -> None:
    assert tfs(disk, fill_at=("save model.safetensors", 4)).code == 1
    make_room(disk)
    again = tfs(disk, "--resume", "small", fill_at=RESUMING[when], free_after=3)
    assert again.code == 1, again.output
    finish(again, disk, tfs, config, roomy)


@pytest.mark.parametrize("when", ["save model.safetensors", "write metrics.jsonl"])
def test_full_disk_does_not_hide_why_a_step_is_not_taken(when: str, disk: Path, tfs: Tfs, config: Path) -> None:
    words = ("--config", str(config), "--name", "small", "--set", "training.learning_rate=1e30")
    ended = tfs(disk, *words, fill_at=(when, 1))
    assert (ended.code, (disk / "filler").exists()) == (1, True), ended.output
    assert re.search(r"step \d+ is not taken: .* is not saved: .*No space left", ended.error), ended.error
    assert list((disk / "assets" / "runs" / "small" / "nonfinite").glob("*")) == []


@pytest.mark.parametrize("when", ["the configuration", "the first checkpoint"])
def test_message_before_the_first_checkpoint_leads_to_a_command_that_works(
    when: str, disk: Path, tfs: Tfs, config: Path, roomy: Path
) -> None:
    assert tfs(disk, fill_at=MOMENTS[when]).code == 1
    make_room(disk)
    (suggested,) = re.findall(r"tfs run (--config .*)", tfs(disk, "--resume", "small").error)
    again = tfs(disk, *suggested.replace("FILE", str(config)).split())
    assert again.code == 0, again.output
    assert_same_small_run(disk, roomy)


@pytest.mark.parametrize("when", ["the run's folder", "the first run.json"])
def test_run_that_could_not_begin_takes_no_name(when: str, disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    assert tfs(disk, fill_at=MOMENTS[when]).code == 1
    make_room(disk)
    again = tfs(disk)
    assert again.code == 0, again.output
    assert_same_small_run(disk, roomy)


def random_case(number: int) -> dict[str, Any]:
    """Return when the disk is full (a fraction of all moments), for how many moments, and how much room is left."""
    chance = random.Random(number)
    return {
        "fraction": chance.random(),
        "free_after": chance.choice([None, chance.randint(1, 60)]),
        "left": chance.choice([0, 4096, 16384, 65536]),
        "takes_names": chance.random() < 0.2,
    }


@pytest.mark.parametrize(
    "number", [number if number < 3 else pytest.param(number, marks=pytest.mark.long) for number in range(60)]
)
def test_disk_that_is_full_at_a_random_moment(number: int, disk: Path, tfs: Tfs, config: Path, roomy: Path) -> None:
    case = random_case(number)
    moments = json.loads((roomy / "moments.json").read_bytes())
    ended = tfs(disk, fill_at=1 + int(case.pop("fraction") * (len(moments) - 1)), **case)
    finish(ended, disk, tfs, config, roomy)


@pytest.mark.parametrize(
    "number",
    [number if number in (3, 11, 40) else pytest.param(number, marks=pytest.mark.long) for number in range(60)],
)
def test_run_killed_at_any_call_from_its_start_is_finished_by_the_same_command(
    number: int, tmp_path: Path, tfs: Tfs, config: Path, roomy: Path
) -> None:
    """Half of the kills are among the first 100 moments: tokens, the run's folder, and the first lines."""
    moments = json.loads((roomy / "moments.json").read_bytes())
    command = ("--config", str(config), "--resume", "auto", "--name", "small")
    at = 1 + (3 * number if number < 30 else len(moments) * (number - 30) // 30)
    assert tfs(tmp_path, *command, fill_at=at, kills=True).code == -signal.SIGKILL
    tfs(tmp_path, *command, fill_at=1 + 7 * number % 60, kills=True)  # while it begins again, or resumes
    again = tfs(tmp_path, *command)
    assert again.code == 0, again.output
    assert_same_small_run(tmp_path, roomy)
