"""What the parts of tfs are: start reading here.

    YAML -> config -> registry -> DatasetSource -> Tokenizer -> token store -> batches -> LanguageModel -> trainer
    -> run folder

Each class below is one of those parts as the core sees it. The docstrings are the law; `tfs_core.testing` checks it.
A plugin need not import anything from here: whatever has the methods will do (`RunLogger` and `ModelConfig` are
there to be inherited from).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord

IGNORED_TARGET = -100
"""A target id that is no target: padding. It is never counted in a loss, a throughput or a token count."""

Schedule = Callable[[int], float]
"""`schedule(step)` is the learning rate of optimizer step 0, 1, 2, ...: a pure function, not zero at step 0."""


class DatasetSource(Protocol):
    """Where text comes from: documents in a fixed order."""

    def splits(self) -> Sequence[str]:
        """Return the splits there are: `"train"` and perhaps `"validation"` (without one the core holds one out)."""
        ...

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents of a split, in the same order each time, without holding them all."""
        ...

    def fingerprint(self) -> str:
        """Return a short string that changes when the content of any document, or their order, does."""
        ...


@runtime_checkable
class SupportsPieces(Protocol):
    """A data set's capability: documents too long to hold in memory."""

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the same text as `documents`, in parts: (text, whether its document ends with it)."""
        ...


@runtime_checkable
class SupportsStreaming(Protocol):
    """A data set's capability: read from any place on, so that a run need not hold all of it.

    The core then spools tokens ahead of training instead of making a store of the whole. Such a source stays one
    version of its text, the one that its fingerprint names, for as long as it lives.
    """

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (place, document) from the document at `start` on, in the order of `documents`.

        A place is a few integers, by which another process finds the same document again; an empty one is the
        beginning.
        """
        ...

    def pinned_options(self) -> Any:
        """Return the component's options that choose this version again, whatever becomes of the newest one.

        They stand in the run's `config.yaml`, so that a resume reads the same text.
        """
        ...

    def close(self) -> None:
        """Let go of what reading holds, such as a file on the disk; who reads again brings it again."""
        ...


@runtime_checkable
class SupportsLeftOut(Protocol):
    """A data set's capability: it leaves out what cannot be read, and says so."""

    def left_out(self) -> Sequence[str]:
        """Return what the last reading left out: a line of text for each file, with how much and where it begins."""
        ...


class Tokenizer(Protocol):
    """Text to ids and back. Encoding and then decoding any Unicode text gives that text.

    Encoding never makes a special id: a literal `<|endoftext|>` in a document is text like any other.
    """

    vocab_size: int
    """How many ids there are, special ones included: every id is below it."""

    end_of_text_id: int
    """The id that ends every document, and that a generation starts from when its prompt is empty."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
        """Return the ids of each text. Raises DataError for a text with a lone surrogate.

        Several threads may call it at once: what it remembers from call to call must bear that.
        """
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the UTF-8 bytes that the ids stand for (not always whole characters); special ids give none."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 come out as U+FFFD."""
        ...

    def byte_lengths(self) -> np.ndarray:
        """Return, for every id, the bytes of text it stands for, 0 for special ids: int64 [vocab_size]."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that the component's `loader` needs into an existing folder."""
        ...

    def fingerprint(self) -> str:
        """Return a short string that changes when any text could be encoded differently."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every model's options have; a model's own configuration extends it."""

    max_seq_len: int = 256
    """The longest sequence the model sees. Attention's cost per token grows with it."""

    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """What the model computes in. Parameters and optimizer state stay float32 (float64 makes all of them float64)."""

    dropout: float = 0.0
    """The share of activations set to zero in training. 0 unless you pass over the same text many times."""

    def __post_init__(self) -> None:
        if self.max_seq_len < 1:
            raise ValueError(f"max_seq_len must be at least 1, not {self.max_seq_len}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")


class LanguageModel(Protocol):
    """A decoder: ids in, the logits of each next id out. `tfs_core.models.AutogradModel` supplies all but `forward`.

    The core calls `forward` and `loss` inside `torch.autocast` when the configuration's dtype is bfloat16, and
    `backward` outside it, as PyTorch asks.
    """

    config: ModelConfig
    vocab_size: int

    training: bool
    """Whether training mode is on."""

    mirrors: str | None
    """Another model's name when both have the same parameter names and the same function: checkpoints interchange."""

    context_limit: int | None
    """The longest sequence `forward` takes; None when there is no limit."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] for ids [batch_size, seq_len]."""
        ...

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Return the SUM of nats over the valid targets (float32 or wider, no dimensions; 0 when none is valid).

        Both are int64 [batch_size, seq_len]; a target of -100 is not valid. In training mode what `backward`
        needs is kept; in eval mode nothing is.
        """
        ...

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to `.grad` of every trainable parameter p, L being the last training-mode `loss`.

        Consumes it: a second call without a new `loss` is an error.
        """
        ...

    def train(self, mode: bool = True) -> Any:
        """Turn training mode (dropout, what backward needs) on or off."""
        ...

    def eval(self) -> Any:
        """Turn training mode off."""
        ...

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Any:
        """Move and cast the parameters, in place."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, tensor), each tensor once, in an order that never changes."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return every tensor that makes the model what it is, by name."""
        ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Copy the tensors in; raises when a name or a shape differs."""
        ...

    def embedding_parameters(self) -> Sequence[str]:
        """Return the names of the embedding tables: what "parameters without embeddings" leaves out."""
        ...

    def flops_per_token(self, seq_len: int) -> float:
        """Return the floating-point operations of training on one position of a sequence of this length.

        Forward and backward of every matrix product, a multiplication and an addition counted apart, attention
        (every score computed, masked or not) and the output projection included, at the real vocabulary size.
        """
        ...


@runtime_checkable
class SupportsKeyValueCache(Protocol):
    """A capability: generate one token without computing all earlier ones again."""

    def make_cache(self, batch_size: int) -> Any:
        """Return an empty cache for sequences up to the context limit, on the model's device."""
        ...

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits [batch_size, new_len, vocab_size] of new ids, writing their keys and values to the cache.

        `input_ids` and `positions` are [batch_size, new_len]; a position is a row's own (prompts of different
        lengths batch: pad on the right). The key and value of a token go to the slot of its position, and a token
        sees the slots up to its own, so what padding left in a slot is overwritten before it is ever seen.

        To be compiled (`tfs generate --compile`), it must not ask a tensor for its values while
        `torch.compiler.is_compiling()`: it then looks at every slot of the cache, those to come being hidden.
        """
        ...


@runtime_checkable
class SupportsDocumentMasks(Protocol):
    """A capability: keep the documents of a packed row apart.

    A position sees the earlier positions of its own document and no others. `document_ids` is int64
    [batch_size, seq_len], equal within a document; None means that a row is one document. Positions are counted along
    the row, whatever documents it holds.
    """

    takes_document_ids: Literal[True]

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the logits, as `LanguageModel.forward` does."""
        ...

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats, as `LanguageModel.loss` does."""
        ...


@runtime_checkable
class SupportsFeatures(Protocol):
    """A capability: make the logits in two steps, so that those of a large vocabulary need never exist at once.

    `forward(input_ids)` is `unembed(features(input_ids))`. `AutogradModel.loss` then unembeds a piece of the positions
    at a time (`runtime.loss_chunk`).
    """

    def features(self, input_ids: Tensor) -> Tensor:
        """Return what the scores are made of [batch_size, seq_len, width]; takes all that `forward` takes."""
        ...

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size] of features [..., width], each position's from its own alone."""
        ...


@runtime_checkable
class SupportsFaults(Protocol):
    """A capability: plant a known bug in oneself, so that `tfs check --break` shows where it is caught."""

    def faults(self) -> Mapping[str, str]:
        """Return the faults that can be planted: name -> what goes wrong, in a sentence."""
        ...

    def plant_fault(self, name: str) -> None:
        """Make this instance wrong in the way `name` says."""
        ...


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A step of a model with its backward written by hand, and float64 inputs to try both on."""

    name: str

    forward: Callable[..., tuple[Tensor, Any]]
    """`forward(*inputs.values())` returns (output, what backward needs). Plain tensor mathematics: the check runs it
    under autograd too, for the gradients it should have."""

    backward: Callable[[Tensor, Any], Tensor | Sequence[Tensor]]
    """`backward(grad_output, cache)` returns dL/dinput for each floating-point tensor among the inputs, in order."""

    inputs: Mapping[str, Any]
    """What forward is called with, by name, in the order of its arguments; every dimension of another size."""


@runtime_checkable
class SupportsOperationChecks(Protocol):
    """A capability: have each hand-written operation checked by itself, which says where a wrong gradient begins."""

    def operations(self) -> Sequence[Operation]:
        """Return the operations in forward order, parts before what is made of them, planted faults included."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a logger may know of its run when it is built."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    """The resolved configuration, as in `config.yaml`."""

    info: Mapping[str, Any]
    """What `run.json` says at the start (parameters, device, FLOPs per token, ...)."""

    total_steps: int
    start_step: int
    """0, or the step of the checkpoint that the run resumes from."""


class RunLogger:
    """Told what happens in a run; inherit, and override what you care about.

    One that raises is reported and dropped, and training goes on. Calls come from the training process, in order.
    """

    def on_start(self) -> None:
        """Training begins, or resumes at `run.start_step`: whatever an earlier sitting wrote past it is void."""

    def on_step(self, record: StepRecord) -> None:
        """An optimizer step was taken."""

    def on_validation(self, record: ValidationRecord) -> None:
        """The validation split was evaluated."""

    def on_sample(self, record: SampleRecord) -> None:
        """A fixed prompt was continued."""

    def on_event(self, record: EventRecord) -> None:
        """Something else happened; `record.kind` says what."""

    def on_checkpoint(self, step: int) -> None:
        """A checkpoint of `step` is about to be made durable: make durable what you wrote up to there."""

    def on_end(self, status: str) -> None:
        """The run ended: `finished`, `stopped` (a signal, to be resumed) or `failed`."""
