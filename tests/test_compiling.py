"""Compiling kernels: what happens around it."""

from __future__ import annotations

import os
import signal

import numba
import pytest
from numba.core import event
from numba.core.caching import NullCache

from fastrl.kernels._jit import kernel


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_ctrl_c_waits_until_a_kernel_is_compiled():
    class Press(event.Listener):
        def on_start(self, event):
            os.kill(os.getpid(), signal.SIGINT)

        def on_end(self, event): ...

    @kernel
    def double(x):
        return 2 * x

    double._cache = NullCache()  # a run before this one has left it there
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), event.install_listener("numba:compile", Press()):
        double(1.5)
    assert len(double.signatures) == 1 and double(1.5) == 3.0
    assert signal.getsignal(signal.SIGINT) is before
