"""The configuration of a run: one frozen dataclass a section, each default here and only here.

The string under a field is its documentation: `docs/configuration.md`, `tfs config schema` and error messages use it.
What a value may be follows from its type; what several of them may be together is in `tfs_core.config.relations`.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt

# What the numbers below may be, beyond their type: it is checked, and shown in errors, tables and the JSON schema.
Count = Annotated[int, Ge(1)]
CountOrZero = Annotated[int, Ge(0)]
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
"""What kind of component each setting chooses."""


@dataclass(frozen=True)
class Choice:
    """A component that the configuration chose, and its own options: `{name: bpe, vocab_size: 512}`.

    In YAML a string is short for `{name: string}`. `options` is an instance of the component's configuration class,
    or None when it has none (and, for a model in a file of the user's own, a plain dict until the file is imported).
    """

    name: str
    options: Any = None


LOCAL_MODEL = re.compile(r"(?P<file>.+\.py):(?P<attribute>[A-Za-z_]\w*)")
"""A model in a file of the user's own: `./my_model.py:MyModel`."""


def is_local_model(name: str) -> bool:
    """Return whether a model's name says what is in which file, and not which component it is."""
    return LOCAL_MODEL.fullmatch(name) is not None


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model reads."""

    dataset: Choice
    """The data set: a name, or a mapping with its options, such as `{name: jsonl, path: corpus.jsonl}`."""

    tokenizer: Choice
    """The tokenizer: a name, a mapping with its options, such as `{name: bpe, vocab_size: 4096}`, or the path of a
    `tokenizer.json` or of the folder it is in."""

    max_length: Count = 256
    """Tokens in a row of a batch. At most `model.max_seq_len`; longer sees further back and costs more."""

    batching: Choice = field(default_factory=lambda: Choice("packed"))
    """`packed`: fixed windows from the stream of documents, no token wasted. `padded`: a row is a document, cut at
    `max_length`. Choose `padded` when documents are short and must not see each other. A data set that streams brings
    its own."""

    document_masks: bool = False
    """Whether the documents in a packed row are kept apart: a position sees those of its own document only. For a model
    that has document masks. Choose true when what stands before a document says nothing about it."""

    subset_size: Count | None = None
    """Use only the first so many training documents; null for all."""

    val_subset_size: Count | None = None
    """Use only the first so many validation documents; null for all, or for 1000 of what is held out of a stream."""

    validation_fraction: Annotated[float, Gt(0), Lt(1)] = 0.01
    """The share of the text held out for validation, in whole documents, when the data set has no validation split."""

    shard_tokens: Count = 1 << 23
    """Of a data set that streams, how many tokens lie on the disk in one part, among which the rows are shuffled. More
    shuffle better and take longer until the first step; a few parts are on the disk at a time."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the model learns: what every model and optimizer shares."""

    batch_size: Count = 32
    """Rows a forward pass sees. As many as fit in memory; more make each step surer and slower."""

    gradient_accumulation_steps: Count = 1
    """Batches whose gradients make one update: the batch of a big machine on a small one, to the last digit alike."""

    num_epochs: Count | None = None
    """Stop after so many passes over the training tokens. Give one of num_epochs, max_steps and max_tokens."""

    max_steps: Count | None = None
    """Stop after so many optimizer steps. Give one of num_epochs, max_steps and max_tokens."""

    max_tokens: Count | None = None
    """Stop after the step in which so many tokens are reached. Give one of num_epochs, max_steps and max_tokens."""

    learning_rate: Positive = 3e-4
    """The highest learning rate, reached after warm-up. Small models bear more: 1e-3 and up, below 10 M parameters."""

    min_learning_rate: PositiveOrZero | None = None
    """Where the decay ends; null for a tenth of learning_rate. No effect, and an error, with a constant schedule."""

    lr_decay: Choice = field(default_factory=lambda: Choice("cosine"))
    """The schedule after warm-up: constant, linear, cosine, warmup-stable-decay, or a plugin's."""

    warmup_ratio: Annotated[float, Ge(0), Lt(1)] | None = None
    """The share of all steps in which the learning rate climbs to its peak. Give this or warmup_steps."""

    warmup_steps: CountOrZero | None = None
    """The steps in which the learning rate climbs to its peak. Give this or warmup_ratio."""

    optimizer: Choice = field(default_factory=lambda: Choice("adamw"))
    """What turns gradients into updates: adamw, sgd, or a plugin's."""

    weight_decay: PositiveOrZero = 0.1
    """How strongly matrices (not biases, not norms) are pulled to zero."""

    max_grad_norm: Positive | None = 1.0
    """The gradient is scaled down when its norm is larger; null to leave it."""

    eval_every: Count | None = 500
    """Validate every so many steps, and at the end; null for the end only. An improvement saves a checkpoint."""

    max_eval_batches: Count | None = None
    """Validate on the first so many batches; null for every validation token."""

    checkpoint_every: Count | None = None
    """Save every so many steps; null to leave it to time, to improvements, and to the end."""

    checkpoint_interval_minutes: Positive | None = 10.0
    """Save when so many minutes have passed since the last save; null to leave it to steps."""

    keep_checkpoints: Count = 5
    """The newest checkpoints that are kept, besides the best one."""

    log_every: Count = 1
    """Write a metrics line every so many steps."""

    early_stopping: Count | None = None
    """Stop after so many validations in a row without an improvement; null never to."""


@dataclass(frozen=True, kw_only=True)
class SamplesConfig:
    """What the model is asked to continue at each validation, always with the same random state."""

    prompts: tuple[str, ...] = ()
    """The prompts; an empty string starts from the end-of-text token. None given: no samples."""

    max_length: Count = 100
    """Tokens to write after each prompt."""

    temperature: PositiveOrZero = 0.8
    """Below 1 surer, above 1 wilder, 0 always the likeliest token."""

    top_k: CountOrZero = 50
    """Choose among the so many likeliest tokens; 0 among all."""

    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Choose among the likeliest tokens that make up this share of the probability; 1 among all."""

    seed: CountOrZero = 0
    """The random state of the samples, apart from that of training."""


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig:
    """The machine. What `auto` comes to is written into run.json and every checkpoint, and a resume obeys that."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes cuda, then mps, then cpu."""

    threads: Annotated[int, Ge(1), Le(1024)] | Literal["auto"] = "auto"
    """Processor threads; more than there are cores are slower. The last bits of a result depend on it."""

    matmul: Literal["auto", "highest", "medium"] = "auto"
    """The precision given to torch.set_float32_matmul_precision; auto is highest, or, with the wrapper `kernels`
    installed, the faster of those that are exact, measured. The last bits of a result depend on it."""

    compile: bool = False
    """Whether torch.compile compiles the loss: a minute or two at the start, and faster steps. On a CPU it needs a C++
    compiler; where it fails, the run goes on without and says why. The last bits of a result depend on it."""

    activation_checkpointing: bool = False
    """Whether what the blocks of a model (the items of every nn.ModuleList) compute is let go of, and computed again in
    the backward pass: the same bits in much less memory, and about a third more time."""

    loss_chunk: Count | Literal["auto"] | None = "auto"
    """How many positions' logits exist at a time, in a model that makes them in two steps; null for all. auto: as many
    as have 2^25 logits, so that a large vocabulary does not fill the memory. The last bits of a result depend on it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run."""

    experiment_name: str
    """What the run's folder is called (with a number after it from the second run on)."""

    group: str | None = None
    """Runs of one group are compared together: one model, several seeds."""

    tags: tuple[str, ...] = ()
    """Words to find the run by."""

    seed: CountOrZero = 1337
    """Decides the initial weights, the order of the data and dropout."""

    data: DataConfig
    """What the model reads."""

    model: Choice
    """The model: its name (or `--model`), and beside it its own options."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How it learns."""

    samples: SamplesConfig = field(default_factory=SamplesConfig)
    """What it is asked to continue at each validation."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    """The machine."""

    wrappers: tuple[Choice, ...] = ()
    """What plugins put around the model's loss, such as an adapter. Compiling and activation checkpointing have
    settings of their own in `runtime`."""

    loggers: tuple[Choice, ...] = (Choice("jsonl"), Choice("console"))
    """The loggers that receive the run's records. Without jsonl there is nothing for the dashboard to read."""
