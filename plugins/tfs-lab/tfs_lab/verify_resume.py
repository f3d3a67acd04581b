"""`tfs verify-resume CONFIG`: prove that interrupted and resumed runs of a configuration equal an uninterrupted one.

Every session of a run is a process of its own. `verify_resume` is the main flow; the other functions follow in the
order in which it calls them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from tfs_core.config import config_differences, load_config, to_yaml
from tfs_core.config.schema import RunConfig, is_local_model
from tfs_core.errors import CheckpointError, ConfigError, TrainingError, UsageError
from tfs_core.runs import Run, assets_folder, find_run
from tfs_core.terminal import say

MIN_STEPS = 4
MAX_INTERRUPTIONS = 3  # of one run

MAX_EVAL_BATCHES = 8  # of a validation, which may otherwise take longer than all steps of a short run

SAVE_OPERATIONS = 25
"""A run that is killed while it saves is killed at one of this many file operations; saving takes about as many."""

SHARED_FOLDERS = ("datasets", "tokenizers", "tokens")
"""Folders of the user's assets that the runs use, so that nothing is downloaded or tokenized a second time."""

EXIT_CODES = {"SIGTERM": 128 + 15, "SIGKILL": -9}
"""The exit code of a session that was interrupted: SIGTERM saves and stops, SIGKILL ends the process."""


@click.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--steps", type=click.IntRange(MIN_STEPS), default=20, show_default=True, help="Steps of each run.")
@click.option("--trials", type=click.IntRange(1), default=3, show_default=True, help="Number of interrupted runs.")
@click.option("--seed", default=0, show_default=True, help="Seed of the moments of the interruptions.")
@click.option("--model", metavar="NAME", help="The model, instead of the file's.")
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Override a setting. Repeatable.")
@click.option("--assets", metavar="DIR", help="The folder for data and runs. [default: TFS_ASSETS, or ./assets]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def verify_resume(
    config_file: Path,
    *,
    steps: int,
    trials: int,
    seed: int,
    model: str | None,
    overrides: Sequence[str],
    assets: str | None,
    as_json: bool,
) -> None:
    """Prove that interrupted and resumed runs of a configuration equal an uninterrupted one bit for bit.

    Trains the configuration for a few steps without interruption, then several times with interruptions at random
    steps: stopped by SIGTERM, killed by SIGKILL, and killed while a checkpoint is saved. Each of these runs is resumed
    until it is finished. Weights, optimizer state, state.json and all log lines, without times, are compared. The exit
    code is 0 when everything is equal, and 1 otherwise. The runs are in a temporary folder (TMPDIR chooses where),
    which is kept only when something differs. Data sets and tokens are those of the assets.
    """
    if sys.platform == "win32":
        raise UsageError("tfs verify-resume needs SIGKILL and symbolic links, which Windows does not have")
    original = load_config(config_file, overrides=overrides, model=model)
    short = shortened(original, steps)
    changed = {change.key: [change.first, change.second] for change in config_differences(original, short)}

    say(f"{config_file}, for {short.training.max_steps} steps; settings of the short runs:", err=as_json)
    for key, (before, now) in changed.items():
        say(f"      {key}: {json.dumps(now)} (was {json.dumps(before)})", err=as_json)
    folder = Path(tempfile.mkdtemp(prefix="tfs-verify-resume-"))
    results: list[Trial] = []
    try:
        runs = Runs(folder, short, assets=assets_folder(assets))
        uninterrupted = runs.uninterrupted("uninterrupted")
        plans = plan_interruptions(short, last_step=last_step(uninterrupted), trials=trials, seed=seed)
        for number, plan in enumerate(plans, 1):
            results.append(runs.interrupted(f"trial-{number}", plan, uninterrupted))
            for line in results[-1].lines():
                say(line, err=as_json)
        verdict = describe_verdict(results, uninterrupted)
        equal = all(result.equal for result in results)
        if not equal and runs.differences(runs.uninterrupted("uninterrupted-again"), uninterrupted):
            verdict += (
                " But a second uninterrupted run differs from the first, too, so resuming need not be the cause: "
                "training is not deterministic on this machine, or its code has changed meanwhile."
            )
    finally:
        if all(result.equal for result in results):
            shutil.rmtree(folder, ignore_errors=True)
    if not equal:
        verdict += f" The runs and the output of their sessions are in {folder}"
    say(verdict, err=as_json)
    if as_json:
        values = {
            "config": str(config_file),
            "changed": changed,
            "steps": last_step(uninterrupted),
            "seed": seed,
            "equal": equal,
            "trials": [asdict(result) for result in results],
            "verdict": verdict,
            "folder": None if equal else str(folder),
        }
        say(json.dumps(values))
    if not equal:
        raise SystemExit(1)


def shortened(config: RunConfig, steps: int) -> RunConfig:
    """Return the configuration of runs of at most `steps` steps, with checkpoints and short validations in between.

    All other settings are unchanged, except for a warm-up longer than the run, which becomes half of the run. Raises
    ConfigError when the logger `jsonl`, which writes the lines to compare, is not configured.
    """
    if all(choice.name.rpartition("/")[2] != "jsonl" for choice in config.loggers):
        raise ConfigError("loggers: tfs verify-resume compares the files of the logger 'jsonl'. Add it to the loggers.")
    training = config.training
    steps = min(steps, training.max_steps or steps)
    if steps < MIN_STEPS:
        raise ConfigError(f"training.max_steps is {steps}; tfs verify-resume needs at least {MIN_STEPS} steps.")
    training = replace(
        training,
        max_steps=steps,
        num_epochs=None,
        max_tokens=None,
        warmup_steps=steps // 2 if (training.warmup_steps or 0) > steps else training.warmup_steps,
        checkpoint_every=min(steps // 4, training.checkpoint_every or steps),
        keep_checkpoints=min(2, training.keep_checkpoints),
        max_eval_batches=min(MAX_EVAL_BATCHES, training.max_eval_batches or MAX_EVAL_BATCHES),
        eval_every=training.eval_every and min(max(steps // 3, 1), training.eval_every),
        log_every=1,
    )
    return replace(config, training=training)


@dataclass(frozen=True)
class Interruption:
    """A signal that a session sends itself after a step."""

    signal: str  # a key of EXIT_CODES
    step: int
    operation: int  # the number of the file operation after the step that the signal prevents; 0: right after the step


@dataclass(frozen=True)
class Trial:
    """The result of one interrupted run."""

    run: str
    interruptions: list[str]  # in words
    differences: list[str]  # in words; empty when the run equals the uninterrupted one

    @property
    def equal(self) -> bool:
        """True when the run is finished and equals the uninterrupted one."""
        return not self.differences

    def lines(self) -> Iterator[str]:
        """Iterate over the lines that report the result."""
        yield f"{'ok  ' if self.equal else 'FAIL'}  {self.run}: {', '.join(self.interruptions) or 'not interrupted'}"
        yield from (f"      ! {difference}" for difference in self.differences)


def last_step(run: Run) -> int:
    """Return the number of steps that a run has taken."""
    return int(run.info["summary"]["last_step"])


def plan_interruptions(config: RunConfig, *, last_step: int, trials: int, seed: int) -> Iterator[list[Interruption]]:
    """Iterate over the interruptions of each trial: 1 to MAX_INTERRUPTIONS, at increasing steps.

    All are between the first checkpoint, since a run without one cannot be resumed, and the last step. The kinds of
    interruptions take turns. Raises TrainingError when the run is too short.
    """
    steps = range((config.training.checkpoint_every or 0) + 1, last_step)
    if not steps:
        raise TrainingError(f"the run ended at step {last_step}, too early to interrupt it. Train longer: --steps N")
    chosen, kinds = random.Random(seed), 0
    for _ in range(trials):
        plan = []
        for step in sorted(chosen.sample(steps, k=chosen.randint(1, min(MAX_INTERRUPTIONS, len(steps))))):
            signal, is_saving = (("SIGTERM", False), ("SIGKILL", False), ("SIGKILL", True))[kinds % 3]
            operation = chosen.randint(1, SAVE_OPERATIONS)
            plan.append(Interruption(signal, step, operation if is_saving else 0))
            kinds += 1
        yield plan


class SessionError(TrainingError):
    """A session of a run failed; the message is its own."""


class Runs:
    """The runs of one configuration in a temporary assets folder, each session in a process of its own."""

    def __init__(self, folder: Path, config: RunConfig, *, assets: Path) -> None:
        """Write the configuration, and link everything in the user's `assets` but the runs. Raises TrainingError."""
        self.folder = folder
        self.config = config
        self.config_file = folder / "config.yaml"
        self.assets = folder / "assets"
        self.config_file.write_text(to_yaml(config), encoding="utf-8")
        self.assets.mkdir()
        try:
            for name in SHARED_FOLDERS:
                (assets / name).mkdir(parents=True, exist_ok=True)
            for path in assets.iterdir():
                if path.name != "runs":
                    (self.assets / path.name).symlink_to(os.path.realpath(path))
        except OSError as error:
            raise TrainingError(
                f"the assets folder {assets} cannot be used: {error.strerror or error}. Change its permissions, or "
                "choose another one with --assets."
            ) from error

    def uninterrupted(self, name: str) -> Run:
        """Train without interruption, and return the finished run. Raises SessionError with the run's own error."""
        self._session(name, ["--config", str(self.config_file), "--name", name], None)
        return find_run(name, self.assets)

    def interrupted(self, name: str, plan: Sequence[Interruption], expected: Run) -> Trial:
        """Train with interruptions, resume until the run is finished, compare it with `expected`, and delete it.

        A run that differs is kept.
        """
        # The precision may be chosen by measuring; a new run must use that of the uninterrupted one. A resumed session
        # must find it out itself, as it would for the user.
        matmul = ["--set", f"runtime.matmul={expected.info['matmul']}"]
        arguments = ["--config", str(self.config_file), "--name", name, *matmul]
        interruptions = []
        try:
            for interruption in [*plan, None]:
                if not self._session(name, arguments, interruption):
                    break
                assert interruption is not None  # only an interrupted session does not finish
                step = find_run(name, self.assets).metrics()[-1]["step"]
                saving = " while saving" if interruption.operation else ""
                interruptions.append(f"{interruption.signal}{saving} after step {step}")
                arguments = ["--resume", name, "--set", f"runtime.matmul={self.config.runtime.matmul}"]
                if is_local_model(self.config.model.name):
                    arguments.append("--allow-local-code")
            differences = self.differences(find_run(name, self.assets), expected)
        except (SessionError, CheckpointError) as error:
            differences = [str(error)]
        if not differences:
            shutil.rmtree(self.assets / "runs" / name)
        return Trial(name, interruptions, differences)

    def differences(self, run: Run, expected: Run) -> list[str]:
        """Return what differs in `run`, in words."""
        from tfs_lab.run_differences import run_differences  # imports torch

        return run_differences(run, expected)

    def _session(self, name: str, arguments: Sequence[str], interruption: Interruption | None) -> bool:
        """Train in a new process. Return whether it was interrupted. Raises SessionError when it failed."""
        code = ["-c", "from tfs_core.cli.main import main; main()"]
        if interruption is not None:
            moment = [interruption.signal, str(interruption.step), str(interruption.operation)]
            code = ["-m", "tfs_lab.interruption", *moment]
        command = [sys.executable, "-P", *code, "run", *arguments, "--assets", str(self.assets)]
        output = self.folder / f"{name}.log"
        with output.open("ab") as file:
            start = file.tell()
            exit_code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode
        if exit_code == 0:
            return False
        if interruption is not None and exit_code == EXIT_CODES[interruption.signal]:
            return True
        said = output.read_bytes()[start:].decode("utf-8", "replace").strip()
        message = said.rpartition("Error: ")[2] if "\nError: " in f"\n{said}" else said.rpartition("\n")[2]
        raise SessionError(f"a session of the run failed with exit code {exit_code}: {message}")


def describe_verdict(results: Sequence[Trial], uninterrupted: Run) -> str:
    """Return the verdict in a sentence."""
    from tfs_lab.run_differences import line_count  # imports torch

    interruptions = sum(len(result.interruptions) for result in results)
    failed = [result.run for result in results if not result.equal]
    if failed:
        return (
            f"{len(failed)} of {len(results)} interrupted runs differ from the uninterrupted one: {', '.join(failed)}."
        )
    return (
        f"Interrupted runs: {len(results)}, interruptions: {interruptions}. All equal the uninterrupted run bit for "
        f"bit: weights, optimizer state, state.json and {line_count(uninterrupted)} log lines without their times."
    )
