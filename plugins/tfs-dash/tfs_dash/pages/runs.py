"""The page Runs: search, sort and group all runs, and choose the ones to compare."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dash_ag_grid as dag
import dash_mantine_components as dmc
import numpy as np
from dash import dcc, html

from tfs_dash import units
from tfs_dash.page import MakePart, Page
from tfs_dash.parts import Component, best, choice, controls, nothing_chosen, part, table
from tfs_dash.redact import public_text
from tfs_dash.store import RunData, RunStore
from tfs_dash.summaries import grid_rows
from tfs_dash.view import MAX_RUNS, NEWEST, View, to_query


def _number(field: str, title: str, kind: str, **more: Any) -> dict[str, Any]:  # AG Grid's options
    formatter = {"function": f"tfs{kind}(params.value)"}
    return {"field": field, "headerName": title, "type": "rightAligned",
            "valueFormatter": formatter, **more}  # fmt: skip


COLUMNS: list[dict[str, Any]] = [
    {"field": "name", "headerName": "run", "minWidth": 200, "flex": 1, "pinned": "left"},
    {"field": "status", "headerName": "status", "width": 120, "cellClassRules": {
        status: f"params.value == '{status}'" for status in ("running", "finished", "stopped", "crashed", "failed")}},
    _number("best_loss", "best loss", "Loss", width=115,
            headerTooltip="lowest validation loss, nats per token"),
    _number("last_loss", "last loss", "Loss", width=115, headerTooltip="of the last validation"),
    _number("training_loss", "training loss", "Loss", width=130, headerTooltip="of the last step, as logged"),
    _number("progress", "done", "Percent", width=90),
    _number("step", "step", "Count", width=95),
    _number("tokens", "tokens", "Short", width=105),
    _number("flops", "FLOPs", "Short", width=105),
    _number("parameters", "parameters", "Short", width=120),
    {"field": "model", "headerName": "model", "width": 110},
    {"field": "experiment", "headerName": "experiment", "hide": True},
    {"field": "group", "headerName": "group", "width": 130},
    {"field": "tags", "headerName": "tags", "width": 140},
    _number("seed", "seed", "Plain", width=85),
    {"field": "started", "headerName": "started (UTC)", "width": 160},
]  # fmt: skip


_FIELDS = {"tag": "tags"}
"""Grouping -> field of the table rows, if the two names differ."""

MAX_AUTO_HEIGHT_ROWS = 12
"""Up to this many rows the table grows with its content; with more it has a fixed height and scrolls."""


def rows(store: RunStore) -> list[dict[str, Any]]:
    """Return the table's rows."""
    found = grid_rows(store.runs())
    return [
        {key: public_text(value) if isinstance(value, str) and key != "name" else value for key, value in row.items()}
        for row in found
    ]


def no_runs(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return advice when there is no run at all, else None."""
    del runs, view
    return None if store.runs() else nothing_chosen(store)


def groups(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return the table of groups, the best mean first: number of runs, mean and deviation of their best losses.

    A run with several tags is in one group per tag.
    """
    del runs
    if view.group == "none":
        return None
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(store):
        for name in _groups_of(row, view.group):
            found.setdefault(name, []).append(row)
    measured = [_Group(name, members) for name, members in found.items()]
    measured.sort(key=lambda group: (group.mean is None, group.mean or 0.0, _natural(group.name)))
    lines = [
        [
            group.name,
            str(len(group.members)),
            _marked(group.text, lowest=position == 0 < len(group.losses) and len(measured) > 1),
            units.loss(min(group.losses, default=None)),
            group.best,
            dcc.Link("compare them", href=f"/compare{group.query()}"),
        ]
        for position, group in enumerate(measured)
    ]
    head = [view.group, "runs", "best loss, mean ± deviation", "lowest", "by", ""]
    return html.Section(
        table(head, lines, caption=f"runs by {view.group}; ★ marks the best"), className="panel numbers"
    )


class _Group:
    """The runs of a group, and the best losses of those that were validated."""

    def __init__(self, name: str, members: list[dict[str, Any]]) -> None:
        self.name, self.members = name, members
        validated = [row for row in members if row["best_loss"] is not None]
        self.losses = [row["best_loss"] for row in validated]
        self.mean = float(np.mean(self.losses)) if self.losses else None
        self.best = min(validated, key=lambda row: row["best_loss"])["name"] if validated else "–"

    @property
    def text(self) -> str:
        spread = f" ± {np.std(self.losses, ddof=1):.4f}" if len(self.losses) > 1 else ""
        return f"{units.loss(self.mean)}{spread}"

    def query(self) -> str:
        """Return the query string that shows these runs, with seeds drawn as mean and band."""
        return to_query(View(runs=tuple(row["name"] for row in self.members[:MAX_RUNS]), seeds="mean"))


def _groups_of(row: dict[str, Any], group: str) -> list[str]:
    value = row.get(_FIELDS.get(group, group))
    if not value:
        return ["(none)"]
    return value.split(", ") if group == "tag" else [str(value)]


def _marked(text: str, *, lowest: bool) -> Component:
    return best(text) if lowest else text


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a natural sort key: run-9 before run-10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d{1,18})", name)]


class RunsPage(Page):
    """The page Runs."""

    parts: Mapping[str, MakePart] = {"no-runs": no_runs, "groups": groups}

    def layout(self, view: View, store: RunStore) -> Component:
        columns = [dict(column) for column in COLUMNS]
        if view.group != "none":
            grouped_by = _FIELDS.get(view.group, view.group)
            for column in columns:  # group first; a clicked column sorts within the group
                if column["field"] == grouped_by:
                    column |= {"sort": "asc", "sortIndex": 0, "hide": False}
            columns.sort(key=lambda column: column["field"] not in ("name", grouped_by))
        found = rows(store)
        few = len(found) <= MAX_AUTO_HEIGHT_ROWS
        grid = dag.AgGrid(
            id={"type": "grid", "name": "runs"},
            rowData=found,
            columnDefs=columns,
            getRowId="params.data.name",
            selectedRows={"ids": list(view.runs)},
            defaultColDef={"sortable": True, "resizable": True, "comparator": {"function": "tfsCompare"}},
            dashGridOptions={
                "rowSelection": {"mode": "multiRow", "enableClickSelection": False, "selectAll": "filtered"},
                "selectionColumnDef": {"pinned": "left"},
                "quickFilterText": view.search,
                "animateRows": False,
                "alwaysMultiSort": view.group != "none",
                "domLayout": "autoHeight" if few else "normal",
                "tooltipShowDelay": 300,
                "enableCellTextSelection": True,
            },
            style={"height": None} if few else {"height": "calc(100vh - 260px)", "minHeight": "320px"},
            className="grid",
        )
        search = dmc.TextInput(
            id={"type": "control", "name": "search"}, value=view.search,
            placeholder="search name, tag, model, status …", size="xs", w=300, debounce=200,
            **{"aria-label": "search runs"},
        )  # fmt: skip
        return html.Div(
            [
                html.H1("Runs"),
                part("no-runs"),
                controls(
                    html.Div([html.Span("search", className="control-title"), search], className="control"),
                    choice("group", "group by", view.group),
                ),
                html.P(
                    ["Tick runs to compare them on the other pages. With none ticked, those pages show the newest ",
                     f"{NEWEST}. Space ticks the focused row."],
                    className="note",
                ),
                part("groups"),
                grid,
            ]
        )  # fmt: skip
