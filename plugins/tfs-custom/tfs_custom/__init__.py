"""The hand-written transformer. `replaced` puts operations of your own in the place of those in `ops/`."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tfs_core.errors import UsageError
from tfs_core.plugins import did_you_mean


@contextmanager
def replaced(**operations: Callable[..., Any]) -> Iterator[None]:
    """Use other functions in the place of operations, wherever the model calls them, while the block lasts.

        with tfs_custom.replaced(gelu_backward=my_gelu_backward):
            model.loss(input_ids, target_ids)
            model.backward(1.0)

    The names are those in `tfs_custom.ops`. A replacement takes the arguments of the operation whose place it takes,
    and may itself call the original, imported by name before the block. Two functions that share a cache of another
    form are replaced together. The replacement holds for the whole process: not to be used in several threads at once.

    Raises UsageError for a name that is no operation, and for a function that cannot be called as the operation is.
    """
    if not operations:
        yield
        return
    from tfs_custom import ops  # not at the top: a plugin is listed without importing torch

    originals = {name: getattr(ops, name, None) for name in operations}
    for name, original in originals.items():
        if name not in ops.__all__ or not callable(original):
            raise UsageError(f"tfs_custom has no operation '{name}'.{did_you_mean(name, ops.__all__)}")
        arguments = inspect.signature(original).parameters
        try:
            inspect.signature(operations[name]).bind(*arguments)
        except TypeError:
            raise UsageError(
                f"{operations[name].__name__} cannot take the place of {name}, which is called with "
                f"({', '.join(arguments)})"
            ) from None

    # An operation is bound in every module that imports it; that of the faults keeps the right ones, which it calls.
    names = [name for name in sys.modules if name.startswith("tfs_custom.") and name != "tfs_custom.faults"]
    modules = [vars(sys.modules[name]) for name in names]
    places = [(bound, name) for name in operations for bound in modules if bound.get(name) is originals[name]]
    for bound, name in places:
        bound[name] = operations[name]
    try:
        yield
    finally:
        for bound, name in places:
            bound[name] = originals[name]
