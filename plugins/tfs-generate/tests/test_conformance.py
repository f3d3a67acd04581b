"""What the core asks of every plugin, asked of this one."""

from tfs_lab.testing import LoggerConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-generate"


class TestSamples(LoggerConformance):
    name = "samples"
    config = {"prompts": ["once", ""], "max_length": 4}
