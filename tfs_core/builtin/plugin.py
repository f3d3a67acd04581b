"""The built-in commands and components, registered with the same hooks as any plugin's. Imports nothing heavy."""

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1

_COMMANDS = {
    "run": "Train the model that a configuration describes, or resume a run",
    "evaluate": "Measure loss, perplexity and bits per byte on the validation split",
    "config": "Show or validate a configuration",
    "plugins": "List and show installed plugins and components",
}

_COMPONENTS = (
    # kind, name, summary, module:factory, module:class of the options
    ("scheduler", "constant", "Constant at the peak after warm-up", "schedules:constant", None),
    ("scheduler", "linear", "Linear decay from the peak to the floor", "schedules:linear", None),
    ("scheduler", "cosine", "Cosine decay from the peak to the floor", "schedules:cosine", None),
    (
        "scheduler",
        "warmup-stable-decay",
        "Constant at the peak for most of the run, then a short decay to the floor",
        "schedules:warmup_stable_decay",
        "schedules:WarmupStableDecayConfig",
    ),
    (
        "optimizer",
        "adamw",
        "Adam with weight decay on matrices only: the usual choice",
        "optimizers:adamw",
        "optimizers:AdamWConfig",
    ),
    ("optimizer", "sgd", "Gradient descent, with optional momentum", "optimizers:sgd", "optimizers:SGDConfig"),
    ("logger", "jsonl", "The run folder's .jsonl files, which the dashboard reads", "jsonl:build", None),
    (
        "logger",
        "console",
        "A progress bar on a terminal, plain lines elsewhere",
        "console:build",
        "console:ConsoleConfig",
    ),
    ("batching", "packed", "Fixed windows over the concatenated documents, no token wasted", "batchings:Packed", None),
    ("batching", "padded", "One document per row, padded to the longest row of its batch", "batchings:Padded", None),
)


@hookimpl
def tfs_commands() -> list[Component]:
    return [
        Component(name=name, summary=summary, factory=f"tfs_core.cli.{name}:{name}")
        for name, summary in _COMMANDS.items()
    ]


@hookimpl
def tfs_components() -> list[Component]:
    own = "tfs_core.builtin."
    return [
        Component(kind=kind, name=name, summary=summary, factory=own + factory, config=config and own + config)
        for kind, name, summary, factory, config in _COMPONENTS
    ]
