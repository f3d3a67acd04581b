"""What the core asks of every plugin, asked of this one: as it comes, and with every switch turned."""

from tfs_lab.testing import ModelConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-baseline"


class TestExplicit(ModelConformance):
    """Three heads that ask one, QK-norm, tied."""

    name = "baseline"
    config = {"attention": "explicit"}


class TestFused(ModelConformance):
    name = "baseline"
    config = {"attention": "fused"}


class TestGroupedHeadsUntied(ModelConformance):
    """Qwen3's larger sizes: heads in groups, wider than d_model / n_heads, and a table for each end."""

    name = "baseline"
    config = {"n_heads": 6, "n_kv_heads": 3, "d_head": 8, "tied": False}


class TestLlama(ModelConformance):
    name = "baseline"
    config = {"n_kv_heads": 3, "qk_norm": False, "d_head": None}


class TestEverythingSwitchedOff(ModelConformance):
    """What is left is `torch` without biases."""

    name = "baseline"
    config = {"n_kv_heads": 3, "qk_norm": False, "norm": "layer", "positions": "learned", "feed_forward": "gelu"}
