"""The processes of one local cluster, found by a mark in their environment, and ended in order."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from agentray.errors import StartFailed

MARK = "AGENTRAY_LOCAL_CLUSTER"
"""The environment variable with the mark; children inherit it, unless they overwrite theirs."""

HOME = "AGENTRAY_CLUSTER_HOME"
"""The environment variable with the home of a cluster; one whose home is gone is nobody's."""

_sleep = time.sleep  # noqa: TID251 - other processes are polled; synchronous code awaits nothing

_KILL_PATIENCE_S = 5.0
_POLL_INTERVAL_S = 0.05


class LocalClusterError(StartFailed):
    """The cluster of this machine could not be started or stopped; the message says why."""


def new_mark() -> str:
    """Return a mark that no cluster has."""
    return secrets.token_hex(16)


def runtime_dir_of(mark: str) -> Path:
    """Return our own directory of a cluster; its path is short, because there are sockets in it."""
    return Path(tempfile.gettempdir()) / f"agentray-{mark[:8]}"


def marked(mark: str) -> list[psutil.Process]:
    """Return the living processes of a cluster, without this one."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                found[process.pid] = process
                found.update((child.pid, child) for child in process.children(recursive=True))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone, or another user's
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _lives(process)]


def homeless() -> dict[str, str]:
    """Return the marks of this user's clusters whose home is gone, with the home."""
    found: dict[str, str] = {}
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if process.uids().real != os.getuid():
                continue
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        mark, home = environment.get(MARK), environment.get(HOME)
        if mark and home and not Path(home).exists() and _lives(process):
            found[mark] = home
    return found


def stop_marked(mark: str, timeout_s: float) -> list[str]:
    """End the processes of a cluster.

    Args:
        mark: of the cluster.
        timeout_s: for them to end by themselves; then they are killed.

    Returns:
        Those that had to be killed, each as "name (process id)".

    Raises:
        LocalClusterError: some process cannot be stopped.
    """
    deadline = time.monotonic() + timeout_s
    known = set(marked(mark))
    raylet = {process for process in known if name_of(process) == "raylet"}
    gcs = {process for process in known if name_of(process) == "gcs_server"}
    alive: set[psutil.Process] = set()
    # The others take leave of the GCS and wait for its answer, so it goes last; the raylet goes
    # first, or it would replace its workers.
    for stage in (raylet, known - raylet - gcs, gcs):
        _signal(stage, "terminate")
        alive |= _wait_gone(stage, deadline - time.monotonic())
    # What these started meanwhile, or left behind, is killed along with them.
    alive |= set(marked(mark))
    killed = [f"{name_of(process)} ({process.pid})" for process in alive]
    _signal(alive, "kill")
    left = _wait_gone(alive, _KILL_PATIENCE_S) | set(marked(mark))
    if left:
        names = ", ".join(f"{name_of(process)} ({process.pid})" for process in left)
        raise LocalClusterError(f"These processes of the Ray cluster cannot be stopped: {names}.")
    return killed


def name_of(process: psutil.Process) -> str:
    """Return a process's name; "ended" when it has."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return "ended"


def _signal(processes: Iterable[psutil.Process], verb: str) -> None:
    for process in processes:
        try:
            getattr(process, verb)()
        except psutil.NoSuchProcess:
            continue


def _wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> set[psutil.Process]:
    """Waits for processes to end; returns those that did not."""
    deadline = time.monotonic() + timeout_s
    alive = {process for process in processes if _lives(process)}
    while alive and time.monotonic() < deadline:
        _sleep(_POLL_INTERVAL_S)
        alive = {process for process in alive if _lives(process)}
    return alive


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
