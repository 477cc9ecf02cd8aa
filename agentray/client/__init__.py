"""Talks to a gateway over HTTP; needs neither Ray nor a cluster."""

from agentray.client.async_client import AsyncAgentClient
from agentray.client.blocking import LogTail
from agentray.client.calls.job_log import LogEnd, LogEvent, LogGap, LogPiece, ReportNews, StatusNews
from agentray.client.calls.jobs import JobOptions
from agentray.client.calls.keys import KeyPage
from agentray.client.calls.letters import DeadLetterPage, LetterMatch
from agentray.client.calls.ray_jobs import JobPage, SubmitOptions
from agentray.client.calls.runs import PromptOptions, RunPage
from agentray.client.calls.schedules import ScheduleOptions, SchedulePage
from agentray.client.calls.sessions import HistoryPage, SessionOptions, SessionPage
from agentray.client.errors import (
    ClientError,
    Conflict,
    ConnectionFailed,
    Forbidden,
    InvalidRequest,
    JobFailed,
    JobTimedOut,
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
    WebSocketRefused,
)
from agentray.client.job_log import AsyncLogTail
from agentray.client.records import (
    Actor,
    ClusterResources,
    Feasibility,
    Job,
    Node,
    RuntimePolicy,
    ServeApplication,
    Task,
)
from agentray.client.sync_client import AgentClient
from agentray.core.log_limits import StreamLimits
from agentray.protocol.jobs import JobStatus

__all__ = [
    "Actor",
    "AgentClient",
    "AsyncAgentClient",
    "AsyncLogTail",
    "ClientError",
    "ClusterResources",
    "Conflict",
    "ConnectionFailed",
    "DeadLetterPage",
    "Feasibility",
    "Forbidden",
    "HistoryPage",
    "InvalidRequest",
    "Job",
    "JobFailed",
    "JobOptions",
    "JobPage",
    "JobStatus",
    "JobTimedOut",
    "KeyPage",
    "LetterMatch",
    "LogEnd",
    "LogEvent",
    "LogGap",
    "LogLost",
    "LogPiece",
    "LogTail",
    "Node",
    "NotFound",
    "NotSupported",
    "PayloadTooLarge",
    "PromptOptions",
    "ReportNews",
    "RunPage",
    "RuntimePolicy",
    "ScheduleOptions",
    "SchedulePage",
    "ServeApplication",
    "ServerError",
    "SessionOptions",
    "SessionPage",
    "StatusNews",
    "StreamLimitExceeded",
    "StreamLimits",
    "SubmitOptions",
    "Task",
    "TimedOut",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "WebSocketRefused",
]
