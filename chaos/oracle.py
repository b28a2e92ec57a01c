"""Judges a run by its effects: each fire had exactly one, whatever befell the processes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from chaos.effects import Note

JOBS = {"fast": (1, 0), "slow": (5, 2), "heavy": (5, 0)}
"""Seconds between the fires of each job, and the offset of the first."""

DEATHS = ("kill", "freeze", "cut off")
"""Of one process, whose runs another one takes over."""

_CLAIMING = 0.5
"""Seconds after its time in which the claim of a fire may still be under way."""

RESUMES = 1.0
"""Seconds after the return of a store within which claims must be made again."""


@dataclass(frozen=True)
class Fault:
    """What was done to whom, and until when."""

    kind: str
    victim: str
    at: float


@dataclass
class Story:
    """What the harness did and asked for, told by itself."""

    begin: float = 0
    end: float = 0
    faults: list[Fault] = field(default_factory=list)
    outages: list[tuple[float, float]] = field(default_factory=list)
    """When nothing could be claimed, because the store that decides was away."""
    silences: list[tuple[float, float]] = field(default_factory=list)
    """When a server was away that only carries what was claimed, to a worker."""
    absences: list[tuple[float, float]] = field(default_factory=list)
    """When no replica was up: everybody had been killed."""
    promised: set[str] = field(default_factory=set)
    """Reminders that the service said it has."""
    asked: set[str] = field(default_factory=set)


@dataclass
class Verdict:
    fires: int = 0
    reminders: int = 0
    excused: int = 0
    excused_ran: int = 0
    caught_up: int = 0
    """Fires that had to be, since they were the newest when everybody was away."""
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    refused: int = 0
    repeated: int = 0
    lateness: list[float] = field(default_factory=list)
    takeovers: dict[str, float] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.unexpected)


def judge(notes: Sequence[Note], story: Story, lease: float) -> Verdict:
    """One effect for each fire of a job in the time of the story, and for each reminder.

    A fire may be missed, never doubled, if the store that decides was away for so long that it
    could not be claimed within a lease of its time: older fires are the cursor's, which runs the
    newest of them and records the others. So it is with all that was due while nobody was there.
    """
    verdict = Verdict()
    done = Counter((note.name, note.fire_time) for note in notes if note.what == "effect")
    begun: dict[tuple[str, float], list[Note]] = defaultdict(list)
    for note in notes:
        if note.what == "began":
            begun[note.name, note.fire_time].append(note)
    outages, absences = _joined(story.outages), _joined(story.absences)
    # A fire that was due at the end of an outage may not have been claimed when everybody died.
    before = [(down, up) for down, up in outages if any(_follows(up, died) for died, _ in absences)]
    newest = list(_newest(absences, [*story.outages, *story.absences], lease))
    verdict.caught_up = len(newest)
    verdict.lost += [
        f"{name} of {due:.0f}, the newest of an absence"
        for name, due in newest
        if not done[name, due]
    ]
    for name, due in fires(story):
        verdict.fires += 1
        if _within(due, outages, RESUMES - lease) or _within(due, absences + before):
            verdict.excused += 1
            verdict.excused_ran += done[name, due] > 0
        elif not done[name, due]:
            verdict.lost.append(f"{name} of {due:.0f}")
        if begun[name, due]:
            verdict.lateness.append(begun[name, due][0].at - due)
    reminded = Counter(note.name for note in notes if note.what == "effect")
    # A reminder is due once: two fire times of one are two effects too.
    verdict.duplicated += sorted(name for name in story.asked if reminded[name] > 1)
    verdict.reminders = len(story.promised)
    verdict.lost += sorted(name for name in story.promised if not reminded[name])
    for (name, due), count in done.items():
        if name in JOBS:
            step, offset = JOBS[name]
            if due % step != offset:
                verdict.unexpected.append(f"{name} of {due}")
        elif name not in story.asked:
            verdict.unexpected.append(name)
        if count > 1 and name in JOBS:
            verdict.duplicated.append(f"{name} of {due:.0f}")
    verdict.refused = sum(note.what == "refused" for note in notes)
    verdict.repeated = sum(len(attempts) > 1 for attempts in begun.values())
    verdict.takeovers = _takeovers(begun, notes, story, lease)
    return verdict


def fires(story: Story) -> Iterator[tuple[str, float]]:
    """Each fire that is due between the begin and the end of a story."""
    for name, (step, offset) in JOBS.items():
        for due in range(int(story.begin), int(story.end)):
            if due % step == offset:
                yield name, float(due)


def _joined(outages: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those between which there was no time to resume are one."""
    joined: list[tuple[float, float]] = []
    for down, up in sorted(outages):
        if joined and down - joined[-1][1] < RESUMES:
            joined[-1] = joined[-1][0], max(up, joined[-1][1])
        else:
            joined.append((down, up))
    return joined


def _within(due: float, times: Iterable[tuple[float, float]], grace: float = 0) -> bool:
    return any(down - _CLAIMING <= due <= up + grace for down, up in times)


def _follows(up: float, died: float) -> bool:
    """Did everybody die before claims must have been made again?"""
    return up - _CLAIMING <= died <= up + RESUMES


def _newest(
    absences: Iterable[tuple[float, float]], away: Iterable[tuple[float, float]], lease: float
) -> Iterator[tuple[str, float]]:
    """The newest fire of each job in each absence, which must run if all went well after that.

    Not of one that is due so often that a newer one may have run before it is looked for.
    """
    for down, up in absences:
        if any(began <= up + 2 * lease and ended > up for began, ended in away):
            continue
        for name, (step, offset) in JOBS.items():
            due = (up - offset) // step * step + offset
            if step > 2 * lease and due >= down - _CLAIMING:
                yield name, due


def _takeovers(
    begun: Mapping[tuple[str, float], Sequence[Note]],
    notes: Iterable[Note],
    story: Story,
    lease: float,
) -> dict[str, float]:
    """Seconds from the death of a process, or its silence, to the next attempt at its runs.

    Of those whose body runs in the process that claims, and where no server was away meanwhile.
    """
    effect: dict[tuple[str, float], float] = {}
    for note in notes:
        if note.what == "effect":
            effect.setdefault((note.name, note.fire_time), note.at)
    victims = {fault.victim: fault.at for fault in story.faults if fault.kind in DEATHS}
    away_then = story.outages + story.silences + story.absences
    took: dict[str, float] = {}
    for key, attempts in begun.items():
        for first, second in pairwise(attempts):
            died = victims.get(first.replica)
            if died is None or not first.at <= died <= second.at or key[0] == "heavy":
                continue
            away = any(down < second.at and up > died - lease for down, up in away_then)
            if second.replica != first.replica and not away and effect.get(key, died) >= died:
                name, due = key
                took[f"{name} of {due:.0f}, attempt {second.attempt}"] = second.at - died
    return took
