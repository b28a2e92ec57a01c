"""One pair under chaos, from its rendering to its verdict."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from chaos.audit import audit, ledger
from chaos.faults import Plan
from chaos.members import orphans
from chaos.oracle import Story, Verdict, judge
from chaos.pairs import Pair
from chaos.service import under_chaos
from chaos.stalls import stalls

LEASE = 2.0
BOUND = LEASE + 1.0
"""Seconds from the death of a process to the next attempt at its runs."""

_SETTLE = 90.0


@dataclass
class Result:
    pair: Pair
    seed: int
    seconds: float
    story: Story
    verdict: Verdict
    orphans: int
    disagreements: list[str]

    @property
    def as_it_must_be(self) -> bool:
        """Clean; but a control must not be, or the oracle is blind."""
        if self.pair.control:
            return bool(self.verdict.lost or self.verdict.duplicated)
        return self.verdict.clean and not self.orphans and not self.disagreements

    @property
    def in_time(self) -> bool:
        return bool(self.pair.control) or not late(self.verdict)


def run(pair: Pair, folder: Path, seconds: float, seed: int) -> Result:
    with under_chaos(pair, folder, pair.processes, LEASE) as service:
        service.start()
        plan = Plan(
            pair,
            service.members,
            service.effects,
            service.url,
            service.postgresql,
            service.valkey,
            seed,
        )
        with stalls(plan.story.outages):
            story = plan.run(seconds)
        deadline = time.monotonic() + (5 if pair.control else _SETTLE)
        while judge(service.effects.read(), story, LEASE).lost and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(LEASE + 2)  # a second effect would come with the next take-over
        service.stop()
        left = len(orphans(service.folder))
        notes = service.effects.read()
        rows = [] if pair.control else ledger(service.effects.engine)
    verdict = judge(notes, story, LEASE)
    disagreements = [] if pair.control else audit(rows, notes, story)
    return Result(pair, seed, seconds, story, verdict, left, disagreements)


def late(verdict: Verdict) -> list[str]:
    """What was taken over too late, and by how much: the services' logs tell more of it."""
    return [
        f"{name} after {seconds:.2f} s"
        for name, seconds in verdict.takeovers.items()
        if seconds > BOUND
    ]


def report(result: Result) -> str:
    verdict, story = result.verdict, result.story
    faults = Counter(fault.kind for fault in story.faults)
    kinds = ", ".join(f"{count} {kind}" for kind, count in faults.most_common())
    took = list(verdict.takeovers.values())
    too_late = late(verdict)
    lines = [
        f"{result.pair.name}: SEED={result.seed}, {result.seconds:g} s",
        f"  faults       {len(story.faults)}: {kinds}",
        f"  fire times   {verdict.fires}, and {verdict.reminders} reminders",
        f"  excused      {verdict.excused}, due while the store or all were away; of them ran"
        f" {verdict.excused_ran}",
        f"  caught up    {verdict.caught_up} that were the newest while all were away had to run",
        f"  lost         {_listed(verdict.lost)}",
        f"  duplicated   {_listed(verdict.duplicated)}",
        f"  unexpected   {_listed(verdict.unexpected)}",
        f"  refused      {verdict.refused} commits of zombies",
        f"  repeated     {verdict.repeated} fires took more than one attempt",
        f"  lateness     {_spread(verdict.lateness)}",
        f"  take-overs   {_spread(took)}; {len(took) - len(too_late)} of {len(took)}"
        f" within {BOUND:g} s{', but ' if too_late else ''}{'; '.join(too_late)}",
        f"  left running {result.orphans}",
        f"  ledger       disagrees on {_listed(result.disagreements)}",
    ]
    if result.pair.control:
        lines.append(f"  a control: {result.pair.control}")
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    return f"{len(names)}  {', '.join(names[:8])}" if names else "0"


def _spread(values: list[float]) -> str:
    if not values:
        return "none"
    ordered = sorted(values)
    at = {q: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for q in (0.5, 0.95)}
    return f"p50 {at[0.5]:.2f} s, p95 {at[0.95]:.2f} s, max {ordered[-1]:.2f} s"
