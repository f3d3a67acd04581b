"""Time to nanoGPT's loss on Tiny Shakespeare, and loss in nanoGPT's time: tfs against nanoGPT.

    python benchmarks/nanogpt_race.py --nanogpt FOLDER --text FILE --item 1   # same shape: `baseline` and `speedrun`
    python benchmarks/nanogpt_race.py --nanogpt FOLDER --text FILE --item 2   # any decoder of at most its size
    python benchmarks/nanogpt_race.py --nanogpt FOLDER --text FILE --item 3   # the loss in the same time
    python benchmarks/nanogpt_race.py ... --item 1 --tune --set training.max_steps=100   # tune a setting

FOLDER is a copy of https://github.com/karpathy/nanoGPT, FILE its data/shakespeare_char/input.txt. nanoGPT's side is the
CPU run of its README with its own train.py: 4 layers, width 128, context 64, batch 12, 2000 iterations. Both sides read
the ids from nanoGPT's prepare.py and train on the first 90 % of the text. Their loss is measured on all complete
windows of 64 characters of the rest, in nats per character.

In each round nanoGPT trains once, followed by tfs with the seeds of this round, so that changes of the machine's speed
affect both. tfs trains with the configurations below, and with the batches and the trainer of `tfs run`. The times do
not include evaluation, imports and reading the text, on both sides; everything else is included.
"""

import argparse
import importlib.util
import pickle
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from objective import objective_of
from step_by_step import step_by_step
from torch import Tensor

from tfs_core.builtin.jsonl import JsonlLogger
from tfs_core.checkpoint import CheckpointKeeper
from tfs_core.config import load_config
from tfs_core.config.schema import RunConfig
from tfs_core.data.batches import Batches, Rows
from tfs_core.data.store import TokenSplit
from tfs_core.evaluator import Evaluator
from tfs_core.loggers import Loggers
from tfs_core.machine import apply_machine, choose_machine
from tfs_core.models import build_model
from tfs_core.ranks import OneRank
from tfs_core.run import build_optimizer, build_schedule, plan_run
from tfs_core.run_folder import RunFolder
from tfs_core.stop_signal import StopSignal
from tfs_core.trainer import Plan, Progress, Trainer

CONFIGS = Path(__file__).parent.parent / "examples" / "tfs-speedrun" / "configs"
ITEMS = {1: ["baseline", "four_blocks"], 2: ["one_block"], 3: ["equal_time"]}
PROMISED = {"baseline": (7.0, 12.0), "four_blocks": (7.0, 12.0), "one_block": (50.0, 80.0), "equal_time": (1.58, 1.50)}
"""The required and the target value: the speedup, and the loss for `equal_time`."""

NANOGPT_PARAMETERS = 804_096
WINDOW = 64
TRIED_STEPS = 60
SHARE_OF_TIME = 0.97  # fraction of nanoGPT's time, as a margin for changes of the machine's speed
NANOGPT_ITERATIONS = 2000
NANOGPT_RUN = [
    "config/train_shakespeare_char.py",
    *("--device=cpu", "--compile=False", "--eval_iters=1", "--log_interval=1"),
    *("--n_layer=4", "--n_head=4", "--n_embd=128", "--block_size=64", "--batch_size=12", "--dropout=0.0"),
    *("--always_save_checkpoint=True", "--out_dir=out"),
]


@dataclass(frozen=True)
class OneByteEach:
    """Minimal tokenizer for the trainer: every id is one byte."""

    vocab_size: int

    def byte_lengths(self) -> NDArray[np.int64]:
        return np.ones(self.vocab_size, np.int64)


@dataclass(frozen=True)
class Text:
    """The ids from nanoGPT's prepare.py."""

    train_ids: NDArray[np.uint16]
    input_ids: Tensor  # [n_windows, 64], validation text
    target_ids: Tensor  # [n_windows, 64]
    vocab_size: int

    def windows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Iterate over (input_ids, target_ids) [up to 256, 64]."""
        return zip(self.input_ids.split(256), self.target_ids.split(256), strict=True)


@dataclass(frozen=True)
class Outcome:
    """Result of a training run."""

    seconds: float
    loss: float  # at the end, nats per character
    curve: list[tuple[float, float]]  # (seconds, loss) at each evaluation

    def seconds_to(self, loss: float) -> float | None:
        """Return the seconds at the first evaluation with at most this loss."""
        return next((seconds for seconds, seen in self.curve if seen <= loss), None)


def prepare_nanogpt(nanogpt: Path, text: Path, folder: Path, *, tune: bool) -> Text:
    """Copy nanoGPT to a folder of this benchmark, and run its prepare.py on the text there.

    For tuning, the last tenth of the training text replaces the validation text, which is not used.
    """
    shutil.copytree(nanogpt, folder)
    data = folder / "data" / "shakespeare_char"
    shutil.copyfile(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, stdout=subprocess.DEVNULL)
    train_ids, validation_ids = (np.fromfile(data / f"{split}.bin", dtype=np.uint16) for split in ("train", "val"))
    if tune:
        train_ids, validation_ids = np.split(train_ids, [int(0.9 * len(train_ids))])
    ids = torch.from_numpy(validation_ids.astype(np.int64))  # [n_validation_tokens]
    n_windows = (len(ids) - 1) // WINDOW
    return Text(
        train_ids=train_ids,
        input_ids=ids[: n_windows * WINDOW].view(n_windows, WINDOW),
        target_ids=ids[1 : n_windows * WINDOW + 1].view(n_windows, WINDOW),
        vocab_size=pickle.loads((data / "meta.pkl").read_bytes())["vocab_size"],
    )


def train_nanogpt(folder: Path, seed: int, text: Text, iterations: int) -> Outcome:
    """Run nanoGPT's train.py with a seed, and return the seconds of its iterations and its loss on the windows."""
    script = (folder / "train.py").read_text(encoding="utf-8")
    (folder / "race.py").write_text(script.replace("torch.manual_seed(1337", f"torch.manual_seed({seed}"))
    length = [f"--{name}={iterations}" for name in ("max_iters", "lr_decay_iters", "eval_interval")]
    command = [sys.executable, "race.py", *NANOGPT_RUN, *length]
    output = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout
    # The first and the last printed iteration include an evaluation.
    milliseconds = [float(found) for found in re.findall(r"^iter \d+: .* time ([\d.]+)ms", output, re.MULTILINE)]
    seconds = sum(milliseconds[1:-1]) / 1000

    spec = importlib.util.spec_from_file_location("nanogpt_model", folder / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    saved = torch.load(folder / "out" / "ckpt.pt", weights_only=True)
    model = module.GPT(module.GPTConfig(**saved["model_args"])).eval()
    model.load_state_dict(saved["model"])
    with torch.no_grad():
        nats = 0.0
        for input_ids, target_ids in text.windows():
            logits, _ = model(input_ids, target_ids)  # [rows, 64, vocab_size]; all positions only with targets
            nats += float(F.cross_entropy(logits.flatten(0, 1), target_ids.flatten(), reduction="sum"))
    loss = nats / text.target_ids.numel()
    return Outcome(seconds, loss, [(seconds, loss)])


def train_tfs(config: RunConfig, seed: int, text: Text, *, look: bool) -> Outcome:
    """Train as `tfs run` does. With `look`, evaluate every `eval_every` steps; the time of evaluations is excluded."""
    apply_machine(choose_machine(config.runtime))
    training, look_every = config.training, config.training.eval_every
    split = TokenSplit(text.train_ids, np.array([0, len(text.train_ids)]), len(text.train_ids))
    rows = Rows(
        split=split,
        batching="packed",
        max_length=config.data.max_length,
        end_of_text_id=0,  # not among the ids; it is read once, before the first character
    )
    batches = Batches(rows, batch_size=training.batch_size, seed=seed)
    plan = plan_run(training, batches)
    model = build_model(config.model, vocab_size=text.vocab_size, seed=seed)
    torch.manual_seed(seed)
    n_parameters = sum(parameter.numel() for _, parameter in model.named_parameters())
    if n_parameters > 1.03 * NANOGPT_PARAMETERS:
        sys.exit(f"{config.experiment_name} has {n_parameters} parameters: nanoGPT has {NANOGPT_PARAMETERS}")
    objective = objective_of(model, config, batches.trial())
    evaluator, curve = Evaluator(model), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        logger = JsonlLogger(folder)
        logger.on_start()
        run_folder = RunFolder.create(folder, "race", "race")
        trainer = Trainer(
            config=replace(training, eval_every=None, checkpoint_every=None, checkpoint_interval_minutes=None),
            plan=Plan(plan.total_steps + 1, plan.warmup_steps),  # one more step, to exclude the checkpoint at the end
            progress=Progress(),
            model=model,
            objective=objective,
            optimizer=build_optimizer(training, model),
            schedule=build_schedule(training, plan),
            device="cpu",
            batching=batches,
            tokenizer=OneByteEach(text.vocab_size),
            run_folder=run_folder,
            checkpoints=CheckpointKeeper(folder / "checkpoints", keep=1),
            loggers=Loggers([logger], print),
            ranks=OneRank(),
            stop=StopSignal(),
        )
        seconds = 0.0
        with run_folder, closing(step_by_step(trainer)) as steps:
            for step in range(1, plan.total_steps + 1):
                started_at = time.perf_counter()
                next(steps)
                seconds += time.perf_counter() - started_at
                if step == plan.total_steps or (look and look_every is not None and step % look_every == 0):
                    curve.append((seconds, evaluator.evaluate(text.windows()).loss))
    return Outcome(seconds, curve[-1][1], curve)


def train_seeds(name: str, config: RunConfig, seeds: Iterable[int], text: Text, *, look: bool) -> dict[int, Outcome]:
    """Train once with each seed, print the results, and return them by seed."""
    outcomes = {}
    for seed in seeds:
        outcomes[seed] = train_tfs(config, seed, text, look=look)
        print(f"{name}, seed {seed}: {outcomes[seed].seconds:.2f} s, loss {outcomes[seed].loss:.4f}", flush=True)
    return outcomes


def steps_in(seconds: float, config: RunConfig, text: Text) -> int:
    """Return the number of steps that fit into the given seconds, estimated from the first steps."""
    tried = train_tfs(with_steps(config, TRIED_STEPS), 0, text, look=False)
    return int(SHARE_OF_TIME * seconds * TRIED_STEPS / tried.seconds)


def with_steps(config: RunConfig, steps: int) -> RunConfig:
    """Return the configuration with a different number of steps."""
    return replace(config, training=replace(config.training, max_steps=steps))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--nanogpt", type=Path, required=True, help="the folder of a copy of nanoGPT")
    arguments.add_argument("--text", type=Path, required=True, help="Tiny Shakespeare, one file")
    arguments.add_argument("--item", type=int, choices=sorted(ITEMS), required=True)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--rounds", type=int, default=2, help="number of nanoGPT's runs")
    arguments.add_argument("--quick", action="store_true", help="test the script; the numbers are meaningless")
    arguments.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    arguments.add_argument("--tune", action="store_true", help="only tfs, evaluated on the end of the training text")
    chosen = arguments.parse_args()
    iterations = 120 if chosen.quick else NANOGPT_ITERATIONS  # nanoGPT's warm-up alone takes 100

    names = ITEMS[chosen.item]
    configs = {name: load_config(CONFIGS / f"{name}.yaml", overrides=chosen.settings) for name in names}
    seeds = range(1, chosen.seeds + 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "nanogpt"
        text = prepare_nanogpt(chosen.nanogpt, chosen.text, folder, tune=chosen.tune)
        if chosen.tune:
            for name, config in configs.items():
                train_seeds(name, config, seeds, text, look=False)
            return
        rivals: list[Outcome] = []
        ours: dict[str, dict[int, Outcome]] = {name: {} for name in configs}
        for number in range(chosen.rounds):
            rivals.append(train_nanogpt(folder, 1337 + number, text, iterations))
            print(f"nanoGPT, seed {1337 + number}: {rivals[-1].seconds:.1f} s, loss {rivals[-1].loss:.4f}", flush=True)
            for name, config in configs.items():
                if chosen.item == 3:
                    config = with_steps(config, steps_in(rivals[-1].seconds, config, text))
                    print(f"{name}: {config.training.max_steps} steps fit into that", flush=True)
                share = seeds[number :: chosen.rounds]
                ours[name] |= train_seeds(name, config, share, text, look=chosen.item != 3)

    target = min(rival.loss for rival in rivals)
    rival_seconds = statistics.fmean(rival.seconds for rival in rivals)
    print(f"\nnanoGPT: {rival_seconds:.1f} s on average, best loss {target:.4f}, {NANOGPT_PARAMETERS} parameters")
    for name, outcomes in ours.items():
        floor, aim = PROMISED[name]
        if chosen.item == 3:
            report_loss(name, outcomes, rival_seconds, floor, aim)
        else:
            report_seconds(name, outcomes, rival_seconds, target, floor, aim)


def report_seconds(
    name: str, outcomes: dict[int, Outcome], rival_seconds: float, target: float, floor: float, aim: float
) -> None:
    """Print for each seed how many times sooner than nanoGPT it reached nanoGPT's loss."""
    times_sooner = []
    for seed, outcome in sorted(outcomes.items()):
        seconds = outcome.seconds_to(target)
        if seconds is None:
            print(f"{name:12} seed {seed}: not reached; {outcome.loss:.4f} after {outcome.seconds:.2f} s")
            continue
        times_sooner.append(rival_seconds / seconds)
        print(
            f"{name:12} seed {seed}: {target:.4f} after {seconds:6.2f} s, {times_sooner[-1]:6.1f} times sooner; "
            f"{outcome.loss:.4f} at the end, {outcome.seconds:.2f} s"
        )
    reached = f"{len(times_sooner)} of {len(outcomes)} seeds reached it"
    if times_sooner:
        middle, least, most = statistics.median(times_sooner), min(times_sooner), max(times_sooner)
        print(
            f"{name:12} ratio {middle:.1f} (median; {least:.1f} to {most:.1f}; floor {floor:g}, aim {aim:g}); {reached}"
        )
    else:
        print(f"{name:12} {reached}")


def report_loss(name: str, outcomes: dict[int, Outcome], rival_seconds: float, floor: float, aim: float) -> None:
    """Print the loss of each seed after about nanoGPT's time."""
    for seed, outcome in sorted(outcomes.items()):
        print(f"{name:12} seed {seed}: loss {outcome.loss:.4f} after {outcome.seconds:.1f} s")
    losses = [outcome.loss for outcome in outcomes.values()]
    seconds = statistics.fmean(outcome.seconds for outcome in outcomes.values())
    spread = f"median; {min(losses):.4f} to {max(losses):.4f}; floor {floor}, aim {aim}"
    share = seconds / rival_seconds
    print(f"{name:12} loss {statistics.median(losses):.4f} ({spread}) in {share:.2f} of nanoGPT's time")


if __name__ == "__main__":
    main()
