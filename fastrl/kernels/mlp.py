"""Multilayer perceptrons over flat parameters: forward and backward, for any depth, any widths and shared trunks.

A network is a tree of dense layers, y = f(W x + b), whose weights [n_out, n_in] and biases lie in one flat vector, as
Torch keeps them. A *plan* says where everything is: one row of integers a layer. `work` is one flat vector of scratch
memory; in it every matrix has rows of a multiple of 16 numbers, so that vectors need no remainders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastrl.kernels._jit import bare
from fastrl.kernels.activations import IDENTITY, LANES, activate, chain
from fastrl.kernels.matmul import product, transpose
from fastrl.kernels.simd import load, store, zeros

# Columns of a plan. IN, H and D are offsets in `work` of matrices [ROWS, …]: the layer's input (its rows IN_WIDTH
# apart), its output and the loss's derivative by the output (rows WIDTH apart); W_T [n_in, WIDTH] and B [WIDTH] are
# copies of weights and bias. SHARES: another layer of the same source comes later.
SOURCE, N_IN, N_OUT, WEIGHT, BIAS, ACTIVATION, IN, IN_WIDTH, H, WIDTH, D, W_T, B, SHARES, ROWS, SCRATCH = range(16)
BLOCK = 64  # rows that pass through all layers together, while they are in the nearest cache


class Layer(NamedTuple):
    """A dense layer of a network."""

    source: int  # -1: the observations; else the index of an earlier layer, whose output is the input
    n_in: int
    n_out: int
    weight: int  # offset of W [n_out, n_in] in the flat parameters
    bias: int  # offset of b [n_out]; -1 for none
    activation: int = IDENTITY


def make_plan(layers: Sequence[Layer], rows: int) -> tuple[np.ndarray, int]:
    """(plan int64 [L, 16], size): `np.zeros(size, np.float32)` is the scratch memory for batches of up to `rows`."""
    plan = np.zeros((len(layers), 16), np.int64)
    size = 0

    def reserve(n: int) -> int:
        nonlocal size
        size += n
        return size - n

    in_width = _width(layers[0].n_in)
    obs, scratch = reserve(rows * in_width), reserve(LANES * max(_width(layer.n_out) for layer in layers))
    for i, layer in enumerate(layers):
        width = _width(layer.n_out)
        source = None if layer.source < 0 else plan[layer.source]
        plan[i, : ACTIVATION + 1] = layer
        plan[i, IN:] = (
            obs if source is None else source[H], in_width if source is None else source[WIDTH],
            reserve(rows * width), width, reserve(rows * width), reserve(layer.n_in * width), reserve(width),
            any(later.source == layer.source for later in layers[i + 1 :]), rows, scratch,
        )  # fmt: skip
    return plan, size


def _width(n: int) -> int:
    """How far apart rows of n numbers lie. At multiples of 1 KiB they would compete for the same lines of the cache."""
    width = -(-n // LANES) * LANES
    return width + LANES if width % 256 == 0 else width


@bare
def refresh(params: np.ndarray, plan: np.ndarray, work: np.ndarray) -> None:
    """Copy the parameters as `forward` wants them; due whenever they have changed. Pads stay as they are, zero."""
    for layer in plan:
        n_in, n_out, width = layer[N_IN], layer[N_OUT], layer[WIDTH]
        transpose(params, layer[WEIGHT], n_in, work, layer[W_T], width, n_out, n_in)
        if layer[BIAS] >= 0:
            for o in range(n_out):  # parts of arrays take Numba seconds to compile, because they may not fit
                work[layer[B] + o] = params[layer[BIAS] + o]


@bare
def put(obs: np.ndarray, order: np.ndarray, first: int, rows: int, plan: np.ndarray, work: np.ndarray) -> None:
    """Make obs[order[first]] … obs[order[first + rows − 1]] (obs float32 [M, n_in]) the network's input."""
    at, width, n = plan[0, IN], plan[0, IN_WIDTH], plan[0, N_IN]
    for i in range(rows):
        row, source = work[at + i * width : at + i * width + n], obs[order[first + i]]
        for k in range(n):
            row[k] = source[k]


@bare
def forward(plan: np.ndarray, work: np.ndarray, rows: int) -> None:
    """The outputs of all layers for the first `rows` rows of the input, from refreshed copies."""
    for first in range(0, rows, BLOCK):
        n = min(rows - first, BLOCK)
        for l in range(len(plan)):
            width, in_width, columns = plan[l, WIDTH], plan[l, IN_WIDTH], -(-plan[l, N_OUT] // LANES) * LANES
            h = plan[l, H] + first * width
            product(
                work, plan[l, IN] + first * in_width, in_width, 1, work, plan[l, W_T], width, work, h, width,
                work, plan[l, B], 0, True, n, plan[l, N_IN], columns,
            )  # fmt: skip
            activate(plan[l, ACTIVATION], work, h, h + n * width)


@bare
def backward(params: np.ndarray, plan: np.ndarray, work: np.ndarray, rows: int, add: bool, grads: np.ndarray) -> None:
    """Write the gradient to `grads`, or `add` it, from d_loss_d_output in the D of each layer that is an output."""
    for i in range(len(plan) - 1, -1, -1):
        layer = plan[i]
        n_in, n_out, width, d = layer[N_IN], layer[N_OUT], layer[WIDTH], layer[D]
        chain(layer[ACTIVATION], work, layer[H], work, d, rows * width)
        if layer[BIAS] >= 0:
            _sum_rows(work, d, rows, width, layer[SCRATCH])
            for o in range(n_out):
                grads[layer[BIAS] + o] = work[layer[SCRATCH] + o] + (grads[layer[BIAS] + o] if add else np.float32(0))
        weight = layer[WEIGHT]
        if n_in < LANES:  # the transpose, whose rows fill vectors
            product(work, layer[IN], 1, layer[IN_WIDTH], work, d, width, work, layer[SCRATCH], width,
                    work, 0, 0, False, n_in, rows, width)  # fmt: skip
            for o in range(n_out):
                for k in range(n_in):
                    new = work[layer[SCRATCH] + k * width + o]
                    grads[weight + o * n_in + k] = new + (grads[weight + o * n_in + k] if add else np.float32(0))
        else:
            product(work, d, 1, width, work, layer[IN], layer[IN_WIDTH], grads, weight, n_in,
                    grads, weight, n_in, add, n_out, rows, n_in)  # fmt: skip
        if layer[SOURCE] >= 0:
            source = plan[layer[SOURCE]]
            product(work, d, width, 1, params, weight, n_in, work, source[D], source[WIDTH],
                    work, source[D], source[WIDTH], layer[SHARES] == 1, rows, n_out, n_in)  # fmt: skip


@bare
def _sum_rows(work: np.ndarray, first: int, rows: int, width: int, out: int) -> None:
    """work[out + j] = Σ_r work[first + r width + j]."""
    like = zeros(work, LANES)
    for j in range(first, first + width, LANES):
        a, b, c, d = like, like, like, like
        whole = rows - rows % 4
        for i in range(j, j + whole * width, 4 * width):
            a = a + load(work, i, like)
            b = b + load(work, i + width, like)
            c = c + load(work, i + 2 * width, like)
            d = d + load(work, i + 3 * width, like)
        for i in range(j + whole * width, j + rows * width, width):
            a = a + load(work, i, like)
        store(work, out + j - first, (a + b) + (c + d))
