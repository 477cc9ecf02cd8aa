"""Python's garbage collector in processes that live long and are busy."""

from __future__ import annotations

import gc

_YOUNG_OBJECTS = 10_000
"""New objects before the collector looks at them. Hundreds of messages under way are more than
Python's 700, and none of them is garbage: it took 5 to 10 % of a busy host's time."""


def settle() -> None:
    """Take what there is now, mostly imported code, for lasting: it is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)
