"""`--compile` of generate and chat: the step for one new token, compiled into one function by `torch.compile`.

For a single token, every matrix product is a matrix-vector product. Libraries are tuned for larger products, and each
operation has the overhead of Python. The compiled step is one function, and computes a matrix-vector product as a sum
along each row of the matrix. Compiling takes seconds, so it pays off in long conversations
(benchmarks/nanogpt_generation.py). PyTorch caches the compiled code on disk.
"""

import time
from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from tfs_core.contracts import LanguageModel, SupportsKeyValueCache
from tfs_core.errors import UsageError, short_message
from tfs_core.models import compute_context


class CompiledStep:
    """A model's `forward_with_cache` for one new token, compiled; uncompiled after the first failure.

    The compiled code does not check the number of threads or the precision. The caller must set the same values for
    construction and for every call.
    """

    in_force: bool
    """True while the compiled step is in use; False after a failure."""

    def __init__(self, model: LanguageModel, *, name: str, report: Callable[[str], None]) -> None:
        """Compile the step and report the result. Raises UsageError for a model without a key/value cache."""
        if not isinstance(model, SupportsKeyValueCache):
            raise UsageError(f"--compile is for models with a key/value cache, and '{name}' has none: leave it out")
        self.in_force = True
        self._model = model
        self._report = report
        self._compiled: Callable[..., Tensor] = torch.compile(
            model.forward_with_cache, backend=_compile_with_row_sums, fullgraph=True, dynamic=False
        )
        self._is_built = False
        report("compiling the one-token step: ten seconds or more the first time, a few when it is cached ...")
        started_at = time.perf_counter()
        device = next(parameter.device for _, parameter in model.named_parameters())
        input_ids, positions = torch.zeros(2, 1, 1, dtype=torch.int64, device=device)  # each [1, 1]
        was_training = model.training
        model.eval()
        self(input_ids, positions, model.make_cache(1))
        self._is_built = True
        model.train(was_training)
        if self.in_force:
            report(f"compiled in {time.perf_counter() - started_at:.0f} s")

    def __call__(self, input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits [1, 1, vocab_size], without a graph, for one new id and its position, both [1, 1].

        Does not check that the id is in the vocabulary or that the position is in the context.
        """
        model = cast(SupportsKeyValueCache, self._model)
        with torch.no_grad(), compute_context(self._model.config, input_ids.device):
            if self.in_force:
                try:
                    # Shapes, modes and threads are those of the compilation: skipping the guards saves a seventh.
                    with torch.compiler.set_stance("default", skip_guard_eval_unsafe=self._is_built):
                        return self._compiled(input_ids, positions, cache)
                except Exception as error:  # a compiler may raise anything
                    self.in_force = False
                    self._report(f"not compiled, and tokens take longer. PyTorch says: {short_message(error)}")
            return model.forward_with_cache(input_ids, positions, cache)


def build(
    config: None,  # noqa: ARG001 (it has no options)
    *,
    model: LanguageModel,
    name: str,
    report: Callable[[str], None],
) -> CompiledStep:
    """Return the compiled step of a model, after a trial call; it has no options."""
    return CompiledStep(model, name=name, report=report)


def _compile_with_row_sums(graph: fx.GraphModule, example_inputs: list[Tensor]) -> Callable[..., Any]:
    """Compile a graph with PyTorch's default compiler; on a CPU, replace `F.linear` by a sum along rows first."""
    if all(tensor.device.type == "cpu" for tensor in example_inputs if isinstance(tensor, Tensor)):
        for node in graph.graph.nodes:
            if node.target is F.linear:
                node.target = linear_of_one_row
        graph.recompile()
    compiled: Callable[..., Any] = torch._dynamo.lookup_backend("inductor")(graph, example_inputs)
    return compiled


def linear_of_one_row(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear(x, weight, bias)` for x [..., 1, d_in], as a sum along each row of the weight [d_out, d_in].

    In bfloat16, as in `F.linear`, the products are summed in float32 and the sum is rounded once.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    wide = torch.promote_types(x.dtype, torch.float32)
    sums = (x.to(wide) * weight.to(wide)).sum(dim=-1)[..., None, :]  # [..., 1, d_out]
    return (sums if bias is None else sums + bias).to(x.dtype)
