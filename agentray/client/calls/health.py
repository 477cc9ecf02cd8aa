"""Calls about the gateway itself."""

from __future__ import annotations

from agentray.client.calls.http import Request, Response, error_of


def get_ready() -> Request:
    """Ask whether prompts can be served."""
    return Request("GET", "/readyz")


def missing_parts(response: Response) -> list[str]:
    """Read what is missing before prompts can be served; [] when nothing is.

    Raises:
        ClientError: the answer is nothing that `/readyz` says.
    """
    if response.status == 200:
        return []
    error = error_of(response)
    missing = error.problem.get("missing")
    if not missing:
        raise error
    return [str(part) for part in missing]
