"""What all commands have in common: how their errors end, their settings and options."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar, cast

import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from agentray.cli import console
from agentray.cli.exits import ExitCode, exit_code_of
from agentray.cli.signals import Ended
from agentray.config import Settings
from agentray.errors import AgentrayError, ConfigurationError

if TYPE_CHECKING:
    from agentray.client import AsyncAgentClient
    from agentray.runtime.manager_client import ManagerClient

P = ParamSpec("P")
T = TypeVar("T")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", help="The gateway (default: AGENTRAY_URL, a profile, or what is up here)."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="The API key. Other users of this machine can see it here: better set "
        "AGENTRAY_API_KEY (default: that, else the key that `agentray up` made).",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", min=0.1, help="Seconds to keep asking a gateway that does not answer."
    ),
]
DEFAULT_TIMEOUT_S = 10.0

_WrongWords: type[Exception] = typer.BadParameter.__mro__[1]
"""Typer's own error about words that it cannot read; where its module is depends on its version."""

_profile: ContextVar[str | None] = ContextVar("profile", default=None)
"""What `agentray --profile` names."""


class _Telling:
    """Its errors end as one paragraph and an exit code, never as a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        _profile.set(ctx.find_root().params.get("profile"))
        try:
            return cast("Any", super()).invoke(ctx)
        except (typer.Exit, typer.Abort, _WrongWords):
            raise
        except Ended as ended:
            raise typer.Exit(128 + ended.signum) from ended
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except AgentrayError as error:
            code = exit_code_of(error)
            _tell(ctx, _words_of(error))
        except Exception as error:  # noqa: BLE001 - the last one who could tell the user
            code = ExitCode.FAILURE
            _tell(
                ctx,
                f"{type(error).__name__}: {error}. This was not expected: run the command as "
                "`agentray --debug …` to see where it comes from.",
            )
        raise typer.Exit(code)


class Command(_Telling, TyperCommand):
    """A command."""


class CommandGroup(_Telling, TyperGroup):
    """Commands below a word that is a command by itself."""


def _words_of(error: AgentrayError) -> str:
    """Return what an error says; of a gateway's problem what happened, without what kind it is."""
    from agentray.client import ClientError

    problem = error.problem if isinstance(error, ClientError) else {}
    return str(problem.get("detail") or error)


def _tell(ctx: Any, message: str) -> None:
    if ctx.find_root().params.get("debug"):
        traceback.print_exc()
    console.complain(message)


def read_settings(**given: Any) -> Settings:
    """Return the settings.

    Args:
        given: what the command line says; None: it says nothing.

    Raises:
        ConfigurationError: one of them is wrong.
    """
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        wrong = "; ".join(_wrong_setting(detail["loc"], detail["msg"]) for detail in error.errors())
        raise ConfigurationError(f"A setting is wrong: {wrong}.") from error


def _wrong_setting(location: tuple[int | str, ...], message: str) -> str:
    told = message.removeprefix("Value error, ")  # pydantic's, before what our own checks say
    return f"AGENTRAY_{'_'.join(map(str, location)).upper()}: {told}"


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway that a command talks to."""

    url: str | None
    key: str | None
    timeout_s: float = DEFAULT_TIMEOUT_S

    def client(self) -> AsyncAgentClient:
        """Return a client for it.

        Raises:
            ClusterNotRunning: no URL is given, and nothing is up on this machine.
            ConfigurationError: the URL or a setting is wrong.
        """
        from agentray.client import AsyncAgentClient

        read_settings()  # the client reads them, too, and would not say what is wrong with them
        profile = None if self.url else _profile.get()
        return AsyncAgentClient(self.url, self.key, timeout=self.timeout_s, profile=profile)

    def ask(self, work: Callable[[AsyncAgentClient], Coroutine[Any, Any, T]]) -> T:
        """Ask it, and leave.

        Args:
            work: an asynchronous function of the client.

        Raises:
            ClientError: it refuses, or cannot be reached.
        """

        async def asking() -> T:
            async with self.client() as client:
                return await work(client)

        return asyncio.run(asking())


def asks_gateway(
    command: Callable[Concatenate[Target, P], None], *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Callable[..., None]:
    """Give a command its first argument, a gateway, and the options that say which one.

    Args:
        command: its other parameters are its arguments and options, as typer reads them.
        timeout_s: what its --timeout is when nobody says it.
    """
    signature = inspect.signature(command, eval_str=True)
    _, *own = signature.parameters.values()
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, default, kind in (
            ("url", None, UrlOption),
            ("key", None, KeyOption),
            ("timeout", timeout_s, TimeoutOption),
        )
    ]

    @wraps(command)
    def run(*, url: str | None, key: str | None, timeout: float, **given: Any) -> None:
        cast("Callable[..., None]", command)(Target(url, key, timeout), **given)

    parameters = [*own, *options]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue] - as inspect reads it
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def goes_on(context: typer.Context) -> bool:
    """Whether a word of a group's own follows; then the group itself has nothing to do.

    Raises:
        ConfigurationError: options stand before it, where it would not see them.
    """
    if context.invoked_subcommand is None:
        return False
    for name in context.params:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.removeprefix("as_").replace("_", "-")
            word = context.invoked_subcommand
            raise ConfigurationError(f"Write --{option} after `{word}`: it is an option of that.")
    return True


def ask_manager(work: Callable[[ManagerClient], Awaitable[T]]) -> T:
    """Ask the manager of this machine's cluster, and leave.

    Args:
        work: an asynchronous function of the connection.

    Raises:
        ClusterNotRunning: nothing is up here.
    """
    settings = read_settings()
    from agentray.runtime.connection import connect

    async def asking() -> T:
        async with connect(settings=settings) as manager:
            return await work(manager)

    return asyncio.run(asking())
