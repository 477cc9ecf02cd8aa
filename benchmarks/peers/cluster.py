"""agentray's cluster for the benchmark: its own home, free ports, taken down at the end."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.processes import free_port

_LIMIT_S = 180.0
_APP = "agentray.examples.text_analysis:app"


@contextmanager
def cluster(extra: Mapping[str, str]) -> Generator[dict[str, str]]:
    """Put a cluster up; yields the environment in which drivers find it.

    Args:
        extra: further environment variables, which its hosts have too.
    """
    with tempfile.TemporaryDirectory(prefix="agentray-bench-") as home:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTRAY_", "RAY_"))}
        env = {
            **kept,
            **extra,
            "AGENTRAY_HOME": str(Path(home) / "home"),
            "AGENTRAY_PORT": str(free_port()),
            "AGENTRAY_GCS_PORT": "0",
            "AGENTRAY_DASHBOARD_PORT": "0",
            "AGENTRAY_HOSTS": "1",
        }
        try:
            _agentray(env, "up", _APP)
            yield env
        finally:
            _agentray(env, "down")


def _agentray(env: Mapping[str, str], *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / "agentray"), *arguments]
    done = subprocess.run(
        command, env=env, timeout=_LIMIT_S, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"agentray {arguments[0]} failed:\n{done.stdout}{done.stderr}")
