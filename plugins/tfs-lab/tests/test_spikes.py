"""The logger `spikes`: what counts as a spike, one event for each, and the same events after a resume."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tfs_lab.spikes import SpikeDetector, Spikes, SpikesConfig

import tfs_core
from tfs_core.contracts import RunContext
from tfs_core.records import EventRecord, SampleRecord, StepRecord
from tfs_core.runs import Run

NOISE = [3.0 + 0.05 * value for value in random.Random(0).choices([-1.0, 0.0, 1.0], k=400)]


def spikes_in(losses: Sequence[float], **options: Any) -> list[int]:
    """Return the places at which a spike begins."""
    detector = SpikeDetector(SpikesConfig(**options))
    return [place for place, loss in enumerate(losses) if detector.add(loss) is not None]


def test_one_high_loss_is_a_spike() -> None:
    losses = [*NOISE[:50], 4.0, *NOISE[50:80]]
    assert spikes_in(losses) == [50]


def test_spike_has_the_numbers_it_was_found_by() -> None:
    detector = SpikeDetector(SpikesConfig(window=5, at_least=5))
    assert [detector.add(loss) for loss in (9.0, 2.0, 2.1, 1.8, 2.4, 2.2)] == [None] * 6  # 9.0 is not the latest
    assert detector.add(5.0) == pytest.approx({"loss": 5.0, "median": 2.1, "deviation": 0.14826, "losses": 5})


def test_losses_that_vary_as_usual_rise_slowly_or_fall_are_no_spikes() -> None:
    assert spikes_in(NOISE) == []
    assert spikes_in([loss + 0.002 * step for step, loss in enumerate(NOISE)]) == []
    assert spikes_in([loss * 0.98**step for step, loss in enumerate(NOISE)]) == []
    assert spikes_in([*NOISE[:50], 0.5, *NOISE[50:]]) == []


def test_plateau_is_one_spike_and_so_is_one_that_climbs() -> None:
    assert spikes_in([*NOISE[:60], *(loss + 2 for loss in NOISE[60:300])]) == [60]
    assert spikes_in([*NOISE[:60], *(loss + 2 + 0.5 * step for step, loss in enumerate(NOISE[60:300]))]) == [60]


def test_loss_that_swings_is_one_spike_until_it_was_quiet() -> None:
    swinging = [value for _ in range(10) for value in (3.0, 5.0)]
    losses = [*NOISE[:60], *swinging, *NOISE[60:80], 5.0, *NOISE[80:99], 5.0]
    assert spikes_in(losses) == [61, 100]
    assert spikes_in(losses, quiet=19) == [61, 100, 120]


def test_first_losses_are_compared_with_enough_others() -> None:
    assert spikes_in([*NOISE[:19], 9.0]) == []
    assert spikes_in([*NOISE[:20], 9.0]) == [20]
    assert spikes_in([*NOISE[:5], 9.0], at_least=5) == [5]


def test_losses_that_hardly_vary_have_no_spikes_within_min_rise() -> None:
    assert spikes_in([1.0] * 30 + [1.09]) == []
    assert spikes_in([1.0] * 30 + [1.11]) == [30]
    assert spikes_in([1.0] * 30 + [1.09], min_rise=0.0) == [30]


def test_losses_that_are_not_finite_are_no_spikes_and_no_part_of_the_window() -> None:
    assert spikes_in([*NOISE[:30], float("nan"), float("inf"), *NOISE[30:50], 5.0]) == [52]
    assert spikes_in([*NOISE[:19], float("inf"), 9.0]) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": 10}, "at_least"),
        ({"at_least": 1}, "at_least"),
        ({"deviations": 0.0}, "deviations"),
        ({"quiet": -1}, "quiet"),
    ],
)
def test_invalid_option_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        SpikesConfig(**options)


def record_of(step: int, loss: float) -> StepRecord:
    return StepRecord(
        step=step,
        epoch=0,
        tokens=step,
        flops=0.0,
        elapsed_seconds=0.0,
        loss=loss,
        learning_rate=0.1,
        grad_norm=1.0,
        tokens_per_second=1.0,
    )


@pytest.mark.parametrize("start_step", [3, 62, 75, 90, 103])
def test_resume_at_any_step_sends_the_events_of_an_uninterrupted_run(start_step: int, tmp_path: Path) -> None:
    losses = [*NOISE[:60], *[5.0] * 12, *NOISE[60:90], 5.0, *NOISE[90:130]]

    def events(start_step: int) -> list[tuple[int, dict[str, Any]]]:
        told: list[EventRecord | SampleRecord] = []
        context = RunContext(
            folder=tmp_path,
            name="run",
            config={},
            info={},
            total_steps=len(losses),
            start_step=start_step,
            tell=told.append,
        )
        logger = Spikes(SpikesConfig(), run=context)
        logger.on_start()
        for step in range(start_step + 1, len(losses) + 1):
            logger.on_step(record_of(step, losses[step - 1]))
        return [(event.step, event.details) for event in told if isinstance(event, EventRecord)]

    whole = events(0)
    assert [step for step, _ in whole] == [61, 103]
    lines = [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)]  # later lines too, as after a kill
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    assert events(start_step) == [event for event in whole if event[0] > start_step]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Return the configuration of a run whose loss is too high in steps 25 and 50."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat. a dog. " * 60, encoding="utf-8")
    (tmp_path / "hiccup.py").write_text(
        """
import torch
from torch import nn
from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel

class Hiccup(AutogradModel):
    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, vocab_size)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        nn.init.normal_(self.table.weight, generator=generator)

    def forward(self, input_ids):
        self.calls = self.calls + self.training
        return self.table(input_ids) * (20.0 if self.calls in (25, 50) else 1.0)
""",
        encoding="utf-8",
    )
    return {
        "experiment_name": "hiccups",
        "data": {"dataset": {"name": "text", "path": str(tmp_path / "text.txt")}, "tokenizer": "byte", "max_length": 8},
        "model": {"name": f"{tmp_path / 'hiccup.py'}:Hiccup", "max_seq_len": 8},
        "training": {"batch_size": 4, "max_steps": 55, "warmup_steps": 0, "log_every": 1, "lr_decay": "constant"},
        "runtime": {"device": "cpu", "threads": 1, "matmul": "highest"},
        "loggers": ["jsonl"],
    }


def test_resumed_run_has_the_spikes_of_an_uninterrupted_one(config: dict[str, Any], tmp_path: Path) -> None:
    def spikes(run: Run) -> list[tuple[Any, ...]]:
        return [(it["step"], it["details"]) for it in run.events() if it["kind"] == "spike"]

    whole = tfs_core.run(config, assets=tmp_path / "assets", name="whole")
    assert [step for step, _ in spikes(whole)] == [25, 50]
    for steps in (30, 40):
        first = tfs_core.run(
            config, assets=tmp_path / "assets", name=f"to-{steps}", overrides=[f"training.max_steps={steps}"]
        )
        resumed = tfs_core.run(
            resume=first.folder,
            assets=tmp_path / "assets",
            overrides=["training.max_steps=55"],
            allow_local_code=True,
        )
        assert spikes(resumed) == spikes(whole)


def test_options_of_the_configuration_are_used(config: dict[str, Any], tmp_path: Path) -> None:
    run = tfs_core.run({**config, "loggers": ["jsonl", {"name": "spikes", "at_least": 26}]}, assets=tmp_path / "assets")
    assert [event["step"] for event in run.events() if event["kind"] == "spike"] == [50]
