"""The limits of `tfs check`: faults that pass every check (docs/checking.md), and where each has an effect."""

import pytest
import torch
from tfs_lab.testing.model_checks import MODEL_CHECKS, check_model
from tfs_lab.testing.small_model import SmallModel
from torch import Tensor, nn

from tfs_core.contracts import ModelConfig
from tfs_core.models import AutogradModel, check_input_ids

WIDTH = 12
FIRST_LEAK = 64


class OneHead(AutogradModel):
    """One attention head without a block. Its softmax subtracts no maximum, so it overflows for large scores."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, generator: torch.Generator) -> None:
        super().__init__(config, vocab_size=vocab_size)
        self.table = nn.Embedding(vocab_size, WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, vocab_size)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05, generator=generator)

    def mask(self, seq_len: int) -> Tensor:
        return torch.ones(seq_len, seq_len, dtype=torch.bool).tril()  # [seq_len, seq_len]

    def scores(self, x: Tensor) -> Tensor:
        queries, keys = self.query(x), self.key(x)  # [batch_size, seq_len, WIDTH]
        scores: Tensor = queries @ keys.mT  # [batch_size, seq_len, seq_len]
        return scores

    def forward(self, input_ids: Tensor) -> Tensor:
        check_input_ids(input_ids, vocab_size=self.vocab_size, context_limit=self.context_limit)
        x = self.table(input_ids)  # [batch_size, seq_len, WIDTH]
        weights = self.scores(x).exp() * self.mask(x.shape[1])  # [batch_size, seq_len, seq_len]
        weights = weights / weights.sum(dim=-1, keepdim=True)  # [batch_size, seq_len, seq_len]
        logits: Tensor = self.output(x + weights @ x)  # [batch_size, seq_len, vocab_size]
        return logits


class LateLeak(OneHead):
    """The causal mask hides no key from position 64 on."""

    def mask(self, seq_len: int) -> Tensor:
        return super().mask(seq_len) | (torch.arange(seq_len) >= FIRST_LEAK)  # [seq_len, seq_len]


class ScoresIgnored(OneHead):
    """The scores are ignored: every position averages the past."""

    def scores(self, x: Tensor) -> Tensor:
        return 0.0 * super().scores(x)  # [batch_size, seq_len, seq_len]


def small(factory: type[OneHead], max_seq_len: int = 11) -> SmallModel:
    return SmallModel(name=factory.__name__, factory=factory, config=ModelConfig(max_seq_len=max_seq_len))


@pytest.mark.parametrize("factory", [OneHead, LateLeak, ScoresIgnored])
def test_faults_that_the_docs_call_unseen_pass_every_check(factory: type[OneHead]) -> None:
    results = list(check_model(small(factory)))
    assert {result.name for result in results} == {check.name for check in MODEL_CHECKS}
    assert [result.name for result in results if not result.passed] == []


def test_softmax_without_its_maximum_overflows_at_large_weights() -> None:
    model = small(OneHead).build(shake=10.0)
    assert not model.forward(torch.zeros(1, 2, dtype=torch.int64)).isfinite().all()


def test_mask_that_fails_late_leaks_in_a_longer_sequence() -> None:
    model = small(LateLeak, max_seq_len=FIRST_LEAK + 1).build()
    before, after = torch.zeros(2, 1, FIRST_LEAK + 1, dtype=torch.int64)
    after[0, FIRST_LEAK] = 1
    assert not torch.equal(model.forward(before)[0, 0], model.forward(after)[0, 0])
