"""A check that nothing is left open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def none_left() -> Iterator[None]:
    """What is done meanwhile leaves as many descriptors open as there were.

    The garbage of other tests is not collected meanwhile: what it closes would count.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        before = sorted(os.listdir("/proc/self/fd"))
        yield
        assert sorted(os.listdir("/proc/self/fd")) == before
    finally:
        if was_enabled:
            gc.enable()
