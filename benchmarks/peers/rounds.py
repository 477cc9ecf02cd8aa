"""Running the systems in turn, each in processes of its own and with a time limit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.peers import figures
from benchmarks.peers.figures import Samples

_SYSTEMS = "benchmarks.peers.systems"
_LIMIT_S = 90.0  # of one measurement, with the start and the end of the system
_BATCHES = (50, 500, 2_000, 10_000, 50_000)

# What agents were made for stays in memory, so they are made in processes of their own; what the
# other measurements left there, freed but kept, would hide what an agent takes.
_TOGETHER = (("sequential", "in_flight", "fan_out", "pattern", "idle"), ("new_agents",))
_EVENTS_ONLY = (("fan_out", "pattern", "idle"),)


@dataclass(frozen=True, slots=True)
class Entrant:
    """A system that takes part.

    Attributes:
        name: in the table.
        module: that drives it.
        python: whose environment has it.
        options: of the module, in the environment.
        measurements: that it has; those of each tuple in one process.
        remark: under the table.
    """

    name: str
    module: str
    python: str
    options: Mapping[str, str]
    measurements: tuple[tuple[str, ...], ...] = _TOGETHER
    remark: str = ""

    def with_option(self, name: str, value: str, remark: str) -> Entrant:
        """Return it with an option that was found by trying."""
        return replace(self, options={**self.options, name: value}, remark=remark)

    def with_only(self, measurements: Sequence[str]) -> Entrant:
        """Return it with nothing but these measurements; without any: as it is."""
        if not measurements:
            return self
        kept = (tuple(m for m in together if m in measurements) for together in self.measurements)
        return replace(self, measurements=tuple(together for together in kept if together))


def entrants(ours: str, peers: str, env: Mapping[str, str]) -> list[Entrant]:
    """Return who takes part.

    Args:
        ours: Python that has agentray.
        peers: Python that has the peers.
        env: in which agentray's drivers find its cluster.
    """

    def agentray(name: str, hosts: int) -> Entrant:
        options = {**env, _variable("HOSTS"): str(hosts)}
        return Entrant(name, "agentray_cluster", ours, options)

    def mojentic(name: str, **options: str) -> Entrant:
        named = {_variable(key): value for key, value in options.items()}
        return Entrant(name, "mojentic_dispatcher", peers, named, _EVENTS_ONLY)

    return [
        agentray(figures.AGENTRAY_2, 2),
        agentray(figures.AGENTRAY_1, 1),
        Entrant(figures.AUTOGEN_GRPC, "autogen_grpc", peers, {}),
        Entrant(figures.AUTOGEN_SINGLE, "autogen_single", peers, {}),
        Entrant(figures.ACADEMY, "academy_exchange", peers, {}),
        mojentic(figures.MOJENTIC_DEFAULT),
        mojentic(figures.MOJENTIC_TUNED),
        mojentic(figures.MOJENTIC_QUIET, QUIET="1"),
    ]


class Rounds:
    """Measures entrants, one after the other, again and again.

    Attributes:
        samples: what was measured.
    """

    def __init__(
        self, tally: Mapping[str, str], seconds: float, report: Callable[[str], None]
    ) -> None:
        """Prepare.

        Args:
            tally: the environment variable that names the tally's file.
            seconds: of each measurement.
            report: hears what is being measured.
        """
        self.samples = Samples()
        self._tally = tally
        self._seconds = seconds
        self._report = report

    def run(self, taking_part: Sequence[Entrant], rounds: int) -> int:
        """Measure all in turn, that many times.

        Interrupted, it ends early: what was measured so far is not lost.

        Returns:
            How many rounds were whole.
        """
        for number in range(rounds):
            try:
                self._round(taking_part, f"round {number + 1} of {rounds}")
            except KeyboardInterrupt:
                self._report("interrupted")
                return number
        return rounds

    def _round(self, taking_part: Sequence[Entrant], name: str) -> None:
        for entrant in taking_part:
            self._report(f"{name}: {entrant.name}")
            for measurements in entrant.measurements:
                self.samples.add(entrant.name, self._measure(entrant, measurements))

    def with_exchange(self, academy: Entrant) -> Entrant:
        """Return Academy with the exchange that is faster here: both are tried once."""
        name, figure = "EXCHANGE", "in_flight_64_per_s"
        found = self._try(academy, name, ("redis", "http"), "in_flight", figure)
        best = max(found, key=lambda choice: found[choice])
        rates = ", ".join(f"{choice} {rate:,.0f}" for choice, rate in found.items())
        remark = f"exchange: {best}, the faster one here (calls/s, 64 in flight: {rates})"
        return academy.with_option(_variable(name), best, remark)

    def with_batch(self, mojentic: Entrant) -> Entrant:
        """Return mojentic with the batch size that is fastest here: each is tried once."""
        name, figure = "BATCH", "pattern_events_per_s"
        choices = tuple(str(batch) for batch in _BATCHES)
        found = self._try(mojentic, name, choices, "pattern", figure)
        best = max(found, key=lambda choice: found[choice])
        rates = ", ".join(f"{int(choice):,}: {rate:,.0f}" for choice, rate in found.items())
        remark = f"batch_size {int(best):,}, the best of these (pattern events/s: {rates})"
        return mojentic.with_option(_variable(name), best, remark)

    def _try(
        self, entrant: Entrant, option: str, choices: Sequence[str], measurement: str, sample: str
    ) -> dict[str, float]:
        """Return the sample by choice, 0 where the measurement failed."""
        found: dict[str, float] = {}
        for choice in choices:
            self._report(f"{entrant.name} with {option.lower()} {choice}")
            tried = entrant.with_option(_variable(option), choice, "")
            lines = self._measure(tried, (measurement,))
            found[choice] = next((line[sample][0] for line in lines if sample in line), 0.0)
        if not any(found.values()):
            raise RuntimeError(f"{entrant.name} works with none of {', '.join(choices)}.")
        return found

    def _measure(self, entrant: Entrant, measurements: Sequence[str]) -> list[dict[str, Any]]:
        """Return the lines that the driver wrote; what it did not come to is a failure."""
        with tempfile.TemporaryDirectory(prefix="agentray-bench-") as directory:
            results = Path(directory) / "results"
            results.touch()
            log = Path(directory) / "log"
            command = [entrant.python, "-m", f"{_SYSTEMS}.{entrant.module}", str(results)]
            command += [str(self._seconds), *measurements]
            env = {**os.environ, **self._tally, **entrant.options}
            with log.open("wb") as out:
                why = _run(command, env, out, _LIMIT_S * len(measurements))
            lines = [json.loads(line) for line in results.read_text().splitlines()]
            if why is not None:
                self._report(f"{entrant.name}: {why}\n{_end_of(log)}")
                lines.append({"failed": _missing(measurements, lines), "why": why})
            return lines


def _run(command: Sequence[str], env: Mapping[str, str], out: Any, limit_s: float) -> str | None:
    """Run a driver; return why it failed. All that it started has ended afterwards."""
    # A session of its own: what it started is ended with it, and nothing else.
    driver = subprocess.Popen(
        command, env=env, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        code = driver.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"no end within {limit_s:.0f} s"
    else:
        return f"it ended with {code}" if code else None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()


def _missing(measurements: Sequence[str], lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the first measurement of which there is no line: the one that did not end."""
    written = {name for line in lines for name in line}
    failed = {line.get("failed") for line in lines}
    for figure in figures.FIGURES:
        name = figure.measurement
        if name in measurements and name not in failed and figure.samples not in written:
            return name
    return "stop"


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _variable(option: str) -> str:
    return f"AGENTRAY_BENCH_PEERS_{option}"
