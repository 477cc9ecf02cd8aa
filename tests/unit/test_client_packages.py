"""Packing directories for jobs."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentray.client.packages import pack, with_requirements
from agentray.errors import ConfigurationError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("train.py", "data/big.bin", "data/small.txt", ".git/config", "__pycache__/x.pyc"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "empty").mkdir()
    return root


def names(root: Path, excludes: Sequence[str] = (), *, within: bool = False) -> list[str]:
    with pack(root, excludes, within=within).file as file, zipfile.ZipFile(file) as archive:
        return archive.namelist()


def test_what_is_packed(project: Path):
    assert names(project) == ["run.sh", "train.py", "data/big.bin", "data/small.txt"]
    assert names(project, within=True)[0] == "project/run.sh"
    with pack(project).file as file, zipfile.ZipFile(file) as archive:
        assert archive.read("data/small.txt") == b"data/small.txt"
        assert archive.getinfo("run.sh").external_attr >> 16 & 0o111
        assert not archive.getinfo("train.py").external_attr >> 16 & 0o111


@pytest.mark.parametrize(
    ("excludes", "left"),
    [
        (["data"], ["run.sh", "train.py"]),
        (["data/"], ["run.sh", "train.py"]),
        (["*.bin", "run.*"], ["train.py", "data/small.txt"]),
        (["data/*.txt"], ["run.sh", "train.py", "data/big.bin"]),
    ],
)
def test_what_is_left_out(project: Path, excludes: list[str], left: list[str]):
    assert names(project, excludes) == left


def test_the_same_content_has_the_same_name(project: Path, tmp_path: Path):
    first = pack(project)
    first.file.close()
    os.utime(project / "train.py", (1, 1))
    second = pack(project)
    second.file.close()
    assert (first.name, first.size) == (second.name, second.size)
    (project / "train.py").write_text("other")
    third = pack(project)
    third.file.close()
    assert third.name != first.name
    assert tmp_path.exists()


def test_nothing_to_be_packed_is_said(tmp_path: Path):
    with pytest.raises(ConfigurationError, match="no directory"):
        pack(tmp_path / "missing")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigurationError, match="nothing to be packed"):
        pack(tmp_path / "none")


def test_files_of_requirements_are_replaced_by_what_is_in_them(tmp_path: Path):
    file = tmp_path / "requirements.txt"
    file.write_text("# ours\n\nrequests==2\n  polars  \n")
    packages = ["requests==2", "polars"]
    assert with_requirements({"pip": str(file), "a": 1}) == {"pip": packages, "a": 1}
    told = with_requirements({"uv": {"packages": str(file), "uv_check": True}})
    assert told == {"uv": {"packages": packages, "uv_check": True}}
    for given in ({"pip": ["a"]}, {"pip": 5}, {"uv": {"packages": ["a"]}}, {"conda": "base"}):
        assert with_requirements(given) == given
    with pytest.raises(ConfigurationError, match="no/such"):
        with_requirements({"pip": "no/such"})
