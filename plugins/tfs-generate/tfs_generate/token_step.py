"""The component kind `token-step`: a faster `forward_with_cache` for one new token, provided by a plugin.

`--compile` of generate and chat uses the installed component of this kind. Its factory is called as
`build(config, *, model, name, report) -> TokenStep`:

    model   a LanguageModel, on its device, with its weights
    name    the model's name, for messages
    report  called with a message for the user

and raises UsageError for a model that has no key/value cache.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class TokenStep(Protocol):
    """A model's `forward_with_cache` for one sequence and one new token, in a faster implementation."""

    in_force: bool
    """True while the faster implementation is in use. After its first failure it stays False, and the step calls the
    model's own `forward_with_cache`."""

    def __call__(self, input_ids: "Tensor", positions: "Tensor", cache: Any) -> "Tensor":
        """Return the logits [1, 1, vocab_size] of one new id at its position, both int64 [1, 1].

        Writes the keys and values of the token to the cache, as the model does. The model is in eval mode, and neither
        the id nor the position is checked. Records no autograd graph and computes in the model's dtype, whatever grad
        or autocast mode the caller has set. Raises only errors that the model itself would raise.
        """
        ...
