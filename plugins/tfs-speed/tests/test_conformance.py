"""The suites that every plugin and every wrapper must pass."""

from tfs_lab.testing import PluginConformance, WrapperConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-speed"


class TestCompile(WrapperConformance):
    name = "compile"


class TestCompileOfHandWrittenModel(WrapperConformance):
    name = "compile"
    model = "custom"


class TestActivationCheckpointing(WrapperConformance):
    name = "activation-checkpointing"


class TestKernels(WrapperConformance):
    name = "kernels"


class TestKernelsOfHandWrittenModel(WrapperConformance):
    name = "kernels"
    model = "custom"
