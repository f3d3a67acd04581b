"""The page Compute: loss at equal compute, crossovers, cost to reach a loss, and gain per doubling of compute."""

import math
from collections.abc import Mapping, Sequence

from dash import html

from tfs_dash import compute, units
from tfs_dash.conclusions import conclusions
from tfs_dash.curves import compute_curve
from tfs_dash.figures.compute import chosen_budget, efficiency_figure, equal_compute_figure, flops_figure
from tfs_dash.figures.kept import Draw
from tfs_dash.page import MakePart, Page
from tfs_dash.parts import Component, best, chart, choice, controls, empty, nothing_chosen, part, slider, table
from tfs_dash.store import RunData, RunStore
from tfs_dash.summaries import common_target
from tfs_dash.view import View, chosen_runs


def _budget_slider(runs: Sequence[RunData], view: View) -> Component:
    """Return the budget slider, log10 of FLOPs in steps of 0.01, or None if its range is empty.

    The range is from the smallest to the largest FLOPs in the curves of all runs.
    """
    curves = [curve for run in runs if len((curve := compute_curve(run, view)).cost)]
    budget = chosen_budget(curves, view)
    if not budget or budget <= 0:
        return None
    low = min((float(curve.cost[curve.cost > 0][0]) for curve in curves if (curve.cost > 0).any()), default=budget)
    high = max(float(curve.cost[-1]) for curve in curves)
    least, most = math.ceil(math.log10(low) * 100) / 100, math.floor(math.log10(high) * 100) / 100
    if least >= most:
        return None
    title, at = f"budget, {units.flops(low)} to {units.flops(high)}", round(math.log10(budget), 2)
    return slider("budget", title, min(max(at, least), most), low=least, high=most, step=0.01, label="tfsFlops")


def sentences(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return the conclusions from the curves as a list of sentences."""
    said = conclusions(runs, view)
    if not runs:
        return nothing_chosen(store)
    if not said:
        return empty("Nothing to compare yet", "Choose two runs or more that have validations.")
    return html.Section([html.H2("Conclusions"), html.Ul([html.Li(sentence) for sentence in said])], className="panel")


def costs(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return a table: each run's loss at the budget, and its FLOPs, tokens and time to reach the target loss."""
    del store
    curves = {run.name: compute_curve(run, view) for run in runs}
    budget, target = chosen_budget(list(curves.values()), view), common_target(runs, view)
    if budget is None or target is None:
        return None
    lines, losses, reached = [], {}, {}
    for run in runs:
        losses[run.name] = compute.loss_at(curves[run.name], budget)
        reached[run.name] = {
            column: compute.cost_to_reach(_curve_over(run, column), target)
            for column in ("flops", "tokens", "elapsed_seconds")
        }
    for run in runs:
        cells: list[Component] = [run.name, _marked(losses, run.name, units.loss)]
        for column, write in (("flops", units.flops), ("tokens", units.short), ("elapsed_seconds", units.duration)):
            cells.append(_marked({name: costs[column] for name, costs in reached.items()}, run.name, write))
        gain = compute.last_gain(curves[run.name])
        total = run.info["parameters"].get("total")
        cells += [units.loss(gain), units.short(total), units.short(run.info["flops_per_token"])]
        lines.append(cells)
    title = f"FLOPs to {target:.4f}", f"tokens to {target:.4f}", f"time to {target:.4f}"
    head = ["run", f"loss at {units.flops(budget)}", *title, "gain of last doubling", "parameters", "FLOPs per token"]
    note = (
        "Parameters and FLOPs are counted by the run (run.json, metrics.jsonl), not estimated from its settings; "
        f"{target:.4f} is the lowest loss that all these runs reached."
    )
    return html.Section(
        [
            html.H2("Training cost"),
            html.P(note, className="note"),
            table(head, lines, caption="costs; ★ marks the best"),
        ],
        className="panel numbers",
    )


def _marked(values: dict[str, float | None], name: str, write) -> Component:  # noqa: ANN001 (one of units)
    known = [value for value in values.values() if value is not None]
    value = values[name]
    text = write(value)
    return best(text) if value is not None and len(known) > 1 and value == min(known) else text


def _curve_over(run: RunData, column: str) -> compute.Curve:
    validation = run.validation(column, "loss")
    return compute.clean(validation[column], validation["loss"])


class ComputePage(Page):
    """The page Compute."""

    charts: Mapping[str, Draw] = {"flops": flops_figure, "equal": equal_compute_figure, "efficiency": efficiency_figure}
    parts: Mapping[str, MakePart] = {"conclusions": sentences, "costs": costs}
    follows_runs = True  # the budget slider's range depends on the runs

    def layout(self, view: View, store: RunStore) -> Component:
        runs, _ = chosen_runs(view, store)
        return html.Div(
            [
                html.H1("Compute"),
                part("conclusions"),
                controls(
                    _budget_slider(runs, view),
                    choice("axes", "axes", view.axes, {"x": "log FLOPs", "xy": "log both", "none": "linear"}),
                ),
                chart(
                    "flops",
                    "Loss against compute",
                    "Validation loss; for a run with fewer than two validations, the smoothed training loss. "
                    "The dashed line is the budget.",
                    height=440,
                ),
                html.Div(
                    [
                        chart(
                            "equal", "At equal compute", "Each run's loss after the same number of FLOPs.", height=340
                        ),
                        chart(
                            "efficiency",
                            "Gain of the last doubling",
                            "How far the loss fell since half the compute: "
                            "a run whose curve is still high gains the most from longer training.",
                            height=340,
                        ),
                    ],
                    className="two",
                ),
                part("costs"),
            ]
        )
