"""The compiled extension modules; everything else is in pyproject.toml.

FASTRL_DEBUG=1 builds them with Cython's bounds checks and without optimisation.
"""

import os

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTRL_DEBUG") == "1"
WINDOWS = os.name == "nt"

extensions = [
    Extension(
        f"fastrl_ext.{name}",
        [f"fastrl_ext/{name}.pyx"],
        depends=[f"fastrl_ext/{name}.pyx"],  # puts the source beside the C file in the sdist
        include_dirs=[np.get_include()],
        libraries=[] if WINDOWS else ["m"],  # unnamed, its oldest functions are bound, which are slower
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        extra_compile_args=[] if WINDOWS else (["-O0", "-g"] if DEBUG else ["-O3"]),
    )
    for name in ("legacy", "lock", "random", "ring", "rollouts", "stepping", "store", "table", "trees")
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": not DEBUG,
            "initializedcheck": DEBUG,
        },
        force=True,  # or a build of the other kind would be taken for up to date
    )
)
