"""The README's own agent, followed to the letter: saved, run twice, prompted in every way."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.documentation import blocks_of

README = Path(__file__).parents[2] / "README.md"

pytestmark = pytest.mark.timeout(240)


def code_with(text: str) -> str:
    (block,) = [b for b in blocks_of(README) if b.language == "python" and text in b.code]
    return block.code


def test_the_readmes_agent_counts_on_and_is_prompted(cluster: Cluster, tmp_path: Path):
    (tmp_path / "greetings.py").write_text(code_with("agentray.run(main())"), encoding="utf-8")
    client = code_with("with AgentClient()") + "    print(run.status, run.result)\n"
    try:
        for number in (1, 2):
            done = cluster.python("greetings.py", cwd=tmp_path)
            assert (done.exit_code, done.stderr) == (0, ""), done
            assert done.stdout == f"Hello Ada, you are number {number}.\n"

        told = cluster.agentray("prompt", "--agent", "greeter/door", "Ada")
        assert told.exit_code == 0, told
        assert "Hello Ada, you are number 3." in told.stdout
        asked = cluster.python("-c", client)
        assert (asked.exit_code, asked.stderr) == (0, ""), asked
        assert "Hello Ada, you are number 4." in asked.stdout
    finally:
        assert cluster.agentray("stop", "greetings").exit_code == 0
