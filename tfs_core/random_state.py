"""The global random states (RNGs) of torch, Python and NumPy: seed, save, restore, preserve.

Training draws from them for dropout and other randomness inside a model. Data order, initial weights, validation and
samples use generators of their own.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def set_seed(seed: int) -> None:
    """Seed all global generators: torch's on all devices, Python's and NumPy's (with the seed modulo 2**32)."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def capture_random_state() -> dict[str, Any]:
    """Return the states of all global generators as JSON values."""
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
    """Restore a state from `capture_random_state`. States of devices that this machine does not have are ignored."""
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
def preserved_random_state() -> Iterator[None]:
    """Save and restore all global random states around the block."""
    state = capture_random_state()
    try:
        yield
    finally:
        restore_random_state(state)
