"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import LoggerConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-generate"


class TestSamples(LoggerConformance):
    name = "samples"
    config = {"prompts": ["once", ""], "max_length": 4}
