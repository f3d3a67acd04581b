"""Whether the runs are well: learning rate, gradient norm, speed, and what happened on the way."""

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

MOST_EVENTS = 60
QUIET_KINDS = {"checkpoint"}


def alarms(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return what calls for a look: steps that were not finite, runs that crashed or failed."""
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
                f"{run.name} says it is running, but has been silent for a minute and nobody works on it: it "
                "crashed. tfs run --resume goes on from its last checkpoint."
            )
        if run.status == "failed":
            said.append(f"{run.name} failed; what happened is below.")
    if not said:
        return html.P("No alarms: every step was finite, no run crashed.", className="note")
    return html.Div([html.P(sentence) for sentence in said], className="alarm panel", role="alert")


def events(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return what happened to the runs, the latest first; checkpoints are left out, there are many."""
    del view, store
    found = [
        (str(line.get("at")), run.name, line)
        for run in runs
        for line in run.read_lines("events")
        if str(line.get("kind")) not in QUIET_KINDS
    ]
    found.sort(key=lambda entry: entry[0], reverse=True)
    lines = [
        [name, at[:19].replace("T", " "), str(line.get("step")), str(line.get("kind")), _details(line)]
        for at, name, line in found[:MOST_EVENTS]
    ]
    if not lines:
        return None
    return html.Section(
        [html.H2("Events"), table(["run", "at (UTC)", "step", "what", "details"], lines, caption="what happened")],
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
                            "Training alone: validation and saving are not counted.",
                            height=320,
                        ),
                    ],
                    className="two",
                ),
                part("events"),
            ]
        )
