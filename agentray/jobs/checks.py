"""What Ray would not take of a submission, said before it is asked.

Ray accepts most of it, and lets the job fail later, with a traceback of its own or with nothing at
all: a process whose environment cannot be set never starts, and others wait behind it.
"""

from __future__ import annotations

import json
import math

from agentray.errors import JobRejected
from agentray.jobs.environments import check_environment
from agentray.protocol.jobs import JobSubmission

_FIELDS = {
    "CPU": "entrypoint_num_cpus",
    "GPU": "entrypoint_num_gpus",
    "memory": "entrypoint_memory",
}
_LONGEST = 128 * 1024 - 1
"""Bytes of one environment variable with its name: Linux starts no process with a longer one."""
_ROOM = 100_000
"""Bytes of runtime_env and metadata together: Ray hands both to the job in one such variable."""
_MOST = 2**49
"""Of any resource: Ray counts in ten-thousandths, in 64 bits, and takes more for nothing."""


def check_submission(submission: JobSubmission) -> None:
    """Make sure that Ray can take a submission as far as that can be known here.

    Raises:
        JobRejected: it cannot.
    """
    if not submission.entrypoint.strip():
        raise JobRejected("an empty command line does nothing.", "entrypoint")
    _check_resources(submission)
    for name, value in submission.secrets.items():
        if len(f"{name}={value}".encode()) > _LONGEST:
            raise JobRejected(f"{name[:40]!r} is over {_LONGEST} bytes long.", "secrets")
    env = submission.runtime_env
    if len(json.dumps([env, submission.metadata])) > _ROOM:
        told = f"metadata and runtime_env are over {_ROOM} bytes together."
        raise JobRejected(told, "metadata" if len(json.dumps(env)) < _ROOM else "runtime_env")
    check_environment(env)


def _check_resources(submission: JobSubmission) -> None:
    known = {
        "entrypoint_num_cpus": submission.entrypoint_num_cpus,
        "entrypoint_num_gpus": submission.entrypoint_num_gpus,
        "entrypoint_memory": submission.entrypoint_memory,
    }
    for name, amount in submission.entrypoint_resources.items():
        if name in _FIELDS:
            raise JobRejected(f"{name} is asked for by {_FIELDS[name]}.", "entrypoint_resources")
        if not name or "\0" in name or not math.isfinite(amount) or amount < 0:
            told = f"{name!r}: a resource has a name, and an amount of 0 or more."
            raise JobRejected(told, "entrypoint_resources")
        _check_amount("entrypoint_resources", name, amount)
    for field, amount in known.items():
        _check_amount(field, field, amount)
    _check_whole("entrypoint_num_gpus", submission.entrypoint_num_gpus)


def _check_amount(field: str, name: str, amount: float) -> None:
    if amount > _MOST:
        raise JobRejected(f"{name} is over {_MOST}, the most that Ray counts to.", field)


def _check_whole(field: str, amount: float) -> None:
    if amount > 1 and amount % 1:
        raise JobRejected(f"{amount} GPUs: above 1 Ray hands out whole ones.", field)
