"""Linear algebra beyond products, for small matrices: elimination written out row by row.

In float32, with the same pivots as LAPACK chooses, so it is as near as that.
"""

from __future__ import annotations

from collections.abc import Callable

MOST = 16  # rows; the graph grows by a dozen operators for each


def _square(*matrices):
    """The tensors, where the first is a small square float matrix of known size; else None."""
    import tensorflow as tf

    found = [tf.convert_to_tensor(m) for m in matrices]
    rows, columns = found[0].shape[-2:] if (found[0].shape.rank or 0) >= 2 else (None, None)
    small = rows is not None and rows == columns and rows <= MOST and found[0].dtype == tf.float32
    return found if small and all(m.shape[-1] for m in found) else None


def _eliminate(matrix, right=None):
    """Gauss-Jordan elimination, partial pivoting (Golub and Van Loan, Matrix Computations, 3.4).

    Args:
        matrix: (..., n, n).
        right: (..., n, m), or None where only the determinant is wanted.

    Returns:
        `matrix` inverse times `right` (or None), and the determinant (...).
    """
    import numpy as np
    import tensorflow as tf

    n = matrix.shape[-1]
    rows = matrix if right is None else tf.concat([matrix, right], -1)
    below, determinant = np.arange(n), None
    for k in range(n):
        size = tf.where(below >= k, tf.abs(rows[..., k]), -1.0)
        chosen = tf.argmax(size, -1, output_type=tf.int32)
        here = tf.equal(chosen[..., None], below.astype(np.int32))
        there = (below == k)[:, None]
        pivots = tf.matmul(tf.cast(here, tf.float32)[..., None, :], rows)
        rows = tf.where(here[..., None], rows[..., k:k + 1, :], rows)
        factors = tf.where(there, 0.0, rows[..., k:k + 1])
        pivot = pivots[..., k:k + 1]
        scaled = pivots / pivot
        rows = tf.where(there, scaled, rows - factors * scaled)
        signed = tf.where(tf.equal(chosen, k), 1.0, -1.0) * pivot[..., 0, 0]
        determinant = signed if determinant is None else determinant * signed
    return None if right is None else rows[..., n:], determinant


def _inverse(input, adjoint=False, **_):  # the operator's own name
    import tensorflow as tf

    if (found := _square(input)) is None:
        return None
    x, = found
    x = tf.linalg.matrix_transpose(x) if adjoint else x
    return _eliminate(x, tf.zeros_like(x) + tf.eye(x.shape[-1]))[0]


def _determinant(input, **_):
    found = _square(input)
    return None if found is None else _eliminate(found[0])[1]


def _solve(matrix, rhs, adjoint=False, **_):
    import tensorflow as tf

    if (found := _square(matrix, rhs)) is None:
        return None
    matrix, rhs = found
    return _eliminate(tf.linalg.matrix_transpose(matrix) if adjoint else matrix, rhs)[0]


def _cholesky(input, **_):
    """Column by column, each taken from what is left of the matrix as an outer product."""
    import tensorflow as tf

    if (found := _square(input)) is None:
        return None
    left, = found
    n = left.shape[-1]
    before = [[0, 0]] * (left.shape.rank - 2)
    columns = []
    for k in range(n):
        column = left[..., :1] / tf.sqrt(left[..., :1, :1])
        columns.append(tf.pad(column, [*before, [k, 0], [0, 0]]) if k else column)
        rest = column[..., 1:, :]
        left = left[..., 1:, 1:] - rest * tf.linalg.matrix_transpose(rest) if k < n - 1 else None
    return tf.concat(columns, -1)


def _triangular_solve(matrix, rhs, lower=True, adjoint=False, **_):
    """Substitution: each row found is taken from the rows that are left."""
    import tensorflow as tf

    if (found := _square(matrix, rhs)) is None:
        return None
    matrix, left = found
    matrix = tf.linalg.matrix_transpose(matrix) if adjoint else matrix
    n, rows = matrix.shape[-1], {}
    for k in range(n) if lower != adjoint else reversed(range(n)):
        rows[k] = left[..., k:k + 1, :] / matrix[..., k:k + 1, k:k + 1]
        left = left - matrix[..., k:k + 1] * rows[k]
    return tf.concat([rows[k] for k in range(n)], -2)


RULES: dict[str, Callable] = {
    "MatrixInverse": _inverse,
    "MatrixDeterminant": _determinant,
    "MatrixSolve": _solve,
    "Cholesky": _cholesky,
    "MatrixTriangularSolve": _triangular_solve,
}
