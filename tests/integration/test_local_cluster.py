"""A Ray cluster of one machine, started and stopped for real."""

import contextlib
import ipaddress
import os
import shutil
import stat
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from agentray.runtime.local_cluster import (
    LocalCluster,
    LocalClusterError,
    ensure_ray_token,
    is_alive,
    serve_environment,
    start_local_cluster,
    stop_local_cluster,
)
from tests.support.cluster import lives


def _environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home)}


def _processes_of(cluster: LocalCluster) -> list[psutil.Process]:
    """Found by another way than the product's: whatever names its session, and the children."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        try:
            if cluster.session_dir in " ".join(process.cmdline()):
                found.update([process, *process.children(recursive=True)])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if lives(process)]


def _listeners(cluster: LocalCluster) -> set[str]:
    pids = {process.pid for process in _processes_of(cluster)}
    return {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.pid in pids and connection.status == psutil.CONN_LISTEN and connection.laddr
    }


def _is_loopback(address: str) -> bool:
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


@pytest.mark.timeout(180)
def test_starts_closed_to_others_and_stops_wholly(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("h")
    temp_dir = Path("/tmp") / f"agentray-test-{os.getpid()}"  # Ray's sockets need a short path
    begun: list[LocalCluster] = []
    cluster = start_local_cluster(
        gcs_port=0,
        dashboard_port=0,
        temp_dir=temp_dir,
        num_cpus=1,
        env=_environment(home),
        timeout_s=120,
        on_begun=begun.append,
    )
    try:
        assert begun == [cluster]
        assert is_alive(cluster)
        assert LocalCluster.from_json(cluster.to_json()) == cluster
        assert stat.S_IMODE((home / ".ray/auth_token").stat().st_mode) == 0o600
        assert stat.S_IMODE(Path(cluster.runtime_dir).stat().st_mode) == 0o700
        listeners = _listeners(cluster)
        assert listeners
        assert all(_is_loopback(address) for address in listeners), listeners
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{cluster.dashboard_url}/api/jobs/", timeout=10)
    finally:
        killed = stop_local_cluster(cluster, 30)
        shutil.rmtree(temp_dir, ignore_errors=True)
    assert killed == []
    assert _processes_of(cluster) == []
    assert not is_alive(cluster)
    assert not Path(cluster.runtime_dir).exists()
    assert stop_local_cluster(cluster, 1) == []  # stopping what is stopped is fine


def _command_lines() -> list[str]:
    """Return those of all processes; one that ends meanwhile, or waits for its parent, has none."""
    found: list[str] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            found.append(" ".join(process.cmdline()))
    return found


def test_a_failed_start_says_why_and_leaves_nothing(tmp_path: Path):
    too_long = tmp_path / ("long" * 30)  # for Ray's sockets
    with pytest.raises(LocalClusterError, match="AF_UNIX"):
        start_local_cluster(
            gcs_port=0,
            dashboard_port=0,
            temp_dir=too_long,
            num_cpus=1,
            env=_environment(tmp_path),
            timeout_s=60,
        )
    assert not [line for line in _command_lines() if str(too_long) in line]


def test_a_token_that_others_can_read_is_closed(tmp_path: Path):
    token = tmp_path / ".ray/auth_token"
    token.parent.mkdir(mode=0o755)
    token.write_text("secret")
    token.chmod(0o644)

    assert ensure_ray_token({"HOME": str(tmp_path)}) == token

    assert token.read_text() == "secret"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700


def test_a_token_is_made_where_the_environment_names_it(tmp_path: Path):
    named = tmp_path / "made" / "token"

    assert ensure_ray_token({"RAY_AUTH_TOKEN_PATH": str(named)}) == named

    assert len(named.read_text()) == 64
    assert stat.S_IMODE(named.stat().st_mode) == 0o600
    assert list(named.parent.iterdir()) == [named]


def test_a_token_in_the_environment_needs_no_file(tmp_path: Path):
    assert ensure_ray_token({"RAY_AUTH_TOKEN": "secret", "HOME": str(tmp_path)}) is None
    assert not list(tmp_path.iterdir())


def test_an_empty_token_is_refused(tmp_path: Path):
    token = tmp_path / "token"
    token.touch()
    with pytest.raises(LocalClusterError, match="is empty"):
        ensure_ray_token({"RAY_AUTH_TOKEN_PATH": str(token)})


def test_too_long_a_directory_for_haproxy_is_refused(tmp_path: Path):
    with pytest.raises(LocalClusterError, match="too long"):
        serve_environment(tmp_path / ("long" * 10))
