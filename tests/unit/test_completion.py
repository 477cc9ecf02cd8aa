"""What a shell is told when somebody presses Tab."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from agentray.cli.main import app


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("agentray jo", ["jobs"]),
        ("agentray nodes ", ["list", "get"]),
        ("agentray jobs po", ["policy"]),
        ("agentray jobs list --status ST", ["STOPPED"]),
        ("agentray sessions create --access re", ["read"]),
        ("agentray serve list --ur", ["--url"]),
    ],
)
def test_words_are_completed(words: str, told: list[str]):
    count = str(len(words.split(" ")) - 1)
    env = {"_AGENTRAY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": count}
    done = CliRunner().invoke(app, [], env=env, prog_name="agentray")
    assert done.stdout.split() == told
