"""The core's conformance suites, run on this plugin."""

from tfs_lab.testing import BatchingConformance, PluginConformance


class TestPlugin(PluginConformance):
    distribution = "tfs-streaming"


class TestStreaming(BatchingConformance):
    name = "streaming"
    settings = {"shard_tokens": 5 * 12 * 11}  # a few steps each


class TestStreamingWithDocumentMasks(BatchingConformance):
    name = "streaming"
    settings = {"shard_tokens": 1, "document_masks": True}  # a step has a shard to itself
