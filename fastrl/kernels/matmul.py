"""Products of small float32 matrices that lie in flat arrays, by register tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import config

from fastrl.kernels._jit import inlined, kernel

if TYPE_CHECKING or config.DISABLE_JIT:
    LANES = 16

    def product(
        a: np.ndarray, i_a: int, lda: int, step: int, b: np.ndarray, i_b: int, ldb: int, c: np.ndarray, i_c: int,
        ldc: int, start: np.ndarray, i_s: int, lds: int, started: bool, rows: int, depth: int, columns: int,
    ) -> None:  # fmt: skip
        """C = A B, or C = S + A B where `started`: C [rows, columns], A [rows, depth], B [depth, columns].

        The matrices lie in flat float32 arrays: element (r, j) of B is b[i_b + r ldb + j], and likewise of C and of
        S, which may be C; element (r, k) of A is a[i_a + r lda + k step]. Sizes are 1 at least. Unchecked.
        """
        first = _matrix(start, i_s, lds, 1, rows, columns) if started else np.float32(0)
        result = first + _matrix(a, i_a, lda, step, rows, depth) @ _matrix(b, i_b, ldb, 1, depth, columns)
        _matrix(c, i_c, ldc, 1, rows, columns)[:] = result

    def transpose(
        a: np.ndarray, i_a: int, lda: int, c: np.ndarray, i_c: int, ldc: int, rows: int, columns: int
    ) -> None:  # fmt: skip
        """C = Aᵀ: A [rows, columns] and C [columns, rows], which lie as in `product`."""
        _matrix(c, i_c, ldc, 1, columns, rows)[:] = _matrix(a, i_a, lda, 1, rows, columns).T

    def _matrix(flat: np.ndarray, first: int, ld: int, step: int, rows: int, columns: int) -> np.ndarray:
        return np.lib.stride_tricks.as_strided(flat[first:], (rows, columns), (4 * ld, 4 * step))

else:
    from fastrl.kernels._tiles import LANES, SHAPES, make_tile, plain, transpose_tile

    WIDE, MEDIUM, NARROW = (LANES * vectors for _, vectors in SHAPES)
    WIDE_ROWS, MEDIUM_ROWS, NARROW_ROWS = (rows for rows, _ in SHAPES)
    _wide, _medium, _narrow = (make_tile(*shape) for shape in SHAPES)
    _row, _few = make_tile(1, SHAPES[0][1]), make_tile(4, 1)

    @inlined
    def product(a, i_a, lda, step, b, i_b, ldb, c, i_c, ldc, start, i_s, lds, started, rows, depth, columns):
        _product(a, i_a, plain(lda), plain(step), b, i_b, ldb, c, i_c, ldc, start, plain(i_s), plain(lds),
                 plain(started), rows, depth, columns)  # fmt: skip

    @kernel
    def _product(a, i_a, lda, step, b, i_b, ldb, c, i_c, ldc, start, i_s, lds, started, rows, depth, columns):
        for j in range(0, columns, WIDE):
            count, i = min(columns - j, WIDE), 0
            if count <= NARROW:
                while i + NARROW_ROWS <= rows:
                    _narrow(a, i_a + i * lda, lda, step, b, i_b + j, ldb, c, i_c + i * ldc + j, ldc,
                            start, i_s + i * lds + j, lds, started, depth, count)  # fmt: skip
                    i += NARROW_ROWS
                while i + 4 <= rows:
                    _few(a, i_a + i * lda, lda, step, b, i_b + j, ldb, c, i_c + i * ldc + j, ldc,
                         start, i_s + i * lds + j, lds, started, depth, count)  # fmt: skip
                    i += 4
            elif count <= MEDIUM:
                while i + MEDIUM_ROWS <= rows:
                    _medium(a, i_a + i * lda, lda, step, b, i_b + j, ldb, c, i_c + i * ldc + j, ldc,
                            start, i_s + i * lds + j, lds, started, depth, count)  # fmt: skip
                    i += MEDIUM_ROWS
            while i + WIDE_ROWS <= rows:
                _wide(a, i_a + i * lda, lda, step, b, i_b + j, ldb, c, i_c + i * ldc + j, ldc,
                      start, i_s + i * lds + j, lds, started, depth, count)  # fmt: skip
                i += WIDE_ROWS
            while i < rows:
                _row(a, i_a + i * lda, lda, step, b, i_b + j, ldb, c, i_c + i * ldc + j, ldc,
                     start, i_s + i * lds + j, lds, started, depth, count)  # fmt: skip
                i += 1

    @kernel
    def transpose(a, i_a, lda, c, i_c, ldc, rows, columns):
        for r in range(0, rows, LANES):
            for j in range(0, columns, LANES):
                transpose_tile(a, i_a + r * lda + j, lda, c, i_c + j * ldc + r, ldc,
                               min(rows - r, LANES), min(columns - j, LANES))  # fmt: skip
