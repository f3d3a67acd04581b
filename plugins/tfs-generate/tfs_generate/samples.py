"""The logger `samples`: continuations of fixed prompts after each validation, always with the same seed."""

from collections.abc import Set
from dataclasses import asdict

from tfs_core.config.schema import SamplesConfig
from tfs_core.contracts import ModelView, Moment, RunContext, RunLogger
from tfs_core.records import SampleRecord
from tfs_generate.generation import Sampling, stream_text


class Samples(RunLogger):
    """Continues the prompts after each validation, and sends each continuation to all loggers."""

    def __init__(self, config: SamplesConfig, run: RunContext) -> None:
        self._config = config
        self._run = run
        self._sampling = Sampling(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p)

    def moments(self, step: int) -> Set[Moment]:  # noqa: ARG002
        """Return the only moment that is observed, "validation", for every step."""
        return {"validation"}

    def observe(self, moment: Moment, view: ModelView) -> None:  # noqa: ARG002
        """Generate the continuations, in the order of the prompts."""
        config = self._config
        settings = {**asdict(self._sampling), "max_length": config.max_length, "seed": config.seed}
        with view.evaluating() as model:
            for prompt in config.prompts:
                text = stream_text(
                    model,
                    view.tokenizer,
                    prompt,
                    max_length=config.max_length,
                    sampling=self._sampling,
                    seed=config.seed,
                    begins_document=view.batching.begins_with_end_of_text,
                )
                self._run.tell(SampleRecord(step=view.step, prompt=prompt, text="".join(text), settings=settings))


def build(config: SamplesConfig, *, run: RunContext) -> Samples:
    """Return the logger; its options are the section `samples` of a configuration."""
    return Samples(config, run)
