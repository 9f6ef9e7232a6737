"""The loop around iterations: random state, the order of prompts, progress, and steps of the optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.checks import check_int, diverged
from fastrl.learners.optimizers import make_adam
from fastrl.rlhf.settings import Settings
from fastrl.schedules import schedule_value

__all__ = ["Callback", "Loop", "Metrics", "seed_of"]

Self = TypeVar("Self", bound="Loop")
Callback = Callable[[Any], Any]
Metrics = dict[str, float]
Loss = Callable[[Tensor], tuple[Tensor, dict[str, Any]]]  # of some rows, and what to tell of it


def seed_of(stream: np.random.SeedSequence) -> int:
    """A seed for Torch."""
    return int(stream.generate_state(1)[0])


class Loop:
    """What `RLHFTrainer` is but for language models.

    Args:
        settings: the hyperparameters.
        parameters: those that are trained.
        device: of the generator.
        streams: of NumPy's random numbers, and of Torch's.
    """

    _models: list[Any]

    def __init__(
        self, settings: Settings, parameters: list[nn.Parameter], device: torch.device,
        streams: list[np.random.SeedSequence],
    ) -> None:  # fmt: skip
        self.settings, self.parameters, self.device = settings, parameters, device
        self.optimizer = make_adam(self.parameters, settings.adam_eps, device)  # each iteration sets the rate
        self.rng = np.random.default_rng(streams[0])
        self.generator = torch.Generator(device).manual_seed(seed_of(streams[1]))
        self.num_responses = self.n_updates = self.total_responses = 0
        self.metrics: Metrics = {}
        self.interrupted = False
        self._order: list[int] = []  # the prompts to come
        self._n_prompts = 0  # of which these are

    def switch_dropout_off(self) -> None:
        """In all models."""
        for model in self._models:
            model.eval()

    def _run(
        self: Self, iterate: Callable[[], Metrics], more: int | None, callback: Callback | None, progress_bar: bool,
        names: tuple[str, ...],
    ) -> Self:  # fmt: skip
        begun = self.num_responses
        if more is None and not self.total_responses:
            raise ValueError("there is no run to go on with: say how many responses, or pairs, to learn from")
        if more is None:
            more = max(0, self.total_responses - begun)
        else:
            check_int("total_responses" if names[0] == "score" else "total_pairs", more)
            self.total_responses = begun + more
        interrupt = GracefulInterrupt()
        with interrupt, tqdm(total=more, unit="response", disable=not progress_bar) as bar:
            while self.num_responses < self.total_responses and not interrupt.requested:
                remaining = 1 - self.num_responses / self.total_responses
                for group in self.optimizer.param_groups:
                    group["lr"] = schedule_value("learning_rate", self.settings.learning_rate, remaining)
                self.switch_dropout_off()  # a callback may have switched it on
                self.metrics = self._undone_if_it_fails(iterate)
                self.num_responses += self.settings.batch_size
                shown = {name: f"{self.metrics[f'objective/{name}']:.3g}" for name in names}
                bar.set_postfix(shown, refresh=False)
                bar.update(min(self.num_responses - begun, more) - bar.n)
                if callback is not None and callback(self) is False:
                    break
        self.interrupted = interrupt.requested
        return self

    def _undone_if_it_fails(self, iterate: Callable[[], Metrics]) -> Metrics:
        """Random state and order are as before where an iteration ends before its first step of the optimiser."""
        before = self.n_updates, self._order, self._n_prompts, self.rng.bit_generator.state, self.generator.get_state()
        try:
            return iterate()
        except BaseException:
            if self.n_updates == before[0]:
                _, self._order, self._n_prompts, self.rng.bit_generator.state, state = before
                self.generator.set_state(state)
            raise

    def _next(self, n: int, wanted: int) -> list[int]:
        """Which of n are next."""
        if n != self._n_prompts:
            self._order, self._n_prompts = [], n
        while len(self._order) < wanted:
            self._order = self._order + self.rng.permutation(n).tolist()
        found, self._order = self._order[:wanted], self._order[wanted:]
        return found

    def _descend(self, loss: Loss, weights: Tensor) -> Metrics:
        """Descend the loss of each minibatch in turn, `n_epochs` times; returns means of what was told.

        Args:
            loss: of rows, by their indices.
            weights: [rows], the share of each in the mean that its loss is: how many tokens it has.
        """
        told = []
        for _ in range(int(self.settings.n_epochs or 1)):
            for minibatch in torch.from_numpy(self.rng.permutation(len(weights))).split(self.settings.minibatch_size):
                told.append(self._step(loss, minibatch, weights))
        return {key: float(np.mean([each[key] for each in told])) for key in told[0]}

    def _step(self, loss: Loss, minibatch: Tensor, weights: Tensor) -> Metrics:
        """One step of the optimiser; parts of the minibatch go through the model one after the other."""
        metrics: Metrics = {}
        self.optimizer.zero_grad(set_to_none=True)
        for rows in minibatch.chunk(self.settings.gradient_accumulation_steps):
            share = float(weights[rows].sum() / weights[minibatch].sum())
            value, found = loss(rows)
            (value * share).backward()
            for key, x in found.items():
                metrics[key] = metrics.get(key, 0.0) + share * float(x)
        if not torch.isfinite(nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)):
            raise diverged("a gradient is not finite, perhaps because scores are very large")
        self.optimizer.step()
        self.n_updates += 1
        return metrics
