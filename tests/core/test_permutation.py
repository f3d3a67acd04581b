"""The shuffled order is a permutation, a function of seed and epoch, and can be computed for any subset of rows."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfs_core.data.permutation import Permutation

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@untimed
@given(length=st.integers(1, 3000), seed=st.integers(-(2**70), 2**70), epoch=st.integers(0, 10**9))
def test_permutation_takes_every_row_once(length: int, seed: int, epoch: int) -> None:
    rows = Permutation(length, seed=seed, epoch=epoch)(np.arange(length))
    assert sorted(rows.tolist()) == list(range(length))


@pytest.mark.parametrize("length", [2**16, 2**16 + 1, 99_991])
def test_permutation_takes_every_row_once_around_powers_of_two(length: int) -> None:
    rows = Permutation(length, seed=1, epoch=0)(np.arange(length))
    assert len(np.unique(rows)) == length
    assert (rows.min(), rows.max()) == (0, length - 1)


@untimed
@given(length=st.integers(1, 10**14), place=st.integers(0, 10**14))
def test_permutation_of_a_row_does_not_depend_on_other_requested_rows(length: int, place: int) -> None:
    permutation = Permutation(length, seed=3, epoch=2)
    places = np.array([place % length, 0, length - 1])
    assert permutation(places)[0] == permutation(places[:1])[0]
    assert 0 <= permutation(places).min() <= permutation(places).max() < length


def test_permutation_differs_between_seeds_and_between_epochs() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return Permutation(1000, seed=seed, epoch=epoch)(np.arange(1000)).tolist()

    orders = [order(1, 0), order(1, 1), order(2, 0), order(11, 0), order(1, 10), list(range(1000))]
    for i, one in enumerate(orders):
        for other in orders[i + 1 :]:
            assert sum(a == b for a, b in zip(one, other, strict=True)) < 20  # 1 is expected


def test_permutation_puts_every_row_at_every_place_equally_often() -> None:
    n_seeds, length = 3000, 7
    first = Counter(int(Permutation(length, seed=seed, epoch=0)(np.array([0]))[0]) for seed in range(n_seeds))
    neighbors = Counter(tuple(Permutation(length, seed=seed, epoch=0)(np.array([2, 3]))) for seed in range(n_seeds))
    assert len(first) == length
    assert all(abs(count - n_seeds / 7) < 6 * (n_seeds / 7) ** 0.5 for count in first.values())
    assert len(neighbors) == length * (length - 1)
    assert all(abs(count - n_seeds / 42) < 6 * (n_seeds / 42) ** 0.5 for count in neighbors.values())


def test_permutation_of_seed_and_epoch_never_changes() -> None:
    assert Permutation(10, seed=1337, epoch=0)(np.arange(10)).tolist() == [7, 4, 3, 5, 8, 0, 1, 9, 6, 2]
    assert Permutation(10**12, seed=1337, epoch=5)(np.array([0, 1])).tolist() == [680548323032, 499805080614]
