"""Entry point of the plugin: the page kind, the pages, and the `dash` command. Imports nothing heavy."""

from tfs_core.component import Component, Kind
from tfs_core.hookspecs import hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_kinds() -> list[Kind]:
    """Return the component kind `page`, built by `build(options) -> Page`."""
    return [Kind(name="page", keywords=(), protocol="tfs_dash.page:Page")]


@hookimpl
def tfs_components() -> list[Component]:
    """Return the `load-training-log` script component, and the pages in navigation order."""
    pages = [
        ("runs", "All runs: search, sort, group, and choose the ones to compare.", "RunsPage"),
        ("compare", "Loss curves on any axis, and a summary table with the best marked.", "ComparePage"),
        ("compute", "Loss at equal compute, and the cost to reach a loss.", "ComputePage"),
        ("health", "Gradient norm, learning rate, throughput, alarms and events.", "HealthPage"),
        ("config", "Settings of the runs, those that differ first.", "ConfigPage"),
        ("samples", "Generated text over steps and runs, by prompt and by loss.", "SamplesPage"),
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
            summary="Compare runs in the browser, live and finished, or export them as one HTML file.",
            factory="tfs_dash.command:dash",
        )
    ]
