"""The interfaces that the parts of tfs implement: start reading here.

    YAML -> configuration -> DatasetSource -> Tokenizer -> token store -> Batching -> LanguageModel -> Wrapper
    -> optimizer -> run folder -> trainer -> RunLogger

The classes below follow this order. The optional capabilities of a part come directly after it; the classes at the end
are used by checks only. The docstrings are the specification, and the conformance suites test it.

Most classes are protocols: a plugin's class needs the right methods and attributes, and need not inherit from anything
here. `RunLogger` and `ModelConfig` are base classes: inherit from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from tfs_core.records import EventRecord, SampleRecord, StepRecord, ValidationRecord

IGNORED_TARGET = -100
"""Target id of a position without a target, such as padding. It counts in no loss, throughput or token count."""

Schedule = Callable[[int], float]
"""`schedule(step)` returns the learning rate of optimizer step 0, 1, 2, ...: a pure function, not zero at step 0."""


class DatasetSource(Protocol):
    """A data set: text documents in a fixed order.

    Messages call it by its attribute `description`, if it has one, and by its class name otherwise.
    """

    def splits(self) -> Sequence[str]:
        """Return the names of the splits: `"train"`, and `"validation"` if the data set has a validation split.

        Without one, the core holds out a part of the training text.
        """

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents of a split, in the same order each time, without loading all into memory."""

    def fingerprint(self) -> str:
        """Return a short string that changes whenever the content or the order of the documents changes."""


@runtime_checkable
class SupportsPieces(Protocol):
    """Capability of a data set: documents that are larger than memory."""

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the text of `documents` in parts: (text, True if it is the last part of its document)."""


@runtime_checkable
class SupportsStreaming(Protocol):
    """Capability of a data set: streaming, which starts at any position and does not store the whole data set.

    Only the beginning of the stream goes to a token store. The rest is read during training. The batching
    "streaming", or the one named by the data set's attribute `batching`, reads it instead of `packed`.

    An instance always reads the version of the text that its fingerprint identifies, even if a newer version is
    published.
    """

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (position, document), starting with the document at `start`, in the order of `documents`.

        A position is a short sequence of integers that identifies the same document in another process. An empty
        sequence is the beginning of the split.
        """

    def pinned_options(self) -> Any:
        """Return the component's options with the version of the text fixed, for example to a commit.

        They are saved in the run's `config.yaml`, so that a resume reads the same text.
        """

    def close(self) -> None:
        """Release open files and temporary downloads. A later read acquires them again."""


@runtime_checkable
class SupportsLeftOut(Protocol):
    """Capability of a data set: skip unreadable input and report it."""

    def left_out(self) -> Sequence[str]:
        """Return one line per file with input that the last read skipped: the amount and the start of this input."""


class Tokenizer(Protocol):
    """Lossless conversion between text and token ids: decoding the encoded text returns the same text.

    With the attribute `normalization = "NFC"`, decoding returns a text with the same Unicode normal form NFC instead,
    and `byte_lengths` counts the bytes of this text.

    Encoding never produces a special id: a literal `<|endoftext|>` in a document is encoded as ordinary text.
    """

    vocab_size: int
    """Number of token ids, special ones included. Every id is smaller."""

    end_of_text_id: int
    """The id that ends every document. Generation starts from it when the prompt is empty."""

    def encode_batch(self, texts: Sequence[str]) -> Sequence[Sequence[int] | np.ndarray]:
        """Return the ids of each text: a list of int, or an array of integers [n_tokens].

        Raises DataError for a text with a lone surrogate.

        Must be thread-safe, any internal cache included.
        """

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the UTF-8 bytes of the ids, which may end inside a character. Special ids have no bytes."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids, with U+FFFD in place of bytes that are not valid UTF-8."""

    def byte_lengths(self) -> np.ndarray:
        """Return the number of UTF-8 bytes of each id, 0 for special ids: int64 [vocab_size]."""

    def save(self, folder: Path) -> None:
        """Write all files that the component's `loader` needs to an existing folder."""

    def fingerprint(self) -> str:
        """Return a short string that changes whenever the encoding of any text could change."""


@dataclass(frozen=True)
class Batch:
    """The input of one forward pass: a micro-batch, or a validation batch."""

    input_ids: Tensor  # int64 [batch_size, seq_len]
    target_ids: Tensor  # int64 [batch_size, seq_len], -100 at positions without a target
    valid_targets: int  # number of targets that are not -100
    document_ids: Tensor | None = None  # int64 [batch_size, seq_len], equal within a document; None: no document mask


@dataclass(frozen=True)
class DocumentRef:
    """A part of a training document that is read in one optimizer step."""

    document: tuple[int, ...]
    """The document: (index in the token store,), or numbers that the batching defines if the store is incomplete."""

    start: int
    stop: int
    """The targets of the step are the document's tokens `start` to `stop - 1`; its end of text counts as a token."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """The configuration's settings for batches. A batching applies each one or rejects it with a ConfigError."""

    batching: str  # name in `data.batching`
    dataset: str  # name in `data.dataset`
    num_epochs: int | None
    max_length: int  # tokens in a row, at most
    batch_size: int  # rows in a micro-batch, all ranks together; a step has `gradient_accumulation_steps` times as many
    gradient_accumulation_steps: int
    seed: int
    document_masks: bool
    subset_size: int | None
    shard_tokens: int


@runtime_checkable
class Batching(Protocol):
    """The batches of a run, as a pure function of (tokens, seed, step, rank).

    The component's factory is the class itself, with `lengths_vary` and `begins_with_end_of_text` as class attributes.
    The class may have a static method `check(settings, *, source)`. It is called before any text is read and raises
    ConfigError for unsupported settings.
    """

    rows_per_step: int
    """Rows in an optimizer step, over all micro-batches and ranks."""

    valid_targets_per_row: float
    """Average number of valid targets in a row."""

    lengths_vary: bool
    """True if `seq_len` differs between batches."""

    begins_with_end_of_text: bool
    """True if every row begins with the end-of-text id. Prompts then need it too."""

    def open(
        self, folder: Path, *, step: int, state: Mapping[str, Any] | None, report: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Return a context manager. Inside it, `ready`, `step` and `epoch` may be called for `step` and later steps.

        `folder` is the run folder. `state` is the content of the checkpoint's state.json, None without a checkpoint.
        `report(message)` shows the user a status message of one sentence, for example while the run waits for data.
        """

    def ready(self, step: int) -> bool:
        """Return True if the step's data is available, after a short wait. Raises DataError if it cannot be read."""

    def step(self, step: int) -> Sequence[Batch]:
        """Return this rank's micro-batches of optimizer step 0, 1, 2, ..."""

    def validation(self) -> Iterable[Batch]:
        """Return this rank's validation batches, in text order. The ranks together cover every validation row once."""

    def trial(self) -> Batch:
        """Return a batch of real text for trial runs. It may be called before `open`."""

    def total_steps(self, *, epochs: int | None, tokens: int | None) -> int:
        """Return the number of steps that complete the given epochs or valid targets. One of the two is not None.

        Raises ConfigError if epochs cannot be counted.
        """

    def epoch(self, step: int) -> int:
        """Return the number of complete epochs before the first row of a step."""

    def epochs(self, steps: int) -> float | None:
        """Return the number of epochs in this number of steps; None if epochs cannot be counted."""

    def state(self, step: int) -> dict[str, Any]:
        """Return the entries of a checkpoint's state.json that a resume at `step` needs. Most batchings need none.

        The values are JSON; the keys must not be used elsewhere in state.json.
        """

    def documents(self, step: int) -> Sequence[DocumentRef]:
        """Return the parts of documents that this rank reads in a step, in the order of its rows."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The options that every model has. A model's own configuration inherits from it.

    Raises ValueError for invalid values.
    """

    max_seq_len: int = 256
    """Maximum sequence length in tokens. The cost of attention per token grows with it."""

    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Number format of the computation. Parameters and optimizer state are float32, or float64 with `float64`."""

    dropout: float = 0.0
    """Fraction of activations set to zero in training. Use 0 unless you train on the same text for many epochs."""

    def __post_init__(self) -> None:
        if self.max_seq_len < 1:
            raise ValueError(f"max_seq_len must be at least 1, not {self.max_seq_len}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, not {self.dropout}")


class LanguageModel(Protocol):
    """A decoder-only language model. `tfs_core.models.AutogradModel` implements all of it but `forward`.

    With the dtype bfloat16, `forward` and `loss` are called inside `torch.autocast`, and `backward` outside it, as
    PyTorch recommends.
    """

    config: ModelConfig
    vocab_size: int

    training: bool
    """True in training mode, False in eval mode."""

    mirrors: str | None
    """Name of the mirror, a model with the same parameter names and function; None without one. Each can load the
    other's checkpoints."""

    context_limit: int | None
    """Maximum `seq_len` of `forward`; None without a limit."""

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size] of the next token at each position.

        `input_ids` is int64 [batch_size, seq_len].
        """

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Return the cross-entropy in nats, as the SUM over the valid targets: [], float32 or wider.

        Both arguments are int64 [batch_size, seq_len]. A target of -100 is not valid; without valid targets the loss is
        0. In training mode, the model keeps the data that `backward` needs; in eval mode it keeps nothing.
        """

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to `.grad` of every trainable parameter p, where L is the last training-mode `loss`.

        Releases the data of that loss: a second call without a new `loss` is an error.
        """

    def train(self, mode: bool = True) -> Any:
        """Switch training mode on or off. In training mode, dropout is on and `loss` stores the data for `backward`."""

    def eval(self) -> Any:
        """Switch to eval mode."""

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Any:
        """Move and cast the parameters in place."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, tensor of any shape), each tensor once, always in the same order."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return all tensors of the model's state, of any shape, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Copy the tensors, of any shape, into the model. Raises an error if a name or a shape differs."""

    def embedding_parameters(self) -> Sequence[str]:
        """Return the names of the embedding tables, which the count of parameters without embeddings excludes."""

    def flops_per_token(self, seq_len: int) -> float:
        """Return the floating-point operations of training on one token in a sequence of `seq_len` tokens.

        The count covers forward and backward of every matrix product, the output projection included, at the real
        vocabulary size. A multiplication and an addition are two operations. In attention, masked scores count too.
        """


@runtime_checkable
class SupportsKeyValueCache(Protocol):
    """Capability of a model: generate with a key/value cache instead of recomputing all earlier tokens."""

    def make_cache(self, batch_size: int) -> Any:
        """Return an empty cache for sequences up to the context limit, on the model's device."""

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits [batch_size, new_len, vocab_size] of new tokens, and store their keys and values.

        `input_ids` and `positions` are int64 [batch_size, new_len]. Each row has its own positions, so prompts of
        different lengths can share a batch: pad them on the right. The key and the value of a token are written to the
        cache slot of its position, and a token attends to the slots up to its own. A slot with padding is therefore
        overwritten before any token attends to it.

        To support `tfs generate --compile`, do not read tensor values in Python while
        `torch.compiler.is_compiling()`: attend to all slots of the cache then, and mask the later ones.
        """


@runtime_checkable
class SupportsDocumentMasks(Protocol):
    """Capability of a model: document masks, which stop attention at the boundaries of the documents in a packed row.

    A position attends to itself and to earlier positions of its own document only. `document_ids` is int64
    [batch_size, seq_len], equal within a document; None means that a row is one document. Positions count along the
    whole row and do not restart at a document.
    """

    takes_document_ids: Literal[True]
    """Marks the capability, because `isinstance` does not compare signatures."""

    def forward(self, input_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the logits [batch_size, seq_len, vocab_size], as `LanguageModel.forward` does."""

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats over the valid targets: [], as `LanguageModel.loss` does."""


@runtime_checkable
class SupportsFeatures(Protocol):
    """Capability of a model: compute features and logits separately, so that the loss needs less memory.

    `forward(input_ids)` equals `unembed(features(input_ids))`. `AutogradModel.loss` then computes the logits in chunks
    of positions (`runtime.loss_chunk`), so that with a large vocabulary not all logits are in memory at once.
    """

    def features(self, input_ids: Tensor) -> Tensor:
        """Return the features [batch_size, seq_len, width]. Takes the same arguments as `forward`."""

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size] of features [..., width], each position independently."""


class Ranks(Protocol):
    """The group of processes (ranks) that train one model. `tfs_core.ranks.OneRank` is a group of one process."""

    rank: int
    """Number of this process: 0, 1, ..., size - 1."""

    size: int
    """Number of processes."""

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over all ranks, in the shape of `values`: losses, counts, flags."""

    def last_micro_batch(self, is_last: bool) -> None:
        """Announce the next forward pass: gradients are exchanged in the backward pass of the last micro-batch only."""

    def finish_gradients(self, parameters: Sequence[Tensor]) -> Tensor:
        """Finish the exchange of gradients, and return the Euclidean norm of the gradient of all parameters: [].

        Parameters have any shape.
        """

    def save(self, folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        """Write weights and optimizer state to a folder (collective). Return JSON entries for `state.json`."""

    def load(
        self,
        folder: Path,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer | None,
        state: Mapping[str, Any],
    ) -> None:
        """Restore the state that `save` wrote (collective). Raises CheckpointError if it does not fit."""


@dataclass(frozen=True, kw_only=True)
class WrapContext:
    """The objects that a wrapper may use. It must not access other parts of the run."""

    model: LanguageModel
    model_name: str
    """The model's name in the configuration, for messages."""

    device: str
    ranks: Ranks

    trial_batch: Batch | None = None
    """A batch of real text for trial runs; None when a checkpoint is loaded for evaluation or generation."""

    lengths_vary: bool = False
    """True if `seq_len` differs between batches."""

    recorded: Mapping[str, Any] = field(default_factory=dict)
    """Facts from the checkpoint: `device`, `threads`, `matmul`, and facts of the wrappers. Empty for a new run."""

    report: Callable[[str], None] = lambda message: None  # noqa: ARG005
    """Shows the user a status message of one sentence."""

    warn: Callable[[str], None] = lambda message: None  # noqa: ARG005
    """Shows the user a warning and adds it to the run's events. May also be called later, during training."""

    record: Callable[..., None] = lambda **facts: None  # noqa: ARG005
    """`record(why=..., **facts)` saves facts (JSON values) and their reason in run.json, and the facts in every later
    checkpoint. May also be called later, during training."""


@runtime_checkable
class Wrapper(Protocol):
    """A change to the loss module: an adapter, activation checkpointing, compilation, data parallelism.

    The core applies all wrappers in the order of their stages, then builds the optimizer.
    """

    stage: Literal["adapt", "checkpoint", "tune", "compile", "parallel"]

    changes_weights: bool
    """True if the wrapper adds, removes or replaces parameters. Such a wrapper is also applied when the checkpoint is
    loaded for evaluation or generation."""

    def wrap(self, loss: nn.Module, *, context: WrapContext) -> nn.Module:
        """Return the module that replaces `loss`: `loss` itself, modified or not, or a module around it.

        The module is called with (input_ids, target_ids) or (input_ids, target_ids, document_ids), each int64
        [batch_size, seq_len]. It returns the sum of nats with its autograd graph: []. Raises ConfigError for a model
        that it cannot wrap.
        """


class RunLogger:
    """Base class of loggers, with callbacks for the records and events of a run. Override the ones that you need.

    All calls come from the training process, in chronological order. A logger that raises an exception is reported and
    removed, and training continues. Only a RecordError, for a record that must not have gaps, ends the run.
    """

    def on_start(self) -> None:
        """Called when training starts, or resumes at `run.start_step`.

        On a resume, discard all records with a later step: an earlier session wrote them, and the steps are repeated.
        """

    def on_step(self, record: StepRecord) -> None:
        """Called for every logged step (`training.log_every`), and for a step whose loss or gradient is not finite."""

    def on_validation(self, record: ValidationRecord) -> None:
        """Called after an evaluation of the validation split."""

    def on_sample(self, record: SampleRecord) -> None:
        """Called after the model continued one of the fixed prompts."""

    def on_event(self, record: EventRecord) -> None:
        """Called for every other event, such as a saved checkpoint or a warning: see `record.kind`."""

    def on_checkpoint(self, step: int) -> None:
        """Called before the checkpoint of `step` is saved: flush all records up to this step to the disk."""

    def on_end(self, status: str) -> None:
        """Called at the end of the run: `finished`, `stopped` (by a signal; the run can be resumed) or `failed`."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The properties of a run that a logger gets when it is built."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    """The resolved configuration, as in `config.yaml`."""

    info: Mapping[str, Any]
    """The content of `run.json` (parameters, device, FLOPs per token, ...): a live view."""

    total_steps: int
    start_step: int
    """Step of the checkpoint that the run resumes from; 0 for a new run."""

    tokens: Path | None = None
    """Folder of the run's token store; None in a custom training loop without one."""

    tokenizer: Tokenizer | None = None

    tell: Callable[[SampleRecord | EventRecord], None] = lambda record: None  # noqa: ARG005
    """Sends a record made by this logger to all loggers, this one included."""

    record: Callable[..., None] = lambda **facts: None  # noqa: ARG005
    """`record(**facts)` saves JSON values in run.json; other loggers see them in `info`."""


@runtime_checkable
class ModelView(Protocol):
    """Read-only view of the model and its step for an `Observer`, valid until `observe` returns."""

    @property
    def step(self) -> int:
        """The optimizer step, counted from 1."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""

    @property
    def batching(self) -> Batching:
        """The run's batching."""

    def parameters(self) -> Mapping[str, Tensor]:
        """Return all parameters, of any shape, by name."""

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the gradients by parameter name, after clipping, in the shapes of the parameters.

        Available at the moment "gradients".
        """

    def updates(self) -> Mapping[str, Tensor]:
        """Return the change of each parameter in this step, by name, in its shape. Available at the moment "update"."""

    @property
    def micro_batches(self) -> Sequence[Batch]:
        """This rank's micro-batches of the step; empty at the moment "validation"."""

    def evaluating(self) -> AbstractContextManager[LanguageModel]:
        """Return a context manager that yields the model in eval mode, without gradients.

        On exit it restores the mode and all random states.
        """

    def trace(self, input_ids: Tensor, points: Sequence[str]) -> Mapping[str, Tensor]:
        """Run a separate forward pass in eval mode, and return the outputs at `points`, by name.

        `input_ids` is int64 [batch_size, seq_len]. A point is "logits" or the name of a submodule. The pass does not
        affect training. Raises KeyError for a point that the model does not have.
        """


Moment = Literal["gradients", "update", "validation"]
"""A point in a step: after clipping and before the update, after the update, or after the validation of the step."""


@runtime_checkable
class Observer(Protocol):
    """Capability of a logger: read the model during training."""

    def moments(self, step: int) -> Set[Moment]:
        """Return the moments of a step (counted from 1) at which `observe` is called. A pure function of the step."""

    def observe(self, moment: Moment, view: ModelView) -> None:
        """Read the model through the view, and log the results."""


@runtime_checkable
class SupportsFaults(Protocol):
    """Capability of a model: inject a known bug (a fault), so that `tfs check --break` shows which check detects it."""

    def faults(self) -> Mapping[str, str]:
        """Return the available faults: name -> description in one sentence."""

    def plant_fault(self, name: str) -> None:
        """Inject the fault `name` into this instance."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """An operation of a model with a hand-written backward pass, and float64 inputs to check it."""

    name: str

    forward: Callable[..., tuple[Tensor, Any]]
    """`forward(*inputs.values())` returns (output, cache); the output has any shape. It must consist of differentiable
    tensor operations: the check runs it under autograd to get the expected gradients."""

    backward: Callable[[Tensor, Any], Tensor | Sequence[Tensor]]
    """`backward(grad_output, cache)` returns dL/dinput for each floating-point tensor in `inputs`, in their order
    and shapes."""

    inputs: Mapping[str, Any]
    """The arguments of `forward` by name, in order. Give every dimension a different size, to detect swapped axes."""


@runtime_checkable
class SupportsOperationChecks(Protocol):
    """Capability of a model: check each hand-written operation separately, to locate the source of a wrong gradient."""

    def operations(self) -> Sequence[Operation]:
        """Return the operations in forward order, each after the operations it uses, with injected faults in effect."""
