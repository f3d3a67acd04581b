"""What this plugin offers. Imports nothing heavy."""

from tfs_core.component import Component, Kind
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_kinds() -> list[Kind]:
    """Return the kind of the dashboard's pages: `build(options) -> Page`."""
    return [Kind(name="page", keywords=(), protocol="tfs_dash.page:Page")]


@hookimpl
def tfs_components() -> list[Component]:
    """Return what scripts of the original tools import, and the dashboard's pages in the order of its navigation."""
    pages = [
        ("runs", "All runs: find them, sort them, choose the ones to compare.", "RunsPage"),
        ("compare", "Loss curves on any axis, and the summary with the best marked.", "ComparePage"),
        ("compute", "What loss costs: runs at equal compute.", "ComputePage"),
        ("health", "Gradient norm, learning rate, throughput, and what happened.", "HealthPage"),
        ("config", "The settings of the runs, those that differ first.", "ConfigPage"),
        ("samples", "What the models wrote, over steps and runs.", "SamplesPage"),
    ]
    script = Component(
        kind="script",
        name="load-training-log",
        summary="A training log in memory, of a run or of the original tools",
        factory="tfs_dash.training_log:load_training_log",
    )
    return [
        script,
        *(
            Component(kind="page", name=name, summary=summary, factory=f"tfs_dash.pages.{name}:{page}")
            for name, summary, page in pages
        ),
    ]


@hookimpl
def tfs_commands() -> list[Component]:
    """Return the dashboard's command."""
    return [
        Component(
            name="dash",
            summary="Look at runs side by side, live and past, in the browser; or export them as one HTML file.",
            factory="tfs_dash.command:dash",
        )
    ]
