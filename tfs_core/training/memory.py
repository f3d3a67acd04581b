"""Running out of memory, told in a sentence: PyTorch and numpy each have errors of their own for it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tfs_core.errors import PluginError, TrainingError


@contextmanager
def enough_memory(doing: str) -> Iterator[None]:
    """Raise TrainingError, with what to do, when memory runs out inside; `doing` says what was being done."""
    try:
        yield
    except (MemoryError, RuntimeError, PluginError) as error:
        cause = error.__cause__ if isinstance(error, PluginError) else error  # it ran out while a plugin built a model
        is_ours = isinstance(cause, MemoryError | torch.OutOfMemoryError)
        if not is_ours and "allocate memory" not in str(cause):  # what PyTorch's CPU allocator says
            raise
        raise TrainingError(
            f"{doing} takes more memory than there is. Halve training.batch_size and double "
            "training.gradient_accumulation_steps, the updates stay the same; or make the model smaller."
        ) from error
