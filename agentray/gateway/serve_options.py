"""What Serve is told of the gateway's deployment; without Ray, so that it can be looked at."""

from __future__ import annotations

from typing import Any

from agentray.config import Settings

_INGRESS_CONNECTIONS = 4096
"""That HAProxy takes at once, as Serve sets it up; others wait to be accepted."""

_LEAVE_S = 20.0
"""How long a replica that leaves waits for its requests."""

_LEAVE_LOOK_S = 0.5

_ONE_THREAD = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""The gateway never blocks its event loop, so it needs none apart from Serve's: each request, and
each part of its answer, would cross from one thread to the other and back, which takes a replica a
sixth of its time."""


def deployment_options(settings: Settings) -> dict[str, Any]:
    """Return what Serve is told of the gateway's deployment; all that matters is said on purpose.

    Args:
        settings: the operator's.
    """
    options: dict[str, Any] = {
        # The gateway has limits of its own, and refuses what is beyond them with a problem
        # document. Serve's are above all that its ingress lets through, and hold should that ever
        # change.
        "max_ongoing_requests": settings.gateway_requests
        + settings.gateway_streams
        + _INGRESS_CONNECTIONS,
        "max_queued_requests": _INGRESS_CONNECTIONS,
        # A replica that leaves gets no new requests. Those that it has may end by themselves for so
        # long; streams are broken then, and their clients go on at another replica.
        "graceful_shutdown_timeout_s": _LEAVE_S,
        "graceful_shutdown_wait_loop_s": _LEAVE_LOOK_S,
        # Three misses in a row, and it is replaced: an event loop that hangs costs half a minute.
        "health_check_period_s": 5.0,
        "health_check_timeout_s": 20.0,
        "ray_actor_options": {"num_cpus": 0, "runtime_env": {"env_vars": _ONE_THREAD}},
    }
    if settings.max_replicas in {None, settings.replicas}:
        return {**options, "num_replicas": settings.replicas}
    scaling = {
        "min_replicas": settings.replicas,
        "initial_replicas": settings.replicas,
        "max_replicas": settings.max_replicas,
        "target_ongoing_requests": settings.gateway_target_requests,
        # Quickly up, slowly down: a replica that leaves breaks streams. Serve's own windows are ten
        # seconds and half a minute: a rush would be over by then.
        "upscale_delay_s": 5.0,
        "downscale_delay_s": settings.gateway_downscale_s,
        "metrics_interval_s": 1.0,
        "look_back_period_s": 5.0,
    }
    return {**options, "autoscaling_config": scaling}
