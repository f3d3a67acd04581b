"""What the core asks of every plugin, asked of this one."""

from tfs_lab.testing import ModelConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-torch"


class TestFused(ModelConformance):
    name = "torch"


class TestExplicit(ModelConformance):
    name = "torch"
    config = {"attention": "explicit", "gelu": "exact"}
