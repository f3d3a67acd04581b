"""The page Health: gradient norm, learning rate, throughput, alarms and events."""

from collections.abc import Mapping, Sequence
from typing import Any

from dash import html

from tfs_dash.figures.health import HEALTH_FIGURES, nonfinite_at
from tfs_dash.figures.kept import Draw
from tfs_dash.page import MakePart, Page
from tfs_dash.parts import Component, chart, choice, controls, log_axes, nothing_chosen, part, smoothing, table
from tfs_dash.redact import public_text
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import View

MAX_EVENTS = 60
HIDDEN_KINDS = {"checkpoint"}


def alarms(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return the alarms: non-finite steps, and runs that crashed or failed."""
    del view
    if not runs:
        return nothing_chosen(store)
    said = []
    for run in runs:
        steps = nonfinite_at(run, "step")
        if len(steps):
            said.append(f"{run.name}: the loss or the gradient was not finite at step {int(steps[0]):,}.")
        if run.status == "crashed":
            said.append(
                f"{run.name} crashed: its status is running, but it has been silent for a minute and no process "
                "holds its lock. tfs run --resume continues from its last checkpoint."
            )
        if run.status == "failed":
            said.append(f"{run.name} failed; see the events below.")
    if not said:
        return html.P("No alarms: every step was finite, no run crashed.", className="note")
    return html.Div([html.P(sentence) for sentence in said], className="alarm panel", role="alert")


def events(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return the table of events, the latest first, at most MAX_EVENTS; checkpoint events are left out."""
    del view, store
    found = [
        (str(line.get("at")), run.name, line)
        for run in runs
        for line in run.read_lines("events")
        if str(line.get("kind")) not in HIDDEN_KINDS
    ]
    found.sort(key=lambda entry: entry[0], reverse=True)
    lines = [
        [name, at[:19].replace("T", " "), str(line.get("step")), str(line.get("kind")), _details(line)]
        for at, name, line in found[:MAX_EVENTS]
    ]
    if not lines:
        return None
    return html.Section(
        [html.H2("Events"), table(["run", "at (UTC)", "step", "event", "details"], lines, caption="events")],
        className="panel",
    )


def _details(line: dict[str, Any]) -> str:
    details = line.get("details")
    if not isinstance(details, dict):
        return ""
    known = {name: value for name, value in details.items() if value not in ({}, [], None)}
    written = (
        f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in known.items()
    )
    return public_text(", ".join(written))


class HealthPage(Page):
    """The page Health."""

    charts: Mapping[str, Draw] = HEALTH_FIGURES
    parts: Mapping[str, MakePart] = {"alarms": alarms, "events": events}

    def layout(self, view: View, store: RunStore) -> Component:  # noqa: ARG002
        return html.Div(
            [
                html.H1("Health"),
                part("alarms"),
                controls(
                    choice(
                        "x",
                        "x axis",
                        view.x,
                        {"steps": "steps", "tokens": "tokens", "seconds": "time", "flops": "FLOPs"},
                    ),
                    log_axes(view.log),
                    smoothing(view.smooth),
                ),
                chart(
                    "grad_norm",
                    "Gradient norm",
                    "Before clipping. A cross marks a step that was not finite.",
                    height=340,
                ),
                html.Div(
                    [
                        chart("learning_rate", "Learning rate", height=320),
                        chart(
                            "tokens_per_second",
                            "Throughput",
                            "Training only: time for validation and saving is not counted.",
                            height=320,
                        ),
                    ],
                    className="two",
                ),
                part("events"),
            ]
        )
