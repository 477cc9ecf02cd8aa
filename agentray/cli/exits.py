"""Exit codes: one meaning each, for every command."""

from __future__ import annotations

from enum import IntEnum

from agentray.errors import (
    AddressError,
    AgentrayError,
    ClusterNotRunning,
    ConfigurationError,
    DeploymentStopped,
    Overloaded,
    PayloadError,
    RunFailed,
    StoreUnavailable,
)


class ExitCode(IntEnum):
    """What a command's exit code says."""

    OK = 0  # done
    FAILURE = 1  # not done: anything without a code of its own, or a problem that `doctor` found
    USAGE = 2  # the command line, a setting or the request is wrong: saying it again will not help
    UNAVAILABLE = 3  # nothing is running, it does not answer, or it cannot take requests now
    REFUSED = 4  # no API key, an unknown or revoked one, or one that lacks the scope
    NOT_FOUND = 5  # no such run, agent type or action
    RUN_FAILED = 6  # the run ended in another state than `succeeded`
    UNFINISHED = 7  # the run goes on: it has not ended within --wait
    INTERRUPTED = 130  # by Ctrl-C; other signals that end a command: 128 and their number


def exit_code_of(error: AgentrayError) -> ExitCode:
    """Return the exit code that an error means."""
    # The client brings its HTTP library along, which most commands never need.
    from agentray.client import errors as client

    meanings: list[tuple[type[AgentrayError], ExitCode]] = [
        (ConfigurationError, ExitCode.USAGE),
        (PayloadError, ExitCode.USAGE),
        (client.InvalidRequest, ExitCode.USAGE),
        (client.PayloadTooLarge, ExitCode.USAGE),
        (client.Conflict, ExitCode.USAGE),
        (ClusterNotRunning, ExitCode.UNAVAILABLE),
        (DeploymentStopped, ExitCode.UNAVAILABLE),
        (Overloaded, ExitCode.UNAVAILABLE),
        (StoreUnavailable, ExitCode.UNAVAILABLE),
        (client.ConnectionFailed, ExitCode.UNAVAILABLE),
        (client.Unavailable, ExitCode.UNAVAILABLE),
        (client.TooManyRequests, ExitCode.UNAVAILABLE),
        (client.Unauthorized, ExitCode.REFUSED),
        (client.Forbidden, ExitCode.REFUSED),
        (client.NotFound, ExitCode.NOT_FOUND),
        (AddressError, ExitCode.NOT_FOUND),
        (RunFailed, ExitCode.RUN_FAILED),
    ]
    return next((code for kind, code in meanings if isinstance(error, kind)), ExitCode.FAILURE)
