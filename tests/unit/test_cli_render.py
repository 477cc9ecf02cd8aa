"""What the command line prints, from values made here."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console, RenderableType

from agentray import errors
from agentray.cli import progress, render, results, traces
from agentray.cli.console import visible
from agentray.cli.exits import ExitCode, exit_code_of
from agentray.cli.stack import Started
from agentray.cli.status import ClusterStatus, RunCounts
from agentray.cli.steps import Step
from agentray.client import errors as client_errors
from agentray.config import ClusterRecord, Settings
from agentray.errors import ConfigurationError
from agentray.protocol.letters import DeadLetter, LetterKind, LetterReason
from agentray.protocol.runs import Run, RunError, RunEvent, RunStatus, Span
from agentray.protocol.topics import TopicSubscription
from agentray.protocol.traces import summarise

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def printed(what: RenderableType, width: int = 100) -> list[str]:
    """Return what is printed, as lines without the spaces at their ends."""
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(what)
    return [line.rstrip() for line in capture.get().rstrip("\n").split("\n")]


def a_run(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "id": "run_1",
        "status": RunStatus.SUCCEEDED,
        "agent": "greeter/ada",
        "correlation_id": "run_1",
        "created_at": NOW,
        "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=1.5),
    }
    return Run(**fields | changes)


def a_span(span_id: str, parent: str | None, event: str, **changes: Any) -> Span:
    fields: dict[str, Any] = {
        "id": span_id,
        "parent": parent,
        "event": event,
        "agent": f"worker/{span_id}",
        "host": "host-1",
        "started_at": NOW,
        "duration_ms": 12.345,
    }
    return Span(**fields | changes)


class TestResults:
    def test_an_object_becomes_sections(self):
        summary = "A first sentence that says a good deal. And a second one, so that it is long."
        result = {
            "summary": summary,
            "key_phrases": ["neural network", "[bold]training[/bold] data"],
            "statistics": {"words": 120, "reading_ease": 61.23456, "rare": 0.00012},
            "engine": "extractive",
        }
        assert printed(results.result(result)) == [
            "Summary",
            f"  {summary}",
            "",
            "Key phrases",
            "  • neural network",
            "  • [bold]training[/bold] data",
            "",
            "Statistics",
            "  Words         120",
            "  Reading ease  61.235",
            "  Rare          0.00012",
            "",
            "Engine  extractive",
        ]

    def test_objects_of_a_list_become_a_table(self):
        rows = [{"phrase": "deep sea", "score": 2.0}, {"phrase": "sea", "occurrences": 3}]
        assert printed(results.result({"key_phrases": rows})) == [
            "Key phrases",
            "  Phrase    Score  Occurrences",
            "  deep sea  2.0    -",
            "  sea       -      3",
        ]

    @pytest.mark.parametrize(
        ("value", "lines"),
        [
            ("two\nlines", ["two", "lines"]),
            (None, ["The run has no result."]),
            (3, ["3"]),
            (True, ["yes"]),
            ({}, ["-"]),
            ([], ["-"]),
            ([1, "b", [2, 3]], ["• 1", "• b", "• [2, 3]"]),
            ({"text": "Hello"}, ["Text  Hello"]),
            ({"a": 1, "b": None, "c": {}}, ["A  1", "B  -", "C  -"]),
            ({"": 0}, ['""  0']),
            ({"deep": {"er": {"and": ["so", "on"]}}}, ["Deep", '  Er  {"and": ["so", "on"]}']),
        ],
    )
    def test_any_json_has_a_form(self, value: Any, lines: list[str]):
        assert printed(results.result(value)) == lines

    def test_what_drives_a_terminal_is_shown_instead(self):
        assert visible("\x1b[2Jgone\r\n\tkept\x9b") == "␛[2Jgone␍\n\tkept\N{REPLACEMENT CHARACTER}"
        assert printed(results.result({"text": "\x1b]0;title\x07"})) == ["Text  ␛]0;title␇"]


class TestRuns:
    def test_a_run_that_succeeded(self):
        lines = printed(results.run(a_run(result="Hello")))
        assert lines[0] == "run          run_1"
        assert "status       succeeded" in lines
        assert "took         1.5 s" in lines
        assert lines[-1] == "Hello"

    def test_a_run_that_failed_tells_by_which_causes(self):
        why = RunError(type="ValueError", message="no", agent="b/1", path=("Prompt", "Asked"))
        lines = printed(results.run(a_run(status=RunStatus.FAILED, error=why)))
        assert lines[-1] == "ValueError: no in b/1 (by way of Prompt → Asked)"

    def test_a_run_that_goes_on(self):
        going = a_run(status=RunStatus.QUEUED, started_at=None, finished_at=None)
        lines = printed(results.run(going))
        assert "took         -" in lines
        assert "started      -" in lines

    def test_a_run_that_began_later_took_no_time_before_that(self):
        later = a_run(created_at=NOW - timedelta(seconds=30), not_before=NOW)
        assert "took         1.5 s" in printed(results.run(later))

    def test_a_list_of_runs(self):
        failed = a_run(
            id="run_2", status=RunStatus.FAILED, error=RunError(type="KeyError", message="x")
        )
        header, first, second = printed(render.runs([a_run(), failed]), width=200)
        assert header.split() == ["Run", "Status", "Agent", "Attempt", "Created", "Took", "Error"]
        assert first.startswith("run_1  succeeded  greeter/ada  1")
        assert second.endswith("1.5 s  KeyError: x")
        assert printed(render.runs([])) == ["There are no such runs."]

    def test_a_long_id_is_folded_and_never_cut(self):
        long = a_run(id="run_" + "x" * 60)
        assert sum(line.count("x") for line in printed(render.runs([long]), width=60)) == 60

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (0.0123, "12 ms"),
            (3.42, "3.4 s"),
            (125, "2 min 5 s"),
            (3600, "1 h 0 min"),
            (12_000, "3 h 20 min"),
        ],
    )
    def test_durations(self, value: float, told: str):
        assert render.seconds(value) == told


class TestEvents:
    @pytest.mark.parametrize(
        ("kind", "data", "line"),
        [
            ("started", {}, "started"),
            ("progress", {"message": "reading", "current": None, "total": None}, "reading"),
            ("progress", {"message": "reading", "current": 2.0, "total": 10}, "reading 2/10"),
            ("progress", {"message": "reading", "current": 2.5}, "reading 2.5"),
            ("tool_call", {"name": "look", "arguments": {"at": 1}}, 'look({"at": 1})'),
            ("tool_result", {"name": "look", "result": [1]}, "look: [1]"),
            ("tool_result", {"name": "look", "error": "blind"}, "look: blind"),
            ("attempt_lost", {"attempt": 1, "reason": "died"}, "attempt lost: died"),
        ],
    )
    def test_lines(self, kind: str, data: dict[str, Any], line: str):
        assert results.event(RunEvent(offset=0, kind=kind, time=NOW, data=data)) == line

    def test_text_is_shown_as_it_is(self):
        told = RunEvent(offset=0, kind="text_delta", time=NOW, data={"text": "Hello, "})
        assert results.said(told) == "Hello, "


class TestTrace:
    def test_spans_hang_on_their_causes(self):
        spans = [
            a_span("1", None, "Prompt"),
            a_span("2", "1", "Asked"),
            a_span("3", "2", "Answered", error="ValueError: no"),
            a_span("4", "1", "Logged"),
        ]
        assert printed(results.trace("run_1", spans)) == [
            "run_1",
            "└── Prompt → worker/1  host-1  at 0.0 ms, took 12.3 ms",
            "    ├── Asked → worker/2  host-1  at 0.0 ms, took 12.3 ms",
            "    │   └── Answered → worker/3  host-1  at 0.0 ms, took 12.3 ms  ValueError: no",
            "    └── Logged → worker/4  host-1  at 0.0 ms, took 12.3 ms",
        ]

    def test_when_it_came_how_long_it_waited_and_how_large_it_was(self):
        later = NOW + timedelta(milliseconds=1500)
        first = a_span("1", None, "Prompt", size_bytes=120)
        second = a_span("2", "1", "Asked", started_at=later, waited_ms=3.25, size_bytes=2560)
        assert printed(results.trace("run_1", [first, second])) == [
            "run_1",
            "└── Prompt → worker/1  host-1  at 0.0 ms, took 12.3 ms, 120 B",
            "    └── Asked → worker/2  host-1  at 1500.0 ms, took 12.3 ms, waited 3.2 ms, 2.5 KiB",
        ]

    def test_many_traces_are_a_table(self):
        spans = [a_span("1", None, "Prompt"), a_span("2", "1", "Asked", error="ValueError: no")]
        run = a_run(status=RunStatus.FAILED, agent="worker/1")
        heading, line = printed(results.traces([summarise(run, "", spans, 7).summary]))
        assert heading.split()[:5] == ["Run", "Status", "Agent", "Started", "Took"]
        assert line.split()[:3] == ["run_1", "failed", "worker/1"]
        assert line.split()[-6:] == ["1500.0", "ms", "2", "(+7)", "1", "worker"]
        assert printed(results.traces([])) == ["There are no such traces."]

    def test_since(self):
        assert traces.read_since("90s", NOW) == NOW - timedelta(seconds=90)
        assert traces.read_since("1.5h", NOW) == NOW - timedelta(minutes=90)
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        assert traces.read_since("2026-01-01T12:00:00Z", NOW) == noon
        with pytest.raises(ConfigurationError, match="no time"):
            traces.read_since("yesterday", NOW)

    def test_a_cause_that_was_left_out(self):
        lines = printed(results.trace("run_1", [a_span("7", "6", "Orphaned")]))
        assert lines == ["run_1", "└── Orphaned → worker/7  host-1  at 0.0 ms, took 12.3 ms"]
        assert printed(results.trace("run_1", [])) == ["run_1", "└── nothing was traced"]


def a_pool(**changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": "live",
        "default": False,
        "hosts": 1,
        "wanted": 1,
        "min_hosts": 1,
        "max_hosts": 1,
        "slots": 256,
        "load": 3,
        "resources": {},
        "pending": "",
        "last_error": "",
    }
    return row | changes


def a_status(**changes: Any) -> ClusterStatus:
    manager: dict[str, Any] = {
        "apps": [
            {
                "name": "text",
                "status": "running",
                "agents": ["reception", "summariser"],
                "entry": "reception",
                "deployed_at": NOW.isoformat(),
            }
        ],
        "pools": [
            a_pool(name="default", default=True, hosts=1, wanted=2, last_error="no memory"),
            a_pool(
                name="gpu",
                status="pending",
                hosts=0,
                min_hosts=1,
                max_hosts=4,
                slots=0,
                resources={"GPU": 1.0, "memory": 3 * 2**30},
                pending="a host needs 1 GPU",
            ),
        ],
        "hosts": [{"id": "host_1", "pool": "default", "status": "live", "pid": 77}],
    }
    counts = RunCounts({"queued": "0", "running": "200+"}, {"succeeded": 98})
    fields: dict[str, Any] = {
        "url": "http://127.0.0.1:8000",
        "missing": [],
        "runs": counts,
        "manager": manager,
    }
    return ClusterStatus(**fields | changes)


class TestStatus:
    def test_all_of_it(self):
        lines = printed(render.status(a_status()))
        assert lines[0] == "gateway  http://127.0.0.1:8000  ready"
        assert lines[1] == "runs     0 queued, 200+ running; of the latest: 98 succeeded"
        assert "text  running  reception, summariser  reception" in " ".join(lines)
        (default,) = [line for line in lines if line.startswith("default")]
        assert default.split()[1:] == ["live", "1", "of", "2", "-", "3", "256", "no", "memory"]
        (gpu,) = [line for line in lines if line.startswith("gpu")]
        assert "pending" in gpu
        assert "0 of 1 (1 to 4)" in " ".join(gpu.split())
        assert any(line.startswith("host_1  default  live    77       -") for line in lines)

    def test_a_gateway_that_is_away(self):
        lines = printed(render.status(a_status(missing=["no answer"], runs=None)))
        assert lines[:2] == ["gateway  http://127.0.0.1:8000  no answer", "runs     unknown"]

    def test_dead_letters_are_told_where_there_are_any(self):
        found = a_status()
        counts = {"dead_letters": 3, "dead_letters_by_reason": {"expired": 1, "no_subscriber": 2}}
        lines = printed(render.status(a_status(manager={**found.manager, **counts})))
        told = "3: 1 expired, 2 no subscriber; see: agentray dead-letters list"
        assert lines[2] == f"dead letters  {told}"

    def test_subscriptions(self):
        rows = [
            TopicSubscription("sub_1", "clerk", "orders.*", None, "topic", NOW),
            TopicSubscription("sub_2", "clerk", "news", "shop.Told", "any:8", NOW),
        ]
        lines = printed(render.subscriptions(rows), width=140)
        assert lines[0].split()[:3] == ["Subscription", "Topic", "Agent"]
        assert "sub_1         orders.*  clerk       all that it handles  topic" in lines[1]
        assert lines[2].split()[:5] == ["sub_2", "news", "clerk", "shop.Told", "any:8"]
        assert "no subscriptions" in printed(render.subscriptions([]))[0]

    def test_dead_letters(self):
        row = DeadLetter(
            id="dead_1",
            kind=LetterKind.MESSAGE,
            reason=LetterReason.HANDLER_FAILED,
            target="desk/d",
            name="greet",
            error=RunError(type="ValueError", message="no"),
            created_at=NOW,
        )
        lines = printed(render.dead_letters([row]), width=160)
        told = ["message", "desk/d", "greet", "handler", "failed", "ValueError:", "no", "-"]
        assert lines[1].split()[0] == "dead_1"
        assert lines[1].split()[3:] == told
        assert printed(render.dead_letters([])) == ["There are no dead letters."]
        shown = printed(results.dead_letter(row), width=100)
        assert ["error", "ValueError:", "no"] in [line.split() for line in shown]

    def test_no_app_and_no_runs(self):
        empty = a_status(
            manager={"apps": [], "pools": [], "hosts": []}, runs=RunCounts({"queued": "0"}, {})
        )
        text = " ".join(printed(render.status(empty)))
        assert "0 queued; none has ended yet" in text
        assert "No app is deployed" in text

    def test_as_json(self):
        document = a_status().as_json()
        assert document["ready"] is True
        assert document["runs"]["unfinished"] == {"queued": "0", "running": "200+"}
        assert document["hosts"][0]["id"] == "host_1"
        assert document["dashboard_url"] is None
        here = "http://127.0.0.1:41000"
        assert a_status(dashboard_url=here).as_json()["dashboard_url"] == here
        assert a_status(missing=["x"], runs=None).as_json()["ready"] is False

    def test_agents(self):
        row: dict[str, Any] = {
            "agent": "greeter/ada",
            "type": "greeter",
            "host": "host_1",
            "status": "failed",
            "queued": 3,
            "active_s": 61.0,
            "idle_s": 0.5,
            "last_error": "ValueError: no",
            "launched": "failed",
            "labels": {"team": "a", "tier": "1"},
        }
        away = row | {"host": None, "status": "away", "active_s": None, "idle_s": None}
        header, line, other = printed(render.agents([row, away]), width=160)
        assert header.split()[:4] == ["Agent", "Status", "Launched", "Labels"]
        assert " ".join(line.split()) == (
            "greeter/ada failed failed team=a tier=1 3 1 min 1 s 500 ms host_1 ValueError: no"
        )
        assert other.split()[1] == "away"
        assert "There are no such agents" in printed(render.agents([]))[0]


class TestUp:
    def a_record(self, **changes: Any) -> ClusterRecord:
        fields: dict[str, Any] = {
            "url": "http://127.0.0.1:8000",
            "gcs_address": "127.0.0.1:6379",
            "dashboard_url": "http://127.0.0.1:8265",
            "app": "shop.app:app",
            "embedded_database": True,
            "version": "0",
            "started_at": NOW,
            "local_cluster": {},
        }
        return ClusterRecord(**fields | changes)

    def test_what_is_up(self):
        settings = Settings()
        result = Started(self.a_record(), settings.key_file, new_key=True, seconds=4.56)
        assert printed(render.started(result)) == [
            "agentray is up (4.6 s).",
            "gateway    http://127.0.0.1:8000",
            f"API key    in {settings.key_file} (new)",
            "dashboard  http://127.0.0.1:8265",
            "logs       -",
            "app        shop.app:app",
            'next       agentray prompt "Your text"',
        ]

    def test_what_was_up_before(self):
        same = printed(render.already_up(self.a_record(), "/k", "shop.app:app"))
        assert same[:2] == ["agentray is up already.", "gateway    http://127.0.0.1:8000"]
        assert "API key    in /k" in same
        other = printed(render.already_up(self.a_record(dashboard_url=""), "/k", "other:app"))
        assert "dashboard  -" in other
        assert other[-1].endswith("agentray deploy other:app")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestProgress:
    def test_steps_may_overlap_and_fail(self):
        clock = Clock()
        steps = progress.Steps(clock)
        steps.report(Step("database", done=False))
        assert steps.line("database") == "database …"
        clock.now = 0.5
        steps.report(Step("ray", done=False))
        clock.now = 2.0
        steps.report(Step("ray", done=True, detail="127.0.0.1:6379"))
        steps.fail_running()
        assert steps.line("ray") == "ray: 127.0.0.1:6379 (1.5 s)"
        assert steps.line("database") == "database: failed (2.0 s)"
        assert steps.failed() == ["database"]
        assert printed(steps) == [
            "✗ database                2.0 s",
            "✓ ray      127.0.0.1:6379 1.5 s",
        ]

    def test_a_step_under_way_has_a_spinner(self):
        steps = progress.Steps(Clock())
        steps.report(Step("ray", done=False))
        (line,) = printed(steps)
        assert line.endswith("ray  0.0 s")
        assert line[0] not in "✓✗"

    def test_plain_lines_where_there_is_no_terminal(self):
        console = Console(width=80, force_terminal=False)

        def begin_and_fail() -> None:
            with progress.shown(console) as report:
                report(Step("database", done=False))
                report(Step("database", done=True))
                report(Step("ray", done=False))
                raise errors.StartFailed("no")

        with console.capture() as capture, pytest.raises(errors.StartFailed):
            begin_and_fail()
        began, ended, ray, failed = capture.get().splitlines()
        assert (began, ray) == ("database …", "ray …")
        assert ended.startswith("database: done (")
        assert failed.startswith("ray: failed (")

    def test_live_on_a_terminal(self):
        console = Console(width=80, force_terminal=True, color_system=None)
        with console.capture() as capture, progress.shown(console) as report:
            report(Step("database", done=False))
            report(Step("database", done=True, detail="external"))
        assert "✓ database external" in capture.get()


def test_what_exit_codes_mean():
    assert exit_code_of(errors.ConfigurationError("x")) is ExitCode.USAGE
    assert exit_code_of(errors.ClusterNotRunning()) is ExitCode.UNAVAILABLE
    assert exit_code_of(errors.PortTaken(1, "a", "b")) is ExitCode.FAILURE
    assert exit_code_of(errors.UnknownRun("x")) is ExitCode.NOT_FOUND
    assert exit_code_of(errors.RunFailed("x", "failed", "y")) is ExitCode.RUN_FAILED


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.USAGE),
        (401, ExitCode.REFUSED),
        (403, ExitCode.REFUSED),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.USAGE),
        (413, ExitCode.USAGE),
        (422, ExitCode.USAGE),
        (429, ExitCode.UNAVAILABLE),
        (500, ExitCode.FAILURE),
        (503, ExitCode.UNAVAILABLE),
    ],
)
def test_exit_codes_of_answers(status: int, code: ExitCode):
    assert exit_code_of(client_errors.class_of(status)(status, "x")) is code


def test_the_command_line_loads_nothing_heavy_before_it_must():
    heavy = ("ray", "fastapi", "asyncpg", "aiohttp", "psutil", "rich.table")
    code = f"import sys, agentray.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
