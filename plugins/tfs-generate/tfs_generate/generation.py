"""Writing: one token after another, each drawn from what the model expects next.

A seed gives the same tokens on any device and with or without a key/value cache: ids are drawn on the CPU, from a
generator of their own. No global random state is moved, and the model's training mode is given back.
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
"""The most parameters of a model that writes on few threads; larger ones, which no cache holds, keep all threads."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen among the model's expectations."""

    temperature: float = SamplesConfig.temperature
    """Below 1 surer, above 1 wilder, 0 always the likeliest token (of equals, the lowest id)."""

    top_k: int = SamplesConfig.top_k
    """Choose among so many likeliest tokens; 0, or more than there are, among all."""

    top_p: float = SamplesConfig.top_p
    """Choose among the likeliest tokens that make up this share of the probability."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature must be 0 (always the likeliest token) or above, not {self.temperature}")
        if self.top_k < 0:
            raise UsageError(f"top-k must be 0 (choose among all tokens) or above, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top-p is a share of the probability, above 0 and at most 1, not {self.top_p}")


def choose_token(logits: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """Return an id drawn by its logits [vocab_size]; raises TrainingError when they are not numbers.

    Holtzman et al. (2020), "The Curious Case of Neural Text Degeneration", https://arxiv.org/abs/1904.09751 (top-p)
    """
    highest, likeliest = logits.detach().max(dim=-1)  # each []; of equals the first
    if not math.isfinite(highest):
        raise TrainingError("the model's logits are not finite: its weights are broken; choose an earlier checkpoint")
    if sampling.temperature == 0:
        return int(likeliest)

    # 1. Each id's share, relative to the likeliest one, whose exponent is 0 at any temperature.
    scores = logits.detach().to("cpu", torch.float64)  # [vocab_size]
    shares = ((scores - float(highest)) / sampling.temperature).exp()  # [vocab_size]

    # 2. The likeliest ids, and of them as few as reach top_p of the probability: at least one.
    kept = shares.topk(min(sampling.top_k or len(shares), len(shares))).indices  # [n_kept]
    if sampling.top_p < 1:
        likelier = shares[kept].cumsum(0) - shares[kept]  # [n_kept]
        kept = kept[likelier < sampling.top_p * shares[kept].sum()]  # [n_kept]

    # 3. Lay the shares end to end and point. In the order of ids, a last bit more or less can swap no two of them.
    kept = kept.sort().values  # [n_kept]
    ends = shares[kept].cumsum(0)  # [n_kept]
    point = torch.rand(1, generator=generator, dtype=torch.float64) * ends[-1]  # [1]
    index = int(torch.searchsorted(ends, point, right=True))
    return int(kept[min(index, len(kept) - 1)])


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
    """Iterate over up to `max_new_tokens` ids that follow the prompt, as they are drawn; `stop_id` ends it, unseen.

    A prompt longer than the model's context is read from its end. When the text outgrows the context, the last half
    of the context is kept and read anew, with a cache (`use_cache`, and a model that has one) as without. `token_step`
    takes the place of the model's `forward_with_cache` wherever a single token is new.

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
    cacher = model if use_cache and isinstance(model, SupportsKeyValueCache) else None
    cache = None if cacher is None else cacher.make_cache(1)
    cached = 0  # how much of the window the cache holds
    was_training = model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            input_ids = torch.tensor([window[cached:]], device=device)  # [1, new_len]
            positions = torch.arange(cached, len(window), device=device)[None]  # [1, new_len]
            alone = len(window) - cached == 1
            if alone and cacher is not None and token_step is not None:
                was_in_force = token_step.in_force
                with suited_to_one_token(device, n_parameters, compiled=was_in_force):
                    logits = token_step(input_ids, positions, cache)  # [1, 1, vocab_size]
                if was_in_force and not token_step.in_force:
                    lay_out_for_writing(model)
            else:
                settings = suited_to_one_token(device, n_parameters) if alone else nullcontext()
                with torch.no_grad(), compute_context(model.config, device), settings:
                    if cacher is None:
                        logits = model.forward(input_ids)  # [1, new_len, vocab_size]
                    else:
                        logits = cacher.forward_with_cache(input_ids, positions, cache)  # [1, new_len, vocab_size]
            token = choose_token(logits[0, -1], sampling, generator)
            if token == stop_id:
                return
            yield token
            cached = 0 if cache is None else len(window)
            window.append(token)
            if limit is not None and len(window) > limit:
                window = window[-max(1, limit // 2) :]
                cached = 0  # positions changed, so every key did; a slot is overwritten before it is seen again
    finally:
        model.train(was_training)


@contextmanager
def suited_to_one_token(device: torch.device, n_parameters: int, *, compiled: bool = False) -> Iterator[None]:
    """Set a CPU to products of a matrix and one vector, for as long as this lasts, instead of a run's large ones.

    The default kernel takes half to two thirds of the time that oneDNN's takes (`medium`), and is as exact. A second
    thread costs more than it brings: with it a model of 6 million parameters wrote 0.85 times as many tokens a second,
    one of 40 million 0.9 times. Compiled, with next to nothing between the products, two threads are quicker than one.
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
def lay_out_for_writing(model: LanguageModel) -> None:
    """Lay the matrices of a model's linear layers and embeddings out in memory column by column, on a CPU.

    Column by column is how the product of a matrix and a single token reads fastest: up to a quarter more tokens a
    second. Every number stays what it is. For a model that is only read: while training, rows are the better order.
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
    """Iterate over what follows the prompt, in pieces that are whole characters, until end of text or `max_length` ids.

    An empty prompt starts from the end-of-text token, as a new document does. `begins_document` puts it before any
    prompt: right for a model trained on padded rows, each of which begins so. `tell` is called with a sentence when
    the prompt is longer than the model's context, whose end is then continued.
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
    """Iterate over the text of ids; a character's bytes may come in several ids, and bytes that are no text: U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in ids:
        piece = decoder.decode(tokenizer.decode_bytes([token]))
        if piece:
            yield piece
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
