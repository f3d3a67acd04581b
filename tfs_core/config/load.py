"""Load a RunConfig from a file or mapping and the command line; one error lists all problems."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfs_core.config.document import Document, Invalid, Key, Place, dotted, read_text, read_yaml, show
from tfs_core.config.relations import ALTERNATIVES, check_relations
from tfs_core.config.resolved import flat, plain
from tfs_core.config.schema import RunConfig
from tfs_core.config.validation import Validator
from tfs_core.errors import ConfigError
from tfs_core.terminal import escape_control_characters

_log = logging.getLogger(__name__)


def load_config(
    path: Path, *, overrides: Sequence[str] = (), model: str | None = None, owners: Mapping[str, str] | None = None
) -> RunConfig:
    """Return the configuration in a YAML file, changed by `--set` ("a.b=c") and `--model`.

    `owners` are the distributions of components that a run has recorded, {"<kind> <name>": distribution}: a name that
    several distributions have means the component of the recorded one.

    Paths in the file are relative to its folder, paths from `--set` to the current directory. Imports the classes of
    the components' options, but not the components. Raises ConfigError that lists all problems.
    """
    document = read_yaml(Path(path))
    document.owners = owners or {}
    return _checked(document, overrides, model)


def config_from_yaml(text: str) -> RunConfig:
    """Return the configuration that `to_yaml` wrote. Raises ConfigError that lists all problems."""
    return _checked(read_text(text, Place(source="config.yaml", base=Path.cwd())), (), None)


def config_from_mapping(
    values: Mapping[str, Any],
    *,
    source: str = "configuration",
    base: Path | None = None,
    overrides: Sequence[str] = (),
    model: str | None = None,
) -> RunConfig:
    """Return the configuration in a mapping, changed and checked like one in a file.

    `source` is its name in errors. Paths are relative to `base`, by default the current directory. Raises ConfigError
    that lists all problems.
    """
    document = Document(plain(values), {(): Place(source=source, base=Path(base or "").absolute())})
    _note_places(document, document.values, ())
    return _checked(document, overrides, model)


def _note_places(document: Document, value: Any, key: Key) -> None:
    """Add a place for every key of a mapping, in the order of the mapping."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        document.places[*key, name] = replace(document.places[()], order=(0, len(document.places)))
        _note_places(document, item, (*key, name))


def _checked(document: Document, overrides: Sequence[str], model: str | None) -> RunConfig:
    apply_overrides(document, overrides, model)
    validator = Validator(document)
    with suppress(Invalid):
        config: RunConfig = validator.section(RunConfig, document.values, ())
    check_relations(validator.known, document)
    document.raise_problems()
    if not document.moot:
        return config
    for key, reason in document.moot.items():  # a note, not an error: the user's file is right without the command line
        _log.warning("%s", escape_control_characters(f"{document.place(key)}: {dotted(key)} {reason}. It is ignored."))
        holder = document.values
        for part in key[:-1]:
            holder = holder[part]
        del holder[key[-1]]
        document.forget(key)
    document.moot = {}
    return _checked(document, (), None)


def check_together(config: RunConfig, *, source: str = "configuration") -> None:
    """Raise ConfigError when settings of a complete configuration contradict each other.

    Used for a local model, whose options are known only after its file is imported.
    """
    document = Document(None, {(): Place(source=source, base=Path.cwd())})
    check_relations(flat(plain(config)), document)
    document.raise_problems()


def apply_overrides(document: Document, overrides: Sequence[str], model: str | None = None) -> None:
    """Apply `--model`, then each `--set`, to the document. Raises ConfigError for an override that cannot be applied.

    A value is parsed as YAML and replaces the value at its key. So `--set data.dataset=text` replaces the data set and
    drops its options, `--set data.dataset.path=my.txt` sets one option of the data set, and `--model NAME`, the same
    as `--set model.name=NAME`, keeps the model's options. Of mutually exclusive settings (`num_epochs`, `max_steps`,
    `max_tokens`), the one on the command line replaces the one in the file.
    """
    applied: list[str] = []
    given = [("--set", override) for override in overrides]
    if model is not None:
        given.insert(0, ("--model", f"model.name={model}"))
    for index, (source, override) in enumerate(given):
        place = Place(source=source, base=Path.cwd(), order=(1, index))
        name, equals, text = override.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"{place}: expected key=value, such as training.batch_size=64, not {override!r}")
        holder, key = _open(document, parts, place)
        name = dotted(key)
        for earlier in applied:
            if earlier.startswith(f"{name}."):
                raise ConfigError(f"{place}: {name} would undo {earlier}: put {name} first")
        try:
            value = read_text(text, place, key) if source == "--set" else Document(text, {key: place})
        except ConfigError as error:
            raise ConfigError(f"{error}. Text needs quotes: --set " + shlex.quote(f'{name}="{text}"')) from None
        if value.values is not None:
            for other in {other for group in ALTERNATIVES if name in group for other in group} - {name, *applied}:
                section, setting = other.split(".")
                document.values[section].pop(setting, None)
                document.forget((section, setting))
        holder[key[-1]] = value.values
        document.forget(key)
        document.places |= value.places
        document.problems += value.problems
        applied.append(name)


def _open(document: Document, parts: Sequence[str], place: Place) -> tuple[Any, Key]:
    """Return the section or list that contains a key, and the key. Adds missing sections; `x` becomes `{name: x}`."""
    holder: Any = document.values
    key: Key = ()
    for depth, part in enumerate(parts, 1):
        name: Any = part
        if isinstance(holder, list):
            if part not in map(str, range(len(holder))):
                last = len(holder) - 1
                raise ConfigError(f"{place}: {dotted((*key, part))}: {dotted(key)} has the items 0 to {last}")
            name = int(part)
        key = (*key, name)
        if depth == len(parts):
            break
        inner = holder[name] if isinstance(holder, list) else holder.get(name)
        if inner is None:
            inner = plain(RunConfig.loggers) if key == ("loggers",) else {}
        elif isinstance(inner, str):
            inner = {"name": inner}
            document.places[*key, "name"], document.places[key] = document.place(key), place
        elif not isinstance(inner, dict | list):
            raise ConfigError(f"{place}: {dotted(key)} is {show(inner)}, with no settings of its own")
        document.places.setdefault(key, place)
        holder[name] = inner
        holder = inner
    return holder, key
