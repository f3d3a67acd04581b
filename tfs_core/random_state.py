"""The random states that training draws from: set, written down as plain numbers, put back, and kept still.

Data order, initial weights, validation and samples have random states of their own. What is left is whatever a model
draws in training (dropout) from the global generators of torch, of Python and of NumPy.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seed every global generator: torch's on all devices, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def capture_random_state() -> dict[str, Any]:
    """Return every global generator's state in JSON values: lists of integers, and at most one float each."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached_gauss = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state().tolist(),
        "python": [version, list(words), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached_gauss)],
    }
    if torch.cuda.is_available():
        state["cuda"] = [device_state.tolist() for device_state in torch.cuda.get_rng_state_all()]
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state().tolist()
    return state


def restore_random_state(state: dict[str, Any]) -> None:
    """Put back what `capture_random_state` returned; a device that this machine lacks is passed over."""
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    if torch.cuda.is_available():
        for index, device_state in enumerate(state.get("cuda", [])[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(torch.tensor(device_state, dtype=torch.uint8), index)
    if torch.backends.mps.is_available() and "mps" in state:
        torch.mps.set_rng_state(torch.tensor(state["mps"], dtype=torch.uint8))


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever is drawn inside, training goes on afterwards as if nothing had been drawn."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)
