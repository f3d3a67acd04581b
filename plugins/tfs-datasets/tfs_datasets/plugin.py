"""Components of the plugin. No heavy imports."""

from tfs_core import Component, hookimpl
from tfs_datasets.known_sets import KNOWN_SETS

TFS_PLUGIN_API = 1


@hookimpl
def tfs_datasets() -> list[Component]:
    """Return the data sets."""
    return [
        Component(
            name="python-stdlib",
            summary="source code of the running Python's standard library: 12 MB of text, no download",
            factory="tfs_datasets.python_library:build",
        ),
        Component(
            name="text",
            summary="text, notebooks, HTML and other documents, by path, folder or glob",
            factory="tfs_datasets.text:build",
            config="tfs_datasets.config:TextConfig",
            path_option="path",
        ),
        Component(
            name="jsonl",
            summary="JSON files: lines, an array or an object, the text under one of their keys",
            factory="tfs_datasets.jsonl:build",
            config="tfs_datasets.config:JsonlConfig",
            path_option="path",
            path_suffixes=(".json", ".jsonl", ".ndjson"),
        ),
        Component(
            name="csv",
            summary="CSV and TSV files, the text in one column",
            factory="tfs_datasets.csv_table:build",
            config="tfs_datasets.config:CsvConfig",
            path_option="path",
            path_suffixes=(".csv", ".tsv"),
        ),
        Component(
            name="parquet",
            summary="Parquet files, the text in one column (needs tfs-datasets[parquet])",
            factory="tfs_datasets.parquet:build",
            config="tfs_datasets.config:ParquetConfig",
            path_option="path",
            path_suffixes=(".parquet",),
        ),
        Component(
            name="mixture",
            summary="several data sets combined, each with a weight",
            factory="tfs_datasets.mixture:build",
            config="tfs_datasets.config:MixtureConfig",
        ),
        Component(
            name="hub",
            summary="any data set of the Hugging Face Hub, by owner/name (needs tfs-datasets[hub])",
            factory="tfs_datasets.hub:build",
            config="tfs_datasets.config:HubConfig",
        ),
        *(
            Component(
                name=name,
                summary=f"{known.summary}, from the Hugging Face Hub (needs tfs-datasets[hub])",
                factory=f"tfs_datasets.hub:{name.replace('-', '_')}",
                config="tfs_datasets.config:KnownHubConfig",
            )
            for name, known in KNOWN_SETS.items()
        ),
    ]


@hookimpl
def tfs_commands() -> list[Component]:
    """Return the command `tfs datasets`."""
    return [
        Component(
            name="datasets",
            summary="List and download data sets, and show their documents and batches.",
            factory="tfs_datasets.commands:datasets",
        )
    ]
