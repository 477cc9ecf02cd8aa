"""How what is written on the command line is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentray.cli.jobs import group
from agentray.cli.options import read_amounts, read_object, read_pairs
from agentray.errors import ConfigurationError


def test_pairs_are_read_as_they_are_written() -> None:
    assert read_pairs("--label", ["a=b", "c=d=e", "f="]) == {"a": "b", "c": "d=e", "f": ""}
    assert read_pairs("--label", None) == {}
    for wrong in ("a", "=b"):
        with pytest.raises(ConfigurationError, match=r"--label .*: write NAME=VALUE"):
            read_pairs("--label", [wrong])


def test_amounts_are_numbers() -> None:
    assert read_amounts("--resource", ["tpu=2", "disk=0.5"]) == {"tpu": 2, "disk": 0.5}
    for wrong in ("tpu", "tpu=two"):
        with pytest.raises(ConfigurationError, match="--resource"):
            read_amounts("--resource", [wrong])


def test_objects_are_json_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"grüße": 1}', encoding="utf-8")
    assert read_object("--metadata", '{"a": [1]}') == {"a": [1]}
    assert read_object("--metadata", f"@{file}") == {"grüße": 1}
    file.write_bytes(b"\xff")
    for wrong, told in (
        ("{", "is no JSON"),
        ("[1]", "is no JSON object"),
        (f"@{tmp_path / 'none'}", "cannot be read: No such file"),
        (f"@{tmp_path}", "cannot be read"),
        (f"@{file}", "is no JSON"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            read_object("--metadata", wrong)


def test_a_misspelt_option_does_not_become_a_jobs_command() -> None:
    asked = ["submit", "--url", "http://127.0.0.1:1", "--key", "k"]
    done = CliRunner().invoke(group, [*asked, "--submission-id", "one", "--", "python", "a.py"])
    assert done.exit_code == 2
    assert "There is no option --submission-id." in done.output
