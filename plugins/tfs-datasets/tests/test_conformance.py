"""What the core asks of every plugin, asked of this one."""

from tfs_lab.testing import DatasetConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-datasets"


class TestPythonLibrary(DatasetConformance):
    name = "python-stdlib"
