"""Sessions, readable. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from agentray.cli.render import moment, pairs, text
from agentray.protocol.sessions import Session, SessionRun

_LONGEST = 60


def session(found: Session) -> RenderableType:
    """Return a session."""
    labels = ", ".join(f"{name}={value}" for name, value in found.labels.items())
    return pairs(
        [
            ("session", found.id),
            ("agent", found.agent),
            ("access", found.access_level.value),
            ("title", found.title),
            ("labels", labels or None),
            ("metadata", json.dumps(found.metadata) if found.metadata else None),
            ("owner", found.owner or None),
            ("tenant", found.tenant),
            ("made", moment(found.created_at)),
            ("changed", moment(found.updated_at)),
            ("expires", found.expires_at and moment(found.expires_at)),
            ("copy of", found.copied_from),
            ("version", str(found.version)),
        ]
    )


def sessions(rows: Sequence[Session]) -> RenderableType:
    """Return sessions as a table."""
    if not rows:
        return text("There are no sessions.")
    shown = _table("Session", "Agent", "Access", "Title", "Made", "Expires")
    for row in rows:
        expires = "" if row.expires_at is None else moment(row.expires_at)
        shown.add_row(
            row.id, row.agent, row.access_level.value, row.title or "", moment(row.created_at),
            expires,
        )  # fmt: skip
    return shown


def history(rows: Sequence[SessionRun]) -> RenderableType:
    """Return the runs of a session as a table."""
    if not rows:
        return text("There are no runs.")
    shown = _table("", "Run", "Status", "Asked", "Answered")
    for row in rows:
        status = row.run.status.value + (" (rolled back)" if row.rolled_back else "")
        shown.add_row(str(row.number), row.run.id, status, _short(row.prompt), _short(_answer(row)))
    return shown


def _answer(row: SessionRun) -> str:
    if row.run.error is not None:
        return f"{row.run.error.type}: {row.run.error.message}"
    if row.run.result is None:
        return ""
    return json.dumps(row.run.result, ensure_ascii=False)


def _short(told: str) -> str:
    line = " ".join(told.split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _table(*names: str) -> Table:
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        shown.add_column(name)
    return shown
