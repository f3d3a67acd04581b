"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import ModelConformance, OptimizerConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-speedrun"


class TestPlainModel(ModelConformance):
    name = "tfs-speedrun/speedrun"


class TestModelWithNgramTables(ModelConformance):
    name = "tfs-speedrun/speedrun"
    config = {"ngram_contexts": [1, 2], "ngram_rows": [24, 100]}


class TestOptimizer(OptimizerConformance):
    name = "tfs-speedrun/speedrun"


class TestOptimizerOfTables(OptimizerConformance):
    name = "tfs-speedrun/speedrun"
    config = {"sgd_parameters": ["second.*"], "adamw_parameters": ["first.*"], "sgd_rate_ratio": 2.0}
