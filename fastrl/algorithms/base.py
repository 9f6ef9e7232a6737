"""What DQN, REINFORCE and PPO share: construction, the loop of iterations, prediction, and the model file."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete
from torch import nn

from fastrl import policies, spaces
from fastrl.algorithms import parallel, parameters, running, saving
from fastrl.algorithms.foreign import check_foreign, check_neutral, missing
from fastrl.algorithms.interrupt import GracefulInterrupt
from fastrl.callbacks import BaseCallback
from fastrl.checks import check_int, check_number
from fastrl.envs.stepper import EnvLike, Step, Stepper, is_made, make_stepper
from fastrl.learners.engine import Engine, check_engine, choose_device, with_engine
from fastrl.learners.torch import TorchLearner, one_thread
from fastrl.logger import Logger
from fastrl.normalize import Normalizer
from fastrl.predictor import Predictor
from fastrl.ranks import Ranks
from fastrl.schedules import check_schedule

if TYPE_CHECKING:
    from fastrl.vec_env import VecEnv

Self = TypeVar("Self", bound="Algorithm")
Callback = BaseCallback | Callable[..., Any] | Sequence[BaseCallback | Callable[..., Any]]


class Algorithm(Predictor, ABC):
    """The shared base. A subclass builds its learner, says what one iteration does, and how to predict."""

    action_kinds: tuple[type, ...] = (Discrete, MultiDiscrete, MultiBinary, Box)
    policy_options: tuple[str, ...]
    learner: TorchLearner
    learning_rate: Any  # every subclass has and sets it
    logs_by_episode = False  # what `log_interval` of `learn` counts: episodes, or else iterations
    data_parallel = False  # whether the ranks of a group of torch.distributed can train one model together

    def __init__(
        self, policy: str | nn.Module, env: EnvLike | Stepper | spaces.Spaces, *, gamma: float, n_envs: int,
        normalize: bool, policy_kwargs: dict[str, Any] | None, seed: int | None, device: str, engine: Engine,
        verbose: int, stats_window_size: int, tensorboard_log: str | None, foreign: dict[str, Any],
    ) -> None:  # fmt: skip
        check_foreign(type(self), foreign)
        check_engine(engine)
        check_int("stats_window_size", stats_window_size)
        check_number("gamma", gamma, 0, 1)
        if not isinstance(normalize, (bool, np.bool_)):
            raise TypeError(f"normalize is {normalize!r}; it must be True or False")
        if seed is not None:
            check_int("seed", seed, 0)
        policies.check_policy(policy)
        self.policy_kwargs = policies.check_options(policy, policy_kwargs, self.policy_options)
        check_schedule("learning_rate", self.learning_rate)
        self.ranks = Ranks.here() if self.data_parallel else Ranks()
        if isinstance(env, spaces.Spaces):
            about: spaces.Spaces | Stepper = env
        else:
            about = make_stepper(env, n_envs if is_made(env) else self.ranks.share("n_envs", n_envs), engine != "torch")
        self.env = about if isinstance(about, Stepper) else None
        super().__init__(about.observation_space, about.action_space)
        self.num_envs, self.env_id = about.num_envs, about.env_id
        spaces.check_observation_space(self.observation_space)
        policies.check_fits(policy, self.observation_space, self.policy_kwargs)
        spaces.check_action_space(self.action_space, self.action_kinds, type(self).__name__)
        self.obs_dim = spaces.flat_dim(self.observation_space)

        self.gamma, self._copies, self.normalize, self.verbose = gamma, n_envs, normalize, verbose
        self.device = str(choose_device(device, policy))
        self._images = spaces.image_columns(self.observation_space)
        self.normalizer = Normalizer(self.obs_dim, self.num_envs, gamma) if normalize else None

        self._seed(seed)

        self.num_timesteps = self.num_episodes = self.n_updates = self.total_timesteps = 0
        self.episodes: deque[tuple[float, int]] = deque(maxlen=stats_window_size)  # (return, length), latest last
        self._train_metrics: dict[str, float] = {}
        self.stats_window_size, self.tensorboard_log = stats_window_size, tensorboard_log
        self.logger, self._logger_is_given = Logger(None), False
        self._run: running.Run | None = None  # the last one
        self._share: parallel.Share | None = None  # of a run over several ranks, while it lasts
        self._of_ranks: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []  # what they have of their own,
        self._gathered_at = -1  # as of so many steps
        self.interrupted = False
        self._face: VecEnv | None = None
        self._obs: np.ndarray | None = None  # [N, *obs] what the next step acts on
        self._loaded, self._env_state = False, None  # from a file, until `learn` takes up its episodes
        # The orthogonal initialisation rounds otherwise with more threads.
        with one_thread(True), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._init_seed)
            self._build(policy)
        self.set_engine(engine)
        self.policy_name = "custom" if isinstance(policy, nn.Module) else policy

    def _seed(self, seed: int | None) -> None:
        """Let everything random flow from `seed`: environments, network weights, training, prediction.

        Of several ranks, all begin with the same weights, and each has streams of its own for the rest.
        """
        self.seed, sequence = seed, np.random.SeedSequence(seed)
        env_seed, self._init_seed = (int(x) for x in sequence.generate_state(2) >> 1)
        self._env_seed = None if seed is None else env_seed
        self.rng, self._predict_rng = (np.random.default_rng(child) for child in sequence.spawn(2))
        self._branch(sequence.entropy)

    def _branch(self, entropy: Any) -> None:
        """Give every rank but the first streams of its own, which follow from the `entropy` of all."""
        if not self.ranks.is_first:
            own = np.random.SeedSequence(entropy, spawn_key=(2 + self.ranks.rank,))
            self._env_seed = None if self._env_seed is None else int(own.generate_state(1)[0] >> 1)
            self.rng, self._predict_rng = (np.random.default_rng(child) for child in own.spawn(2))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(missing(type(self).__name__, name), name=name, obj=self)

    # -- what a subclass says ----------------------------------------------------------------------------------

    @abstractmethod
    def _build(self, policy: str | nn.Module) -> None:
        """Make the networks and the learner."""

    @abstractmethod
    def _iterate(self) -> dict[str, float]:
        """Gather experience once and learn from it; returns training metrics."""

    def _describe(self) -> dict[str, float]:
        """More metrics, of now, by their full keys."""
        return {}

    # -- training ----------------------------------------------------------------------------------------------

    @property
    def policy(self) -> nn.Module:
        """The network that acts; an ordinary module."""
        return self.learner.policy

    @property
    def n_envs(self) -> int:
        """How many environments there are, as `num_envs`: of several ranks, those of this one."""
        return self.num_envs

    @property
    def total_envs(self) -> int:
        """How many environments all ranks have."""
        return self.num_envs * self.ranks.size

    @property
    def engine(self) -> str:
        """What runs the policy now: "compiled" or "torch"."""
        return self.learner.engine

    def set_engine(self, engine: Engine) -> None:
        """Let another engine run the policy from here on; weights and optimiser stay as they are.

        Args:
            engine: as in the constructor.

        Raises:
            ValueError: for "compiled" where it does not apply, naming the reason.
        """
        self.learner = with_engine(self.learner, engine)
        self.learner.ranks = self._ranks_of_updates()
        self._wanted_engine: Engine = engine

    def _ranks_of_updates(self) -> Ranks:
        """Those that step down one gradient together."""
        return self.ranks

    def learn(
        self: Self, total_timesteps: int, callback: Callback | None = None, log_interval: int | None = None,
        tb_log_name: str | None = None, reset_num_timesteps: bool = True, progress_bar: bool = False,
    ) -> Self:  # fmt: skip
        """Train until `total_timesteps` environment steps were taken, counted over all environments.

        Ctrl-C ends the run after the current iteration, with a usable model and `interrupted` set; a second
        Ctrl-C raises KeyboardInterrupt at once. Where an environment fails, its error is raised, and the model
        stays as the last update left it.

        Within a process group of torch.distributed every rank calls it, and all train one model: see docs/distributed.

        Args:
            total_timesteps: how many steps; the last iteration is always finished.
            callback: a `fastrl.BaseCallback`; a function of the model, called after every iteration; a function of
                (locals, globals), called after every step; or a list of these. Training ends where one returns False.
            log_interval: write the metrics every so many iterations, for DQN episodes; None as often as that takes
                less than a third of a percent of the time.
            tb_log_name: of the run's folder within `tensorboard_log`; None for the algorithm's name.
            reset_num_timesteps: count from 0 and begin new episodes. With False the run continues where it
                stopped, and `total_timesteps` are added to the steps taken so far.
            progress_bar: show steps, steps/s, the time left and the mean return of the last episodes.

        Raises:
            ValueError: without an environment; for a NaN reward or observation, naming environment and step; for a loss
                or a gradient that is not finite, before the step down it.
            EnvironmentFailure: where an environment raises.
            RankLost: where another rank has ended.
        """
        run = running.Run(self, total_timesteps, callback, log_interval, progress_bar)
        interrupt = GracefulInterrupt()
        if self.learner.bind() is not None:
            self.set_engine(self._wanted_engine)
        parallel.check_group(self)
        self._share = parallel.Share(self, total_timesteps) if self.ranks.size > 1 else None
        try:
            run.begin(reset_num_timesteps, tb_log_name)
            if self._share is not None:
                self._share.begin()
            few_threads = self.policy_name == "MlpPolicy" or self.engine == "compiled"
            with run, interrupt, one_thread(few_threads):
                going_on = self.num_timesteps < self.total_timesteps
                while going_on:
                    run.before_iteration()
                    self._train_metrics = self._iteration()
                    running.check_training(self._train_metrics)
                    going_on = run.after_iteration() and self.num_timesteps < self.total_timesteps
                    if self._share is None:
                        going_on = going_on and not interrupt.requested
                    else:
                        going_on, asked = self._share.agree(going_on, interrupt.requested)
                        interrupt.requested |= asked  # one that came just now counts after the next iteration
            if self._share is not None:
                if interrupt.cut_short:
                    raise KeyboardInterrupt  # the others are still within the iteration
                self._share.gather()
            self.interrupted = interrupt.requested
            if interrupt.cut_short:
                self._obs = None  # somewhere within a step
        except BaseException:
            self._obs = None  # the episodes are in an unknown state: the next run begins new ones
            self.interrupted = interrupt.requested
            raise
        finally:
            self._share = None
        return self

    def when_whole(self, action: Callable[[], None]) -> None:
        """Call `action`, which saves the model; of several ranks on the first one, once it has all that is to be saved.

        That is after the iteration, when the others have told what they have of their own. For callbacks.
        """
        if self._share is None:
            action()
        else:
            self._share.when_whole(action)

    def _iteration(self) -> dict[str, float]:
        """One iteration, by the engine that the policy allows: a callback may have done anything to it."""
        if self.learner.begin() is not None:
            self.set_engine(self._wanted_engine)
        try:
            return self._iterate()
        finally:
            self.learner.end()

    def _new_episodes(self) -> None:
        """Reset the environments, whatever they were doing."""
        assert self.env is not None
        self._obs = None
        seed = None if self._env_seed is None or self.env.seeded else self._env_seed + self.num_timesteps
        self._obs = self.env.reset(seed)
        if self.normalizer is not None:
            self.normalizer.returns[:] = 0
            self.normalizer.observe(self._flat(self._obs))

    def _remaining(self) -> float:
        """Progress left, from 1 at the start to 0 at the end: the argument of schedules."""
        return max(0.0, 1 - self.num_timesteps / self.total_timesteps) if self.total_timesteps else 1.0

    def _step(self, action: np.ndarray) -> Step:
        """Take actions [N, n_components], from 0, in the environments; counts steps and episodes."""
        assert self.env is not None
        step = self.env.step(self._env_action(action))
        self._count(int(np.count_nonzero(step.valid)))
        self._obs = step.obs
        if self.normalizer is not None:
            self.normalizer.observe(self._flat(step.obs))
        if self._stepwise and self._run is not None:
            self._run.after_step(action, step)
        return step

    def _rollout_ended(self) -> None:
        """Experience is gathered; learning from it begins."""
        if self._share is not None:
            self._share.merge()
        if self._run is not None:
            self._run.callback.on_rollout_end()

    @property
    def _stepwise(self) -> bool:
        """Whether somebody wants to be told of every step."""
        return self._run is not None and self._run.callback.each_step

    def _count(self, n_steps: int) -> None:
        """Count steps, and the episodes that ended with them."""
        assert self.env is not None
        self.num_timesteps += n_steps
        finished = self.env.take_finished()
        self.num_episodes += len(finished)
        self.episodes.extend(finished)
        if self._share is not None:
            self._share.note(n_steps, finished)

    @property
    def metrics(self) -> dict[str, float]:
        """The run as it stands, under Stable-Baselines3's keys: time/…, rollout/… (the last episodes), train/…"""
        return running.metrics(self)

    # -- observations and actions --------------------------------------------------------------------------------

    def _flat(self, obs: Any) -> np.ndarray:
        return spaces.flatten(self.observation_space, obs, self.policy_kwargs.get("normalize_images", True))

    def _features(self, obs: Any) -> np.ndarray:
        flat = self._flat(obs)
        if self.normalizer is None:
            return flat
        normalized = self.normalizer.obs(flat)
        for columns in self._images:
            normalized[:, columns] = flat[:, columns]
        return normalized

    def _env_action(self, action: np.ndarray) -> np.ndarray:
        return spaces.to_env(self.action_space, action)

    def save(
        self, path: str | os.PathLike[str], exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Write everything that resuming needs to one file, atomically; see `fastrl.algorithms.saving`.

        Args:
            path: of the file, whose missing directories are made.
            exclude, include: None or empty: the file holds neither more nor less.

        Raises:
            TypeError, ValueError: for an open file, and for names to exclude or to include.
            OSError: where the file cannot be written; what was there stays.
        """
        if exclude or include:
            raise ValueError(
                "a model file holds what resuming needs, neither more nor less: leave out exclude and include"
            )
        saving.save(self, path)

    @classmethod
    def load(
        cls: type[Self], path: str | os.PathLike[str], env: EnvLike | None = None, device: str = "auto",
        custom_objects: dict[str, Any] | None = None, print_system_info: bool = False, force_reset: bool = True, *,
        policy: nn.Module | None = None, **hyperparameters: Any,
    ) -> Self:  # fmt: skip
        """The model of a file, ready to predict; with `env`, ready to go on learning.

        A run that was saved between iterations and goes on with `learn(..., reset_num_timesteps=False)` equals
        one that never stopped, bit for bit, where the environments are compiled, or of Gymnasium's own kind: given as
        an id, a callable or an environment, drawing from `np_random` alone. Others begin new episodes.

        Args:
            path: what `save` wrote.
            env: the environment, as in the constructor; its spaces must be those of the file.
            device: as in the constructor.
            custom_objects: hyperparameters by name, as below; "lr_schedule" is learning_rate, spaces must be its own.
            print_system_info, force_reset: False and True; others cannot apply.
            policy: the module, for a model that was made with one of your own: the file holds its weights only.
            hyperparameters: replace those of the file.

        Raises:
            FileNotFoundError: where there is no file.
            ModelFileError: for a damaged or foreign file, a later version, another algorithm, other spaces.
        """
        check_neutral(print_system_info=print_system_info, force_reset=force_reset)
        return saving.load(cls, path, env, policy, device, {**(custom_objects or {}), **hyperparameters})

    def set_env(self, env: EnvLike, force_reset: bool = True, *, n_envs: int = 1) -> None:
        """Go on with another environment of the same spaces; new episodes begin at the next `learn`.

        Args:
            env, n_envs: as in the constructor.
            force_reset: True; another cannot apply.

        Raises:
            ValueError, TypeError: for another environment's spaces, or no environment.
        """
        check_neutral(force_reset=force_reset)
        own = n_envs if is_made(env) else self.ranks.share("n_envs", n_envs)
        stepper = make_stepper(env, own, self._wanted_engine != "torch")
        spaces.check_same_spaces(self, stepper)
        self.env, self.num_envs, self.env_id, self._obs = stepper, stepper.num_envs, stepper.env_id, None
        self._copies, self._gathered_at = n_envs, -1
        if self.normalizer is not None:
            self.normalizer.returns = np.zeros(self.num_envs)

    # -- as Stable-Baselines3 has it -----------------------------------------------------------------------------

    def get_env(self) -> VecEnv | None:
        """The environments in Stable-Baselines3's shape, see `fastrl.VecEnv`; None where there are none."""
        if self.env is None:
            return None
        from fastrl.vec_env import VecEnv  # what most never need

        if self._face is None or self._face.stepper is not self.env:
            self._face = VecEnv(self.env)
        return self._face

    def set_logger(self, logger: Logger) -> None:
        """Write what training tells to `logger`, see `fastrl.configure`, instead of what `verbose` and others say.

        Of several ranks the first one's is written to, and those of others are left alone.
        """
        self.logger, self._logger_is_given = logger if self.ranks.is_first else Logger(None), True

    def get_parameters(self) -> dict[str, dict[str, torch.Tensor]]:
        """Copies of the weights, "policy" and DQN's "target", and of the "optimizer"'s state, by name."""
        return parameters.get(self)

    def set_parameters(
        self, load_path_or_dict: str | os.PathLike[str] | dict[str, dict[str, torch.Tensor]], exact_match: bool = True,
        device: str = "auto",
    ) -> None:  # fmt: skip
        """Take over what `get_parameters` gave, or the same of a model file.

        Args:
            load_path_or_dict: the dict, or the file's path.
            exact_match: with False, what is missing stays as it is.
            device: accepted; weights stay on the model's.

        Raises:
            ValueError: for names or shapes that are not the model's; nothing is changed then.
        """
        parameters.take(self, load_path_or_dict, exact_match)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Let all that is random from here on flow from `seed`; the next `learn` begins new episodes with it."""
        parameters.reseed(self, seed)
