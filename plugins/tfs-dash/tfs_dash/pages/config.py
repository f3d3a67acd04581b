"""The page Config: the settings of the runs, those that differ first."""

from collections.abc import Mapping, Sequence

from dash import html

from tfs_core.terminal import counted
from tfs_dash.configurations import compare
from tfs_dash.page import MakePart, Page
from tfs_dash.parts import Component, choice, controls, empty, nothing_chosen, part, table
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import View


def settings(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return the table of settings, one column per run."""
    if not runs:
        return nothing_chosen(store)
    rows = compare(runs)
    different = [row for row in rows if row.differs]
    shown = different if view.rows == "different" and len(runs) > 1 else rows
    if not shown:
        return empty("These runs have the same configuration", "Choose 'all settings' above to read it.")
    lines = [
        [row.name, *[html.Td(value, className="differs" if row.differs else "") for value in row.values]]
        for row in shown
    ]
    caption = counted(len(rows), "setting")
    if len(runs) > 1:
        caption = f"{len(different)} of {caption} differ"
    return html.Section(table(["setting", *[run.name for run in runs]], lines, caption=caption), className="panel")


class ConfigPage(Page):
    """The page Config."""

    parts: Mapping[str, MakePart] = {"settings": settings}

    def layout(self, view: View, store: RunStore) -> Component:  # noqa: ARG002
        words = {"different": "only differences", "all": "all settings"}
        return html.Div([html.H1("Config"), controls(choice("rows", "rows", view.rows, words)), part("settings")])
