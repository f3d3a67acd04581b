"""Text generation: tokens are sampled one by one from the model's predictions.

A seed gives the same tokens on any device and with or without a key/value cache, up to rounding of the logits: ids are
sampled on the CPU, with a separate generator. Global random states are not used. The model's training mode is restored.
"""

import codecs
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tfs_core.config.schema import SamplesConfig
from tfs_core.contracts import LanguageModel, SupportsKeyValueCache, Tokenizer
from tfs_core.errors import TrainingError, UsageError
from tfs_core.models import compute_context
from tfs_generate.token_step import TokenStep

FEW_THREADS_UP_TO = 2**26
"""Models up to this number of parameters generate on one or two threads. Larger ones, which do not fit in the CPU's
caches, use all threads."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling parameters: how the next token is selected from the model's logits.

    Raises UsageError for values out of range.
    """

    temperature: float = SamplesConfig.temperature
    """Below 1 more predictable, above 1 more random, 0 always the most likely token (of equal ones, the lowest id)."""

    top_k: int = SamplesConfig.top_k
    """Sample from the `top_k` most likely tokens; from all tokens if it is 0 or more than vocab_size."""

    top_p: float = SamplesConfig.top_p
    """Sample from the smallest set of most likely tokens whose probabilities sum to at least `top_p`."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature must be 0 (always the most likely token) or above, not {self.temperature}")
        if self.top_k < 0:
            raise UsageError(f"top-k must be 0 (sample from all tokens) or above, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is a probability, above 0 and at most 1, not {self.top_p}")


def choose_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Return an id sampled from logits [vocab_size]. Raises TrainingError when the largest logit is infinite or NaN.

    Fan et al. (2018), "Hierarchical Neural Story Generation", https://arxiv.org/abs/1805.04833 (top-k)
    Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751 (top-p)
    """
    highest, most_likely = logits.detach().max(dim=-1)  # each []; of equal ones the first
    if not math.isfinite(highest):
        raise TrainingError("the model's logits are not finite: its weights are broken; choose an earlier checkpoint")
    if sampling.temperature == 0:
        return int(most_likely)

    # 1. Unnormalized probabilities, relative to the most likely id, whose exponent is 0 at any temperature.
    scores = logits.detach().to("cpu", torch.float64)  # [vocab_size]
    weights = ((scores - float(highest)) / sampling.temperature).exp()  # [vocab_size]

    # 2. Top-k, then top-p: the fewest of the most likely ids that reach top_p of the probability, at least one.
    kept = most_likely_ids(scores, sampling.top_k or len(scores))  # [n_kept]
    if sampling.top_p < 1:
        preceding = weights[kept].cumsum(0) - weights[kept]  # [n_kept]
        kept = kept[preceding < sampling.top_p * weights[kept].sum()]  # [n_kept]

    # 3. Sample by inverting the cumulative distribution, in id order, so that rounding cannot reorder near-ties.
    kept = kept.sort().values  # [n_kept]
    cumulative = weights[kept].cumsum(0)  # [n_kept]
    threshold = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]  # [1]
    index = int(torch.searchsorted(cumulative, threshold, right=True))
    return int(kept[min(index, len(kept) - 1)])


def most_likely_ids(scores: Tensor, top_k: int) -> Tensor:
    """Return the ids [n_kept] of the `top_k` highest of the scores [vocab_size], highest first.

    Of equal scores the lowest id comes first, as at temperature 0; `torch.topk` alone may return any of them.
    """
    if top_k >= len(scores):
        return scores.sort(descending=True, stable=True).indices  # [n_kept]
    values, candidates = scores.topk(top_k + 1)  # each [n_candidates]
    if values[-1] == values[-2]:  # a tie at the cut: all that have this score
        candidates = (scores >= values[-1]).nonzero()[:, 0]  # [n_candidates]
    candidates = candidates.sort().values  # [n_candidates], in id order, which the stable sort keeps among equal scores
    order = scores[candidates].sort(descending=True, stable=True).indices  # [n_candidates]
    return candidates[order[:top_k]]


def generate(
    model: LanguageModel,
    prompt_ids: Sequence[int],
    *,
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator,
    stop_id: int | None = None,
    use_cache: bool = True,
    token_step: TokenStep | None = None,
) -> Iterator[int]:
    """Iterate over up to `max_new_tokens` ids that continue the prompt, or until `stop_id`, which is not returned.

    Only the end of a prompt longer than the model's context is used. When the text exceeds the context, only its last
    tokens (half of the context) are kept, with or without a key/value cache, and the cache is computed again.
    `use_cache` has no effect on a model without a key/value cache. `token_step` replaces the model's
    `forward_with_cache` for a single new token.

    Raises ValueError for an empty prompt and for ids outside the vocabulary.
    """
    if not prompt_ids:
        raise ValueError("generate needs at least one token to start from; end_of_text begins a new document")
    wrong = [token for token in prompt_ids if not 0 <= token < model.vocab_size]
    if wrong:
        raise ValueError(f"token id {wrong[0]} is outside the vocabulary: ids go from 0 to {model.vocab_size - 1}")
    limit = model.context_limit
    window = list(prompt_ids) if limit is None else list(prompt_ids[-limit:])
    return _write(model, window, max_new_tokens, sampling, generator, stop_id, use_cache, token_step)


def _write(
    model: LanguageModel,
    window: list[int],
    max_new_tokens: int,
    sampling: Sampling,
    generator: torch.Generator,
    stop_id: int | None,
    use_cache: bool,
    token_step: TokenStep | None,
) -> Iterator[int]:
    limit = model.context_limit
    parameters = [parameter for _, parameter in model.named_parameters()]
    device, n_parameters = parameters[0].device, sum(parameter.numel() for parameter in parameters)
    with_cache = model if use_cache and isinstance(model, SupportsKeyValueCache) else None
    cache = None if with_cache is None else with_cache.make_cache(1)
    cached = 0  # number of positions of the window in the cache
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            input_ids = torch.tensor([window[cached:]], device=device)  # [1, new_len]
            positions = torch.arange(cached, len(window), device=device)[None]  # [1, new_len]
            single = len(window) - cached == 1
            if single and with_cache is not None and token_step is not None:
                was_in_force = token_step.in_force
                with single_token_cpu_settings(device, n_parameters, compiled=was_in_force):
                    logits = token_step(input_ids, positions, cache)  # [1, 1, vocab_size]
                if was_in_force and not token_step.in_force:
                    use_column_major_weights(model)
            else:
                settings = single_token_cpu_settings(device, n_parameters) if single else nullcontext()
                with torch.no_grad(), compute_context(model.config, device), settings:
                    if with_cache is None:
                        logits = model.forward(input_ids)  # [1, new_len, vocab_size]
                    else:
                        logits = with_cache.forward_with_cache(input_ids, positions, cache)  # [1, new_len, vocab_size]
            token = choose_token(logits[0, -1], sampling, generator)
            if token == stop_id:
                return
            yield token
            cached = 0 if cache is None else len(window)
            window.append(token)
            if limit is not None and len(window) > limit:
                window = window[-max(1, limit // 2) :]
                cached = 0  # positions changed, so all keys are stale; each slot is overwritten before it is read
    finally:
        model.train(was_training)


@contextmanager
def single_token_cpu_settings(device: torch.device, n_parameters: int, *, compiled: bool = False) -> Iterator[None]:
    """Set a CPU's matmul kernel and number of threads for matrix-vector products within the block, then restore them.

    The default kernel (`highest`) takes half to two thirds of the time of oneDNN's kernel (`medium`), and is as exact.
    A second thread costs more than it saves: with two threads a model of 6 million parameters generated 0.85 times as
    many tokens per second, one of 40 million 0.9 times. In a compiled step, with almost no overhead between the
    products, two threads are faster than one.
    """
    if device.type != "cpu":
        yield
        return
    kernel, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    torch.set_float32_matmul_precision("highest")
    if n_parameters <= FEW_THREADS_UP_TO:
        torch.set_num_threads(min(threads, 2 if compiled else 1))
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(kernel)
        torch.set_num_threads(threads)


@torch.no_grad()
def use_column_major_weights(model: LanguageModel) -> None:
    """Store the weights of linear layers and embeddings in column-major order, in place, on a CPU.

    Matrix-vector products read column-major weights fastest: up to a quarter more tokens per second. The values do not
    change. Only for inference: in training, row-major order is faster.
    """
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if isinstance(module, nn.Linear | nn.Embedding) and module.weight.device.type == "cpu":
            module.weight.data = module.weight.t().contiguous().t()


def stream_text(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_length: int,
    sampling: Sampling,
    seed: int,
    begins_document: bool = False,
    token_step: TokenStep | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[str]:
    """Iterate over the continuation of a prompt, in whole characters, until end of text or `max_length` ids.

    An empty prompt starts from the end-of-text token, like a new document. `begins_document` puts that token before
    every prompt, for a model trained on padded rows, which begin with that token. If the prompt is longer than the
    model's context, only its end is used, and `tell` is called with a message.
    """
    ids = [int(token) for token in tokenizer.encode_batch([prompt])[0]]
    if begins_document or not ids:
        ids = [tokenizer.end_of_text_id, *ids]
    limit = model.context_limit
    if limit is not None and len(ids) > limit and tell is not None:
        tell(f"the prompt has {len(ids)} tokens and the model sees {limit}: it continues the last {limit}")
    new_ids = generate(
        model,
        ids,
        max_new_tokens=max_length,
        sampling=sampling,
        generator=torch.Generator().manual_seed(seed),
        stop_id=tokenizer.end_of_text_id,
        token_step=token_step,
    )
    return _characters(tokenizer, new_ids)


def _characters(tokenizer: Tokenizer, ids: Iterator[int]) -> Iterator[str]:
    """Iterate over the text of ids. A character may span several ids; invalid UTF-8 becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        piece = decoder.decode(tokenizer.decode_bytes([token]))
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
