"""Registry of the data sets of the Hugging Face Hub that tfs knows by name."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """Location of a data set on the Hub, and the configuration, column and splits to read."""

    path: str
    summary: str
    columns: tuple[str, ...] = ("text",)
    """Candidates for the column that holds the text; the first one present is used."""
    config: str | None = None
    validation_split: str | None = None


KNOWN_SETS = {
    "tinystories": KnownSet(
        path="roneneldan/TinyStories",
        summary="2 million short stories in simple words (Eldan & Li 2023), 1 GB",
        validation_split="validation",
    ),
    "tiny-textbooks": KnownSet(
        path="nampdn-ai/tiny-textbooks",
        summary="textbook lessons",
        columns=("textbook",),
        validation_split="test",
    ),
    "tiny-strange-textbooks": KnownSet(
        path="nampdn-ai/tiny-strange-textbooks", summary="synthetic textbooks on many subjects"
    ),
    "tiny-codes": KnownSet(
        path="nampdn-ai/tiny-codes",
        summary="1.6 million short programs with explanations",
        columns=("code", "response"),
    ),
    "fineweb-edu-10b": KnownSet(
        path="HuggingFaceFW/fineweb-edu",
        summary="10 billion tokens of educational web pages (Penedo et al. 2024), 27 GB",
        config="sample-10BT",
    ),
}
"""The known data sets by name. The training split of each data set is `train`."""
