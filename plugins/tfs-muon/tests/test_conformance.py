"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import OptimizerConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-muon"


class TestMuon(OptimizerConformance):
    name = "muon"


class TestMuonWithoutNesterov(OptimizerConformance):
    name = "muon"
    config = {"momentum": 0.9, "nesterov": False, "newton_schulz_steps": 3, "adamw_rate_ratio": 0.5}


class TestMuonWithATable(OptimizerConformance):
    name = "muon"
    config = {"adamw_parameters": ["second.*"]}
