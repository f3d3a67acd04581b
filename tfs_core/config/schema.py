"""The configuration of a run: one frozen dataclass per section. Each default is defined here and only here.

The string under a field is its documentation: `docs/configuration.md`, `tfs config schema` and error messages use it.
The type of a field defines its valid values; rules between several fields are in `tfs_core.config.relations`.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

# Bounds of the numbers below. They are checked, and shown in errors, tables and the JSON schema.
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
Rows = Annotated[int, Ge(1), Le(1 << 20)]
MicroBatches = Annotated[int, Ge(1), Le(1 << 16)]
Tokens = Annotated[int, Ge(1), Le(1 << 24)]
Positive = Annotated[float, Gt(0)]
PositiveOrZero = Annotated[float, Ge(0)]

COMPONENT_KINDS = {
    "dataset": "dataset",
    "tokenizer": "tokenizer",
    "model": "model",
    "lr_decay": "scheduler",
    "optimizer": "optimizer",
    "loggers": "logger",
    "batching": "batching",
    "wrappers": "wrapper",
}
"""Setting -> the kind of the component that it chooses."""


@dataclass(frozen=True)
class Choice:
    """A component that the configuration chooses, with its options: `{name: bpe, vocab_size: 512}`.

    In YAML a string is short for `{name: string}`. `options` is an instance of the component's configuration class, or
    None for a component without options. For a model in a local file it is a plain dict until the file is imported.
    """

    name: str
    options: Any = None


LOCAL_MODEL = re.compile(r"(?P<file>.+\.py):(?P<attribute>[A-Za-z_]\w*)")
"""The name of a model in a local file: `./my_model.py:MyModel`."""


def is_local_model(name: str) -> bool:
    """Return whether a model's name refers to a local file, as in `./my_model.py:MyModel`, not to a component."""
    return LOCAL_MODEL.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The data set, the tokenizer, and how batches are made from them."""

    dataset: Choice
    """The data set: a name, or a mapping with its options, such as `{name: jsonl, path: corpus.jsonl}`."""

    tokenizer: Choice
    """The tokenizer: a name, a mapping with its options, such as `{name: bpe, vocab_size: 4096}`, or the path of a
    `tokenizer.json` or of its folder."""

    max_length: Tokens = 256
    """Tokens per row of a batch, at most `model.max_seq_len`. Longer rows give more context and cost more."""

    batching: Choice = field(default_factory=lambda: Choice("packed"))
    """`packed`: windows of fixed length over the concatenated documents, no token wasted, elsewhere in every epoch.
    `padded`: one document per row, truncated at `max_length`. Choose `padded` for short documents that must not attend
    to each other. A streaming data set uses its own batching."""

    document_masks: bool = False
    """Restrict attention in a packed row to positions of the same document. Needs a model that supports document masks.
    Choose true when neighboring documents are unrelated."""

    subset_size: Count | None = None
    """Use only the first subset_size training documents; null for all."""

    val_subset_size: Count | None = None
    """Use only the first val_subset_size validation documents; null for all, but for 1000 of a stream
    without a validation split."""

    validation_fraction: Annotated[float, Gt(0), Lt(1)] = 0.01
    """The fraction of the text to hold out for validation, in whole documents, when the data set has no validation
    split."""

    shard_tokens: Annotated[int, Ge(1), Le(1 << 32)] = 1 << 23
    """Tokens per shard of a streaming data set. Rows are shuffled within a shard: larger shards shuffle better, and
    take longer until the first step. Only a few shards are on the disk at a time."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Batch size, length, learning rate, optimizer, validation and checkpoints, for any model."""

    batch_size: Rows = 32
    """Rows of a micro-batch (one forward and backward pass). Choose as many as fit in memory: larger batches give less
    noisy gradients and slower steps."""

    gradient_accumulation_steps: MicroBatches = 1
    """Micro-batches whose gradients are accumulated for one update. This gives the gradient of a batch that is larger
    by this factor, in the memory of one micro-batch."""

    num_epochs: Count | None = None
    """Stop after this many passes over the training tokens. Give one of num_epochs, max_steps and max_tokens."""

    max_steps: Count | None = None
    """Stop after this many optimizer steps. Give one of num_epochs, max_steps and max_tokens."""

    max_tokens: Annotated[int, Ge(1), Le(10**15)] | None = None
    """Stop after the step that reaches this many tokens. Give one of num_epochs, max_steps and max_tokens."""

    learning_rate: Positive = 3e-4
    """The peak learning rate, reached after warm-up. Small models tolerate more: 1e-3 and above below 10 M
    parameters."""

    min_learning_rate: PositiveOrZero | None = None
    """The learning rate at the end of the decay; null for learning_rate / 10. An error with a constant schedule, where
    it has no effect."""

    lr_decay: Choice = field(default_factory=lambda: Choice("cosine"))
    """The learning-rate schedule after warm-up: constant, linear, cosine, warmup-stable-decay, or a plugin's."""

    warmup_ratio: Annotated[float, Ge(0), Lt(1)] | None = None
    """The length of warm-up, in which the learning rate rises linearly to its peak, as a fraction of all steps. Give
    this or warmup_steps."""

    warmup_steps: CountOrZero | None = None
    """The length of warm-up, in which the learning rate rises linearly to its peak, in steps. Give this or
    warmup_ratio."""

    optimizer: Choice = field(default_factory=lambda: Choice("adamw"))
    """The optimizer: adamw, sgd, or a plugin's."""

    weight_decay: PositiveOrZero = 0.1
    """The strength of weight decay, which pulls matrices (not biases, not the gains of norms) toward zero."""

    max_grad_norm: Positive | None = 1.0
    """Gradient clipping: a gradient with a larger norm is scaled down to this norm; null for no clipping."""

    eval_every: Count | None = 500
    """Steps between validations; null for none before the last step. There is always one after the last step. An
    improvement saves a checkpoint."""

    max_eval_batches: Count | None = None
    """Validate on the first max_eval_batches batches only; null for all of them."""

    checkpoint_every: Count | None = None
    """Steps between regular checkpoints; null for none. Checkpoints by time, at an improvement and at the end are saved
    in addition."""

    checkpoint_interval_minutes: Positive | None = 10.0
    """Minutes between checkpoints, counted from the last one of any kind; null for no checkpoints by time."""

    keep_checkpoints: Count = 5
    """The number of newest checkpoints to keep, in addition to the best one."""

    log_every: Count = 1
    """Steps between two lines of metrics."""

    early_stopping: Count | None = None
    """Stop after this many validations in a row without improvement; null for no early stopping."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """Text that the model generates at each validation, always with the same seed."""

    prompts: tuple[str, ...] = ()
    """The prompts to continue; an empty string starts from the end-of-text token. An empty list for no samples."""

    max_length: Tokens = 100
    """Tokens to generate after each prompt."""

    temperature: PositiveOrZero = 0.8
    """The sampling temperature: below 1 more predictable, above 1 more random; 0 always takes the likeliest token."""

    top_k: CountOrZero = 50
    """Sample from the top_k likeliest tokens; 0 for all tokens."""

    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Sample from the likeliest tokens that together have this probability (nucleus sampling); 1 for all tokens."""

    seed: CountOrZero = 0
    """The seed of the samples, independent of the seed of training."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """Device, speed and numerics. The choices made for `auto` are recorded in run.json and in every checkpoint, and a
    resumed run uses them again."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """The device; auto takes the first available of cuda, mps and cpu."""

    threads: Annotated[int, Ge(1), Le(1024)] | Literal["auto"] = "auto"
    """CPU threads; more threads than cores are slower. Affects the last bits of results."""

    matmul: Literal["auto", "highest", "medium"] = "auto"
    """The argument of torch.set_float32_matmul_precision. auto is highest. With the wrapper `kernels` installed,
    auto measures the settings that are exact in float32 and takes the fastest. Affects the last bits of results."""

    compile: bool = False
    """Compile the loss with torch.compile: steps are faster, after one or two minutes of compilation. On a CPU it needs
    a C++ compiler. If compilation fails, the run continues uncompiled, with a warning that gives the reason.
    Affects the last bits of results."""

    activation_checkpointing: bool = False
    """Recompute the activations of the model's blocks (the items of every nn.ModuleList) in the backward pass instead
    of storing them: bit-identical results in much less memory and about a third more time."""

    loss_chunk: Count | Literal["auto"] | None = "auto"
    """Positions per chunk of the loss: only the logits of one chunk exist at a time. A number needs a model with
    `features` and `unembed`. null for all positions at once; auto for chunks of 2^25 logits, so that a large vocabulary
    does not fill the memory. Affects the last bits of results."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All settings of a run."""

    experiment_name: str
    """The name of the run's folder; from the second run on, a number is appended."""

    group: str | None = None
    """A name shared by runs that are compared together, such as one model with several seeds."""

    tags: tuple[str, ...] = ()
    """Labels to find the run by."""

    seed: CountOrZero = 1337
    """The seed of the initial weights, the order of the data and dropout."""

    data: DataConfig
    """The data set, the tokenizer, and how batches are made from them."""

    model: Choice
    """The model: its name (which `--model` replaces), and its options next to it."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Batch size, length, learning rate, optimizer, validation and checkpoints."""

    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """Text that the model generates at each validation."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """Device, speed and numerics."""

    wrappers: tuple[Choice, ...] = ()
    """Wrappers around the model's loss, such as an adapter. `runtime` has settings for compilation and activation
    checkpointing."""

    loggers: tuple[Choice, ...] = (Choice("jsonl"), Choice("console"))
    """The loggers that receive the run's records. The dashboard needs the files that `jsonl` writes."""
