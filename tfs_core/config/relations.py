"""What settings may be together: the rules that no single value breaks.

Each rule reads `Known`, the settings whose own values are right, defaults included, and yields what is wrong with
them. A rule that needs a setting which is not known, because its value is wrong, says nothing: that is told already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfs_core.config.folder_names import folder_name_problem
from tfs_core.config.problems import Key, dotted
from tfs_core.config.schema import Choice, RunConfig

Known = Mapping[Key, Any]

Finding = tuple[tuple[Key, ...], str]
"""The settings that do not go together, the one to blame first, and the sentence that says so, without its key."""

LENGTHS: tuple[Key, ...] = (("training", "num_epochs"), ("training", "max_steps"), ("training", "max_tokens"))
WARMUPS: tuple[Key, ...] = (("training", "warmup_ratio"), ("training", "warmup_steps"))
ALTERNATIVES = (LENGTHS, WARMUPS)
"""Settings of which one at most is given: on the command line, one takes the place of the file's other."""

SAMPLING: tuple[Key, ...] = (("samples", "top_k"), ("samples", "top_p"), ("samples", "seed"))


def known_settings(config: RunConfig) -> dict[Key, Any]:
    """Return every setting of a finished configuration by its key, the options of components included."""
    known: dict[Key, Any] = {}

    def collect(value: Any, key: Key) -> None:
        if key:
            known[key] = value
        if isinstance(value, Choice):
            value = value.options
        if dataclasses.is_dataclass(value):
            value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, dict):
            for name, item in value.items():
                collect(item, (*key, name))

    collect(config, ())
    return known


def findings(known: Known, given: Callable[[Key], bool]) -> Iterator[Finding]:
    """Yield everything that does not go together; `given` tells whether a setting was written down."""
    for rule in (_folder_name, _length, _warmup, _learning_rates, _context, _document_masks, _loggers):
        try:
            yield from rule(known)
        except KeyError:
            continue
    for key, reason in without_effect(known).items():
        if given(key):
            yield (key,), f"has no effect {reason}. Leave it out"


def without_effect(known: Known) -> dict[Key, str]:
    """Return the settings that nothing reads in this configuration, each with the reason."""
    idle: dict[Key, str] = {}
    decay = known.get(("training", "lr_decay"))
    constant = isinstance(decay, Choice) and decay.name in ("constant", "tfs-core/constant")
    if constant and known.get(("training", "min_learning_rate")) is not None:
        idle["training", "min_learning_rate"] = "with a constant learning rate"
    if known.get(("training", "eval_every"), 0) is None and known.get(("training", "early_stopping")) is not None:
        idle["training", "early_stopping"] = "without training.eval_every: the only validation is at the end"
    if known.get(("samples", "temperature")) == 0:
        idle |= dict.fromkeys(SAMPLING, "at temperature 0, where the likeliest token is taken")
    if known.get(("samples", "prompts")) == ():
        names = ("max_length", "temperature", "top_k", "top_p", "seed")
        idle |= {("samples", name): "without samples.prompts" for name in names}
    return idle


def _folder_name(known: Known) -> Iterator[Finding]:
    key: Key = ("experiment_name",)
    if problem := folder_name_problem(known[key]):
        yield (key,), f"{problem}, and the run's folder is called so"


def _length(known: Known) -> Iterator[Finding]:
    given = [key for key in LENGTHS if known[key] is not None]
    names = "training.num_epochs, training.max_steps and training.max_tokens"
    if not given:
        yield (("training",),), f"give one of {names}: it says how long to train"
    if len(given) > 1:
        yield tuple(reversed(given)), f"give only one of {names}, not {_and(given)}"


def _warmup(known: Known) -> Iterator[Finding]:
    ratio, steps, most = known[WARMUPS[0]], known[WARMUPS[1]], known["training", "max_steps"]
    if ratio is not None and steps is not None:
        yield (WARMUPS[1], WARMUPS[0]), "give only one of training.warmup_ratio and training.warmup_steps"
    if steps is not None and most is not None and steps > most:
        yield (WARMUPS[1], LENGTHS[1]), f"{steps} steps of warm-up are more than training.max_steps ({most})"


def _learning_rates(known: Known) -> Iterator[Finding]:
    peak, floor = known["training", "learning_rate"], known["training", "min_learning_rate"]
    if floor is not None and floor > peak:
        keys: tuple[Key, ...] = (("training", "min_learning_rate"), ("training", "learning_rate"))
        yield keys, f"{floor} is more than training.learning_rate ({peak}), which it decays from"


def _context(known: Known) -> Iterator[Finding]:
    length, limit = known["data", "max_length"], known["model", "max_seq_len"]
    if length > limit:
        keys: tuple[Key, ...] = (("data", "max_length"), ("model", "max_seq_len"))
        yield keys, f"{length} tokens are more than the model takes. Lower it, or raise model.max_seq_len ({limit})"


def _document_masks(known: Known) -> Iterator[Finding]:
    masks: Key = ("data", "document_masks")
    if known[masks] and known["data", "batching"] == "padded":
        yield (masks, ("data", "batching")), "in padded rows there is one document each. Leave it out, or pack the rows"


def _loggers(known: Known) -> Iterator[Finding]:
    loggers = known[("loggers",)]
    for index, logger in enumerate(loggers):
        if logger in loggers[:index]:
            yield (("loggers", index),), f"'{logger.name}' is there already, with the same options"


def _and(keys: list[Key]) -> str:
    return " and ".join(dotted(key) for key in keys)
