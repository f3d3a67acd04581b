"""The matrix product: most of a transformer's time is spent here, and its backward is one rule.

Giles (2008), "Collected Matrix Derivative Results for Forward and Reverse Mode Algorithmic Differentiation",
https://doi.org/10.1007/978-3-540-68942-3_4

Shapes in this file
    n_rows     rows of a and of the product; leading axes (batch_size, n_heads) may stand before them
    n_inner    columns of a, rows of b
    n_columns  columns of b and of the product


The rule
--------
Let c = a @ b. One number of it is

    c[row, column] = sum over inner of  a[row, inner] * b[inner, column]

a[row, inner] occurs in every number of that row of c, each time multiplied by b[inner, column]. Its gradient is the sum
over these occurrences; b[inner, column] occurs in every number of its column, and likewise:

    dL/da[row, inner]    = sum over column of  dL/dc[row, column] * b[inner, column]      dL/da = dL/dc @ b.T
    dL/db[inner, column] = sum over row of     a[row, inner] * dL/dc[row, column]         dL/db = a.T @ dL/dc

To remember which factor is transposed, look at the shapes: only one arrangement gives dL/da the shape of a. Often the
second factor is transposed, c = a @ b.T, as for the weight of a linear layer. Then dL/d(b.T) = a.T @ dL/dc by the rule,
and transposing both sides gives dL/db = dL/dc.T @ a. (In the code `.mT` transposes the last two axes.) `linear.py`,
`attention.py` and `unembedding.py` use this rule for each of their products.

With numbers
    >>> a, b = torch.tensor([[1.0, 2.0], [10.0, 0.0]]), torch.tensor([[3.0], [4.0]])
    >>> matrix_product(a, b)
    tensor([[11.],
            [30.]])
    >>> grad_c = torch.tensor([[1.0], [2.0]])
    >>> matrix_product(grad_c, b.mT)
    tensor([[3., 4.],
            [6., 8.]])
    >>> matrix_product(a.mT, grad_c)
    tensor([[21.],
            [ 2.]])
"""

from torch import Tensor


def matrix_product(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b [..., n_rows, n_columns], in the type of a.

    a is [..., n_rows, n_inner], b [..., n_inner, n_columns].

    With `dtype: bfloat16` the model runs inside `torch.autocast`, where `@` rounds both factors to bfloat16, sums in
    float32, and rounds the product to bfloat16. Here the product is converted back to float32 at once, so that
    everything between two products is computed and kept in float32: long sums, exponentials and averages need its
    precision. In float32 and float64 there is nothing to convert, and `.to` returns the same tensor.
    """
    return (a @ b).to(a.dtype)
