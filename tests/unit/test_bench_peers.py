"""What the benchmark beside the peers reckons and shows; the peers themselves are not needed."""

from __future__ import annotations

import io
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from benchmarks.peers import driving, figures, show, work
from benchmarks.peers.figures import Figure, Samples, Target, outcomes, p99
from benchmarks.peers.rounds import Entrant, Rounds
from benchmarks.peers.tally import ARRIVAL, SINK, VARIABLE, Tally

ROOT = Path(__file__).parents[2]
IN_FLIGHT, SEQUENTIAL = "in_flight_64_per_s", "sequential_p50_ms"


def figure(name: str) -> Figure:
    return next(each for each in figures.FIGURES if each.name == name)


def filled() -> Samples:
    samples = Samples()
    for ours, theirs in ((30.0, 1.0), (10.0, 2.0), (20.0, 3.0)):
        samples.add("ours", [{IN_FLIGHT: [ours]}, {"idle_dispatch_ms": [1.0, 3.0]}])
        samples.add("theirs", [{IN_FLIGHT: [theirs]}])
    return samples


class TestFigures:
    def test_a_figure_is_the_median_of_its_rounds(self):
        assert filled().value("ours", figure(IN_FLIGHT)) == 20.0
        assert filled().value("theirs", figure(IN_FLIGHT)) == 2.0

    def test_latencies_of_all_rounds_are_looked_at_together(self):
        samples = Samples()
        samples.add("ours", [{"idle_dispatch_ms": [1.0] * 50}])
        samples.add("ours", [{"idle_dispatch_ms": [*[1.0] * 46, 8.0, 9.0, 9.0, 9.0]}])
        assert samples.value("ours", figure("idle_dispatch_p50_ms")) == 1.0
        assert samples.value("ours", figure("idle_dispatch_p99_ms")) == 9.0

    @pytest.mark.parametrize(
        ("values", "found"), [([5.0], 5.0), ([1.0, 2.0], 2.0), (list(range(101)), 99)]
    )
    def test_one_in_a_hundred_exceeds_p99(self, values: Sequence[float], found: float):
        assert p99(values) == found

    def test_what_a_system_does_not_have_has_no_value(self):
        assert filled().value("theirs", figure(SEQUENTIAL)) is None

    def test_each_measurement_has_its_figures_and_they_have_theirs(self):
        assert {each.measurement for each in figures.FIGURES} == set(driving.MEASUREMENTS)

    def test_targets_are_of_figures_and_systems_that_there_are(self):
        names = {each.name for each in figures.FIGURES}
        assert {target.figure for target in figures.TARGETS} <= names


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "value", "reached"),
        [
            (Target(IN_FLIGHT, "ours", 10, "theirs"), 10.0, True),
            (Target(IN_FLIGHT, "ours", 10.5, "theirs"), 10.0, False),
            (Target("idle_dispatch_p50_ms", "ours", 5), 2.0, True),
            (Target("idle_dispatch_p50_ms", "ours", 2), 2.0, False),
            (Target(IN_FLIGHT, "ours", 1, "nobody"), None, False),
            (Target(SEQUENTIAL, "ours", 1), None, False),
        ],
    )
    def test_a_target_is_of_the_ratio_or_below_a_value(
        self, target: Target, value: float | None, reached: bool
    ):
        (outcome,) = outcomes(filled(), [target])
        assert (outcome.value, outcome.reached) == (value, reached)


class TestShown:
    def test_failed_missing_and_partly_failed_figures_can_be_told_apart(self):
        samples = filled()
        samples.add("ours", [{"failed": "in_flight", "why": "no end within 60 s"}])
        samples.add("theirs", [{"failed": "sequential", "why": "Reset"}])
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(show.table(samples, ["ours", "theirs"], "peers"))
        ours, theirs = [
            [cell.strip() for cell in line.split("│")[1:-1]]
            for line in console.export_text().splitlines()
            if line.startswith(("│ ours", "│ theirs"))
        ]
        assert ours[:3] == ["ours", "-", "20.00*"]
        assert theirs[:3] == ["theirs", "failed", "2.00"]
        assert show.notes(samples) == [
            "ours, in_flight: no end within 60 s",
            "theirs, sequential: Reset",
        ]

    def test_markdown_has_a_row_for_each_system(self):
        lines = show.markdown(filled(), ["ours", "theirs"]).splitlines()
        assert len(lines) == 4
        assert lines[0].startswith("| system | call p50, ms | calls, 64 in flight, /s |")
        assert lines[2].startswith("| ours | - | 20.00 |")
        assert {line.count("|") for line in lines} == {len(figures.FIGURES) + 2}

    def test_json_has_the_samples_and_what_became_of_the_targets(self):
        told = json.loads(json.dumps(figures.as_json(filled(), ["ours", "theirs"])))
        assert told["figures"][0] == {
            "system": "ours",
            "figure": IN_FLIGHT,
            "unit": "/s",
            "value": 20.0,
            "samples": [30.0, 10.0, 20.0],
        }
        assert len(told["targets"]) == len(figures.TARGETS)
        assert not any(target["reached"] for target in told["targets"])


class TestTally:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "tally"
        Tally.create(path)
        return path

    async def test_what_one_process_counts_another_one_sees(self, path: Path):
        writer, reader = Tally(path), Tally(path)
        for slot in (0, 1, 1, SINK):
            writer.add(slot)
        await reader.until(3, 0, 16)
        assert reader.total(SINK, 8) == 1
        writer.note(12.5)
        assert reader.arrival == 12.5
        reader.clear()
        assert (writer.total(0, ARRIVAL), writer.arrival) == (0, 0.0)

    async def test_a_delivery_too_many_is_an_error(self, path: Path):
        tally = Tally(path)
        tally.add(0)
        tally.add(0)
        with pytest.raises(RuntimeError, match="2 deliveries, but 1 were sent"):
            await tally.until(1, 0, 16)


class Short(driving.System):
    """A system that answers, and fails at what it does not have."""

    figures = ("sequential", "in_flight", "fan_out")

    async def call(self) -> None:
        """Answer at once."""


class TestDriving:
    async def test_what_fails_is_a_result_and_the_others_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        tally = tmp_path / "tally"
        Tally.create(tally)
        monkeypatch.setenv(VARIABLE, str(tally))
        results = tmp_path / "results"
        await driving.drive(Short(), ["fan_out", "sequential", "idle"], 0.01, results)
        first, second = [json.loads(line) for line in results.read_text().splitlines()]
        assert first["failed"] == "fan_out"
        assert second[SEQUENTIAL][0] > 0


class TestRounds:
    def test_a_driver_that_fails_to_start_is_reported(self, tmp_path: Path):
        told: list[str] = []
        tally = tmp_path / "tally"
        Tally.create(tally)
        rounds = Rounds({VARIABLE: str(tally)}, 0.01, told.append)
        assert rounds.run([Entrant("nobody", "no_such_system", sys.executable, {})], 1) == 1
        assert rounds.samples.failed["nobody", "sequential"] == "it ended with 1"
        assert "No module named" in told[-1]
        assert not rounds.samples.taken


class TestWork:
    def test_findings_of_another_text_do_not_go_unnoticed(self):
        one, other = work.texts(2)
        assert work.combine(one, work.analyse(one), work.summarise(one)).endswith("(44 words)")
        with pytest.raises(ValueError, match="another text"):
            work.combine(one, work.analyse(one), work.summarise(other))


class TestRequirements:
    def test_the_lock_has_what_the_extra_bench_asks_for(self):
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        lines = (ROOT / "benchmarks/peers/requirements.lock").read_text().splitlines()
        locked = [Requirement(line.rstrip(" \\")) for line in lines if line[:1].isalnum()]
        versions = {each.name: next(iter(each.specifier)).version for each in locked}
        for wanted in map(Requirement, project["optional-dependencies"]["bench"]):
            assert wanted.specifier.contains(versions[wanted.name]), wanted
