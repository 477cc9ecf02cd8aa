"""States on their way out of a cluster and into one: records, and the form of a file of them.

A file is lines of JSON: a header, one line for each agent, and a last line with their number, by
which a file that was cut off is recognised.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from agentray.errors import ConfigurationError
from agentray.ids import AgentId

FORMAT = 1
"""Of the file; a reader refuses others."""


@dataclass(frozen=True, slots=True)
class StateRecord:
    """What is kept of one agent.

    Attributes:
        agent: whose state it is.
        state: as JSON values.
        schema_version: the `state_version` of the code that kept it.
    """

    agent: AgentId
    state: Mapping[str, Any]
    schema_version: int = 1


def header(app: str) -> str:
    """Return the first line of a file."""
    return json.dumps({"format": FORMAT, "app": app})


def line_of(record: StateRecord) -> str:
    """Return the line of a record."""
    return json.dumps(
        {
            "agent": str(record.agent),
            "schema_version": record.schema_version,
            "state": record.state,
        }
    )


def footer(agents: int) -> str:
    """Return the last line of a file with so many agents."""
    return json.dumps({"agents": agents})


def read_lines(lines: Iterable[str]) -> tuple[str, list[StateRecord]]:
    """Read a file of states.

    Returns:
        The name of the app, and the records.

    Raises:
        ConfigurationError: it is no such file, or not all of one; the message has the line.
    """
    parsed = _parse(lines)
    nothing: dict[str, Any] = {}
    number, first = next(parsed, (1, nothing))
    if first.get("format") != FORMAT or not isinstance(first.get("app"), str):
        raise _wrong(number, f"no header of a file of states with format {FORMAT}")
    records: list[StateRecord] = []
    total = None
    for number, fields in parsed:
        if total is not None:
            raise _wrong(number, "something follows the last line")
        if "agent" in fields:
            records.append(_record(number, fields))
        else:
            total = fields.get("agents")
            if total != len(records):
                raise _wrong(number, f"{total} agents are announced, {len(records)} are there")
    if total is None:
        raise _wrong(number, "the last line is missing: the file was cut off")
    return first["app"], records


def _parse(lines: Iterable[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            fields: Any = json.loads(line, parse_constant=_no_constant)
        except ValueError as error:
            raise _wrong(number, f"it is not JSON: {error}") from error
        if not isinstance(fields, dict):
            raise _wrong(number, "it is not a JSON object")
        yield number, fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _record(number: int, fields: Mapping[str, Any]) -> StateRecord:
    agent, state, version = (fields.get(name) for name in ("agent", "state", "schema_version"))
    if not isinstance(agent, str):
        raise _wrong(number, "agent is not a text")
    if not isinstance(state, dict):
        raise _wrong(number, "state is not a JSON object")
    if type(version) is not int or version < 1:
        raise _wrong(number, "schema_version is not a number from 1")
    try:
        return StateRecord(AgentId.parse(agent), cast("dict[str, Any]", state), version)
    except ConfigurationError as error:
        raise _wrong(number, str(error)) from error


def _wrong(number: int, why: str) -> ConfigurationError:
    return ConfigurationError(f"Line {number} of the file of states: {why}.")
