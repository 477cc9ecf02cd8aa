"""Ray's session directories: the newest stay, older ones do not."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from agentray.errors import StartFailed
from agentray.runtime.session_dirs import forget_old_sessions, ray_dir


def _session(directory: Path, day: int) -> Path:
    session = directory / f"session_2030-01-{day:02d}_10-00-00_000000_1"
    (session / "logs").mkdir(parents=True)
    (session / "logs" / "raylet.out").write_text("logged")
    return session


def test_the_newest_sessions_stay_and_older_ones_go(tmp_path: Path):
    sessions = [_session(tmp_path, day) for day in (11, 2, 10, 1, 9)]
    latest = tmp_path / "session_latest"
    latest.symlink_to(sessions[0])
    (tmp_path / "ray_current_cluster").write_text("127.0.0.1:1")

    removed = forget_old_sessions(tmp_path, kept=3)

    assert removed == [sessions[3], sessions[1]]
    assert not any(session.exists() for session in removed)
    assert (latest / "logs" / "raylet.out").read_text() == "logged"
    assert (tmp_path / "ray_current_cluster").exists()
    assert forget_old_sessions(tmp_path, kept=3) == []


def test_a_few_sessions_all_stay(tmp_path: Path):
    session = _session(tmp_path, 1)
    assert forget_old_sessions(tmp_path) == []
    assert session.exists()
    assert forget_old_sessions(tmp_path / "nothing") == []


def test_others_cannot_look_into_what_ray_opens_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = ray_dir(Path("/home/ada/.agentray"))
    directory.mkdir(mode=0o777)
    directory.parent.chmod(0o777)  # as Ray left it before
    assert ray_dir(Path("/home/ada/.agentray")) == directory
    assert directory.parent.stat().st_mode & 0o777 == 0o700
    assert ray_dir(Path("/home/ada/other")) != directory


def test_a_directory_that_is_a_link_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    closed = ray_dir(Path("/home/ada")).parent
    closed.rmdir()
    (tmp_path / "elsewhere").mkdir()
    closed.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartFailed, match="another user"):
        ray_dir(Path("/home/ada"))
