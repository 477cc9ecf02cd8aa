"""What is told of a long message in a list of jobs."""

from __future__ import annotations

import pytest

from agentray.core.jobs import headline

LOGS = ", last available logs (truncated to 20,000 chars):"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", ""),
        (" \n\n", ""),
        ("Job finished successfully.", "Job finished successfully."),
        (f"It failed{LOGS}\n", "It failed"),
        (
            f"It failed{LOGS}\nTraceback:\n\n  a\tb\nValueError: no\n\n",
            "It failed … ValueError: no",
        ),
        ("one\r\ntwo", "one … two"),
        ("x" * 500, "x" * 199 + "…"),
    ],
)
def test_it_is_one_line(message: str, told: str):
    assert headline(message) == told


def test_it_is_never_long():
    assert len(headline("a" * 1000 + "\n" + "b" * 1000)) <= 200
