"""The trainer's smaller parts: random states, the plan, and signals."""

import json
import os
import random
import signal
import sys
from contextlib import suppress

import numpy as np
import pytest
import torch

from tfs_core.config.schema import Choice, TrainingConfig
from tfs_core.data.batches import Batches, Rows
from tfs_core.data.store import TokenSplit
from tfs_core.random_state import capture_random_state, preserved_random_state, restore_random_state, set_seed
from tfs_core.run import plan_run
from tfs_core.stop_signal import StopSignal


def draw() -> list[float]:
    """Draw from every global generator. An odd number of normals leaves a cached value in the state."""
    normals = [float(np.random.normal()), random.gauss(0, 1)]
    return [float(torch.rand(1)), float(torch.randn(1)), random.random(), float(np.random.rand()), *normals]


def test_random_state_restored_from_json_draws_the_same_numbers() -> None:
    set_seed(3)
    draw()
    state = json.loads(json.dumps(capture_random_state()))
    expected = draw()
    set_seed(99)
    restore_random_state(state)
    assert draw() == expected


def test_seed_decides_what_is_drawn() -> None:
    set_seed(3)
    first = draw()
    set_seed(3)
    assert draw() == first
    set_seed(2**40 + 3)
    assert draw() != first


def test_random_state_is_preserved_after_the_block_even_after_an_error() -> None:
    set_seed(3)
    expected = draw()
    set_seed(3)
    with suppress(ZeroDivisionError), preserved_random_state():
        draw()
        raise ZeroDivisionError
    assert draw() == expected


def batches() -> Batches:
    """Return batches of 10 rows of 10 tokens, 4 rows per step."""
    tokens = np.zeros(100, dtype=np.uint16)
    split = TokenSplit(tokens, np.array([0, 100]), 99)
    rows = Rows(split=split, batching="packed", max_length=10, end_of_text_id=0)
    return Batches(rows, batch_size=2, accumulation=2, seed=0)


@pytest.mark.parametrize(
    ("settings", "total_steps"),
    [
        ({"max_steps": 7}, 7),
        ({"num_epochs": 1}, 3),
        ({"num_epochs": 2}, 5),
        ({"max_tokens": 40}, 1),
        ({"max_tokens": 41}, 2),
    ],
)
def test_plan_is_as_long_as_its_steps_epochs_or_tokens(settings: dict[str, int], total_steps: int) -> None:
    assert plan_run(TrainingConfig(**settings), batches()).total_steps == total_steps


def test_warm_up_is_a_share_of_the_steps_or_a_number_or_none() -> None:
    def warmup(**settings: float) -> int:
        return plan_run(TrainingConfig(max_steps=50, lr_decay=Choice("cosine"), **settings), batches()).warmup_steps  # type: ignore[arg-type]

    assert (warmup(warmup_ratio=0.1), warmup(warmup_steps=7), warmup()) == (5, 7, 0)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.skipif(sys.platform == "win32", reason="os.kill ends the process there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_noted_and_a_second_one_stops_at_once(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        assert stop.received is None
        send(number)
        assert stop.received == number
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stopped:
            send(number)
    if number == signal.SIGTERM:
        assert isinstance(stopped.value, SystemExit)
        assert stopped.value.code == 128 + number
    assert signal.getsignal(number) is before
