"""Components of the plugin. No heavy imports."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_tokenizers() -> list[Component]:
    """Return the tokenizers."""
    return [
        Component(
            name="byte",
            summary="one id per UTF-8 byte; no training",
            factory="tfs_tokenizers.byte:build",
            loader="tfs_tokenizers.byte:load",
        ),
        Component(
            name="character",
            summary="one id per character of the training text; other characters as UTF-8 bytes",
            factory="tfs_tokenizers.character:build",
            config="tfs_tokenizers.config:CharacterConfig",
            loader="tfs_tokenizers.character:load",
        ),
        Component(
            name="bpe",
            summary="byte-pair encoding, trained once on the training text",
            factory="tfs_tokenizers.bpe:build",
            config="tfs_tokenizers.config:BpeConfig",
            loader="tfs_tokenizers.byte_level:load",
        ),
        Component(
            name="gpt2",
            summary="the 50,257 ids of GPT-2, from the Hugging Face Hub, its cache, or the extra tfs-tokenizers[gpt2]",
            factory="tfs_tokenizers.gpt2:build",
            loader="tfs_tokenizers.byte_level:load",
        ),
        Component(
            name="file",
            summary="any byte-level tokenizer.json, by path; short form: `tokenizer: ./tokenizer.json`",
            factory="tfs_tokenizers.file:build",
            config="tfs_tokenizers.config:FileConfig",
            loader="tfs_tokenizers.file:load",
            path_option="path",
        ),
        Component(
            name="hub",
            summary="any byte-level tokenizer.json, from a repository of the Hugging Face Hub",
            factory="tfs_tokenizers.hub:build",
            config="tfs_tokenizers.config:HubConfig",
            loader="tfs_tokenizers.file:load",
        ),
    ]


@hookimpl
def tfs_commands() -> list[Component]:
    """Return the command `tfs tokenizer`."""
    return [
        Component(
            name="tokenizer",
            summary="Find a vocabulary size, train and compare tokenizers, and encode data sets ahead of training.",
            factory="tfs_tokenizers.command:tokenizer",
        )
    ]
