"""Rules between several settings, each of which is valid by itself.

The rules read `Known`: the valid settings, defaults included, by their dotted names. A rule is skipped when one of its
settings is invalid, which is reported already.
"""

import re
from collections.abc import Mapping
from typing import Any

from tfs_core.config.document import Document, Key

Known = Mapping[str, Any]

LENGTHS = ("training.num_epochs", "training.max_steps", "training.max_tokens")
WARMUPS = ("training.warmup_ratio", "training.warmup_steps")
ALTERNATIVES = (LENGTHS, WARMUPS)
"""Mutually exclusive settings: one on the command line replaces another one in the file."""

RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Reserved device names on Windows, with or without an extension."""

MAX_NAME_BYTES = 200
"""Limit on a folder's name in bytes. Most file systems allow 255; tfs may append a number or an extension."""


def check_relations(known: Known, document: Document) -> None:
    """Add a problem to the document for every rule that its settings violate."""

    def tell(message: str, *names: str) -> None:
        """Add a problem for the first name, at the place of the first of the names that the document contains."""
        keys: list[Key] = [tuple(int(part) if part.isdecimal() else part for part in name.split(".")) for name in names]
        written = next((key for key in keys if key in document.places), keys[0])
        document.problem(keys[0], f": {message}", document.place(written))

    if "experiment_name" in known and (problem := folder_name_problem(known["experiment_name"])):
        tell(f"{problem}, and the run's folder gets this name", "experiment_name")

    if all(name in known for name in LENGTHS):
        given = [name for name in LENGTHS if known[name] is not None]
        names = "training.num_epochs, training.max_steps and training.max_tokens"
        if not given:
            tell(f"give one of {names}: it says how long to train", "training")
        if len(given) > 1:
            tell(f"give only one of {names}, not {' and '.join(given)}", *reversed(given))

    ratio, warmup, most = (known.get(name) for name in (*WARMUPS, "training.max_steps"))
    if ratio is not None and warmup is not None:
        tell("give only one of training.warmup_ratio and training.warmup_steps", *reversed(WARMUPS))
    if warmup is not None and most is not None and warmup > most:
        message = f"{warmup} steps of warm-up are more than training.max_steps ({most})"
        tell(message, "training.warmup_steps", "training.max_steps")

    peak, floor = known.get("training.learning_rate"), known.get("training.min_learning_rate")
    if peak is not None and floor is not None and floor > peak:
        message = f"{floor} is more than training.learning_rate ({peak}), which it decays from"
        tell(message, "training.min_learning_rate", "training.learning_rate")

    length, limit = known.get("data.max_length"), known.get("model.max_seq_len")
    if length is not None and limit is not None and length > limit:
        message = f"{length} tokens are more than the model takes. Lower it, or raise model.max_seq_len ({limit})"
        tell(message, "data.max_length", "model.max_seq_len")

    for setting in ("loggers", "wrappers"):
        choices = known.get(setting, ())
        for index, choice in enumerate(choices):
            if choice in choices[:index]:
                tell(f"'{choice.name}' is given twice with the same options", f"{setting}.{index}")

    for name, (reason, cause) in without_effect(known).items():
        key = tuple(name.split("."))
        if key in document.places and document.makes_moot(tuple(cause.split(".")), key):
            document.moot[key] = f"has no effect {reason}"
        elif key in document.places:
            tell(f"has no effect {reason}. Leave it out", name)


def without_effect(known: Known) -> dict[str, tuple[str, str]]:
    """Return {setting: (reason, the setting that is the cause)} for the settings that have no effect."""
    unused: dict[str, tuple[str, str]] = {}
    constant = known.get("training.lr_decay.name") in ("constant", "tfs-core/constant")
    if constant and known.get("training.min_learning_rate") is not None:
        unused["training.min_learning_rate"] = ("with a constant learning rate", "training.lr_decay")
    if known.get("training.eval_every", 0) is None and known.get("training.early_stopping") is not None:
        reason = "without training.eval_every: the only validation is at the end"
        unused["training.early_stopping"] = (reason, "training.eval_every")
    if known.get("data.document_masks") and known.get("data.batching.name") in ("padded", "tfs-core/padded"):
        unused["data.document_masks"] = ("with batching: padded, whose rows have one document each", "data.batching")
    if known.get("samples.temperature") == 0:
        reason = "at temperature 0, which always takes the likeliest token"
        unused |= {f"samples.{name}": (reason, "samples.temperature") for name in ("top_k", "top_p", "seed")}
    if not known.get("samples.prompts", True):
        names = ("max_length", "temperature", "top_k", "top_p", "seed")
        unused |= {f"samples.{name}": ("without samples.prompts", "samples.prompts") for name in names}
    return unused


def folder_name_problem(name: str) -> str | None:
    """Return why `name` is not a valid folder name on Linux, macOS, Windows and in shells; None when it is valid."""
    if not name:
        return "a folder's name cannot be empty"
    if not name.isprintable():
        return "a folder's name cannot hold an invisible character"
    if bad := re.search(r'[/\\:*?"<>|]', name):
        return f"a folder's name cannot hold '{bad[0]}'"
    if name[0] in ".-~ ":
        return f"a folder's name cannot begin with '{name[0]}'"
    if name[-1] in ". ":
        return f"a folder's name cannot end with '{name[-1]}'"
    if name == "auto":
        return "--resume auto has another meaning"
    if RESERVED.fullmatch(name):
        return f"'{name}' is a name that Windows reserves"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a folder's name can have {MAX_NAME_BYTES} bytes, and this has {len(name.encode())}"
    return None
