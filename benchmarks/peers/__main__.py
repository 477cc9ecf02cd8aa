"""The command: `python -m benchmarks.peers`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from benchmarks.peers import figures, show
from benchmarks.peers.cluster import cluster
from benchmarks.peers.driving import MEASUREMENTS
from benchmarks.peers.rounds import Entrant, Rounds, entrants
from benchmarks.peers.tally import VARIABLE, Tally

_IDLE_S = 5.0

_out = Console(width=140)
_err = Console(stderr=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--peers-python", default=".venv-peers/bin/python", metavar="PYTHON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one round; the figures scatter")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="in a system's name")
    parser.add_argument("--measure", nargs="+", default=[], metavar="WHAT", choices=MEASUREMENTS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there too")
    return parser.parse_args()


def main() -> int:
    """Measure all systems, and print the table."""
    given = _arguments()
    if given.quick:
        given.rounds, given.seconds = 1, 1.0
    machine, versions = show.machine(), show.versions(given.peers_python)
    with tempfile.TemporaryDirectory(prefix="agentray-bench-") as directory:
        path = Path(directory) / "tally"
        Tally.create(path)
        tally = {VARIABLE: str(path)}
        rounds = Rounds(tally, given.seconds, _report)
        _report("agentray goes up")
        with cluster(tally) as env:
            remarks = [f"agentray's cluster, idle meanwhile: {_idle_cpu(str(path)):.1%} of a core"]
            all_of_them = entrants(sys.executable, given.peers_python, env)
            chosen = _chosen(all_of_them, given.only, given.measure)
            taking_part = _prepared(rounds, chosen)
            begun = time.monotonic()
            done = rounds.run(taking_part, given.rounds)
            minutes = (time.monotonic() - begun) / 60
    remarks.append(f"{done} rounds took {minutes:.1f} minutes")
    remarks += [f"{entrant.name}: {entrant.remark}" for entrant in taking_part if entrant.remark]
    names = [entrant.name for entrant in taking_part]
    _print(rounds.samples, names, [machine, versions, *remarks], done)
    if given.json is not None:
        about = {"machine": machine, "versions": versions, "remarks": remarks}
        figured = figures.as_json(rounds.samples, names)
        given.json.write_text(json.dumps({**about, **figured}, indent=2) + "\n")
    if given.markdown is not None:
        given.markdown.write_text(show.markdown(rounds.samples, names))
    return 0


def _chosen(
    taking_part: Sequence[Entrant], words: Sequence[str], measurements: Sequence[str]
) -> list[Entrant]:
    """Return those whose names have one of the words, with these measurements; without any: all."""
    named = [e for e in taking_part if not words or any(w.lower() in e.name.lower() for w in words)]
    return [entrant.with_only(measurements) for entrant in named]


def _prepared(rounds: Rounds, taking_part: Sequence[Entrant]) -> list[Entrant]:
    """Return the entrants with what has to be found by trying."""
    prepared: list[Entrant] = []
    tuned: Entrant | None = None
    for entrant in taking_part:
        if entrant.name == figures.ACADEMY:
            prepared.append(rounds.with_exchange(entrant))
        elif entrant.name in (figures.MOJENTIC_TUNED, figures.MOJENTIC_QUIET):
            tuned = tuned or rounds.with_batch(entrant)
            options = {**tuned.options, **entrant.options}
            remark = tuned.remark if tuned.name == entrant.name else "the same batch_size"
            prepared.append(replace(entrant, options=options, remark=remark))
        else:
            prepared.append(entrant)
    return prepared


def _idle_cpu(mark: str) -> float:
    """Return what share of a core the cluster takes while nobody uses it."""

    def used() -> float:
        total = 0.0
        for process in psutil.process_iter():
            try:
                if process.environ().get(VARIABLE) == mark:
                    times = process.cpu_times()
                    total += times.user + times.system
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total

    before = used()
    psutil.cpu_percent(_IDLE_S)  # waits
    return (used() - before) / _IDLE_S


def _print(
    samples: figures.Samples, names: Sequence[str], about: Sequence[str], rounds: int
) -> None:
    title = f"agentray and its peers, taken in turn, medians (whole rounds: {rounds})"
    _out.print(show.table(samples, names, title))
    for line in [*about, *show.notes(samples)]:
        _out.print(line, highlight=False)
    for line in show.targets(samples):
        _out.print(line, highlight=False)


def _report(what: str) -> None:
    _err.print(what, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
