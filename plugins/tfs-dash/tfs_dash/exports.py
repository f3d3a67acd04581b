"""Exports: curves as CSV, and a self-contained HTML report that makes no network requests."""

import csv
import html
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tfs_core.durable import write_durably
from tfs_core.runs import Run
from tfs_dash.analysis import thin
from tfs_dash.conclusions import conclusions
from tfs_dash.configurations import compare
from tfs_dash.figures.compute import efficiency_figure, flops_figure
from tfs_dash.figures.health import HEALTH_FIGURES, TITLES
from tfs_dash.figures.loss import loss_figure
from tfs_dash.figures.style import GRAPH_CONFIG, TEMPLATES
from tfs_dash.pages.compare import COLUMNS
from tfs_dash.redact import public_text
from tfs_dash.sounds import samples_by_loss, samples_of
from tfs_dash.store import RunData
from tfs_dash.summaries import best_of, summarize
from tfs_dash.view import View

CSV_COLUMNS = ("step", "tokens", "flops", "elapsed_seconds", "loss")

MAX_CSV_ROWS = 200_000
"""Maximum training rows in a CSV over all runs. Longer logs are thinned, with every spike kept."""


def curves_as_csv(runs: Sequence[RunData]) -> tuple[str, str]:
    """Return training and validation losses as CSV (one row per step), and a status message for the user."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "kind", *CSV_COLUMNS])
    thinned = []
    for run in runs:
        columns = run.training(*CSV_COLUMNS)
        rows = np.arange(len(columns["step"]))
        if len(rows) > MAX_CSV_ROWS // len(runs):
            rows = thin(columns["step"], columns["loss"], MAX_CSV_ROWS // len(runs))
            thinned.append(run.name)
        _write(writer, run.name, "training", [columns[name][rows] for name in CSV_COLUMNS])
        validation = run.validation(*CSV_COLUMNS)
        _write(writer, run.name, "validation", [validation[name] for name in CSV_COLUMNS])
    note = "Curves exported."
    if thinned:
        note = f"Exported; {len(thinned)} long logs are thinned, with every spike kept. metrics.jsonl has every step."
    return buffer.getvalue(), note


def _write(writer: Any, name: str, kind: str, columns: list[np.ndarray]) -> None:
    # Spreadsheets evaluate a cell that begins with one of these as a formula: CSV injection.
    name = f"'{name}" if name[:1] in "=+-@" else name
    for row in zip(*(column.tolist() for column in columns), strict=True):
        step, tokens, *others = (value if np.isfinite(value) else "" for value in row)
        writer.writerow([name, kind, *[value if value == "" else int(value) for value in (step, tokens)], *others])


def export_report(runs: Sequence[Run | RunData | str | Path], path: str | Path, view: View | None = None) -> Path:
    """Write the report of the runs to a self-contained HTML file (no server, no network) and return its path.

    The file holds no host name, no absolute path, and no value of a setting that is named like a secret.
    """
    from tfs_dash.notebook import run_data  # lazy: only this function needs it

    found = [run_data(run, position=position) for position, run in enumerate(runs)]
    path = Path(path)
    write_durably(path, report_html(found, view or View()).encode("utf-8", "replace"))
    return path


def report_html(runs: Sequence[RunData], view: View) -> str:
    """Return the report as one HTML page: conclusions, summary, charts, differing settings, samples."""
    from plotly.offline import get_plotlyjs  # lazy: loads 5 MB of text

    sections = [_conclusions(runs, view), _summary(runs)]
    charts = [
        ("Loss", loss_figure(runs, view)),
        ("Loss against compute", flops_figure(runs, view)),
        ("Gain of the last doubling of compute", efficiency_figure(runs, view)),
        *[(TITLES[name].capitalize(), make(runs, view)) for name, make in HEALTH_FIGURES.items()],
    ]
    sections += [_chart(title, figure) for title, figure in charts]
    sections += [_settings(runs), _sounds(runs)]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    css = (Path(__file__).parent / "assets" / "tfs.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>tfs report</title>'
        '<meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline'; "
        "style-src 'unsafe-inline'; img-src data: blob:\">"
        f"<style>{css}</style><script>{get_plotlyjs()}</script></head><body><main><h1>{len(runs)} "
        f'run{"s" * (len(runs) != 1)} compared</h1><p class="note">tfs dash export, {made}</p>'
        + "".join(sections)
        + "</main></body></html>\n"
    )


def _chart(title: str, figure: dict[str, Any]) -> str:
    from plotly.graph_objects import Figure
    from plotly.io import to_html

    figure["layout"]["template"] = TEMPLATES["light"]
    # A copy: Plotly removes the options that it has read.
    body = to_html(
        Figure(figure), full_html=False, include_plotlyjs=False, config=dict(GRAPH_CONFIG), default_height="420px"
    )
    return f'<section class="panel"><h2>{html.escape(title)}</h2>{body}</section>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> str:
    """Return an HTML table. The cells must be escaped HTML already."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<section class="panel"><h2>{html.escape(title)}</h2><div class="table"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


def _conclusions(runs: Sequence[RunData], view: View) -> str:
    said = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in conclusions(runs, view))
    return f'<section class="panel"><h2>Conclusions</h2><ul>{said}</ul></section>' if said else ""


def _summary(runs: Sequence[RunData]) -> str:
    summaries, rows = [summarize(run) for run in runs], []
    for one in summaries:
        cells = [f"<b>{html.escape(one.name)}</b>", html.escape(one.status)]
        for _, value, write, kind in COLUMNS:
            leader = best_of(summaries, value, lowest=kind == "low") if kind and len(summaries) > 1 else None
            number = value(one)
            text = html.escape(write(number)) if number is not None else "–"
            cells.append(f"<b>{text} ★</b>" if leader is not None and number == value(leader) else text)
        rows.append(cells)
    return _table(["run", "status", *[title for title, *_ in COLUMNS]], rows, "Summary")


def _settings(runs: Sequence[RunData]) -> str:
    rows = compare(runs)
    shown = [row for row in rows if row.differs] if len(runs) > 1 else rows
    cells = [[f"<b>{html.escape(row.name)}</b>", *[html.escape(value) for value in row.values]] for row in shown]
    title = "Settings that differ" if len(runs) > 1 else "Settings"
    return _table(["setting", *[html.escape(run.name) for run in runs]], cells, title) if cells else ""


def _sounds(runs: Sequence[RunData]) -> str:
    found = samples_by_loss([sample for run in runs for sample in samples_of(run)])
    cells = [
        [f"{sample.loss:.4f}", f"<pre>{html.escape(public_text(sample.prompt + sample.text))}</pre>",
         f"{html.escape(sample.run)}, step {sample.step:,}"] for sample in found
    ]  # fmt: skip
    return _table(["loss", "text", "from"], cells, "Samples by loss") if cells else ""
