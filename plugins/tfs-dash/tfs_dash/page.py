"""A page of the dashboard: what it must be, and the pages that are installed. Imports no Dash."""

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
"""The distribution whose pages come first."""

Component = Any
"""What Dash takes as a child: a component, a text, or a list of them."""

MakePart = Callable[["Sequence[RunData]", "View", "RunStore"], Component]


class Page:
    """A page; inherit, and override what you need. One object serves all browsers, from several threads.

    The name of its component is its address and its title: `longest-runs` is `/longest-runs`, "Longest runs".
    """

    charts: Mapping[str, Draw] = {}
    """`draw(runs, view, window)` for each `chart(name, ...)` of the layout: a Plotly figure as plain values. `window`
    is the zoomed part of the x axis, None for all of it."""

    parts: Mapping[str, MakePart] = {}
    """`make(runs, view, store)` for each `part(name)` of the layout: a component. Charts and parts are made again
    when a shown run grows and when the address changes."""

    follows_runs: bool = False
    """Whether the layout differs with the chosen runs, so that it is made again for others."""

    def __init__(self, options: None = None) -> None:
        """Build the page, once when the dashboard starts."""

    def layout(self, view: View, store: RunStore) -> Component:
        """Return the page without its charts and parts: a heading, controls, `chart(name, ...)` and `part(name)`.

        `view` is what the address says; `chosen_runs(view, store)` returns the runs that it shows.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class InstalledPage:
    """A page and its place in the dashboard."""

    path: str
    title: str
    page: Page
    prefix: str
    """What the names of its charts and parts begin with in the browser: two pages may use the same name."""

    charts: Mapping[str, Draw]
    parts: Mapping[str, MakePart]
    follows_runs: bool


class _FailedPage(Page):
    """A page in the place of one that cannot be built: being shown, it raises why."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def layout(self, view: View, store: RunStore) -> Component:  # noqa: ARG002
        raise self._error


def installed_pages() -> list[InstalledPage]:
    """Return the pages of all distributions, our own first; in the place of one that cannot be built, its error."""
    pages: list[InstalledPage] = []
    for entry in sorted(get_registry().entries("page"), key=lambda entry: entry.distribution != OWN):
        pages.append(_install(entry, {page.path for page in pages}))
    return pages


def has_foreign_pages() -> bool:
    """Return whether another distribution brings a page, which may need any component and any script."""
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
    """Write on the log what failed; with TFS_DEBUG=1 also where."""
    import logging
    import os

    logging.getLogger("tfs_dash").warning("%s: %s", what, describe(error), exc_info=bool(os.environ.get("TFS_DEBUG")))
