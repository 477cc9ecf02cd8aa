"""The `doctor` command: looks for what may keep agentray from working here, and how to mend it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from agentray.cli import console
from agentray.cli.command import JsonOption, read_settings
from agentray.cli.exits import ExitCode

if TYPE_CHECKING:
    from rich.console import RenderableType

    from agentray.cli.checks import Finding, Machine

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}


def doctor(
    as_json: JsonOption = False,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Close files with secrets to others; mends nothing else."),
    ] = False,
) -> None:
    """Check this machine, and say how to mend what is wrong.

    Exits with 1 when there is a problem; a warning is none.
    """
    settings = read_settings()
    from agentray.cli.checks import Machine, Verdict, close_files

    machine = Machine.look(settings, os.environ)
    if fix:
        for path in close_files(machine):
            console.note(f"closed to others: {path}")
    findings = asyncio.run(diagnose(machine))
    if as_json:
        console.write_json([asdict(finding) for finding in findings])
    else:
        console.out().print(render(findings))
    if any(finding.verdict is Verdict.PROBLEM for finding in findings):
        raise typer.Exit(ExitCode.FAILURE)


async def diagnose(machine: Machine) -> list[Finding]:
    """Return what all checks find, in the order in which things depend on each other."""
    from agentray.cli import checks, cluster_checks

    return [
        checks.python(),
        checks.packages(),
        checks.ray(),
        checks.bytecode(machine),
        checks.home(machine),
        checks.disk(machine),
        checks.api_key(machine),
        checks.ray_token(machine),
        cluster_checks.cluster(machine),
        *cluster_checks.ports(machine),
        await cluster_checks.database(machine),
    ]


def render(findings: Sequence[Finding]) -> RenderableType:
    """Return findings as a list, each remedy below what it mends."""
    from rich.table import Table
    from rich.text import Text

    from agentray.cli.render import text

    table = Table.grid(padding=(0, 2, 0, 0))
    for column in range(3):
        table.add_column(no_wrap=column < 2, overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        table.add_row(Text(mark, style=style), text(finding.check), text(finding.told))
        if finding.remedy:
            table.add_row("", "", text(f"→ {finding.remedy}", style))
    return table
