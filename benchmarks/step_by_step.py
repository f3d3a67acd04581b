"""A trainer, one step at a time, so that it can take turns with something else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch

from tfs_core.trainer import Trainer


class _Ended(BaseException):
    """No more steps are wanted."""


class _Turns:
    """A batching that makes the trainer wait for its turn before every step."""

    def __init__(self, batching: Any) -> None:
        self.batching = batching
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batching, name)

    def ready(self, step: int) -> bool:
        self.done.release()  # the step before is complete, with all that follows it
        self.go.acquire()
        if self.ended:
            raise _Ended
        return self.batching.ready(step)


def step_by_step(trainer: Trainer) -> Iterator[None]:
    """Iterate over a trainer's steps: `trainer.train()` runs in a thread of its own, and waits between two of them."""
    turns = _Turns(trainer.batching)
    trainer.batching = turns
    threads, raised = torch.get_num_threads(), []

    def train() -> None:
        torch.set_num_threads(threads)  # a setting of each thread
        try:
            trainer.train()
        except _Ended:
            pass
        except BaseException as error:  # raised again where the steps are asked for
            raised.append(error)
        turns.done.release()

    thread = threading.Thread(target=train)
    thread.start()
    turns.done.acquire()  # before the first step
    try:
        while thread.is_alive() and not raised:
            turns.go.release()
            turns.done.acquire()
            if raised:
                raise raised[0]
            yield
    finally:
        turns.ended = True
        turns.go.release()
        thread.join()
