"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import PluginConformance, TokenizerConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-tokenizers"


class TestByte(TokenizerConformance):
    name = "byte"


class TestCharacter(TokenizerConformance):
    name = "character"


class TestBpe(TokenizerConformance):
    name = "bpe"
    config = {"vocab_size": 300}
