"""From runs to what the browser is sent of a chart: drawn once for each state of its runs."""

from collections.abc import Callable, Sequence

from tfs_dash.curves import Window
from tfs_dash.figures.style import Figure, encoded
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import View

Draw = Callable[[Sequence[RunData], View, Window], Figure]


def kept_figure(draw: Draw, runs: Sequence[RunData], view: View, store: RunStore, window: Window = None) -> Figure:
    """Return the chart of these runs as they are on the disk now, ready to be sent: others get it too, unchanged."""
    key = (draw, view, window, store.state_of(runs))
    return store.charts.get(key, lambda: encoded(draw(runs, view, window)))
