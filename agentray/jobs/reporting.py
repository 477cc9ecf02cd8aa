"""What a job tells of itself, told from the inside: to the gateway, with the job's own token."""

from __future__ import annotations

import atexit
import http.client
import json
import logging
import os
import threading
import time
from typing import Any
from urllib.parse import urlsplit

from agentray.errors import ConfigurationError, JobError

logger = logging.getLogger(__name__)

JOB_ID, JOB_URL, JOB_TOKEN = "AGENTRAY_JOB_ID", "AGENTRAY_JOB_URL", "AGENTRAY_JOB_TOKEN"
"""Environment variables that every submitted job has."""

_EVERY_S = 0.2  # between two reports of progress
_TIMEOUT_S = 10.0
_PATIENCE_S = 60.0  # for a result: the gateway may be on its way back
_PAUSE_S = 1.0


def report(
    progress: float | None = None,
    metrics: dict[str, Any] | None = None,
    result: Any = None,
) -> None:
    """Tell how far this job has come; it shows in its record, its log stream and progress bars.

    Progress and metrics are sent behind the caller, the newest of each fifth of a second, and the
    last ones at the end of the program; when they cannot be sent, a warning says so once. A result
    is kept when this returns.

    Args:
        progress: from 0 to 1.
        metrics: JSON by name; added to those that were told before.
        result: any JSON; replaces an earlier one.

    Raises:
        ConfigurationError: this program is no job that agentray submitted.
        ValueError: the progress is not from 0 to 1.
        TypeError: something is no JSON.
        JobError: the result could not be kept.
    """
    if progress is not None and not 0 <= progress <= 1:
        raise ValueError(f"The progress of a job goes from 0 to 1, not to {progress!r}.")
    told: dict[str, Any] = {}
    if progress is not None:
        told["progress"] = progress
    if metrics:
        told["metrics"] = metrics
    json.dumps([told, result], allow_nan=False)  # here, where the caller sees what is wrong
    reporter = _reporter()
    if result is None:
        reporter.later(told)
    else:
        reporter.now({**told, "result": result})


def gateway_call(what: str, body: dict[str, Any]) -> dict[str, Any]:
    """Post something about this job to the gateway.

    Args:
        what: the last part of the path.
        body: JSON.

    Raises:
        ConfigurationError: this program is no job that agentray submitted.
        JobError: the gateway says no.
        OSError: it does not answer.
    """
    missing = [name for name in (JOB_ID, JOB_URL, JOB_TOKEN) if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(
            f"{', '.join(missing)} is not set: only a job that was submitted through agentray can "
            "do this."
        )
    url = urlsplit(os.environ[JOB_URL])
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    connection = kind(url.hostname or "", url.port, timeout=_TIMEOUT_S)
    path = f"{url.path.rstrip('/')}/v1/jobs/{os.environ[JOB_ID]}/{what}"
    headers = {
        "Authorization": f"Bearer {os.environ[JOB_TOKEN]}",
        "Content-Type": "application/json",
    }
    try:
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"the gateway's answer broke off: {error}") from error
    finally:
        connection.close()
    if answer.status in {429, 502, 503, 504}:
        raise OSError(f"the gateway answers HTTP {answer.status}")
    if answer.status >= 400:
        said = text[:500].decode(errors="replace")
        raise JobError(f"The gateway refuses ({answer.status}): {said}")
    return json.loads(text) if text.strip() else {}


class _Reporter:
    """Sends reports, one at a time: in a thread of its own, or in the caller's."""

    def __init__(self) -> None:
        self._waiting: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._sending = threading.Lock()
        self._warned = False
        self._thread: threading.Thread | None = None

    def later(self, told: dict[str, Any]) -> None:
        """Send in the background what is newest."""
        with self._changed:
            self._waiting = _added(self._waiting, told)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="agentray-report", daemon=True
                )
                self._thread.start()
                atexit.register(self.flush)
            self._changed.notify()

    def now(self, told: dict[str, Any]) -> None:
        """Send at once, with what waits; try again for a while."""
        with self._changed:
            told, self._waiting = _added(self._waiting, told), {}
        give_up_at = time.monotonic() + _PATIENCE_S
        with self._sending:
            while True:
                try:
                    gateway_call("report", told)
                except OSError as error:
                    if time.monotonic() >= give_up_at:
                        raise JobError(f"The result could not be kept: {error}") from error
                    time.sleep(_PAUSE_S)  # noqa: TID251 - the program has no event loop of ours
                else:
                    return

    def flush(self) -> None:
        """Send what waits; the program is about to end."""
        self._send()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
            self._send()
            time.sleep(_EVERY_S)  # noqa: TID251 - likewise

    def _send(self) -> None:
        with self._sending:
            with self._changed:
                told, self._waiting = self._waiting, {}
            if not told:
                return
            try:
                gateway_call("report", told)
            except (OSError, JobError) as error:
                if not self._warned:
                    self._warned = True
                    logger.warning("this job's reports do not arrive: %s", error)


def _added(waiting: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return what waits with something newer."""
    both = {**waiting, **told}
    if "metrics" in both:
        both["metrics"] = {**waiting.get("metrics", {}), **told.get("metrics", {})}
    return both


_lock = threading.Lock()
_made: list[_Reporter] = []


def _reporter() -> _Reporter:
    missing = [name for name in (JOB_ID, JOB_URL, JOB_TOKEN) if not os.environ.get(name)]
    if missing:
        raise ConfigurationError(
            f"{', '.join(missing)} is not set: only a job that was submitted through agentray can "
            "report."
        )
    with _lock:
        if not _made:
            _made.append(_Reporter())
        return _made[0]
