"""Every error that agentray raises on purpose, in one tree.

::

    AgentrayError
    ├── ConfigurationError (ValueError)     the user's app, settings or import string are wrong
    │   ├── OutputSchemaInvalid             results cannot be checked against a schema
    │   ├── InvalidSchedule                 a field of a schedule is wrong
    │   └── UnknownEventType                no event class of this name is defined here
    ├── PayloadError (TypeError)            a value that cannot cross a process boundary
    │   └── UnknownPayload                  its type is not registered at the receiver
    ├── StateError (ValueError)             the state of an agent
    │   ├── StateRefused                    a handler left one that cannot be kept
    │   ├── StateInvalid                    what is kept does not fit the code
    │   └── StateTooNew                     what is kept was written by newer code
    ├── AddressError (LookupError)          the message has nowhere to go
    │   ├── UnknownAgentType
    │   ├── UnknownRequestType              no agent answers requests of this name
    │   ├── UnknownAction
    │   ├── NoHandler
    │   ├── UnknownAgent
    │   ├── AgentNotVisible                 it is that of another tenant's session
    │   ├── UnknownRun
    │   ├── UnknownJob
    │   ├── UnknownPart                     a host, pool, node, task, actor or Serve application
    │   ├── UnknownSchedule
    │   ├── UnknownSession
    │   ├── UnknownState
    │   ├── UnknownSubscription
    │   ├── UnknownWebhook              also of a secret that signs them
    │   └── UnknownDeadLetter
    ├── OutputInvalid (ValueError)          a result that is not what its prompt wants
    ├── AccessDenied (PermissionError)      a run may not touch what its tool or action does
    ├── NotRetryable                        a dead letter whose content is not kept any more
    ├── CallError                           a message that was sent and got no value back
    │   ├── DeadlineExceeded (TimeoutError)
    │   ├── HostDied
    │   │   └── AgentMoved
    │   ├── MessageDropped
    │   ├── Overloaded
    │   ├── DeploymentStopped
    │   │   └── PoolPending
    │   ├── AgentFailed
    │   │   └── AgentQuarantined
    │   ├── AgentStopped
    │   ├── StartCycle
    │   ├── RunFailed
    │   ├── RemoteError
    │   └── ChannelClosed
    ├── StoreError                          the database said no, or nothing
    │   ├── StoreUnavailable
    │   ├── SchemaTooNew
    │   ├── Fenced
    │   ├── IdempotencyConflict
    │   ├── ScheduleConflict                another schedule has the id
    │   ├── SessionConflict                 another session has the id or the agent
    │   ├── SessionChanged                  somebody else has changed it meanwhile
    │   └── SessionBusy                     a run is under way, and the prompt does not wait
    ├── JobError                            about a job
    │   ├── JobConflict                     another job has the id
    │   ├── JobRefused                      the policy lets no more in
    │   ├── JobRejected (ValueError)        Ray does not take it
    │   └── JobRunning                      what only an ended job allows
    ├── AnswerError                         an answer that its run does not take
    │   ├── NotWaiting
    │   └── AnswerInvalid (ValueError)
    ├── ClusterError                        about the cluster as a whole
    │   ├── ClusterNotRunning
    │   ├── ClusterAlreadyRunning
    │   ├── RayUnavailable                  Ray's dashboard or a machine's agent does not answer
    │   ├── FilterRejected (ValueError)     Ray does not look for parts of it in this way
    │   ├── CommandUnderWay             another `agentray up` or `down` is at work
    │   ├── ManagerUnavailable
    │   │   └── ManagerSuperseded       another manager works
    │   ├── PortTaken
    │   └── StartFailed                 also of the local cluster and the embedded database
    ├── PatternError                        an agent of agentray.patterns
    │   ├── Incomplete                      an aggregator cannot have all its events any more
    │   ├── GroupFailed                     a group's members ended too often
    │   ├── VersionConflict                 an entry of a memory is not what its writer thinks
    │   └── MemoryFull
    ├── ClientError                         a gateway refused; its tree is in client/errors.py
    └── IllegalTransition                   a bug: a state was left the wrong way

Errors travel between processes, so each survives pickling with its fields. Where no message is
given, the first line of the class's docstring is the message: the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

_E = TypeVar("_E", bound="AgentrayError")


def _rebuild(cls: type[_E], args: tuple[Any, ...], fields: dict[str, Any]) -> _E:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


def _agent_in(target: str) -> str:
    """Return a target that is an agent's id, maybe with an action; "" when it is something else."""
    agent_type, slash, _ = target.partition("/")
    return target if slash and " " not in agent_type else ""


class AgentrayError(Exception):
    """Something went wrong in agentray."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or type(self).__name__).splitlines()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls __init__ with `args`, which breaks for every subclass with fields.
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(AgentrayError, ValueError):
    """The app, a setting or an import string is wrong."""


class InvalidSchedule(ConfigurationError):
    """A field of a schedule is wrong."""

    def __init__(self, field: str, problem: str) -> None:
        """Make one.

        Args:
            field: its name.
            problem: what is wrong with it.
        """
        super().__init__(f"The schedule's {field}: {problem}.")
        self.field, self.problem = field, problem


class OutputSchemaInvalid(ConfigurationError):
    """Results cannot be checked against this JSON Schema."""

    def __init__(self, field: str, reason: str) -> None:
        """Make one.

        Args:
            field: the part of the schema that is wrong; "": all of it.
            reason: what is wrong with it.
        """
        where = f" at {field}" if field else ""
        super().__init__(f"The output schema is wrong{where}: {reason}.")
        self.field, self.reason = field, reason


class UnknownEventType(ConfigurationError):
    """No event class of this name is defined in this process."""

    def __init__(self, event_type: str) -> None:
        super().__init__(
            f"No event class {event_type!r} is defined here: import the module that defines it."
        )
        self.event_type = event_type


class PayloadError(AgentrayError, TypeError):
    """A value cannot be serialised, or is larger than its limit."""

    def __init__(self, message: str | None = None, *, what: str = "", path: str = "") -> None:
        super().__init__(message)
        self.what = what  # such as `argument 1 of submit()`; "" where nobody said
        self.path = path  # of the part that is to blame, such as `.config.lock`; "": all of it


class UnknownPayload(PayloadError):
    """A value's type is not registered in the process that received it."""

    def __init__(self, name: str, module: str, why: str = "") -> None:
        cause = f"fails ({why})" if why else "does not register it"
        super().__init__(
            f"A value of the registered type {name!r} cannot be read here: importing {module!r} "
            f"{cause}. Call agentray.payloads.register() at the top of a module that every host "
            "can import."
        )
        self.type_name, self.module = name, module


class StateError(AgentrayError, ValueError):
    """The state of an agent cannot be kept, or cannot be taken in."""

    def __init__(self, agent: str, why: str) -> None:
        super().__init__(f"The state of {agent} {why}")
        self.agent = agent


class StateRefused(StateError):
    """A handler left a state that cannot be kept; the one before it stays."""

    def __init__(self, agent: str, why: str) -> None:
        super().__init__(agent, f"cannot be kept: {why}")
        self.why = why


class StateInvalid(StateError):
    """The kept state does not fit the code; it is kept as it is.

    Attributes:
        agent: whose it is.
        version: that it was kept with.
        field: that does not fit, such as `orders.0`; "" where no single one does.
    """

    def __init__(self, agent: str, version: int, field: str, why: str) -> None:
        where = f"{field}: " if field else ""
        super().__init__(agent, f"(version {version}) does not fit the code: {where}{why}")
        self.version, self.field, self.why = version, field, why


class StateTooNew(StateError):
    """The kept state was written by newer code; deploy that, or restore an older state."""

    def __init__(self, agent: str, version: int, known: int) -> None:
        super().__init__(
            agent,
            f"has version {version}, and this code knows versions up to {known}: deploy the newer "
            "code again.",
        )
        self.version, self.known = version, known


class AddressError(AgentrayError, LookupError):
    """The message has nowhere to go."""


class UnknownAgentType(AddressError):
    """No deployed app has an agent type of this name."""

    def __init__(self, type_name: str, known: tuple[str, ...] = ()) -> None:
        hint = f" Known types: {', '.join(known)}." if known else " No app is deployed."
        missing = f"There is no agent type {type_name!r}."
        if not type_name:  # no agent was named, and there is none for that
            missing = (
                "No app has an agent for prompts that name none: name one, as in agent='greeter', "
                "or deploy App(..., entry=Greeter)."
            )
        super().__init__(f"{missing}{hint}")
        self.type_name = type_name


class UnknownRequestType(AddressError):
    """No agent answers requests of this name."""

    def __init__(self, name: str, known: tuple[str, ...] = ()) -> None:
        names = ", ".join(known) or "none"
        super().__init__(f"No agent answers requests of the type {name!r}. There are: {names}.")
        self.name, self.known = name, known


class UnknownAction(AddressError):
    """The agent has no action of this name."""

    def __init__(self, agent: str, action: str, known: tuple[str, ...] = ()) -> None:
        names = ", ".join(known) or "none"
        super().__init__(f"{agent} has no action {action!r}. Its actions: {names}.")
        self.agent, self.action = agent, action


class NoHandler(AddressError):
    """The agent has no handler for events of this type."""

    def __init__(self, agent: str, event_type: str) -> None:
        who = f"{agent} has no" if agent else "No agent of a running app has a"
        super().__init__(f"{who} handler for {event_type}: write a method with @on(...).")
        self.agent, self.event_type = agent, event_type


class UnknownAgent(AddressError):
    """No agent of this id was registered or launched."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"There is no record of {agent}: register or launch it. An agent that needs no "
            "arguments can also be addressed without, through handle()."
        )
        self.agent = agent


class AgentNotVisible(AddressError):
    """The agent is that of another tenant's session: it is not there for who asks."""

    def __init__(self, agent: str) -> None:
        super().__init__(f"There is no agent {agent} that this API key may prompt.")
        self.agent = agent


class UnknownRun(AddressError):
    """There is no run of this id."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"There is no run {run_id!r}.")
        self.run_id = run_id


class UnknownSession(AddressError):
    """There is no session with this id."""

    def __init__(self, session_id: str) -> None:
        """Make one.

        Args:
            session_id: the id.
        """
        super().__init__(f"There is no session {session_id!r}, or it has expired.")
        self.session_id = session_id


class UnknownJob(AddressError):
    """There is no job of this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"There is no job {job_id[:120]!r}.")
        self.job_id = job_id


class UnknownPart(AddressError):
    """The cluster has no such part."""

    def __init__(self, kind: str, part_id: str, known: Sequence[str] | None = None) -> None:
        """Make one.

        Args:
            kind: what was looked for: a host, a pool, a node, a task, an actor, a Serve
                application.
            part_id: its id or name.
            known: those that there are; None: it is not said.
        """
        there = "" if known is None else f" There are: {', '.join(sorted(known)) or 'none'}."
        super().__init__(f"There is no {kind} {part_id[:120]!r}.{there}")
        self.kind, self.part_id = kind, part_id


class UnknownSchedule(AddressError):
    """There is no schedule with this id."""

    def __init__(self, schedule_id: str) -> None:
        """Make one.

        Args:
            schedule_id: the id.
        """
        super().__init__(f"There is no schedule {schedule_id!r}.")
        self.schedule_id = schedule_id


class UnknownState(AddressError):
    """Nothing is kept of this agent."""

    def __init__(self, agent: str) -> None:
        super().__init__(f"No state of {agent} is kept.")
        self.agent = agent


class UnknownSubscription(AddressError):
    """There is no subscription of this id."""

    def __init__(self, subscription_id: str) -> None:
        super().__init__(
            f"There is no subscription {subscription_id!r}; those of agent types stand in their "
            "classes, as @on(...)."
        )
        self.subscription_id = subscription_id


class UnknownDeadLetter(AddressError):
    """There is no dead letter of this id."""

    def __init__(self, letter_id: str) -> None:
        super().__init__(
            f"There is no dead letter {letter_id!r}: it was purged, or made room for newer ones."
        )
        self.letter_id = letter_id


class UnknownWebhook(AddressError):
    """There is no webhook of this id, or no secret of this name."""

    def __init__(self, webhook_id: str, what: str = "webhook") -> None:
        super().__init__(f"There is no {what} {webhook_id!r}.")
        self.webhook_id, self.what = webhook_id, what


class OutputInvalid(AgentrayError, ValueError):
    """The result does not fit the output schema of its prompt."""

    def __init__(self, field: str, reason: str) -> None:
        """Make one.

        Args:
            field: the part of the result that does not, such as `result.items.0`.
            reason: what is wrong with it.
        """
        super().__init__(f"The result does not fit the output schema: {field}: {reason}.")
        self.field, self.reason = field, reason


class AccessDenied(AgentrayError, PermissionError):
    """The access level of the run's session is too low for this."""

    def __init__(self, what: str, needed: str, given: str) -> None:
        """Make one.

        Args:
            what: was refused: a tool, or an action as type/key.action.
            needed: the level that it needs.
            given: the level of the run.
        """
        super().__init__(f"{what} needs the access level {needed!r}; the session has {given!r}.")
        self.what, self.needed, self.given = what, needed, given


class NotRetryable(AgentrayError):
    """What a dead letter carried is not kept, so that it cannot be sent again."""

    def __init__(self, letter_id: str, why: str) -> None:
        super().__init__(f"The dead letter {letter_id} cannot be tried once more: {why}.")
        self.letter_id, self.why = letter_id, why


class CallError(AgentrayError):
    """A message was sent and no value came back."""


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline passed before the reply came."""

    def __init__(self, target: str, timeout_s: float | None = None, waited_for: str = "") -> None:
        after = "" if timeout_s is None else f" within {timeout_s:g} s"
        what = f": {waited_for}" if waited_for else ""
        super().__init__(f"{target} did not reply{after}{what}.")
        self.target, self.timeout_s = target, timeout_s
        self.agent, _, self.action = (_agent_in(target) or ".").rpartition(".")


class HostDied(CallError):
    """The host died while it may have been working on the message.

    Whether the message had an effect is unknown. Declare an action `idempotent=True` and it is
    sent again to the agent's next host instead.
    """

    def __init__(self, target: str, host: str, reason: str = "", action: str = "") -> None:
        """Make one.

        Args:
            target: the agent.
            host: the host's id.
            reason: why it died; "": not known.
            action: the one that was called; "": it was another message.
        """
        why = f" ({reason})" if reason else ""
        to = f"{target}.{action}" if action else target
        super().__init__(f"The host {host} died{why} while a message to {to} was under way.")
        self.target, self.host, self.reason = target, host, reason
        self.agent, self.action = target, action


class AgentMoved(HostDied):
    """The agent left its host before its handler was done; the host itself lives on.

    For the caller it is as if the host had died: whether the message had an effect is unknown.
    """

    def __init__(self, target: str, reason: str, host: str = "") -> None:
        super().__init__(target, host, reason)
        self.args = (f"A message to {target} was cut off while it was handled: {reason}.",)


class MessageDropped(CallError):
    """The middleware of the agent's app let the message, or its reply, go no further."""

    def __init__(self, target: str, middleware: str, what: str = "message") -> None:
        super().__init__(f"{middleware} dropped the {what} of {target}.")
        self.target, self.middleware, self.what = target, middleware, what
        self.agent, _, self.action = (_agent_in(target) or ".").rpartition(".")


class Overloaded(CallError):
    """A bounded queue is full; try again after `retry_after_s` seconds."""

    def __init__(
        self, target: str, retry_after_s: float = 1.0, what: str = "messages waiting"
    ) -> None:
        super().__init__(f"{target} has too many {what}; retry in {retry_after_s:g} s.")
        self.target, self.retry_after_s = target, retry_after_s
        self.agent = _agent_in(target)  # "": it is not an agent's queue


class DeploymentStopped(CallError):
    """The app of this agent type is stopped, or none of its hosts is up yet."""

    def __init__(self, target: str, retry_after_s: float = 2.0, why: str = "is stopped") -> None:
        super().__init__(f"The deployment of {target} {why}.")
        self.target, self.retry_after_s = target, retry_after_s
        self.agent = _agent_in(target)  # "": a whole type, or the entry


class PoolPending(DeploymentStopped):
    """No host of the agents' pool can be started before the cluster has room for one.

    Nothing has to be done again for it: the hosts start as soon as there is room.
    """

    def __init__(self, target: str, pool: str, reason: str, retry_after_s: float = 5.0) -> None:
        why = f"is pending: the pool {pool!r} has no host yet, {reason}"
        super().__init__(target, retry_after_s, why)
        self.pool, self.reason = pool, reason


class AgentFailed(CallError):
    """The agent could not be started or kept failing, and its restart policy gave it up."""

    def __init__(self, agent: str, last_error: str) -> None:
        super().__init__(f"{agent} has failed: {last_error}")
        self.agent, self.last_error = agent, last_error


class AgentQuarantined(AgentFailed):
    """The agent has killed too many hosts: it takes no messages until it is reset."""

    def __init__(self, agent: str, why: str) -> None:
        super().__init__(agent, why)
        out = f"agentray agent reset {agent}"
        self.args = (f"{agent} is quarantined: {why.rstrip('.')}. Mend it, and let it out: {out}",)


class AgentStopped(CallError):
    """The agent was shut down; it takes no messages until it is launched again."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            f"{agent} was shut down. Launch it again to let it take messages: "
            "manager.launch(handle)."
        )
        self.agent = agent


class StartCycle(CallError):
    """An agent was called back by what its own `on_start` waits for: neither could go on.

    Attributes:
        agent: that is being started.
        path: the agents that its `on_start` waits for, down to the one that called it back.
    """

    def __init__(self, agent: str, path: tuple[str, ...] = ()) -> None:
        what = f"{' -> '.join(path)}, which calls it back" if path else "itself"
        super().__init__(
            f"{agent} is still being started: its on_start waits for {what}. An agent takes "
            "messages when its on_start is done: make one of the two calls in a handler, a timer "
            "or a loop."
        )
        self.agent, self.path = agent, path


class RunFailed(CallError):
    """The run ended in another state than `succeeded`."""

    def __init__(
        self,
        run_id: str,
        status: str,
        message: str,
        error_type: str = "",
        path: tuple[str, ...] = (),
    ) -> None:
        cause = f"{error_type}: " if error_type else ""
        led = f" (after {' → '.join(path)})" if path else ""
        super().__init__(f"Run {run_id} {status}: {cause}{message}{led}")
        self.run_id, self.status, self.error_type, self.path = run_id, status, error_type, path


class RemoteError(CallError):
    """An exception of the handler that could not be carried over as itself."""

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        super().__init__(f"{type_name}: {message}")
        self.type_name, self.remote_message, self.traceback = type_name, message, traceback


class ChannelClosed(CallError):
    """The connection was closed before the reply came."""


class StoreError(AgentrayError):
    """The database did not do what was asked."""


class StoreUnavailable(StoreError):
    """The database cannot be reached."""


class SchemaTooNew(StoreError):
    """The database was written by a newer agentray; upgrade this one."""


class Fenced(StoreError):
    """This host no longer leases the slot that it tried to commit for."""


class IdempotencyConflict(StoreError):
    """The idempotency key was used before with another body."""

    def __init__(self, key: str, run_id: str) -> None:
        super().__init__(
            f"The idempotency key {key!r} was already used with another body, for run {run_id}."
        )
        self.key, self.run_id = key, run_id


class SessionConflict(StoreError):
    """There is another session with this id, or for this agent."""

    def __init__(self, session_id: str, agent: str) -> None:
        """Make one.

        Args:
            session_id: the id.
            agent: the agent, as type/key.
        """
        super().__init__(
            f"The session id {session_id!r} or the agent {agent} is in use: take others, or delete "
            "the session that has them. After that, or after its time is over, it takes minutes "
            "until they are free."
        )
        self.session_id, self.agent = session_id, agent


class SessionChanged(StoreError):
    """The session is another one than its writer has read."""

    def __init__(self, session_id: str) -> None:
        """Make one.

        Args:
            session_id: which session.
        """
        super().__init__(
            f"Somebody has changed the session {session_id!r} since it was read: read it again."
        )
        self.session_id = session_id


class SessionBusy(StoreError):
    """A run of the session is under way, and the prompt does not want to wait for its end."""

    def __init__(self, session_id: str, run_id: str) -> None:
        """Make one.

        Args:
            session_id: which session.
            run_id: the run that is in the way.
        """
        super().__init__(
            f"The session {session_id!r} works on {run_id}: wait for its end, or send the prompt "
            "with the policy 'enqueue' or 'interrupt'."
        )
        self.session_id, self.run_id = session_id, run_id


class ScheduleConflict(StoreError):
    """There is another schedule with this id."""

    def __init__(self, schedule_id: str) -> None:
        """Make one.

        Args:
            schedule_id: the id.
        """
        super().__init__(
            f"There is a schedule {schedule_id!r} already, which says something else: replace it, "
            "or take another id."
        )
        self.schedule_id = schedule_id


class JobError(AgentrayError):
    """Something about a job."""


class JobConflict(JobError):
    """Another job has this id."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"The job {job_id!r} is there already, and it is another one.")
        self.job_id = job_id


class JobRefused(JobError):
    """The policy lets no further job in now."""

    def __init__(self, reasons: tuple[str, ...], retry_after_s: float = 5.0) -> None:
        """Make one.

        Args:
            reasons: sentences.
            retry_after_s: when it may be tried again, in seconds.
        """
        super().__init__(f"No further job is let in now. {' '.join(reasons)}")
        self.reasons, self.retry_after_s = reasons, retry_after_s


class JobRejected(JobError, ValueError):
    """Ray does not take the job."""

    def __init__(self, problem: str, field: str = "runtime_env") -> None:
        """Make one.

        Args:
            problem: what is wrong.
            field: of the submission.
        """
        super().__init__(f"The job cannot be submitted: {problem}")
        self.problem, self.field = problem, field


class JobRunning(JobError):
    """Only a job that has ended can be deleted."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"The job {job_id!r} has not ended: stop it first.")
        self.job_id = job_id


class AnswerError(AgentrayError):
    """A run does not take an answer."""


class NotWaiting(AnswerError):
    """The run does not wait for this answer."""

    def __init__(self, run_id: str, status: str, why: str) -> None:
        super().__init__(f"Run {run_id} is {status} and takes no such answer: {why}.")
        self.run_id, self.status = run_id, status


class AnswerInvalid(AnswerError, ValueError):
    """The answer is not what the question wants.

    Attributes:
        field: that is wrong, such as `answer.amount`.
        reason: why.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field, self.reason = field, reason


class ClusterError(AgentrayError):
    """Something is wrong with the cluster as a whole."""


class ClusterNotRunning(ClusterError):
    """No agentray cluster is running here: start one with `agentray up MODULE:APP`."""


class ClusterAlreadyRunning(ClusterError):
    """An agentray cluster is already up."""


class RayUnavailable(ClusterError):
    """A part of Ray does not answer."""


class FilterRejected(ClusterError, ValueError):
    """Ray does not look for its parts in this way."""

    def __init__(self, field: str, problem: str) -> None:
        """Make one.

        Args:
            field: by which something was looked for.
            problem: why it cannot be.
        """
        super().__init__(f"Ray does not filter by {field[:80]!r}: {problem}")
        self.field, self.problem = field, problem


class CommandUnderWay(ClusterError):
    """Another `agentray up` or `agentray down` of the same home is at work.

    Attributes:
        command: `up` or `down`; "": unknown.
        pid: of its process; 0: unknown.
    """

    def __init__(self, command: str, pid: int) -> None:
        who = f"`agentray {command}`" if command else "`agentray up` or `agentray down`"
        process = f" (process {pid})" if pid else ""
        super().__init__(
            f"Another {who}{process} is under way for the same AGENTRAY_HOME: wait until it has "
            "ended, or interrupt it, which undoes a start."
        )
        self.command, self.pid = command, pid


class ManagerUnavailable(ClusterError):
    """The manager does not answer just now. It restarts by itself; agents go on meanwhile."""


class ManagerSuperseded(ManagerUnavailable):
    """Another manager works for this database; the one that was asked ends."""

    def __init__(self, working: str) -> None:
        super().__init__(
            f"Another manager works for this database: {working or 'nobody knows which'}. The one "
            "that was asked does nothing any more and ends."
        )
        self.working = working


class PortTaken(ClusterError):
    """Another program listens on the port."""

    def __init__(self, port: int, purpose: str, setting: str) -> None:
        super().__init__(
            f"Port {port} for {purpose} is taken by another program. Stop that program, or choose "
            f"another port with {setting}."
        )
        self.port = port


class StartFailed(ClusterError):
    """A part of the cluster did not start."""


class PatternError(AgentrayError):
    """An agent of `agentray.patterns` did not do what was asked."""


class Incomplete(PatternError):
    """An aggregator did not get the events that it needs.

    Attributes:
        agent: the aggregator.
        missing: the event types of which there are too few.
        why: its deadline passed, or branches failed.
    """

    def __init__(self, agent: str, missing: tuple[str, ...], why: str) -> None:
        lacks = f"; it lacks {', '.join(missing)}" if missing else ""
        super().__init__(f"{agent} is incomplete: {why}{lacks}.")
        self.agent, self.missing, self.why = agent, missing, why


class GroupFailed(PatternError):
    """A group's members ended too often, or one of them did not start: it is failed.

    Attributes:
        agent: the group.
        why: what was too much.
    """

    def __init__(self, agent: str, why: str) -> None:
        super().__init__(f"The group {agent} gives up: {why}")
        self.agent, self.why = agent, why


class VersionConflict(PatternError):
    """An entry of a memory has another version than its writer expects: read it again.

    Attributes:
        agent: the memory.
        key: of the entry.
        expected: the version that was named; 0: there shall be no entry.
        current: the version that it has; 0: there is no entry.
    """

    def __init__(self, agent: str, key: str, expected: int, current: int) -> None:
        has = f"it has version {current}" if current else "there is no such entry"
        super().__init__(
            f"{key!r} in {agent} was not written: version {expected} was expected, {has}. Read it "
            "again, or use update()."
        )
        self.agent, self.key, self.expected, self.current = agent, key, expected, current


class MemoryFull(PatternError):
    """A memory would grow beyond its limit; nothing was written.

    Attributes:
        agent: the memory.
        size: that it would have, in bytes.
        limit: that it may have, in bytes.
    """

    def __init__(self, agent: str, size: int, limit: int) -> None:
        super().__init__(
            f"{agent} would have {size:,} bytes, and max_bytes is {limit:,}. Delete entries, keep "
            "large values elsewhere, or raise max_bytes in the class."
        )
        self.agent, self.size, self.limit = agent, size, limit


class IllegalTransition(AgentrayError):
    """A state was left in a way that its table does not allow: a bug, with its story."""

    def __init__(self, subject: str, start: str, finish: str, story: tuple[str, ...] = ()) -> None:
        told = f" Story: {' → '.join(story)}." if story else ""
        super().__init__(f"{subject} cannot go from {start} to {finish}.{told}")
        self.subject, self.start, self.finish, self.story = subject, start, finish, story
