"""Report of an analysis as a self-contained HTML page, without scripts, fonts or network requests."""

from html import escape
from math import log2
from pathlib import Path

from tfs_tokenizers.analysis import COVERAGES, TokenAnalysisReport, write_report

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 280, 46, 26
"""Size of the chart, and margins for its labels, in pixels."""

STYLE = """
:root { color-scheme: light dark; --line: #2a6fb0; --faint: #8884; }
@media (prefers-color-scheme: dark) { :root { --line: #7db8f0; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: 0 0 2rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; }
"""


def page(report: TokenAnalysisReport) -> str:
    """Return the HTML of a report."""
    title = f"{escape(report.dataset)}: vocabulary analysis"
    facts = (
        f"{report.n_bytes / 1e6:,.2f} MB of text, encoded with {escape(report.tokenizer)}: {report.n_tokens:,} tokens "
        f"of {report.bytes_per_token:.2f} bytes, {len(report.ranked):,} of {report.vocab_size:,} ids in use."
    )
    coverage = _table(
        ["coverage", "ids needed"], [[f"{c:.1%}", f"{report.get_vocab_size_for_coverage(c):,}"] for c in COVERAGES]
    )
    edges = _table(
        ["edge cases", "ids", "of tokens", "the most frequent"],
        [[c.name, f"{c.ids:,}", f"{c.share:.1%}", "  ".join(c.examples)] for c in report.edge_cases()],
    )
    sizes = _table(
        ["vocabulary", "bytes per token"],
        [[f"{row.vocab_size:,}", f"{row.bytes_per_token:.2f}"] for row in report.sizes],
    )
    advice = _table(
        ["recommended size", "", "", "why"], [[f"{r.vocab_size:,}", "", "", r.reason] for r in report.recommendations()]
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style></head>\n<body>\n'
        f"<h1>{title}</h1>\n<p>{facts}</p>\n<h2>Coverage</h2>\n{_curve(report)}\n{coverage}\n"
        f"<h2>Sizes</h2>\n{sizes if report.sizes else ''}\n{advice}\n"
        f"<h2>Edge cases</h2>\n{edges}\n</body>\n</html>\n"
    )


def _curve(report: TokenAnalysisReport) -> str:
    """Return the coverage curve as SVG, with a logarithmic axis of ids."""
    doublings = max(log2(len(report.ranked)), 1.0)
    inner_width, inner_height = WIDTH - LEFT - 10, HEIGHT - BOTTOM - 10

    def x_of(rank: float) -> float:
        return LEFT + inner_width * log2(rank) / doublings

    def y_of(share: float) -> float:
        return 10 + inner_height * (1 - share)

    ranks = sorted({round(2 ** (doublings * step / 200)) for step in range(201)})
    points = " ".join(f"{x_of(rank):.1f},{y_of(report.get_coverage_at_vocab_size(rank)):.1f}" for rank in ranks)
    lines = [f'<polyline points="{points}" fill="none" stroke="var(--line)" stroke-width="2.5"/>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = y_of(share)
        lines.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--faint)"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for power in range(0, int(doublings) + 1, 2):
        lines.append(f'<text x="{x_of(2**power):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{2**power:,}</text>')
    label = "share of the tokens made up by the most frequent ids"
    return f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(lines)}</svg>' + (
        f"<figcaption>The {label}, over the number of ids on a logarithmic scale.</figcaption></figure>"
    )


def _table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table whose fourth column is left-aligned text."""
    head = "".join(f'<th class="{"text" if i == 3 else ""}">{escape(name)}</th>' for i, name in enumerate(columns))
    body = "".join(
        "<tr>"
        + "".join(f'<td class="{"text" if i == 3 else ""}">{escape(cell)}</td>' for i, cell in enumerate(row))
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_page(report: TokenAnalysisReport, file: Path) -> None:
    """Write the HTML of a report. Raises DataError when the file exists with other content, or cannot be written."""
    write_report(file, page(report))
