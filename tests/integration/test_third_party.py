"""The clients of other systems are there, in the versions whose contracts the tests hold."""

from __future__ import annotations

from packaging.requirements import Requirement

from tests.support.third_party import SCRIPTS, run_third_party


def locked() -> dict[str, str]:
    lines = (SCRIPTS / "requirements.lock").read_text().splitlines()
    found = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
    return {each.name: next(iter(each.specifier)).version for each in found}


async def test_the_clients_of_other_systems_can_be_imported_and_are_those_of_the_lock():
    told = await run_third_party("versions.py")
    assert told.pop("classes") == ["AgentClient", "AsyncAgentClient", "AgentSession"]
    assert told == {name: locked()[name] for name in told}
    assert told == {"synapse-sdk": "2026.2.17", "synapseclient": "4.13.0"}


def test_the_lock_names_versions_and_hashes_and_no_registry():
    lines = (SCRIPTS / "requirements.lock").read_text().splitlines()
    assert all(line[:1].isalnum() or line.startswith("    --hash=sha256:") for line in lines)
    assert not any("://" in line for line in lines)
