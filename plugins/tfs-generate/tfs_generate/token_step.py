"""The kind `token-step`: a faster `forward_with_cache` for one new token, which another plugin may bring.

`--compile` of generate and chat asks for the component of this kind that is installed. Its factory is called as
`build(config, *, model, name, report) -> TokenStep`:

    model   a LanguageModel, on its device, with its weights
    name    the model's name, for messages
    report  tells the user, in a sentence, what is going on

and raises UsageError for a model that has no key/value cache.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class TokenStep(Protocol):
    """A model's `forward_with_cache` for one sequence and one new token, computed in another way."""

    in_force: bool
    """Whether the other way is in use. False once it failed: the step then calls the model's own
    `forward_with_cache`, and stays False from then on."""

    def __call__(self, input_ids: "Tensor", positions: "Tensor", cache: Any) -> "Tensor":
        """Return the logits [1, 1, vocab_size] of one new id at its position, both int64 [1, 1].

        Writes the token's keys and values to the cache, as the model does. The model is in eval mode, and neither the
        id nor the position is checked. Computes without a graph and in the model's dtype, whatever the caller's
        context, and raises nothing that the model itself would not raise.
        """
        ...
