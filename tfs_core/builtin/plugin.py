"""What the core brings itself, by the same hooks as every plugin. Imports nothing heavy."""

from tfs_core.component import Component
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1

_COMMANDS = {
    "run": "Train the model that a configuration describes, or resume",
    "evaluate": "Measure loss, perplexity and bits per byte on the validation split",
    "config": "Show or validate a configuration",
    "plugins": "List and show what is installed",
}

_COMPONENTS = (
    # kind, name, summary, module and factory in it, class of the options
    ("scheduler", "constant", "The peak, after warm-up, to the end", "schedules:constant", None),
    ("scheduler", "linear", "A straight line from the peak to the floor", "schedules:linear", None),
    ("scheduler", "cosine", "Half a cosine wave from the peak to the floor", "schedules:cosine", None),
    (
        "scheduler",
        "warmup-stable-decay",
        "The peak for most of the run, then a short decay to the floor",
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
    ("optimizer", "sgd", "Gradient descent, with momentum if asked for", "optimizers:sgd", "optimizers:SGDConfig"),
    ("logger", "jsonl", "The run folder's .jsonl files, which the dashboard reads", "jsonl:build", None),
    (
        "logger",
        "console",
        "A progress bar, or plain lines when the output is no terminal",
        "console:build",
        "console:ConsoleConfig",
    ),
    ("batching", "packed", "Fixed windows from the stream of documents: no token is wasted", "batchings:Packed", None),
    ("batching", "padded", "A row is a document, filled to the longest row of its batch", "batchings:Padded", None),
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
