"""The page Compare: loss curves of any number of runs, on any axis, and a summary table with the best marked."""

from collections.abc import Callable, Mapping, Sequence

from dash import html

from tfs_dash import units
from tfs_dash.figures.kept import Draw
from tfs_dash.figures.loss import loss_figure
from tfs_dash.page import MakePart, Page
from tfs_dash.parts import Component, best, chart, choice, controls, log_axes, nothing_chosen, part, smoothing, table
from tfs_dash.store import RunData, RunStore
from tfs_dash.summaries import Summary, best_of, summarize
from tfs_dash.view import View


def cards(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return one card per headline number, with the name of its run."""
    del view
    if not runs:
        return nothing_chosen(store)
    summaries = [summarize(run) for run in runs]
    return html.Div(
        [
            _card(
                "lowest validation loss", best_of(summaries, lambda s: s.best_loss), lambda s: units.loss(s.best_loss)
            ),
            _card(
                "fewest bits per byte",
                best_of(summaries, lambda s: s.best_bits_per_byte),
                lambda s: units.loss(s.best_bits_per_byte),
            ),
            _card(
                "fastest",
                best_of(summaries, lambda s: s.tokens_per_second, lowest=False),
                lambda s: units.short(s.tokens_per_second, "tokens/s"),
            ),
            _card("most compute", best_of(summaries, lambda s: s.flops, lowest=False), lambda s: units.flops(s.flops)),
        ],
        className="cards",
    )


def _card(title: str, summary: Summary | None, value: Callable[[Summary], str]) -> Component:
    return html.Div(
        [
            html.Div(title, className="card-title"),
            html.Div(value(summary) if summary else "–", className="card-value"),
            html.Div(summary.name if summary else "not measured yet", className="card-run"),
        ],
        className="card panel",
    )


COLUMNS: list[tuple[str, Callable[[Summary], float | None], Callable[[float], str], str]] = [
    ("best loss", lambda s: s.best_loss, units.loss, "low"),
    ("at step", lambda s: s.best_step, units.count, ""),
    ("last loss", lambda s: s.last_loss, units.loss, "low"),
    ("bits per byte", lambda s: s.best_bits_per_byte, units.loss, "low"),
    ("training loss, smoothed", lambda s: s.training_loss, units.loss, "low"),
    ("steps", lambda s: s.steps, units.count, ""),
    ("tokens", lambda s: s.tokens, units.short, ""),
    ("compute", lambda s: s.flops, units.flops, ""),
    ("time", lambda s: s.seconds, units.duration, ""),
    ("tokens/s", lambda s: s.tokens_per_second, units.short, "high"),
    ("parameters", lambda s: s.parameters, units.short, ""),
]
"""Title, value, formatter, and the better direction: "low", "high", or "" for neither."""


def summary(runs: Sequence[RunData], view: View, store: RunStore) -> Component:
    """Return the summary table of the chosen runs, with the best of each column marked."""
    del view, store
    if not runs:
        return None
    summaries = [summarize(run) for run in runs]
    lines = []
    for one in summaries:
        cells: list[Component] = [one.name, html.Td(one.status, className=f"status {one.status}")]
        for _, value, write, kind in COLUMNS:
            leader = best_of(summaries, value, lowest=kind == "low") if kind and len(summaries) > 1 else None
            number = value(one)
            text = write(number) if number is not None else "–"
            cells.append(best(text) if leader is not None and number == value(leader) else text)
        lines.append(cells)
    return html.Section(
        [
            html.H2("Summary"),
            table(
                ["run", "status", *[title for title, *_ in COLUMNS]], lines, caption="the chosen runs; ★ marks the best"
            ),
        ],
        className="panel numbers",
    )


class ComparePage(Page):
    """The page Compare."""

    charts: Mapping[str, Draw] = {"loss": loss_figure}
    parts: Mapping[str, MakePart] = {"cards": cards, "summary": summary}

    def layout(self, view: View, store: RunStore) -> Component:  # noqa: ARG002
        return html.Div(
            [
                html.H1("Compare"),
                part("cards"),
                controls(
                    choice(
                        "x",
                        "x axis",
                        view.x,
                        {"steps": "steps", "tokens": "tokens", "seconds": "time", "flops": "FLOPs"},
                    ),
                    choice("y", "y axis", view.y),
                    choice("show", "show", view.show),
                    log_axes(view.log),
                    choice("seeds", "seeds", view.seeds, {"apart": "apart", "mean": "mean and band"}),
                    choice("second", "second axis", view.second),
                    smoothing(view.smooth),
                ),
                chart(
                    "loss",
                    "Loss",
                    "Solid line: training loss, smoothed over every step. Faint line: as logged, with every spike. "
                    "Dotted line with markers: validation. Drag to zoom in to full resolution; double-click to zoom "
                    "out.",
                    height=520,
                ),
                part("summary"),
            ]
        )
