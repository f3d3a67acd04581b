"""Cache of encoded figures, keyed by the state of their runs."""

from collections.abc import Callable, Sequence

from tfs_dash.curves import Window
from tfs_dash.figures.style import Figure, encoded
from tfs_dash.store import RunData, RunStore
from tfs_dash.view import View

Draw = Callable[[Sequence[RunData], View, Window], Figure]


def cached_figure(draw: Draw, runs: Sequence[RunData], view: View, store: RunStore, window: Window = None) -> Figure:
    """Return the encoded figure of the runs in their current state on disk. It is shared: do not modify it."""
    key = (draw, view, window, store.state_of(runs))
    return store.charts.get(key, lambda: encoded(draw(runs, view, window)))
