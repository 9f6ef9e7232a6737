"""What `fastrl --help` and `fastrl train --help` print."""

from __future__ import annotations

from fastrl.presets import PRESETS

HELP_FLAGS = ("-h", "--help")
ALGORITHMS = {
    "ppo": "proximal policy optimisation; a good first choice, any kind of action",
    "dqn": "deep Q-learning; discrete actions, learns from few steps",
    "reinforce": "the plain policy gradient; for short episodes",
}


def with_preset(algorithm: str) -> list[str]:
    """The environments that have a preset for `algorithm`."""
    return sorted(env_id for name, env_id in PRESETS if name == algorithm)


def _choices() -> str:
    lines = ["algorithms:", *(f"  {name:<11}{about}" for name, about in ALGORITHMS.items())]
    lines += ["", "environments with presets, settings of their own:"]
    lines += [f"  {name:<11}{', '.join(with_preset(name))}" for name in ALGORITHMS]
    lines += ["Any other Gymnasium environment can be named too, your own as module:Name-v0.",
              'LunarLander needs Box2D: pip install "fastrl[box2d]"']  # fmt: skip
    return "\n".join(lines)


HELP = f"""\
fastrl: reinforcement learning that is fast on the computer you already have

commands:
  fastrl train ALGORITHM ENVIRONMENT    train an agent, then evaluate it; go on with --resume DIR
  fastrl eval FILE                      evaluate a trained agent
  fastrl play FILE                      record it as a GIF or MP4
  fastrl plot RUN...                    draw the learning curves of several runs
  fastrl tune ALGORITHM ENVIRONMENT     search for better hyperparameters
  fastrl presets [ALGORITHM [ENV]]      print the settings that runs start from
  fastrl export FILE                    write the policy as ONNX
  fastrl rlhf --demo                    fine-tune a tiny language model by rewards
  fastrl bench [NAME...]                measure fastrl beside its peers
  fastrl completion bash|zsh|fish       print a script for the shell
  fastrl --help | --version

examples:
  fastrl train ppo CartPole-v1
  fastrl train dqn CartPole-v1 --seed 1 --learning-rate 0.0005 --net-arch 128 128
  fastrl eval runs/ppo-CartPole-v1-1
  fastrl play runs/ppo-CartPole-v1-1 --out cartpole.gif
  fastrl plot runs/ppo-CartPole-v1-*

{_choices()}

more help:
  fastrl train --help                    what a run does and leaves behind
  fastrl train ppo CartPole-v1 --help    every option, with its meaning and default
  fastrl COMMAND --help

exit codes: 0 fine, 1 failed while running, 2 wrong usage, 130 interrupted.
With FASTRL_TRACEBACK=1 in the environment, an error shows where it came from."""

TRAIN_HELP = f"""\
usage: fastrl train ALGORITHM ENVIRONMENT [options]
       fastrl train --resume DIR [options]
       fastrl train --config FILE.toml [options]

Trains an agent, showing steps, steps/s and the mean return of the last 100 episodes, and
evaluates it. Ctrl-C ends the run early and keeps what was learnt; twice, it stops at once.
--resume goes on with a run that was interrupted or killed, from its last checkpoint.
--seeds N trains with N seeds, --jobs of them at once, here or on a cluster with --ray, and
prints a table; the same command goes on with it.

A run leaves runs/ALGORITHM-ENVIRONMENT-N/, or the directory that --out names:
  model.fastrl    the agent, for `fastrl eval`, or for PPO.load in Python
  curve.png       the learning curve
  metrics.csv     the numbers behind it
  config.toml     the settings and versions, for --config
  checkpoints/    the last few, for --resume

examples:
  fastrl train ppo CartPole-v1
  fastrl train ppo Pendulum-v1 --seed 1 --out pendulum
  fastrl train dqn CartPole-v1 --total-timesteps 20000 --no-progress
  fastrl train --resume pendulum --total-timesteps 400000
  fastrl train ppo CartPole-v1 --seeds 5 --jobs 2

{_choices()}

Every option, with its meaning and default: fastrl train ppo CartPole-v1 --help"""
