"""Parameter groups: weight decay for matrices only."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def groups_by_decay(named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices (embeddings included), with weight decay, and all others, without.

    Small weights make a smooth function. Biases and gains are few, and shrinking them does not make the function
    simpler. Parameters have any shape. (Any: a group holds parameters and options of all types.)
    """
    parameters = [parameter for _, parameter in named_parameters]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.dim() >= 2], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
