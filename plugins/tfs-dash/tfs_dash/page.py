"""The page protocol, and the registry of installed pages. Imports no Dash."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfs_core.plugins import describe
from tfs_core.registry import Entry, get_registry

if TYPE_CHECKING:
    from tfs_dash.figures.kept import Draw
    from tfs_dash.store import RunData, RunStore
    from tfs_dash.view import View

OWN = "tfs-dash"
"""This distribution: its pages come first in the navigation."""

Component = Any
"""A child in Dash's terms: a component, a string, or a list of these."""

MakePart = Callable[["Sequence[RunData]", "View", "RunStore"], Component]


class Page:
    """Base class of a page. One instance serves all browsers, so its methods must be thread-safe.

    The component's name gives the address and the title: `longest-runs` is `/longest-runs`, "Longest runs".
    """

    charts: Mapping[str, Draw] = {}
    """For each `chart(name, ...)` of the layout, a function `draw(runs, view, window)` that returns a Plotly figure as
    plain values. `window` is the zoomed range of the x axis, or None for the whole axis."""

    parts: Mapping[str, MakePart] = {}
    """For each `part(name)` of the layout, a function `make(runs, view, store)` that returns a component. Charts and
    parts are updated when a shown run grows and when the address changes."""

    follows_runs: bool = False
    """True if the layout depends on the chosen runs; the layout is then rebuilt when they change."""

    def __init__(self, options: None = None) -> None:
        """Initialize the page, once when the dashboard starts."""

    def layout(self, view: View, store: RunStore) -> Component:
        """Return the page's layout: a heading, controls, and the placeholders `chart(name, ...)` and `part(name)`.

        `view` is the parsed address; `chosen_runs(view, store)` returns the runs to show.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class InstalledPage:
    """A page with its path, title and functions by qualified name."""

    path: str
    title: str
    page: Page
    prefix: str
    """Prefix of the page's chart and part names in the browser, so that two pages may use the same name."""

    charts: Mapping[str, Draw]
    parts: Mapping[str, MakePart]
    follows_runs: bool


class _FailedPage(Page):
    """Stand-in for a page that cannot be built: its layout raises the original error."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def layout(self, view: View, store: RunStore) -> Component:  # noqa: ARG002
        raise self._error


def installed_pages() -> list[InstalledPage]:
    """Return the pages of all distributions, our own first. A page that cannot be built is replaced by its error."""
    pages: list[InstalledPage] = []
    for entry in sorted(get_registry().entries("page"), key=lambda entry: entry.distribution != OWN):
        pages.append(_install(entry, {page.path for page in pages}))
    return pages


def has_foreign_pages() -> bool:
    """Return True if another distribution has a page; such a page may need any component and any script."""
    return any(entry.distribution != OWN for entry in get_registry().entries("page"))


def _install(entry: Entry, taken: Collection[str]) -> InstalledPage:
    name, is_own = entry.component.name, entry.distribution == OWN
    path, title = f"/{name}", name.replace("-", " ").replace("_", " ").capitalize()
    if is_own and name == "runs":
        path = "/"
    if path in taken:
        path, title = f"/{entry.qualified_name}", f"{title} ({entry.distribution})"
    prefix = "" if is_own else f"{entry.qualified_name}/"
    try:
        page: Page = entry.build(None)
        charts = {f"{prefix}{chart}": draw for chart, draw in page.charts.items()}
        parts = {f"{prefix}{part}": make for part, make in page.parts.items()}
        return InstalledPage(path, title, page, prefix, charts, parts, bool(page.follows_runs))
    except (Exception, SystemExit) as error:
        log_failure(f"{entry} cannot be built", error)
        return InstalledPage(path, title, _FailedPage(error), prefix, {}, {}, False)


def log_failure(what: str, error: BaseException) -> None:
    """Log a failure as a warning, with its traceback if TFS_DEBUG is set."""
    import logging
    import os

    logging.getLogger("tfs_dash").warning("%s: %s", what, describe(error), exc_info=bool(os.environ.get("TFS_DEBUG")))
