"""HAProxy, as Ray Serve's ingress on this machine shall be: what Serve has no option for.

Serve is given a program of ours instead of HAProxy. It mends what Serve has generated, then becomes
HAProxy:
- The statistics page and the Prometheus exporter listen on loopback; Serve binds them to all
  interfaces. The public listener is not touched: its host is Serve's HTTP option.
- What a replica was answering when it died is asked of another one, where repeating it does no
  harm: a GET, or a request whose `Idempotency-Key` the gateway knows. Serve would answer 500.
- Where that cannot be, the answer is a problem document with 503 and `Retry-After`, as everywhere
  else: the request may be repeated.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

RETRY_ON = "conn-failure empty-response"
"""A replica that cannot be reached, or has gone before it said a word, is not asked again."""

_KEYED = (
    "/(v1/(prompts|runs/[^/]+/answer|chat/completions|responses|async/[^/]+/start|jobs)"
    "|repo/v1/agent/chat/async/start)/?$"
)
"""Ends of the paths whose requests the gateway recognises by their key."""

_REPEATABLE = (
    f"{{ method GET HEAD }} || {{ req.hdr(idempotency-key) -m found }} {{ path_reg {_KEYED} }}"
)

_PROGRAM = r"""#!/bin/sh
previous=
for argument; do
  if [ "$previous" = -f ]; then
    sed -i \
      -e '/^frontend prometheus$/,/bind/ s/bind [^ ]*:/bind 127.0.0.1:/' \
      -e '/^listen stats$/,/bind/ s/bind [^ ]*:/bind 127.0.0.1:/' \
      -e '/^frontend http_frontend$/,/bind/ s%^ *bind .*%&\n    http-request disable-l7-retry unless {repeatable}%' \
      "$argument" || exit 1
    cp {lost} "${{argument%/*}}/500.http" || exit 1
  fi
  previous=$argument
done
exec {haproxy} "$@"
"""  # noqa: E501 - a line of HAProxy's

_TOLD = (
    "The gateway's replica that took this request is gone. Repeat it; with its Idempotency-Key "
    "nothing is done twice."
)


def answer_of_lost() -> bytes:
    """Return what is answered for a replica that died, as it goes over the wire."""
    body = json.dumps(
        {
            "type": "urn:agentray:problem:unavailable",
            "title": "The service cannot take this request now",
            "status": 503,
            "detail": _TOLD,
        }
    )
    head = (
        "HTTP/1.1 503 Service Unavailable",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        "Retry-After: 1",
        "Cache-Control: no-store",
        "Connection: close",
    )
    return "\r\n".join((*head, "", body)).encode()


def write_program(directory: Path, haproxy: str) -> Path:
    """Write the program that Serve takes for HAProxy, and what it needs.

    Args:
        directory: where; Serve's files for HAProxy are there, too.
        haproxy: path of the real one.
    """
    lost = directory / "lost.http"
    lost.write_bytes(answer_of_lost())
    program = directory / "haproxy"
    program.write_text(
        _PROGRAM.format(
            repeatable=_REPEATABLE,
            lost=shlex.quote(str(lost)),
            haproxy=shlex.quote(haproxy),
        )
    )
    program.chmod(0o700)
    return program
