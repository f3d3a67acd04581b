"""The hand-written transformer. `replaced` puts operations of your own in the place of those in `ops/`."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tfs_core.errors import UsageError
from tfs_core.plugins import did_you_mean

_REPLACING = threading.RLock()
"""Held while operations are replaced, so that two threads cannot restore each other's replacements."""


@contextmanager
def replaced(**operations: Callable[..., Any]) -> Iterator[None]:
    """Replace operations by your own functions, wherever the model calls them, until the `with` block ends.

        with tfs_custom.replaced(gelu_backward=my_gelu_backward):
            model.loss(input_ids, target_ids)
            model.backward(1.0)

    The names are those in `tfs_custom.ops`. A replacement takes the same arguments as the operation. It may
    call the original, imported by name before the block (`ops.gelu_backward` would be the replacement itself). If your
    forward returns another cache, replace its backward too. The replacement holds for all threads of the process.

    Raises UsageError for an unknown operation, and for a function that cannot be called with the operation's arguments.
    """
    if not operations:
        yield
        return
    # Not at the top: a plugin is listed without importing torch. The last of these imports all modules that bind
    # operations, before any of them is replaced.
    from tfs_custom import ops
    from tfs_custom.key_value_cache import CachedTransformer  # noqa: F401

    for name, replacement in operations.items():
        if name not in ops.__all__:
            near = did_you_mean(name, ops.__all__)
            raise UsageError(f"tfs_custom has no operation '{name}'.{near} Operations: {', '.join(ops.__all__)}")
        check_signature(name, getattr(ops, name), replacement)

    with _REPLACING:
        # `faults.py` is skipped: its wrong operations call the right ones.
        names = [name for name in sys.modules if name.startswith("tfs_custom.") and name != "tfs_custom.faults"]
        modules = [vars(sys.modules[name]) for name in names]
        originals = {name: getattr(ops, name) for name in operations}
        places = [(bound, name) for name in operations for bound in modules if bound.get(name) is originals[name]]
        for bound, name in places:
            bound[name] = operations[name]
        try:
            yield
        finally:
            for bound, name in places:
                bound[name] = originals[name]


def check_signature(name: str, original: Callable[..., Any], replacement: Callable[..., Any]) -> None:
    """Raise UsageError when `replacement` cannot be called with the arguments of `original`."""
    arguments = inspect.signature(original).parameters
    try:
        inspect.signature(replacement).bind(*arguments)
    except ValueError:  # a function in C has no signature
        return
    except TypeError:
        described = getattr(replacement, "__name__", repr(replacement))
        raise UsageError(
            f"{described} cannot take the place of {name}, which is called with ({', '.join(arguments)})"
        ) from None
