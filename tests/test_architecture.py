"""The floors of the house: who may import whom, and what `import fastrl` may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastrl

ROOT = Path(fastrl.__file__).parent

# What each room may import of the package. A name stands for the module and all below it.
MAY_IMPORT = {
    "kernels": {"kernels"},
    "checks": set(),
    "files": set(),
    "checkpoints": {"files"},
    "metrics": {"files"},
    "schedules": {"checks"},
    "logger": {"files"},
    "callbacks": {"callbacks", "checkpoints", "checks", "envs", "evaluation", "files", "logger"},
    "envs": {"envs", "kernels", "checks", "mdp", "transitions"},
    "buffers": {"buffers", "checks", "files"},
    "rollouts": {"checks"},
    "returns": {"kernels", "checks", "rollouts"},
    "tokens": {"kernels", "checks", "rollouts"},
    "interop": {"interop", "buffers", "kernels", "checks", "rollouts"},
    "rlhf": {"rlhf", "algorithms", "checkpoint", "checks", "learners", "schedules", "tokens"},
    "transitions": {"checks"},
    "sweeps": {"kernels", "checks"},
    "mdp": {"kernels", "transitions", "sweeps", "checks"},
    "normalize": {"kernels"},
    "spaces": set(),
    "monitor": set(),
    "seeding": {"checks"},
    "pictures": {"envs"},
    "vec_env": {"envs", "checks", "monitor", "pictures"},
    "networks": set(),
    "exploration": set(),
    "perceptron": {"kernels"},
    "predictor": {"spaces"},
    "policy": {"checkpoint", "checks", "exploration", "kernels", "perceptron", "predictor", "spaces"},
    "extractors": {"spaces"},
    "policies": {"extractors", "learners", "networks", "spaces"},
    "ranks": {"checks"},
    "learners": {"learners", "networks", "perceptron", "kernels", "checks", "ranks"},
    "algorithms": {"algorithms", "buffers", "callbacks", "checkpoint", "checks", "envs", "exploration", "extractors",
                   "kernels", "learners", "logger", "mdp", "networks", "normalize", "policies", "predictor",
                   "ranks", "schedules", "spaces", "transitions", "vec_env"},
    "distributed": {"algorithms", "buffers", "callbacks", "checks", "distributed", "envs", "exploration", "kernels",
                    "learners", "ranks", "schedules", "spaces"},
}  # fmt: skip
MAY_IMPORT_TORCH = {"extractors", "networks", "policies", "learners", "algorithms", "checkpoint", "commands", "rlhf",
                    "runs", "ranks", "distributed"}  # fmt: skip
ABOVE = {"interop/sb3_weights.py"}  # it makes models of what it reads, and is loaded where it is called alone
KERNELS_IMPORT = {"numpy", "numba", "llvmlite", "fastrl", *sys.stdlib_module_names}


def imports(path):
    """Full names of what a module imports, wherever in it, but not for type checking alone."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = sorted(ROOT.rglob("*.py"))


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_floors(path):
    if path.relative_to(ROOT).as_posix() in ABOVE:
        return
    own_rooms = {r.stem for r in ROOT.iterdir() if r.suffix == ".py" or (r / "__init__.py").exists()}
    used = {name.split(".")[1] for name in imports(path) if name.startswith("fastrl.")} & own_rooms
    if room(path) in MAY_IMPORT:
        assert used <= MAY_IMPORT[room(path)], f"{path} imports {used - MAY_IMPORT[room(path)]}"
    top = {name.split(".")[0] for name in imports(path)}
    if room(path) not in MAY_IMPORT_TORCH:
        assert "torch" not in top
    if room(path) == "kernels":
        assert top <= KERNELS_IMPORT, top


def test_interop_loads_no_library_but_its_own():
    """Each module of `interop` imports the one it is named after or none; `sb3` is alone in needing its library."""
    own = {"numpy", "gymnasium", "fastrl", "fastrl_ext", *sys.stdlib_module_names}
    for path in (ROOT / "interop").glob("*.py"):
        top = {name.split(".")[0] for name in imports(path)}
        allowed = own | ({"stable_baselines3"} if path.stem in ("sb3_buffers", "rollout") else set())
        allowed |= {"torch"} if path.stem == "sb3_weights" else set()
        assert top <= allowed, f"{path} imports {top - allowed}"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "name",
    ["", "ReplayBuffer", "PrioritizedReplayBuffer", "compute_gae", "TabularMDP", "q_learning", "evaluate_policy",
     "load_policy"],
)
def test_the_drop_in_utilities_do_not_load_torch(name):
    use = f"fastrl.{name}" if name else "fastrl"
    assert run(f"import fastrl, sys; {use}; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("module", ["cleanrl", "torchrl"])
def test_the_functions_of_interop_do_not_load_torch(module):
    assert run(f"import fastrl.interop.{module}, sys; print('torch' in sys.modules)").strip() == "False"


def test_public_names():
    assert set(fastrl.__all__) == {*fastrl._HOME, "__version__"}
    for name in fastrl.__all__:
        assert getattr(fastrl, name).__doc__
    assert set(dir(fastrl)) == set(fastrl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PP0'"):
        fastrl.PP0  # noqa: B018


def test_public_objects_are_documented():
    for name in set(fastrl.__all__) - {"__version__"}:
        thing = getattr(fastrl, name)
        members = vars(thing).items() if isinstance(thing, type) else []
        for member, value in members:
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                # what overrides a documented method has its documentation
                inherited = [vars(base)[member].__doc__ for base in thing.__mro__ if member in vars(base)]
                assert any(inherited), f"{name}.{member} has no docstring"


def test_nothing_unpickles():
    for path in MODULES:
        text = path.read_text()
        assert "pickle" not in {name.split(".")[0] for name in imports(path)}
        assert len(re.findall(r"torch\.load\(", text)) == len(re.findall(r"torch\.load\(.*weights_only=True\)", text))
        assert "allow_pickle=True" not in text, path
