"""What the parts of tfs are: start reading here.

    YAML -> configuration -> DatasetSource -> Tokenizer -> token store -> Batching -> LanguageModel -> Wrappers
    -> optimizer -> run folder -> trainer, which tells the RunLoggers

The classes below are these parts, in this order, each followed by its capabilities, and last what only checks ask for.
The docstrings are the law; conformance suites check it. Most need not be imported: whatever has the methods will do.
`RunLogger` and `ModelConfig` are there to be inherited from.
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
"""A target id that is no target: padding. It is never counted in a loss, a throughput or a token count."""

Schedule = Callable[[int], float]
"""`schedule(step)` is the learning rate of optimizer step 0, 1, 2, ...: a pure function, not zero at step 0."""


class DatasetSource(Protocol):
    """Where text comes from: documents in a fixed order."""

    def splits(self) -> Sequence[str]:
        """Return the splits there are: `"train"` and perhaps `"validation"` (without one the core holds one out)."""

    def documents(self, split: str) -> Iterator[str]:
        """Iterate over the documents of a split, in the same order each time, without holding them all."""

    def fingerprint(self) -> str:
        """Return a short string that changes when the content of any document, or their order, does."""


@runtime_checkable
class SupportsPieces(Protocol):
    """A data set's capability: documents too long to hold in memory."""

    def pieces(self, split: str) -> Iterator[tuple[str, bool]]:
        """Iterate over the same text as `documents`, in parts: (text, whether its document ends with it)."""


@runtime_checkable
class SupportsStreaming(Protocol):
    """A data set's capability: read from any place on, so that a run need not hold all of it.

    Only its beginning is made into a token store; the rest is read while the run trains, by the batching that its
    attribute `batching` names, "streaming" if it has none. That takes the place of the configuration's `packed`. Such a
    source stays one version of its text, the one that its fingerprint names, for as long as it lives.
    """

    def stream(self, split: str, start: Sequence[int]) -> Iterator[tuple[Sequence[int], str]]:
        """Iterate over (place, document) from the document at `start` on, in the order of `documents`.

        A place is a few integers, by which another process finds the same document again; an empty one is the
        beginning.
        """

    def pinned_options(self) -> Any:
        """Return the component's options that choose this version again, whatever becomes of the newest one.

        They stand in the run's `config.yaml`, so that a resume reads the same text.
        """

    def close(self) -> None:
        """Release open files and temporary downloads. A later read acquires them again."""


@runtime_checkable
class SupportsLeftOut(Protocol):
    """A data set's capability: it leaves out what cannot be read, and says so."""

    def left_out(self) -> Sequence[str]:
        """Return what the last reading left out: a line of text for each file, with how much and where it begins."""


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

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """Return the UTF-8 bytes that the ids stand for (not always whole characters); special ids give none."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the ids; bytes that are no UTF-8 come out as U+FFFD."""

    def byte_lengths(self) -> np.ndarray:
        """Return, for every id, the bytes of text it stands for, 0 for special ids: int64 [vocab_size]."""

    def save(self, folder: Path) -> None:
        """Write everything that the component's `loader` needs into an existing folder."""

    def fingerprint(self) -> str:
        """Return a short string that changes when any text could be encoded differently."""


@dataclass(frozen=True)
class Batch:
    """What one forward pass sees."""

    input_ids: Tensor  # int64 [batch_size, seq_len]
    target_ids: Tensor  # int64 [batch_size, seq_len], -100 where nothing is to be predicted
    valid_targets: int  # targets that are not -100
    document_ids: Tensor | None = None  # int64 [batch_size, seq_len], equal within a document; None: all may be seen


@dataclass(frozen=True)
class DocumentRef:
    """A part of a training document that a step reads."""

    document: tuple[int, ...]
    """Which document: (its index in the token store,), or as the batching counts that has no store of them all."""

    start: int
    stop: int
    """Which of its tokens are targets of the step: from `start` to before `stop`, the end of text among them."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What the configuration says of batches, for a batching to obey or to refuse with a ConfigError."""

    batching: str  # `data.batching`, by name
    dataset: str  # `data.dataset`, by name
    num_epochs: int | None
    max_length: int
    batch_size: int  # `batch_size * gradient_accumulation_steps` rows are the batch of a step, of all ranks together
    gradient_accumulation_steps: int
    seed: int
    document_masks: bool
    subset_size: int | None
    shard_tokens: int


@runtime_checkable
class Batching(Protocol):
    """How the tokens of a run become batches: a pure function of (tokens, seed, step, rank).

    The component's factory is the class itself; `lengths_vary` and `begins_with_end_of_text` are attributes of it. A
    static method `check(settings, *, source)`, where it has one, is called before any text is read, and raises a
    ConfigError for settings that it cannot obey.
    """

    rows_per_step: int
    """Rows in an optimizer step, all micro-batches and ranks together."""

    valid_targets_per_row: float
    """Valid targets in a row, on average."""

    lengths_vary: bool
    """Whether `seq_len` differs from batch to batch."""

    begins_with_end_of_text: bool
    """Whether every row begins with the end-of-text id, so that a prompt must, too."""

    def open(
        self, folder: Path, *, step: int, state: Mapping[str, Any] | None, report: Callable[[str], None]
    ) -> AbstractContextManager[None]:
        """Return a context in which `ready`, `step` and `epoch` may be called, from a step on.

        `folder` is the run's; `state` is the checkpoint's whole state.json, None at step 0; `report` is told, in a
        sentence, what a user waits for.
        """

    def ready(self, step: int) -> bool:
        """Return whether a step's data is there, after a short wait. Raises DataError when it cannot be had."""

    def step(self, step: int) -> Sequence[Batch]:
        """Return this rank's micro-batches of optimizer step 0, 1, 2, ..."""

    def validation(self) -> Iterable[Batch]:
        """Return this rank's validation batches: every validation row once, in the order of the text."""

    def trial(self) -> Batch:
        """Return a batch of real text to try things on, before `open`."""

    def total_steps(self, *, epochs: int | None, tokens: int | None) -> int:
        """Return the steps after which so many epochs, or valid targets, are complete; one of the two is given.

        Raises ConfigError where epochs cannot be counted.
        """

    def epoch(self, step: int) -> int:
        """Return how many epochs are complete before the first row of a step."""

    def epochs(self, steps: int) -> float | None:
        """Return how many epochs so many steps are; None where they cannot be counted."""

    def state(self, step: int) -> dict[str, Any]:
        """Return what a checkpoint must record to go on with a step: JSON values under own names; usually none."""

    def documents(self, step: int) -> Sequence[DocumentRef]:
        """Return which parts of which documents this rank reads in a step, in the order of its rows."""


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

    `forward` and `loss` are called inside `torch.autocast` when the configuration's dtype is bfloat16, and
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

    def loss(self, input_ids: Tensor, target_ids: Tensor) -> Tensor:
        """Return the SUM of nats over the valid targets (float32 or wider, no dimensions; 0 when none is valid).

        Both are int64 [batch_size, seq_len]; a target of -100 is not valid. In training mode what `backward`
        needs is kept; in eval mode nothing is.
        """

    def backward(self, scale: float) -> None:
        """Add `scale * dL/dp` to `.grad` of every trainable parameter p, L being the last training-mode `loss`.

        Consumes it: a second call without a new `loss` is an error.
        """

    def train(self, mode: bool = True) -> Any:
        """Turn training mode (dropout, what backward needs) on or off."""

    def eval(self) -> Any:
        """Turn training mode off."""

    def to(self, *, device: torch.device | str, dtype: torch.dtype) -> Any:
        """Move and cast the parameters, in place."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (name, tensor), each tensor once, in an order that never changes."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return every tensor that makes the model what it is, by name."""

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> Any:
        """Copy the tensors in; raises when a name or a shape differs."""

    def embedding_parameters(self) -> Sequence[str]:
        """Return the names of the embedding tables: what "parameters without embeddings" leaves out."""

    def flops_per_token(self, seq_len: int) -> float:
        """Return the floating-point operations of training on one position of a sequence of this length.

        Forward and backward of every matrix product, a multiplication and an addition counted apart, attention
        (every score computed, masked or not) and the output projection included, at the real vocabulary size.
        """


@runtime_checkable
class SupportsKeyValueCache(Protocol):
    """A capability: generate one token without computing all earlier ones again."""

    def make_cache(self, batch_size: int) -> Any:
        """Return an empty cache for sequences up to the context limit, on the model's device."""

    def forward_with_cache(self, input_ids: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Return the logits [batch_size, new_len, vocab_size] of new ids, writing their keys and values to the cache.

        `input_ids` and `positions` are [batch_size, new_len]; a position is a row's own (prompts of different
        lengths batch: pad on the right). The key and value of a token go to the slot of its position, and a token
        sees the slots up to its own, so what padding left in a slot is overwritten before it is ever seen.

        To be compiled (`tfs generate --compile`), it must not ask a tensor for its values while
        `torch.compiler.is_compiling()`: it then looks at every slot of the cache, those to come being hidden.
        """


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

    def loss(self, input_ids: Tensor, target_ids: Tensor, document_ids: Tensor | None = None) -> Tensor:
        """Return the sum of nats, as `LanguageModel.loss` does."""


@runtime_checkable
class SupportsFeatures(Protocol):
    """A capability: make the logits in two steps, so that those of a large vocabulary need never exist at once.

    `forward(input_ids)` is `unembed(features(input_ids))`. `AutogradModel.loss` then unembeds a piece of the positions
    at a time (`runtime.loss_chunk`).
    """

    def features(self, input_ids: Tensor) -> Tensor:
        """Return what the scores are made of [batch_size, seq_len, width]; takes all that `forward` takes."""

    def unembed(self, features: Tensor) -> Tensor:
        """Return the logits [..., vocab_size] of features [..., width], each position's from its own alone."""


class Ranks(Protocol):
    """The processes that train one model together. `tfs_core.ranks.OneRank` is the only one of a plain run."""

    rank: int
    """This process: 0, 1, ..., size - 1."""

    size: int

    def sum(self, values: Tensor) -> Tensor:
        """Return the element-wise sum over all ranks: losses, counts, flags."""

    def last_micro_batch(self, is_last: bool) -> None:
        """Called before each forward pass of a step: gradients are exchanged in the backward of the last one."""

    def finish_gradients(self, parameters: Sequence[Tensor]) -> Tensor:
        """Exchange what is not exchanged yet, and return the norm of the whole gradient: []."""

    def save(self, folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer | None) -> dict[str, Any]:
        """Write weights and optimizer state into a folder (collective); return JSON values for `state.json`."""

    def load(
        self,
        folder: Path,
        model: LanguageModel,
        optimizer: torch.optim.Optimizer | None,
        state: Mapping[str, Any],
    ) -> None:
        """Put back what `save` wrote (collective). Raises CheckpointError when it does not fit."""


@dataclass(frozen=True, kw_only=True)
class WrapContext:
    """What a wrapper may know, and all that it may reach."""

    model: LanguageModel
    model_name: str
    """The configuration's name of the model, for messages."""

    device: str
    ranks: Ranks

    trial_batch: Batch | None = None
    """A batch of real text to try things on; None where a checkpoint is loaded to be evaluated or to generate."""

    lengths_vary: bool = False
    """Whether `seq_len` differs from batch to batch."""

    recorded: Mapping[str, Any] = field(default_factory=dict)
    """The facts that the resumed checkpoint holds (`device`, `threads`, `matmul`, and what wrappers recorded)."""

    report: Callable[[str], None] = lambda message: None  # noqa: ARG005
    """Tells the user, in a sentence, what is going on."""

    warn: Callable[[str], None] = lambda message: None  # noqa: ARG005
    """Tells the user and the run's events what is not as it should be; also later, while the run trains."""

    record: Callable[..., None] = lambda **facts: None  # noqa: ARG005
    """`record(why=..., **facts)`: JSON values for run.json and every checkpoint to come, and why; also later."""


@runtime_checkable
class Wrapper(Protocol):
    """Something around a model's loss: an adapter, activation checkpointing, a compiler, data parallelism.

    The core applies them in the order of the stages, then builds the optimizer.
    """

    stage: Literal["adapt", "checkpoint", "tune", "compile", "parallel"]

    changes_weights: bool
    """Whether it changes what parameters there are. It is then applied wherever the checkpoint is loaded."""

    def wrap(self, loss: nn.Module, *, context: WrapContext) -> nn.Module:
        """Return the module that computes the loss from now on: `loss` itself, changed or not, or one around it.

        A module is called with (input_ids, target_ids) or (input_ids, target_ids, document_ids), and returns the sum
        of nats with its graph. Raises ConfigError for a model that it cannot wrap.
        """


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


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a logger may know of its run when it is built."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    """The resolved configuration, as in `config.yaml`."""

    info: Mapping[str, Any]
    """What `run.json` says (parameters, device, FLOPs per token, ...): a live view."""

    total_steps: int
    start_step: int
    """0, or the step of the checkpoint that the run resumes from."""

    tokens: Path | None = None
    """The folder of the run's token store; None for a training loop of somebody's own."""

    tokenizer: Tokenizer | None = None

    tell: Callable[[SampleRecord | EventRecord], None] = lambda record: None  # noqa: ARG005
    """Hands a record of this logger's own to all loggers."""

    record: Callable[..., None] = lambda **facts: None  # noqa: ARG005
    """`record(**facts)`: JSON values for run.json, where other loggers find them in `info`."""


@runtime_checkable
class ModelView(Protocol):
    """What a logger that observes may look at, until `observe` returns. Nothing may be changed through it."""

    @property
    def step(self) -> int:
        """The optimizer step, 1 for the first."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The run's tokenizer."""

    @property
    def batching(self) -> Batching:
        """What makes the run's batches."""

    def parameters(self) -> Mapping[str, Tensor]:
        """Return every parameter by name."""

    def gradients(self) -> Mapping[str, Tensor]:
        """Return the gradient of each parameter, at the moment "gradients", after clipping."""

    def updates(self) -> Mapping[str, Tensor]:
        """Return what the optimizer added to each parameter, at the moment "update"."""

    @property
    def micro_batches(self) -> Sequence[Batch]:
        """This rank's micro-batches of the step; none at the moment "validation"."""

    def evaluating(self) -> AbstractContextManager[LanguageModel]:
        """Return a context in which the model is in eval mode, gradients are off, and random states are restored."""

    def trace(self, input_ids: Tensor, points: Sequence[str]) -> Mapping[str, Tensor]:
        """Return the logits ("logits") and the outputs of submodules, by name, of an eval pass of its own.

        Training goes on as if nothing had been computed. Raises KeyError for a point that the model does not have.
        """


Moment = Literal["gradients", "update", "validation"]


@runtime_checkable
class Observer(Protocol):
    """A logger's capability: look at the model."""

    def moments(self, step: int) -> Set[Moment]:
        """Return when to be shown the model in a step (1 for the first): before the update, after it, or after its
        validation. A pure function of the step."""

    def observe(self, moment: Moment, view: ModelView) -> None:
        """Look, and write down what there is to see."""


@runtime_checkable
class SupportsFaults(Protocol):
    """A capability: plant a known bug in oneself, so that `tfs check --break` shows where it is caught."""

    def faults(self) -> Mapping[str, str]:
        """Return the faults that can be planted: name -> what goes wrong, in a sentence."""

    def plant_fault(self, name: str) -> None:
        """Make this instance wrong in the way `name` says."""


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
