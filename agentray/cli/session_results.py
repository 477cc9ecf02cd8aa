"""Sessions, readable. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import RenderableType

from agentray.cli.render import columns, moment, pairs, short, text
from agentray.protocol.sessions import Session, SessionRun


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
    shown = columns("Session", "Agent", "Access", "Title", "Made", "Expires")
    for row in rows:
        expires = "" if row.expires_at is None else moment(row.expires_at)
        shown.add_row(
            text(row.id),
            text(row.agent),
            text(row.access_level.value),
            text(row.title or ""),
            text(moment(row.created_at)),
            text(expires),
        )
    return shown


def history(rows: Sequence[SessionRun]) -> RenderableType:
    """Return the runs of a session as a table."""
    if not rows:
        return text("There are no runs.")
    shown = columns("", "Run", "Status", "Asked", "Answered")
    for row in rows:
        status = row.run.status.value + (" (rolled back)" if row.rolled_back else "")
        shown.add_row(
            text(row.number),
            text(row.run.id),
            text(status),
            text(short(row.prompt)),
            text(short(_answer(row))),
        )
    return shown


def _answer(row: SessionRun) -> str:
    if row.run.error is not None:
        return f"{row.run.error.type}: {row.run.error.message}"
    if row.run.result is None:
        return ""
    return json.dumps(row.run.result, ensure_ascii=False)
