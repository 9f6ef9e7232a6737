"""`fastrl completion`: a script with which a shell completes commands, environments, options and files."""

from __future__ import annotations

from typing import Any

import fastrl
from fastrl.commands.bench import BenchOptions
from fastrl.commands.evaluate import EvalOptions
from fastrl.commands.export import ExportOptions
from fastrl.commands.plan import RunOptions
from fastrl.commands.play import PlayOptions
from fastrl.commands.plot import PlotOptions
from fastrl.commands.rlhf import RlhfOptions
from fastrl.commands.trials import TuneOptions
from fastrl.flags import UsageError, choices, flag_names, hyperparameter_flags, nearest
from fastrl.help import ALGORITHMS, HELP_FLAGS, with_preset

USAGE = """\
usage: fastrl completion bash|zsh|fish

Prints a script with which the shell completes commands, algorithms, environments, options
and files.
  bash   fastrl completion bash >> ~/.bashrc
  zsh    fastrl completion zsh >> ~/.zshrc
  fish   fastrl completion fish > ~/.config/fish/completions/fastrl.fish"""

SHELLS = ("bash", "zsh", "fish")
OPTIONS: dict[str, Any] = {  # of the commands without an algorithm
    "eval": EvalOptions, "play": PlayOptions, "plot": PlotOptions, "bench": BenchOptions, "export": ExportOptions,
    "rlhf": RlhfOptions,
}  # fmt: skip

BASH = """\
_fastrl() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
  case $prev in
{values}
  esac
  if [[ -z $words ]]; then
    if (( COMP_CWORD == 1 )); then words="{commands}"
    else
      case $command in
        train|tune)
          if (( COMP_CWORD == 2 )); then words="{algorithms}"
          elif (( COMP_CWORD == 3 )) && [[ ${{COMP_WORDS[2]}} != -* ]]; then words="{environments}"
          fi ;;
        presets)
          if (( COMP_CWORD == 2 )); then words="{algorithms}"
          elif (( COMP_CWORD == 3 )); then words="{presets}"
          fi ;;
        completion) (( COMP_CWORD == 2 )) && words="{shells}" ;;
      esac
    fi
  fi
  if [[ $cur == -* ]]; then
    case "$command ${{COMP_WORDS[2]}}" in
{flags}
    esac
  fi
  COMPREPLY=( $(compgen -W "$words" -- "$cur") )
  if [[ -z $words ]]; then
    COMPREPLY=( $(compgen -f -- "$cur") )
    compopt -o filenames 2>/dev/null
  fi
  return 0
}}
complete -F _fastrl fastrl
"""

FISH = """\
function __fastrl_at
  test (count (commandline -opc)) -eq $argv[1]
end
function __fastrl_in
  set -l words (commandline -opc)
  test (count $words) -ge (math 1 + (count $argv)); and test "$words[2..(math 1 + (count $argv))]" = "$argv"
end
function __fastrl_named
  not string match -q -- "-*" (commandline -opc)[3]
end
complete -c fastrl -n '__fastrl_at 1' -f -a '{commands}'
complete -c fastrl -n '__fastrl_at 2; and contains (commandline -opc)[2] train tune presets' -f -a '{algorithms}'
complete -c fastrl -n '__fastrl_at 3; and contains (commandline -opc)[2] train tune; and __fastrl_named' -f -a \
  '{environments}'
complete -c fastrl -n '__fastrl_at 3; and __fastrl_in presets' -f -a '{presets}'
complete -c fastrl -n '__fastrl_at 2; and __fastrl_in completion' -f -a '{shells}'
"""


def run(args: list[str]) -> None:
    """Print the script of the shell that `args` name."""
    if args and args[0] in HELP_FLAGS:
        print(USAGE)
        return
    if len(args) != 1 or args[0] not in SHELLS:
        close = nearest(args[0], SHELLS) if args else ""
        raise UsageError(f"fastrl completion needs one of {', '.join(SHELLS)}{close}")
    print(script(args[0]), end="")


def script(shell: str) -> str:
    """The script, of the options and environments that are known now."""
    flags, values = _known()
    words = {
        "commands": " ".join([*_commands(), "--help", "--version"]), "algorithms": " ".join(ALGORITHMS),
        "environments": " ".join(_environments()), "shells": " ".join(SHELLS),
        "presets": " ".join(sorted({env_id for name in ALGORITHMS for env_id in with_preset(name)})),
    }  # fmt: skip
    if shell == "fish":
        lines = [
            f"complete -c fastrl -n '__fastrl_in {where}' -l {flag[2:]}"
            + (f" -x -a '{' '.join(values[flag])}'" if flag in values else "")
            for where, known in flags.items() for flag in known
        ]  # fmt: skip
        return FISH.format(**words) + "\n".join(lines) + "\n"
    cases = [f'      "{where}"*) words="{" ".join(known)}" ;;' for where, known in flags.items()]
    of_values = [f'    {flag}) words="{" ".join(some)}" ;;' for flag, some in values.items()]
    text = BASH.format(flags="\n".join(cases), values="\n".join(of_values), **words)
    return f"autoload -U +X bashcompinit && bashcompinit\n{text}" if shell == "zsh" else text


def _commands() -> list[str]:
    from fastrl.cli import COMMANDS

    return list(COMMANDS)


def _environments() -> list[str]:
    """Those with presets first; then all others of Gymnasium's registry."""
    import gymnasium

    first = sorted({env_id for name in ALGORITHMS for env_id in with_preset(name)})
    return list(dict.fromkeys([*first, *sorted(gymnasium.registry)]))


def _known() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """The flags after each beginning of a command line, and what can follow flags that take one of a few words."""
    options = {f"{name} ": [kind] for name, kind in OPTIONS.items()}
    for name in ALGORITHMS:
        options[f"train {name}"] = [RunOptions, hyperparameter_flags(getattr(fastrl, name.upper()), {})]
    options |= {"train ": [RunOptions], "tune ": [TuneOptions]}
    flags = {where: [*(f for kind in kinds for f in flag_names(kind)), "--help"] for where, kinds in options.items()}
    values = {flag: some for kinds in options.values() for kind in kinds for flag, some in choices(kind).items()}
    return flags, values
