"""The commands, as somebody types them who has just put agentray up."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Generator
from pathlib import Path

import pytest

from agentray.cli.exits import ExitCode
from tests.support.cluster import (
    APP,
    RIVER,
    Cluster,
    agentray_command,
    environment,
    make_home,
    name_of,
    postmaster,
    processes_of,
    run_program,
)

RUN_KEYS = [
    "id",
    "status",
    "agent",
    "result",
    "error",
    "attempt",
    "correlation_id",
    "created_at",
    "started_at",
    "finished_at",
]


@pytest.fixture
def empty_home() -> Generator[Path]:
    """A home of agentray in which nothing was ever started."""
    home = make_home()
    yield home
    assert processes_of(home) == []
    assert list(home.iterdir()) == []
    home.rmdir()


def test_up_shows_its_steps_and_ends_with_all_that_one_needs_next(cluster: Cluster):
    assert cluster.started is not None
    steps = cluster.started.stderr
    for step in ("database", "ray cluster", "api key", "manager", "gateway", "app", "ready"):
        assert re.search(rf"^{step}: .+ \([\d.]+ s\)$", steps, re.MULTILINE), steps
    told = cluster.started.stdout
    assert "agentray is up" in told
    assert cluster.url in told
    assert str(cluster.home / "api_key") in told
    assert cluster.record.dashboard_url in told
    assert "agentray prompt" in told
    assert cluster.key not in told + steps


def test_up_twice_says_that_it_is_up(cluster: Cluster):
    before = parts_of(cluster)
    assert len(before) >= 7
    done = cluster.agentray("up", APP)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "agentray is up already." in done.stdout
    assert cluster.url in done.stdout
    assert parts_of(cluster) == before, "something was started"


def parts_of(cluster: Cluster) -> set[tuple[str, int]]:
    """Return what a cluster consists of; Ray's idle workers and database sessions come and go."""
    titles = ("ray::HostActor", "ray::ManagerActor", "ray::ServeReplica", "ray::ProxyActor")
    found = {(title, p.pid) for title in titles for p in cluster.processes(title)}
    programs = {(name_of(p), p.pid) for p in cluster.processes()}
    found |= {(name, pid) for name, pid in programs if name in {"raylet", "gcs_server", "haproxy"}}
    return found | {("postgres", postmaster(cluster.home))}


def test_a_prompt_prints_its_answer(cluster: Cluster):
    done = cluster.agentray("prompt", RIVER)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "The river had been rising since Tuesday." in done.stdout
    assert "extractive" in done.stdout


def test_a_prompt_comes_from_a_file_or_the_input(cluster: Cluster, tmp_path: Path):
    (tmp_path / "river.txt").write_text(RIVER)
    from_file = cluster.agentray("prompt", "--file", "river.txt", cwd=tmp_path)
    from_input = cluster.agentray("prompt", "--file", "-", stdin=RIVER)
    assert (from_file.exit_code, from_input.exit_code) == (0, 0)
    assert "flood barrier" in from_file.stdout
    assert from_input.stdout == from_file.stdout


def test_a_prompt_as_json_is_the_run_and_nothing_else(cluster: Cluster):
    done = cluster.agentray("prompt", RIVER, "--json")
    assert (done.exit_code, done.stderr) == (0, "")
    run = json.loads(done.stdout)
    assert list(run) == RUN_KEYS
    assert (run["status"], run["error"], run["attempt"]) == ("succeeded", None, 1)
    assert re.fullmatch(r"text_reception/.+", run["agent"])
    assert list(run["result"]) == ["summary", "key_phrases", "statistics", "engine"]
    assert run["result"]["statistics"]["sentences"] == 3
    assert "flood barrier" in run["result"]["key_phrases"]


def test_a_streamed_prompt_shows_what_happens_on_the_way(cluster: Cluster):
    done = cluster.agentray("prompt", RIVER, "--stream")
    assert done.exit_code == 0
    assert "flood barrier" in done.stdout
    told = done.stderr.splitlines()
    assert told[-1] == "succeeded"
    assert {"started", "key phrases found", "summary written"} <= set(told)
    as_json = cluster.agentray("prompt", RIVER, "--stream", "--json")
    events = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [event["offset"] for event in events] == list(range(len(events)))
    assert events[-1]["kind"] == "succeeded"


def test_the_trace_shows_which_agent_handled_what(cluster: Cluster):
    done = cluster.agentray("prompt", RIVER, "--trace")
    assert done.exit_code == 0
    for event, agent in (
        ("Prompt", "text_reception/"),
        ("TextSubmitted", "text_analyser/"),
        ("TextSubmitted", "text_summariser/"),
        ("PhrasesFound", "result_combiner/"),
        ("TextSummarised", "result_combiner/"),
    ):
        assert re.search(rf"{event} → {agent}\S+  host_\w+  at [\d.]+ ms", done.stdout), done.stdout


def test_a_prompt_that_fails_says_why(cluster: Cluster):
    done = cluster.agentray("prompt", "...")
    assert (done.exit_code, done.stdout) == (ExitCode.RUN_FAILED, "")
    assert "There is no text to analyse" in done.complaint


def test_status_names_what_runs(cluster: Cluster):
    done = cluster.agentray("status")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{cluster.url}  ready" in done.stdout
    assert "text_analysis" in done.stdout
    assert "2 of 2" in done.stdout
    told = json.loads(cluster.agentray("status", "--json").stdout)
    assert (told["ready"], told["missing"]) == (True, [])
    assert told["dashboard_url"] == cluster.record.dashboard_url
    assert [host["status"] for host in told["hosts"]] == ["live", "live"]


def test_agents_lists_those_in_memory(cluster: Cluster):
    assert cluster.agentray("prompt", RIVER, "--agent", "text_reception/desk").exit_code == 0
    done = cluster.agentray("agents", "--type", "text_reception", "--json")
    assert "text_reception/desk" in {agent["agent"] for agent in json.loads(done.stdout)}
    shown = cluster.agentray("agents")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "text_analyser/" in shown.stdout


def test_runs_can_be_listed_and_looked_at(cluster: Cluster):
    made = json.loads(cluster.agentray("prompt", RIVER, "--json").stdout)
    listed = cluster.agentray("runs", "--limit", "1")
    assert listed.exit_code == 0
    assert made["id"] in listed.stdout
    shown = cluster.agentray("run", made["id"], "--trace")
    assert shown.exit_code == 0
    assert "flood barrier" in shown.stdout
    assert "TextSubmitted" in shown.stdout
    assert json.loads(cluster.agentray("run", made["id"], "--json").stdout) == made


def test_doctor_finds_nothing_to_mend(cluster: Cluster):
    done = cluster.agentray("doctor", "--json")
    findings = {finding["check"]: finding for finding in json.loads(done.stdout)}
    problems = [f for f in findings.values() if f["verdict"] == "problem"]
    assert (done.exit_code, problems) == (0, [])
    assert findings["cluster"]["told"] == f"up at {cluster.url}"
    assert {"python", "ray", "packages", "disk", "database", "gateway port"} <= findings.keys()


def test_a_file_with_a_secret_that_others_can_read_is_found_and_closed(cluster: Cluster):
    key_file = cluster.settings.key_file
    key_file.chmod(0o644)
    try:
        found = cluster.agentray("doctor")
        assert found.exit_code == ExitCode.FAILURE
        assert str(key_file) in found.stdout
        assert "→ agentray doctor --fix" in found.stdout
        assert cluster.agentray("doctor", "--fix").exit_code == 0
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    finally:
        key_file.chmod(0o600)


def test_a_wrong_key_is_refused(cluster: Cluster):
    for words in (["prompt", "Ada"], ["runs"]):
        done = cluster.agentray(*words, AGENTRAY_API_KEY="ar_wrong")
        assert (done.exit_code, done.stdout) == (ExitCode.REFUSED, "")
        assert "unknown" in done.complaint


def test_an_agent_or_run_that_there_is_not_is_named(cluster: Cluster):
    done = cluster.agentray("prompt", "Ada", "--agent", "nobody")
    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert "There is no agent type 'nobody'" in done.complaint
    done = cluster.agentray("run", "run_none")
    assert (done.exit_code, done.stdout) == (ExitCode.NOT_FOUND, "")
    assert "run_none" in done.complaint


@pytest.mark.parametrize(
    "words",
    [["prompt", "Ada"], ["runs"], ["status"], ["agents"], ["deploy", APP], ["down"]],
    ids=lambda words: words[0],
)
def test_without_a_cluster_a_command_says_how_to_start_one(empty_home: Path, words: list[str]):
    done = agentray_command(*words, env=environment(empty_home))
    assert (done.exit_code, done.stdout) == (ExitCode.UNAVAILABLE, "")
    if words != ["down"]:
        assert "agentray up" in done.complaint


def test_the_documented_way_to_call_it_as_a_module_works(cluster: Cluster):
    done = cluster.python("-m", "agentray.cli.main", "--version")
    assert done.exit_code == 0


def test_curl_as_the_readme_shows_it(cluster: Cluster):
    script = f"""
        curl -s {cluster.url}/v1/prompts \\
          -H "Authorization: Bearer $(cat {cluster.home}/api_key)" \\
          -H 'Content-Type: application/json' \\
          -d '{{"prompt": "The river had been rising since Tuesday.", "wait_s": 10}}'
    """
    done = run_program("sh", "-c", script, env=cluster.env)
    if done.exit_code == 127:
        pytest.skip("there is no curl on this machine")
    run = json.loads(done.stdout)
    assert (list(run), run["status"]) == (RUN_KEYS, "succeeded")
