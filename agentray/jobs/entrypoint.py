"""Runs a job's command line with its secrets: `python -m agentray.jobs.entrypoint COMMAND`.

The secrets are fetched once, with the job's token, and are in the environment of the command only:
no record of Ray or agentray has them. A second look is refused, so a command that gets them is the
only one that ever did.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from typing import NoReturn

from agentray.errors import AgentrayError
from agentray.jobs.reporting import gateway_call

_PATIENCE_S = 60.0
_PAUSE_S = 1.0


def with_secrets(command: str, python: str) -> str:
    """Return the command line that runs a command with its secrets.

    Args:
        command: for a shell.
        python: that has agentray.
    """
    return f"{shlex.quote(python)} -m agentray.jobs.entrypoint {shlex.quote(command)}"


def main(words: list[str]) -> NoReturn:
    """Become the command; exit where that fails."""
    if len(words) != 1:
        sys.exit("usage: python -m agentray.jobs.entrypoint COMMAND")
    try:
        secrets = _fetch()
    except (AgentrayError, OSError) as error:
        sys.exit(f"error: the job's secrets cannot be fetched: {error}")
    environment = {**os.environ, **secrets}
    os.execve("/bin/sh", ["sh", "-c", words[0]], environment)  # noqa: S606 - it is the job


def _fetch() -> dict[str, str]:
    give_up_at = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return gateway_call("secrets", {})["secrets"]
        except OSError:
            if time.monotonic() >= give_up_at:
                raise
        time.sleep(_PAUSE_S)  # noqa: TID251 - no event loop runs here


if __name__ == "__main__":
    main(sys.argv[1:])
