"""What the core asks of every plugin, asked of this one."""

from tfs_lab.testing import PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-lab"
