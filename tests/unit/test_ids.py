"""How ids are made."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from agentray.ids import new_id

_MANY = 5_000


def test_ids_are_unique_also_across_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [*pool.map(new_id, ["evt"] * _MANY)]
    assert len(set(made)) == _MANY
    assert all(len(each) == len("evt_") + 28 for each in made)


def test_ids_sort_by_the_time_of_their_making() -> None:
    stamps = [new_id("run")[4:16] for _ in range(_MANY)]
    assert stamps == sorted(stamps)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_other_ids() -> None:
    new_id("evt")  # there is a stock now
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, "".join(new_id("x")[-16:] for _ in range(100)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    text = os.read(ours, 1600).decode()
    os.close(ours)
    os.close(theirs)
    here = {new_id("x")[-16:] for _ in range(1000)}
    assert not here.intersection(text[at : at + 16] for at in range(0, 1600, 16))
