"""However a command is asked to end, it cleans up behind itself."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

WAITING = """
import asyncio, sys
from agentray.cli.signals import Ended, run_to_its_end
async def main():
    print("up", flush=True)
    try:
        await asyncio.to_thread(sys.stdin.readline)
    finally:
        await asyncio.sleep(0)
        print("cleaned up", flush=True)
try:
    run_to_its_end(main())
except Ended as ended:
    sys.exit(128 + ended.signum)
"""


def waiting(*, ignored: bool = False) -> subprocess.Popen[str]:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=ignore if ignored else None,  # noqa: PLW1509 - as nohup does it
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_what_asks_a_command_to_end_makes_it_clean_up(signum: signal.Signals):
    process = waiting()
    process.send_signal(signum)
    process.send_signal(signum)  # who is impatient does not interrupt the cleaning up
    assert process.stdout is not None
    assert process.stdout.readline() == "cleaned up\n"
    process.communicate("\n", timeout=30)
    assert process.returncode == 128 + signum


def test_a_signal_that_is_ignored_stays_ignored():
    process = waiting(ignored=True)
    process.send_signal(signal.SIGHUP)
    told, _ = process.communicate("\n", timeout=30)
    assert (process.returncode, told) == (0, "cleaned up\n")
