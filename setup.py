"""The compiled extension modules; everything else is in pyproject.toml.

FASTRL_DEBUG=1 builds them with Cython's bounds checks and without optimisation.
"""

import os

import numpy as np
from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FASTRL_DEBUG") == "1"
WINDOWS = os.name == "nt"

extension = Extension(
    "fastrl_ext.ring",
    ["fastrl_ext/ring.pyx"],
    include_dirs=[np.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    extra_compile_args=[] if WINDOWS else (["-O0", "-g"] if DEBUG else ["-O3"]),
)

setup(
    ext_modules=cythonize(
        [extension],
        compiler_directives={
            "language_level": 3,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": not DEBUG,
            "initializedcheck": DEBUG,
        },
        force=DEBUG,
    )
)
