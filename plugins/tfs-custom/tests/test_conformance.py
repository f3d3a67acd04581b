"""What the core asks of every plugin, asked of this one."""

from tfs_lab.testing import ModelConformance, OptimizerConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-custom"


class TestTanh(ModelConformance):
    name = "custom"


class TestExact(ModelConformance):
    name = "custom"
    config = {"gelu": "exact"}


class TestAdamWByHand(OptimizerConformance):
    name = "adamw-by-hand"


class TestSgdByHand(OptimizerConformance):
    name = "sgd-by-hand"
