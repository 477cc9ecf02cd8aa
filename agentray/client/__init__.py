"""Talks to a gateway over HTTP; needs neither Ray nor a cluster."""

from agentray.client.async_client import AsyncAgentClient
from agentray.client.calls.jobs import JobOptions
from agentray.client.calls.keys import KeyPage
from agentray.client.calls.letters import DeadLetterPage, LetterMatch
from agentray.client.calls.runs import PromptOptions, RunPage
from agentray.client.calls.schedules import ScheduleOptions, SchedulePage
from agentray.client.calls.sessions import HistoryPage, SessionOptions, SessionPage
from agentray.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    LogLost,
    NotFound,
    NotSupported,
    PayloadTooLarge,
    ServerError,
    StreamLimitExceeded,
    TimedOut,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from agentray.client.sync_client import AgentClient

__all__ = [
    "AgentClient",
    "AsyncAgentClient",
    "ClientError",
    "Conflict",
    "ConnectionFailed",
    "DeadLetterPage",
    "Forbidden",
    "HistoryPage",
    "InvalidRequest",
    "JobOptions",
    "KeyPage",
    "LetterMatch",
    "LogLost",
    "NotFound",
    "NotSupported",
    "PayloadTooLarge",
    "PromptOptions",
    "RunPage",
    "ScheduleOptions",
    "SchedulePage",
    "ServerError",
    "SessionOptions",
    "SessionPage",
    "StreamLimitExceeded",
    "TimedOut",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
]
