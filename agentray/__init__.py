"""agentray: agents on Ray clusters.

Everything that user code needs is here. Importing this package imports neither Ray nor a database
driver nor a web framework; `connect` does when it is used.
"""

from agentray.access import tool
from agentray.agent import Agent, AgentOptions, RestartPolicy, action, on
from agentray.app import App
from agentray.background import loop, timer
from agentray.config import Settings
from agentray.context import Context
from agentray.errors import (
    AccessDenied,
    AgentFailed,
    AgentMoved,
    AgentQuarantined,
    AgentrayError,
    AgentStopped,
    AnswerInvalid,
    ChannelClosed,
    ClusterNotRunning,
    ConfigurationError,
    DeadlineExceeded,
    DeploymentStopped,
    HostDied,
    ManagerUnavailable,
    MessageDropped,
    NoHandler,
    NotWaiting,
    OutputInvalid,
    OutputSchemaInvalid,
    Overloaded,
    PayloadError,
    PoolPending,
    RemoteError,
    RunFailed,
    SessionBusy,
    SessionChanged,
    SessionConflict,
    StateError,
    UnknownAction,
    UnknownAgent,
    UnknownAgentType,
    UnknownSession,
)
from agentray.event_loop import run
from agentray.event_run import EventRun
from agentray.events import Answered, Ask, Event, Prompt, Request, TerminateEvent
from agentray.handle import Handle, RemoteAction
from agentray.ids import AgentId, TopicId
from agentray.launching import AgentRecord, Launch
from agentray.middleware import DROP, Drop, MessageReply, Middleware, SentMessage
from agentray.pool import Pool
from agentray.protocol.access import AccessLevel
from agentray.protocol.attachments import Attachment
from agentray.protocol.budgets import Budget
from agentray.protocol.launching import AgentStatus
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run, RunEvent, RunStatus
from agentray.protocol.sessions import Session, SessionPolicy, SessionRun
from agentray.protocol.states import StateRecord
from agentray.protocol.topics import TopicSubscription
from agentray.runtime.connection import connect
from agentray.runtime.manager_client import ManagerClient
from agentray.runtime.sync_manager import SyncManager

__version__ = "0.1.0"

__all__ = [
    "DROP",
    "AccessDenied",
    "AccessLevel",
    "Agent",
    "AgentFailed",
    "AgentId",
    "AgentMoved",
    "AgentOptions",
    "AgentQuarantined",
    "AgentRecord",
    "AgentStatus",
    "AgentStopped",
    "AgentrayError",
    "AnswerInvalid",
    "Answered",
    "App",
    "Ask",
    "Attachment",
    "Budget",
    "ChannelClosed",
    "ClusterNotRunning",
    "ConfigurationError",
    "Context",
    "DeadLetter",
    "DeadlineExceeded",
    "DeploymentStopped",
    "Drop",
    "Event",
    "EventRun",
    "Handle",
    "HostDied",
    "Launch",
    "LetterKind",
    "LetterReason",
    "ManagerClient",
    "ManagerUnavailable",
    "MessageDropped",
    "MessageReply",
    "Middleware",
    "NoHandler",
    "NotWaiting",
    "OutputInvalid",
    "OutputSchemaInvalid",
    "Overloaded",
    "PayloadError",
    "Pool",
    "PoolPending",
    "Prompt",
    "RemoteAction",
    "RemoteError",
    "Request",
    "RestartPolicy",
    "Run",
    "RunEvent",
    "RunFailed",
    "RunStatus",
    "SentMessage",
    "Session",
    "SessionBusy",
    "SessionChanged",
    "SessionConflict",
    "SessionPolicy",
    "SessionRun",
    "Settings",
    "StateError",
    "StateRecord",
    "SyncManager",
    "TerminateEvent",
    "TopicId",
    "TopicSubscription",
    "UnknownAction",
    "UnknownAgent",
    "UnknownAgentType",
    "UnknownSession",
    "action",
    "connect",
    "loop",
    "on",
    "run",
    "timer",
    "tool",
]
