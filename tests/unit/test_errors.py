"""Errors: one tree, drawn as it is, and each of them survives its way between processes."""

from __future__ import annotations

import pickle
import re
from types import ModuleType
from typing import Any

import pytest

from agentray import errors
from agentray.client import errors as client_errors
from agentray.client.errors import ClientError, ConnectionFailed, class_of
from agentray.errors import AgentrayError
from agentray.protocol.runs import RunError

SAMPLES: dict[type[AgentrayError], tuple[Any, ...]] = {
    errors.UnknownAgentType: ("greter", ("greeter", "auditor")),
    errors.UnknownRequestType: ("report", ("make-report",)),
    errors.UnknownAction: ("greeter/ada", "sing", ("greet",)),
    errors.NoHandler: ("greeter/ada", "shop.OrderPlaced"),
    errors.UnknownAgent: ("greeter/ada",),
    errors.AgentNotVisible: ("greeter/ada",),
    errors.UnknownRun: ("run_1",),
    errors.UnknownState: ("greeter/ada",),
    errors.UnknownJob: ("nightly",),
    errors.UnknownPart: ("node", "0123"),
    errors.FilterRejected: ("nonsense", "use name or state"),
    errors.JobConflict: ("nightly",),
    errors.JobRefused: (("The policy allows 2 jobs.",), 3.0),
    errors.JobRejected: ("no such directory", "runtime_env"),
    errors.JobRunning: ("nightly",),
    errors.UnknownSchedule: ("nightly",),
    errors.UnknownSession: ("ses_1",),
    errors.SessionConflict: ("ses_1", "greeter/ada"),
    errors.SessionChanged: ("ses_1",),
    errors.SessionBusy: ("ses_1", "run_1"),
    errors.ScheduleConflict: ("nightly",),
    errors.InvalidSchedule: ("cron", "wrong minute"),
    errors.UnknownSubscription: ("sub_1",),
    errors.UnknownDeadLetter: ("dead_1",),
    errors.UnknownWebhook: ("wh_1",),
    errors.OutputSchemaInvalid: ("properties.a.type", "'text' is no type"),
    errors.OutputInvalid: ("result.a", "1 is not of type 'string'"),
    errors.AccessDenied: ("ledger/ada.book", "write", "read"),
    errors.NotRetryable: ("dead_1", "its content was too large to be kept"),
    errors.UnknownEventType: ("shop.OrderPlaced",),
    errors.DeadlineExceeded: ("greeter/ada.greet", 1.5),
    errors.HostDied: ("greeter/ada", "host-1", "killed by the system"),
    errors.AgentMoved: ("greeter/ada", "it had to leave", "host-1"),
    errors.MessageDropped: ("greeter/ada.greet", "Audit", "reply"),
    errors.Overloaded: ("greeter/ada", 2.5),
    errors.DeploymentStopped: ("greeter/ada", 3.0, "is starting"),
    errors.PoolPending: ("greeter/ada", "gpu", "a host needs 1 GPU", 4.0),
    errors.AgentFailed: ("greeter/ada", "ValueError: no"),
    errors.AgentQuarantined: ("greeter/ada", "it killed 3 hosts"),
    errors.AgentStopped: ("greeter/ada",),
    errors.StartCycle: ("greeter/ada", ("greeter/bob",)),
    errors.RunFailed: ("run_1", "failed", "ValueError: no"),
    errors.RemoteError: ("OddError", "1 and 2", "Traceback …"),
    errors.PayloadError: ("The argument 1 of submit() cannot be serialised: it is a generator.",),
    errors.UnknownPayload: ("shop.Money", "shop.money"),
    errors.StateError: ("account/ada", "is lost."),
    errors.StateRefused: ("account/ada", "total is not a number."),
    errors.StateInvalid: ("account/ada", 1, "orders.0", "Input should be a valid integer."),
    errors.StateTooNew: ("account/ada", 3, 2),
    errors.IdempotencyConflict: ("key-1", "run_1"),
    errors.NotWaiting: ("run_1", "succeeded", "it does not wait for an answer"),
    errors.AnswerInvalid: ("answer.amount", "-1 is less than the minimum of 0"),
    errors.CommandUnderWay: ("up", 4711),
    errors.ManagerSuperseded: ("agentray-manager (process 7) at 127.0.0.1:6379",),
    errors.PortTaken: (8080, "the gateway", "AGENTRAY_PORT"),
    errors.GroupFailed: ("crew/one", "its members ended 4 times"),
    errors.Incomplete: ("mixer/c", ("shop.Red",), "12 s have passed"),
    errors.VersionConflict: ("memory/team", "plan", 3, 4),
    errors.MemoryFull: ("memory/team", 2000, 1000),
    errors.IllegalTransition: ("Run run_1", "dead", "running", ("queued", "dead")),
    ConnectionFailed: ("connection refused",),
    client_errors.TimedOut: ("no answer within 30 s",),
    client_errors.StreamLimitExceeded: ("max_lines", 4711),
    client_errors.LogLost: ("its node is gone", 4711),
    client_errors.JobFailed: ("run_1", RunError(type="ValueError", message="no")),
    client_errors.JobTimedOut: ("run_1", 2.5),
}
"""Arguments of the classes that have a constructor of their own."""

CLIENT_ARGUMENTS = (
    429,
    "Too many requests",
    "Come back later.",
    {"errors": [{"field": "prompt", "location": "body", "message": "missing"}]},
    1.5,
)


def tree_of(module: ModuleType) -> list[type[AgentrayError]]:
    """Return the classes that a module defines, all of them below AgentrayError."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, AgentrayError)
        and value.__module__ == module.__name__
    ]


ALL = [*tree_of(errors), *tree_of(client_errors)]
OWN_CONSTRUCTOR = [cls for cls in ALL if "__init__" in vars(cls)]
MESSAGE_ONLY = [
    cls for cls in ALL if cls.__init__ in (AgentrayError.__init__, errors.PayloadError.__init__)
]


def make(cls: type[AgentrayError]) -> AgentrayError:
    if cls in SAMPLES:
        return cls(*SAMPLES[cls])
    if issubclass(cls, ClientError):
        return cls(*CLIENT_ARGUMENTS)
    return cls("It happened.")


def test_every_constructor_has_a_sample_here() -> None:
    assert {*OWN_CONSTRUCTOR, *tree_of(errors)} - {AgentrayError, ClientError} == {
        *SAMPLES,
        *MESSAGE_ONLY,
    } - {AgentrayError}


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_an_error_survives_pickling_with_its_fields_arguments_and_message(
    cls: type[AgentrayError], protocol: int
) -> None:
    error = make(cls)
    error.add_note("told on the way")
    copy = pickle.loads(pickle.dumps(error, protocol=protocol))
    assert type(copy) is cls
    assert copy.args == error.args
    assert str(copy) == str(error)
    assert str(copy)
    assert copy.__dict__ == error.__dict__
    assert copy.__notes__ == ["told on the way"]
    # And once more: it may pass through several processes.
    again = pickle.loads(pickle.dumps(copy, protocol=protocol))
    assert (str(again), again.__dict__) == (str(error), error.__dict__)


@pytest.mark.parametrize("cls", SAMPLES)
def test_what_an_error_is_about_is_in_its_message_or_its_fields(cls: type[AgentrayError]) -> None:
    error = make(cls)
    told = f"{error} {error.__dict__}"
    assert [arg for arg in SAMPLES[cls] if isinstance(arg, str) and arg not in told] == []


@pytest.mark.parametrize(
    "cls",
    [
        errors.UnknownAction,
        errors.NoHandler,
        errors.DeadlineExceeded,
        errors.HostDied,
        errors.Overloaded,
        errors.DeploymentStopped,
        errors.AgentFailed,
    ],
)
def test_an_error_about_an_agent_has_its_id_also_after_its_way(cls: type[AgentrayError]) -> None:
    copy: Any = pickle.loads(pickle.dumps(make(cls)))
    assert copy.agent == "greeter/ada"


def test_other_ids_are_fields_too() -> None:
    late = errors.DeadlineExceeded("greeter/a.b/c.greet", 1.0)
    assert (late.agent, late.action) == ("greeter/a.b/c", "greet")
    assert errors.DeadlineExceeded("The model openai/gpt", 1.0).agent == ""
    assert errors.Overloaded("The link to host-1").agent == ""
    assert errors.HostDied("greeter/ada", "host-1").host == "host-1"
    died = errors.HostDied("greeter/ada", "host-1", "killed", "greet")
    assert (died.agent, died.action) == ("greeter/ada", "greet")
    assert "greeter/ada.greet" in str(died)
    assert "killed. Mend" in str(errors.AgentQuarantined("greeter/ada", "killed."))
    assert errors.PayloadError("No.", what="result of x()", path=".lock").path == ".lock"


@pytest.mark.parametrize("cls", MESSAGE_ONLY)
def test_without_a_message_it_says_the_first_line_of_its_docstring(
    cls: type[AgentrayError],
) -> None:
    assert cls.__doc__
    assert str(cls()) == cls.__doc__.splitlines()[0]
    assert str(cls("Another one.")) == "Another one."


def test_an_error_defined_by_an_app_gets_the_same_rules() -> None:
    class Unpaid(AgentrayError):
        """The invoice is not paid yet.

        It will be.
        """

    class Silent(AgentrayError):
        pass

    assert str(Unpaid()) == "The invoice is not paid yet."
    Silent.__doc__ = None
    assert str(Silent()) == "Silent"


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.PayloadError, TypeError),
        (errors.AddressError, LookupError),
        (errors.DeadlineExceeded, TimeoutError),
    ],
)
def test_it_is_also_the_builtin_error_that_others_would_catch(
    cls: type[AgentrayError], builtin: type[Exception]
) -> None:
    assert isinstance(make(cls), builtin)


# The drawings

Line = tuple[str, str, str]  # class, its parent in the tree, the builtin class it also is

_LINE = re.compile(r"^    ((?:[│ ]   )*)(?:[├└]── )?(\w+)(?: \((\w+)\))?(?:  .*)?$")


def drawn(module: ModuleType) -> list[Line]:
    assert module.__doc__
    _, _, drawing = module.__doc__.partition("::\n\n")
    path: list[str] = []
    found: list[Line] = []
    for line in drawing.partition("\n\n")[0].splitlines():
        match = _LINE.match(line)
        assert match, line
        depth = len(match[1]) // 4 + ("── " in line)
        path[depth:] = [match[2]]
        found.append((match[2], path[depth - 1] if depth else "", match[3] or ""))
    return found


def real(classes: list[type[AgentrayError]]) -> list[Line]:
    def line(cls: type[AgentrayError]) -> Line:
        parents = [base.__name__ for base in cls.__bases__ if issubclass(base, AgentrayError)]
        others = [base.__name__ for base in cls.__bases__ if not issubclass(base, AgentrayError)]
        if cls is AgentrayError:
            return cls.__name__, "", ""
        assert len(parents) == 1
        assert len(others) <= 1
        return cls.__name__, parents[0], others[0] if others else ""

    return [line(cls) for cls in classes]


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    assert sorted(drawn(errors)) == sorted(real([*tree_of(errors), ClientError]))


def test_the_tree_of_the_clients_errors_is_drawn_as_it_is() -> None:
    assert sorted(drawn(client_errors)) == sorted(real([AgentrayError, *tree_of(client_errors)]))


# The client's errors and HTTP's statuses


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 418, 422, 429, 500, 502, 503])
def test_the_class_of_a_status_is_the_one_whose_drawing_names_it(status: int) -> None:
    assert client_errors.__doc__
    (name,) = [
        line.split("── ")[1].split()[0]
        for line in client_errors.__doc__.splitlines()
        if re.search(rf"\b{status}\b", line)
    ] or (["ServerError"] if status >= 500 else ["ClientError"])
    assert class_of(status).__name__ == name


def test_the_fields_of_a_refused_request_are_told() -> None:
    error = client_errors.InvalidRequest(*CLIENT_ARGUMENTS)
    assert error.errors == [{"field": "prompt", "location": "body", "message": "missing"}]
    assert client_errors.InvalidRequest(400, "Bad request").errors == []


def test_a_conflict_names_the_run_that_the_key_belongs_to() -> None:
    assert client_errors.Conflict(409, "Conflict", problem={"run_id": "run_1"}).run_id == "run_1"


def test_no_answer_at_all_has_the_status_that_means_the_same() -> None:
    error = ConnectionFailed("connection refused")
    assert (error.status_code, error.detail) == (503, "connection refused")
    assert client_errors.TimedOut("30 s").status_code == 408
    assert str(error) == "No answer from the gateway: connection refused"
