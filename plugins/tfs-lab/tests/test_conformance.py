"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-lab"
