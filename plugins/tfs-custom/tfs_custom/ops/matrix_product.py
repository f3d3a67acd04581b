"""The matrix product: where a transformer spends nearly all of its time, and the one rule that its backward needs.

Giles (2008), "Collected Matrix Derivative Results for Forward and Reverse Mode Algorithmic Differentiation",
https://doi.org/10.1007/978-3-540-68942-3_4

Shapes in this file
    n_rows, n_inner, n_columns  what they say; leading axes (batch_size, n_heads) may stand before them


The rule
--------
Let c = a @ b. One number of it is

    c[row, column] = sum over inner of  a[row, inner] * b[inner, column]

so a nudge to a[row, inner] moves every number in that row of c, c[row, column] by b[inner, column] times the nudge.
How much that moves the loss is the sum over what was moved:

    dL/da[row, inner]  = sum over column of  dL/dc[row, column] * b[inner, column]      dL/da = dL/dc @ b.T
    dL/db[inner, column] = sum over row of   a[row, inner] * dL/dc[row, column]         dL/db = a.T @ dL/dc

There is no need to remember which factor is transposed: only one arrangement gives dL/da the shape of a. `linear.py`,
`attention.py` and `unembedding.py` use this rule, and nothing else, for each of their products.
"""

from torch import Tensor


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b [..., n_rows, n_columns], in the type of a.

    With `dtype: bfloat16` the model runs inside `torch.autocast`, where `@` rounds both factors to bfloat16, adds up
    in float32, and rounds what comes out to bfloat16. It is widened here at once, so that everything between two
    products is computed and kept in float32: sums over long axes, exponentials and averages need the digits.
    In float32 and float64 nothing is rounded, and `.to` gives back the very tensor it got.
    """
    return (a @ b).to(a.dtype)
