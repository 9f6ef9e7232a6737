"""DQN's whole loop in one call, over compiled environments and the ring's memory: act, store, draw, update."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastrl.kernels._jit import bare, inlined
from fastrl.kernels.acting import load_rows
from fastrl.kernels.collect import Envs, Normalization, look_at_all, move, renew
from fastrl.kernels.heads import POLICY, likeliest
from fastrl.kernels.mlp import N_OUT, WIDTH, H, forward, refresh
from fastrl.kernels.normalize import normalize, observe
from fastrl.kernels.optim import lerp
from fastrl.kernels.sampling import below
from fastrl.kernels.updates import update_q


class Networks(NamedTuple):
    """The Q-network, its optimiser, and its target; `work` and `target_work` refreshed."""

    params: np.ndarray
    grads: np.ndarray
    exp_avg: np.ndarray
    exp_avg_sq: np.ndarray
    plan: np.ndarray
    work: np.ndarray
    head: np.ndarray
    target_params: np.ndarray
    target_work: np.ndarray


class Ring(NamedTuple):
    """The columns of a ring of records, [slots, …], as `fastrl.ReplayBuffer` lays them out."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    rng: np.ndarray  # uint64 [4], of the indices: xoshiro256++
    n_step: int
    gamma: float


class Batch(NamedTuple):
    """Memory for B drawn transitions, as `updates.update_q` takes them."""

    obs: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    discount: np.ndarray
    next_obs: np.ndarray
    terminated: np.ndarray
    weights: np.ndarray
    y: np.ndarray
    td_error: np.ndarray


class Settings(NamedTuple):
    """Hyperparameters of DQN; steps are counted over all environments."""

    train_freq: int
    gradient_steps: int  # -1: as many as steps were taken
    learning_starts: int
    target_update_interval: int
    target_by_episodes: bool
    tau: float
    double_q: bool
    huber: bool
    adam_eps: float
    max_grad_norm: float  # may be infinite
    total_timesteps: int
    initial_eps: float
    final_eps: float
    fraction: float
    decay: float  # of ε after every episode; negative: ε falls linearly instead


# what `q_loop` counts: steps and episodes of the run, transitions ever added to the ring, steps of Adam, updates here,
# episodes that ended here
TIMESTEPS, EPISODES, ADDED, ADAM_STEPS, UPDATES, ENDED = range(6)


@bare
def q_loop(
    envs: Envs, nets: Networks, ring: Ring, batch: Batch, norm: Normalization, settings: Settings, u: np.ndarray,
    rates: np.ndarray, counts: np.ndarray, ended: np.ndarray, stage: Ring,
) -> float:  # fmt: skip
    """Rounds of `train_freq` steps and `gradient_steps` updates, one for each of `rates`, Adam's learning rates.

    Args:
        u: float64 [T, N], uniform on [0, 1): what each step of each environment explores by.
        counts: int64 [6], see above: read and moved on.
        ended: float64 [T N, 2], written: (return, length) of the episodes that ended, in this order.
        stage: memory for one step of the environments, columns [N, …]: a step in which one of them fails is not
            counted, and must not overwrite what the ring holds.

    Returns:
        the mean loss in the last round; or, as BAD_REWARD or BAD_OBS, what `collect` returns, or BAD_BATCH or
        DIVERGED of `update_q`: no loss is negative.
    """
    n, t, loss, copied = len(envs.states), 0, 0.0, -1
    code = look_at_all(envs)
    if code < 0:
        return code
    for r in range(len(rates)):
        taken = 0
        while taken < settings.train_freq:
            before = _intervals(counts, settings)
            code = _step(envs, nets, ring, norm, settings, u[t], counts, ended, stage)
            if code < 0:
                return code
            t, taken = t + 1, taken + n
            if _intervals(counts, settings) != before and (settings.tau < 1 or counts[UPDATES] != copied):
                copied = counts[UPDATES]
                lerp(nets.target_params, nets.params, settings.tau)
                refresh(nets.target_params, nets.plan, nets.target_work)
        if counts[TIMESTEPS] > settings.learning_starts:
            n_updates, loss = taken if settings.gradient_steps == -1 else settings.gradient_steps, 0.0
            for _ in range(n_updates):
                draw_batch(ring, counts[ADDED], n, batch)
                if norm.used:
                    normalize(batch.obs, norm.obs_mean, norm.obs_var, batch.obs)
                    normalize(batch.next_obs, norm.obs_mean, norm.obs_var, batch.next_obs)
                new = update_q(
                    batch.obs, batch.action, batch.reward, batch.discount, batch.next_obs, batch.terminated,
                    batch.weights, settings.double_q, settings.huber, nets.params, nets.grads, nets.exp_avg,
                    nets.exp_avg_sq, nets.plan, nets.work, nets.target_work, nets.head, counts[ADAM_STEPS], rates[r],
                    settings.adam_eps, settings.max_grad_norm, batch.y, batch.td_error,
                )  # fmt: skip
                if new < 0:
                    return new
                loss += new
                counts[ADAM_STEPS] += 1
                counts[UPDATES] += 1
            loss /= max(n_updates, 1)
    return loss


@bare
def epsilon(counts: np.ndarray, settings: Settings) -> float:
    """ε of the next step."""
    low, high = settings.final_eps, settings.initial_eps
    if counts[TIMESTEPS] < settings.learning_starts:
        return 1.0
    if settings.decay >= 0:
        return max(low, high * settings.decay ** counts[EPISODES])
    done = 1 - max(0.0, 1 - counts[TIMESTEPS] / settings.total_timesteps)
    return low + (high - low) * max(0.0, 1 - done / settings.fraction) if settings.fraction > 0 else low


@bare
def draw_batch(ring: Ring, added: int, stride: int, batch: Batch) -> None:
    """Draw transitions uniformly; of windows of several steps as `fastrl_ext.windows` puts them together."""
    slots = len(ring.reward)
    size = min(added, slots)
    newest = (added - 1) % slots
    for i in range(len(batch.reward)):
        slot = below(ring.rng, size)
        batch.action[i] = ring.action[slot]
        for j in range(batch.obs.shape[1]):
            batch.obs[i, j] = ring.obs[slot, j]
        total, weight, ahead = float(ring.reward[slot]), ring.gamma, newest - slot
        if ahead < 0:
            ahead += slots
        for _ in range(1, ring.n_step):
            ahead -= stride
            if ahead < 0 or ring.terminated[slot] or ring.truncated[slot]:
                break
            slot = (slot + stride) % slots
            total += weight * ring.reward[slot]
            weight *= ring.gamma
        batch.reward[i], batch.discount[i], batch.terminated[i] = total, weight, ring.terminated[slot]
        for j in range(batch.obs.shape[1]):
            batch.next_obs[i, j] = ring.next_obs[slot, j]


@bare
def _intervals(counts: np.ndarray, settings: Settings) -> int:
    """How often the target was due since the run began."""
    return (counts[EPISODES] if settings.target_by_episodes else counts[TIMESTEPS]) // settings.target_update_interval


@inlined
def _step(
    envs: Envs, nets: Networks, ring: Ring, norm: Normalization, settings: Settings, u: np.ndarray,
    counts: np.ndarray, ended: np.ndarray, stage: Ring,
) -> int:  # fmt: skip
    """One step of each environment, stored in the ring; 0, or a negative number as of `collect`."""
    n, slots, eps, n_actions = len(envs.states), len(ring.reward), epsilon(counts, settings), nets.head[-1]
    done = 0
    greedy = False
    for i in range(n):
        greedy |= u[i] >= eps
    if greedy:
        _features(envs.obs, norm, envs.final_obs)
        load_rows(envs.final_obs, 0, n, nets.plan, nets.work)
        forward(nets.plan, nets.work, n)
    layer = nets.head[POLICY]
    for i in range(n):
        action = likeliest(nets.work, nets.plan[layer, H] + i * nets.plan[layer, WIDTH], nets.plan[layer, N_OUT])
        if u[i] < eps:
            action = min(int(u[i] / eps * n_actions), n_actions - 1)
        for j in range(envs.obs.shape[1]):
            stage.obs[i, j] = envs.obs[i, j]
        code, terminated, truncated = move(i, action, envs)
        if code < 0:
            return code
        for j in range(envs.obs.shape[1]):
            stage.next_obs[i, j] = envs.obs[i, j]
        stage.action[i], stage.reward[i] = action, envs.reward[i]
        stage.terminated[i], stage.truncated[i] = terminated, truncated
        if terminated or truncated:
            at = counts[ENDED] + done
            ended[at, 0], ended[at, 1] = envs.returns[i], envs.lengths[i]
            done += 1
            code = renew(i, envs)
            if code < 0:
                return code
    for i in range(n):
        _store(stage, i, ring, (counts[ADDED] + i) % slots)
    counts[TIMESTEPS] += n
    counts[ADDED] += n
    counts[EPISODES] += done
    counts[ENDED] += done
    if norm.used:
        observe(envs.obs, norm.obs_mean, norm.obs_var, norm.obs_count)
    envs.where[2] += 1
    return 0


@inlined
def _store(stage: Ring, i: int, ring: Ring, slot: int) -> None:
    """Row i of `stage` becomes the ring's record at `slot`."""
    for j in range(stage.obs.shape[1]):
        ring.obs[slot, j] = stage.obs[i, j]
        ring.next_obs[slot, j] = stage.next_obs[i, j]
    ring.action[slot], ring.reward[slot] = stage.action[i], stage.reward[i]
    ring.terminated[slot], ring.truncated[slot] = stage.terminated[i], stage.truncated[i]


@bare
def _features(obs: np.ndarray, norm: Normalization, out: np.ndarray) -> None:
    """out [N, D]: observations as the network takes them."""
    if norm.used:
        normalize(obs, norm.obs_mean, norm.obs_var, out)
    else:
        for i in range(obs.shape[0]):
            for j in range(obs.shape[1]):
                out[i, j] = obs[i, j]
