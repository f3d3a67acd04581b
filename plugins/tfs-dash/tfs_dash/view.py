"""The View: chosen runs and display settings, serialized as the query string of the address.

`?runs=wide,narrow&x=flops&log=xy` is a View; settings with their default value are left out. A comma in a run's name is
written `%2C` before the whole is URL-quoted. Addresses are untrusted input: invalid values are ignored, and no value is
joined to a path.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from urllib.parse import parse_qsl, quote

from tfs_dash.store import RunData, RunStore

MAX_RUNS = 64
"""Maximum number of runs on a page: more lines could not be told apart. Further runs are ignored."""

NEWEST = 6
"""Number of newest runs that are shown when none is chosen."""

COLORS = 10
"""Number of runs that are distinguished by color alone."""

CHOICES: dict[str, tuple[str, ...]] = {
    "x": ("steps", "tokens", "seconds", "flops"),
    "y": ("loss", "bits_per_byte", "perplexity"),
    "show": ("both", "training", "validation"),
    "log": ("", "x", "y", "xy"),
    "seeds": ("apart", "mean"),
    "second": ("none", "perplexity"),
    "rows": ("different", "all"),
    "axes": ("x", "xy", "none"),
    "group": ("none", "group", "tag", "model", "experiment", "status"),
}
"""Allowed values of the fields with a fixed set of values; the first is the default."""


MAX_VALUES = {"smooth": 0.999, "budget": 60.0}
"""Upper limits of numeric fields: a smoothing weight of 1 would never update, and a `budget` is log10 of FLOPs."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The chosen runs and the display settings. Fields named in CHOICES have one of its values; other text is free.

    `target` is in nats per token.
    """

    runs: tuple[str, ...] = ()
    x: str = "steps"
    y: str = "loss"
    show: str = "both"
    smooth: float = 0.9  # weight of the past per step; 0: no smoothing
    log: str = ""
    seeds: str = "apart"
    second: str = "none"  # second axis
    axes: str = "x"  # the logarithmic axes of loss against compute
    budget: float = 0.0  # compute at which runs are compared, log10 of FLOPs; 0: automatic, see compute.fullest_budget
    target: float = 0.0  # the loss to reach; 0: the lowest that all runs reached
    prompt: str = ""
    step: int = 0  # step of the samples; 0: the last
    rows: str = "different"  # rows of the page Config
    group: str = "none"
    search: str = ""


DEFAULT = View()


def parse_view(query: object) -> View:
    """Parse a query string into a View. Unknown names and invalid values are ignored; nothing is raised.

    `query` comes from the browser, so it may be any JSON value; one that is not a string counts as empty.
    """
    found: dict[str, object] = {}
    kinds = {field.name: field.type for field in fields(View)}
    text = query.encode("utf-8", "replace").decode() if isinstance(query, str) else ""  # replaces lone surrogates
    try:
        given = parse_qsl(text.lstrip("?"), max_num_fields=64, keep_blank_values=True)
    except ValueError:  # too many fields
        given = []
    for name, text in given:
        if name == "runs":
            found[name] = tuple(dict.fromkeys(_with_commas(run) for run in text.split(",") if run))[:MAX_RUNS]
        elif name in CHOICES:
            if text in CHOICES[name]:
                found[name] = text
        elif kinds.get(name) in (float, int):
            number = _number(text)
            if number is not None:
                found[name] = min(kinds[name](number), MAX_VALUES.get(name, number))  # type: ignore[operator]
        elif name in kinds:
            found[name] = text[:500]
    return View(**found)  # type: ignore[arg-type]


def _with_commas(run: str) -> str:
    return run.replace("%2C", ",").replace("%25", "%")


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number < 1e40 else None


def to_query(view: View) -> str:
    """Return the query string of a view, `?...`, or an empty string for the default view."""
    parts = []
    for field in fields(View):
        value = getattr(view, field.name)
        if value != getattr(DEFAULT, field.name):
            if isinstance(value, tuple):
                text = ",".join(run.replace("%", "%25").replace(",", "%2C") for run in value)
            else:
                text = f"{value:g}" if field.type is float else str(value)
            parts.append(f"{field.name}={quote(text, safe=',')}")
    return "?" + "&".join(parts) if parts else ""


def chosen_runs(view: View, store: RunStore) -> tuple[list[RunData], list[str]]:
    """Return the runs of a view in the order of their start, and the chosen names that do not exist.

    If no run is chosen, the most recent NEWEST runs are returned, so that a new run appears automatically.
    """
    if not view.runs:
        return with_distinct_colors(store.runs()[-NEWEST:]), []
    found = {name: store.find(name) for name in view.runs}
    runs = sorted((run for run in found.values() if run is not None), key=lambda run: run.position)
    return with_distinct_colors(runs), [name for name, run in found.items() if run is None]


def with_distinct_colors(runs: Sequence[RunData]) -> list[RunData]:
    """Return the runs with distinct colors: if two collide, the later gets a free one. Above COLORS runs, unchanged."""
    if len(runs) > COLORS:
        return list(runs)
    free, result = set(range(COLORS)), []
    for run in runs:
        color = next(at for step in range(COLORS) if (at := (run.position + step) % COLORS) in free)
        free.remove(color)
        result.append(run if color == run.position % COLORS and run.position < COLORS else replace(run, position=color))
    return result


def labels(runs: Sequence[RunData]) -> dict[str, str]:
    """Return a legend label for each run: its name, shortened if over 32 characters and if all labels stay unique."""
    short = {run.name: run.name if len(run.name) <= 32 else f"{run.name[:20]}…{run.name[-10:]}" for run in runs}
    return short if len(set(short.values())) == len(short) else {run.name: run.name for run in runs}
