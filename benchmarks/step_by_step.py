"""Run a trainer one step at a time, to alternate with other code."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch

from tfs_core.trainer import Trainer


class _Ended(BaseException):
    """Raised in the trainer's thread when no more steps are needed."""


class _Turns:
    """A batching that blocks the trainer before every step until the step is requested."""

    def __init__(self, batching: Any) -> None:
        self.batching = batching
        self.go, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.batching, name)

    def ready(self, step: int) -> bool:
        self.done.release()  # the previous step is complete, logging included
        self.go.acquire()
        if self.ended:
            raise _Ended
        return self.batching.ready(step)


def step_by_step(trainer: Trainer) -> Iterator[None]:
    """Iterate over a trainer's steps: `trainer.train()` runs in its own thread, and waits between two steps."""
    turns = _Turns(trainer.batching)
    trainer.batching = turns
    threads, raised = torch.get_num_threads(), []

    def train() -> None:
        torch.set_num_threads(threads)  # a per-thread setting
        try:
            trainer.train()
        except _Ended:
            pass
        except BaseException as error:  # raised again in the calling thread
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
