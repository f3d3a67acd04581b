"""What this plugin offers. Imports nothing heavy."""

from tfs_core import Component, hookimpl

TFS_PLUGIN_API = 1


@hookimpl
def tfs_tokenizers() -> list[Component]:
    """Offer the tokenizers of this package."""
    return [
        Component(
            name="byte",
            summary="each UTF-8 byte is an id: nothing to train",
            factory="tfs_tokenizers.byte:build",
            loader="tfs_tokenizers.byte:load",
        ),
        Component(
            name="character",
            summary="each character of the training text is an id; others are spelled in bytes",
            factory="tfs_tokenizers.character:build",
            config="tfs_tokenizers.config:CharacterConfig",
            loader="tfs_tokenizers.character:load",
        ),
        Component(
            name="bpe",
            summary="byte-pair encoding, trained on the training text and kept",
            factory="tfs_tokenizers.bpe:build",
            config="tfs_tokenizers.config:BpeConfig",
            loader="tfs_tokenizers.byte_level:load",
        ),
        Component(
            name="gpt2",
            summary="GPT-2's 50,257 ids, from the Hugging Face Hub, its cache, or the extra tfs-tokenizers[gpt2]",
            factory="tfs_tokenizers.gpt2:build",
            loader="tfs_tokenizers.byte_level:load",
        ),
        Component(
            name="file",
            summary="any byte-level tokenizer.json, by its path: `tokenizer: ./tokenizer.json` is short for it",
            factory="tfs_tokenizers.file:build",
            config="tfs_tokenizers.config:FileConfig",
            loader="tfs_tokenizers.file:load",
            path_option="path",
        ),
        Component(
            name="hub",
            summary="any byte-level tokenizer.json of a repository on the Hugging Face Hub",
            factory="tfs_tokenizers.hub:build",
            config="tfs_tokenizers.config:HubConfig",
            loader="tfs_tokenizers.file:load",
        ),
    ]


@hookimpl
def tfs_commands() -> list[Component]:
    """Offer the commands of this package."""
    return [
        Component(
            name="tokenizer",
            summary="Analyze text for a vocabulary, train tokenizers, compare them, and encode data sets with them.",
            factory="tfs_tokenizers.command:tokenizer",
        )
    ]
