"""A pseudorandom permutation, position -> row, computed in constant time and memory instead of stored.

A Feistel network: write a position as two digits, (left, right). A round adds a hash of `right` to `left`, and then a
hash of the new `left` to `right`, each modulo the range of its digit. Subtracting the same hashes in reverse order
undoes a round, so the mapping is one to one for any hash function. The product of the two ranges may be larger than the
number of rows. A result past the last row goes through the network again until it is a row ("cycle walking"), and the
mapping stays one to one.

Luby & Rackoff (1988), "How to construct pseudorandom permutations from pseudorandom functions",
https://doi.org/10.1137/0217022. Black & Rogaway (2002), "Ciphers with arbitrary finite domains",
https://doi.org/10.1007/3-540-45760-7_9.
"""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

ROUNDS = 4

Numbers = NDArray[np.uint64]


class Permutation:
    """A permutation of 0 ... length - 1 determined by `seed` and `epoch`."""

    def __init__(self, length: int, *, seed: int, epoch: int) -> None:
        self.length = length
        left_range = math.isqrt(length - 1) + 1
        self._left_range = np.uint64(left_range)
        self._right_range = np.uint64(-(-length // left_range))
        digest = hashlib.blake2b(f"rows {seed} {epoch}".encode("ascii"), digest_size=16 * ROUNDS).digest()
        self._keys = np.frombuffer(digest, dtype="<u8").reshape(ROUNDS, 2)

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row at each of `places` (any shape): int64 of the same shape, one to one."""
        rows = self._shuffle(places.astype(np.uint64))
        while (outside := rows >= self.length).any():
            rows[outside] = self._shuffle(rows[outside])
        return rows.astype(np.int64)

    def _shuffle(self, numbers: Numbers) -> Numbers:
        """Apply the Feistel network to numbers below left_range * right_range; the results are in the same range."""
        left, right = np.divmod(numbers, self._right_range)
        for left_key, right_key in self._keys:
            left = (left + _hash(right ^ left_key)) % self._left_range
            right = (right + _hash(left ^ right_key)) % self._right_range
        return np.asarray(left * self._right_range + right)


def _hash(values: Numbers) -> Numbers:
    """Return a 63-bit hash of each value; one bit is left free, so that adding a digit does not overflow.

    The finalizer of SplitMix64: Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators",
    https://doi.org/10.1145/2660193.2660195.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray((values ^ (values >> np.uint64(31))) >> np.uint64(1))
