"""Commands about kept states: export and import those of an app."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from agentray.cli import console
from agentray.cli.command import Command, ask_manager
from agentray.errors import ConfigurationError

if TYPE_CHECKING:
    from agentray.runtime.manager_client import ManagerClient

group = typer.Typer(
    help="Export and import what agents keep.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_FILE = "One line of JSON for each agent"


@group.command(name="export", cls=Command)
def export(
    app: Annotated[str, typer.Argument(metavar="APP", help="The app's name, see `status`.")],
    file: Annotated[
        Path | None, typer.Argument(help=f"{_FILE} (default: standard output).")
    ] = None,
    agent_type: Annotated[
        str | None, typer.Option("--type", help="Only agents of this type.")
    ] = None,
) -> None:
    """Write the kept states of an app's agents to a file that only its owner may read.

    For one moment of the whole app, stop the app first.
    """
    from agentray.protocol import states

    async def write(manager: ManagerClient) -> int:
        agents = 0
        records = manager.export_state(app, agent_type)
        record = await anext(records, None)  # what is wrong is said before a file is touched
        with _opened(file) as out:
            out.write(states.header(app) + "\n")
            while record is not None:
                out.write(states.line_of(record) + "\n")
                agents += 1
                record = await anext(records, None)
            out.write(states.footer(agents) + "\n")
        return agents

    console.note(f"{app}: {ask_manager(write)} agents exported")


@group.command(name="import", cls=Command)
def import_(
    file: Annotated[Path, typer.Argument(help=f"{_FILE}, as `state export` writes it.")],
) -> None:
    """Keep the states of a file, all of them or none; earlier ones are replaced."""
    from agentray.protocol import states

    try:
        with file.open(encoding="utf-8") as lines:
            app, records = states.read_lines(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} cannot be read: {error}") from error

    count = ask_manager(lambda manager: manager.import_state(app, records))
    console.write(f"{app}: {count} agents imported")


@contextmanager
def _opened(file: Path | None) -> Generator[TextIO]:
    if file is None:
        yield sys.stdout
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error}") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        yield out
