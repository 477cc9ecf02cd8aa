"""What a subclass of a pattern declares."""

from __future__ import annotations


def declares_nothing(cls: type) -> bool:
    """Whether a class has nothing of its own (yet), so that there is nothing to check.

    Classes of scripts and notebooks travel by value: the receiver makes an empty class first, and
    sets its members afterwards, checked ones.
    """
    return all(name.startswith("__") for name in vars(cls))
