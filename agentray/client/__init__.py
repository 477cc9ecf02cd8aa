"""Talks to a gateway over HTTP; needs neither Ray nor a cluster."""

from agentray.client.async_client import AsyncAgentClient
from agentray.client.calls import DeadLetterPage, LetterMatch, RunPage
from agentray.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    ServerError,
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
    "InvalidRequest",
    "LetterMatch",
    "NotFound",
    "PayloadTooLarge",
    "RunPage",
    "ServerError",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
]
