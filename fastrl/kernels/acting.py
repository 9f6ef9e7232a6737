"""Acting with a network: outputs, values and drawn actions, for batches and for single observations."""

from __future__ import annotations

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.activations import LANES, activate
from fastrl.kernels.environment import row
from fastrl.kernels.heads import NVEC, POLICY, VALUE, draw, is_narrow, mode, sample, softmax_of_lanes
from fastrl.kernels.matmul import product
from fastrl.kernels.mlp import (
    ACTIVATION,
    BIAS,
    IN,
    IN_WIDTH,
    N_IN,
    N_OUT,
    ROWS,
    WEIGHT,
    WIDTH,
    D,
    H,
    forward,
)
from fastrl.kernels.simd import at, below, load, store, total, where, zeros


def outputs(obs: np.ndarray, plan: np.ndarray, work: np.ndarray, layer: int, out: np.ndarray) -> None:
    """out float32 [N, n_out]: what a layer makes of `obs` float32 [N, n_in]. After `mlp.refresh`; any N.

    In Python: compiling it takes half a second, and its parts are compiled for others in any case.
    """
    h, width = plan[layer, H], plan[layer, WIDTH]
    for first in range(0, len(obs), plan[0, ROWS]):
        rows = min(len(obs) - first, plan[0, ROWS])
        load_rows(obs, first, rows, plan, work)
        forward(plan, work, rows)
        out[first : first + rows] = work[h : h + rows * width].reshape(rows, width)[:, : out.shape[1]]


@bare
def act(
    obs: np.ndarray, noise: np.ndarray, params: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray,
    action: np.ndarray, log_prob: np.ndarray, value: np.ndarray,
) -> None:  # fmt: skip
    """Draw `action` [N, c] for `obs` float32 [N, n_in], with `log_prob` and `value` [N], by `noise` float32 [N, c].

    After `mlp.refresh`; any N.
    """
    for first in range(0, len(obs), plan[0, ROWS]):
        rows = min(len(obs) - first, plan[0, ROWS])
        load_rows(obs, first, rows, plan, work)
        act_rows(first, rows, noise, params, plan, work, head, action, log_prob, value)


@inlined
def act_rows(
    first: int, rows: int, noise: np.ndarray, params: np.ndarray, plan: np.ndarray, work: np.ndarray,
    head: np.ndarray, action: np.ndarray, log_prob: np.ndarray, value: np.ndarray,
) -> None:  # fmt: skip
    """As `act`, for `rows` of them, which are the network's input already, and whose results begin at `first`."""
    policy, critic = head[POLICY], head[VALUE]
    z0, d0, width = plan[policy, H], plan[policy, D], plan[policy, WIDTH]
    forward(plan, work, rows)
    narrow, like = is_narrow(head), zeros(work, LANES)
    choices = below(like, plan[policy, N_OUT])
    for i in range(rows):
        k = first + i
        z, d = z0 + i * width, d0 + i * width
        if narrow:
            log_p, p = softmax_of_lanes(load(work, z, like), choices)
            store(work, d, p)
            chosen = draw(work, d, head[NVEC], noise[k, 0])
            action[k, 0] = chosen
            log_prob[k] = total(where(at(like, chosen), log_p, like))
        else:
            log_prob[k] = sample(work, z, d, row(noise, k), params, head, row(action, k))
        value[k] = work[plan[critic, H] + i * plan[critic, WIDTH]]


@bare
def load_rows(obs: np.ndarray, first: int, rows: int, plan: np.ndarray, work: np.ndarray) -> None:
    """Make obs[first : first + rows] the network's input."""
    at, width, n = plan[0, IN], plan[0, IN_WIDTH], plan[0, N_IN]
    for i in range(rows):
        for k in range(n):
            work[at + i * width + k] = obs[first + i, k]


@bare
def predict_one(
    obs: np.ndarray, noise: np.ndarray, params: np.ndarray, plan: np.ndarray, work: np.ndarray, head: np.ndarray,
    action: np.ndarray,
) -> None:  # fmt: skip
    """The `action` [c] for one observation float32 [n_in]: drawn by `noise` [c], or the likeliest where that is empty.

    Reads the parameters themselves, so that nothing has to be refreshed. Works fastest with a plan of the layers that
    lead to the policy.
    """
    for k in range(len(obs)):
        work[plan[0, IN] + k] = obs[k]
    for layer in plan:
        n_out, bias = layer[N_OUT], layer[BIAS]
        # a row of W for a row of A: y = W x is a product with one column
        product(params, layer[WEIGHT], layer[N_IN], 1, work, layer[IN], 1, work, layer[H], 1,
                params, max(bias, 0), 1, bias >= 0, n_out, layer[N_IN], 1)  # fmt: skip
        activate(layer[ACTIVATION], work, layer[H], layer[H] + layer[WIDTH])
    if len(noise) > 0:
        sample(work, plan[head[POLICY], H], plan[head[POLICY], D], noise, params, head, action)
    else:
        mode(work, plan[head[POLICY], H], head, action)
