"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import DatasetConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-datasets"


class TestPythonLibrary(DatasetConformance):
    name = "python-stdlib"
