"""What is looked at, and how: the part of the address after the question mark, short enough to read and to share.

`?runs=wide,narrow&x=flops&log=xy` is a View; what is at its default is left out. A comma in a run's own name is `%2C`
before the whole is quoted. Whatever stands in an address is taken as a wish: what makes no sense is dropped, and
nothing of it becomes part of a path.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from urllib.parse import parse_qsl, quote

from tfs_dash.store import RunData, RunStore

MAX_RUNS = 64
"""The most runs on a page; more is refused, since nobody could tell the lines apart."""

NEWEST = 6
"""How many runs are shown while none is chosen."""

COLORS = 10
"""How many lines are told apart by color alone."""

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
"""The words that a part of an address may have; the first is the default."""


LARGEST = {"smooth": 0.999, "budget": 60.0}
"""What a number may be at most: smoothing that never forgets shows nothing, and 10**60 FLOPs is more than any run."""


@dataclass(frozen=True, kw_only=True)
class View:
    """One set of runs looked at in one way. Text fields are free; those of CHOICES have one of its words."""

    runs: tuple[str, ...] = ()
    x: str = "steps"
    y: str = "loss"
    show: str = "both"
    smooth: float = 0.9  # what the past keeps at each step; 0: as logged
    log: str = ""
    seeds: str = "apart"
    second: str = "none"  # second axis
    axes: str = "x"  # those of loss against compute that are logarithmic
    budget: float = (
        0.0  # where runs are compared: log10 of FLOPs; 0: the most that all have spent, or as many as can be
    )
    target: float = 0.0  # the loss to reach; 0: the best that all reached
    prompt: str = ""
    step: int = 0  # the samples' step; 0: the last
    rows: str = "different"  # of the configuration
    group: str = "none"
    search: str = ""


DEFAULT = View()


def parse_view(query: object) -> View:
    """Return the view that an address asks for; what it says wrongly is as if it did not say it.

    `query` is what the browser says it is: a text, or anything at all.
    """
    found: dict[str, object] = {}
    kinds = {field.name: field.type for field in fields(View)}
    text = query.encode("utf-8", "replace").decode() if isinstance(query, str) else ""  # no half characters
    try:
        given = parse_qsl(text.lstrip("?"), max_num_fields=64, keep_blank_values=True)
    except ValueError:  # more fields than there are
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
                found[name] = min(kinds[name](number), LARGEST.get(name, number))  # type: ignore[operator]
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
    """Return the address's part for a view, `?...`, or nothing for the default one."""
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
    """Return the runs of a view, those started first first, and the names that no run has.

    While none is chosen these are the newest, so that a run that begins appears by itself.
    """
    if not view.runs:
        return told_apart(store.runs()[-NEWEST:]), []
    found = {name: store.find(name) for name in view.runs}
    runs = sorted((run for run in found.values() if run is not None), key=lambda run: run.position)
    return told_apart(runs), [name for name, run in found.items() if run is None]


def told_apart(runs: Sequence[RunData]) -> list[RunData]:
    """Return up to ten runs so that no two have the same color: who started later gives way. More stay as they are."""
    if len(runs) > COLORS:
        return list(runs)
    free, result = set(range(COLORS)), []
    for run in runs:
        color = next(at for step in range(COLORS) if (at := (run.position + step) % COLORS) in free)
        free.remove(color)
        result.append(run if color == run.position % COLORS and run.position < COLORS else replace(run, position=color))
    return result


def labels(runs: Sequence[RunData]) -> dict[str, str]:
    """Return for each run a name short enough for a legend, and still its own."""
    short = {run.name: run.name if len(run.name) <= 32 else f"{run.name[:20]}…{run.name[-10:]}" for run in runs}
    return short if len(set(short.values())) == len(short) else {run.name: run.name for run in runs}
