"""`make chaos` for a minute, and that it would see what it looks for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from chaos.effects import Note
from chaos.oracle import Story, Verdict, fires, judge
from chaos.pairs import CONTROLS, PAIRS
from chaos.run import LEASE, report, run
from chaos.servers import until
from chaos.service import under_chaos

EVERY = {pair.name: pair for pair in (*PAIRS, *CONTROLS)}


@pytest.mark.parametrize("name", ["postgresql-database", "sqlite-database"])
def test_each_fire_has_one_effect_whatever_befalls_processes_and_store(
    name: str, apart: Path
) -> None:
    result = run(EVERY[name], apart, seconds=60, seed=4)
    assert result.as_it_must_be, report(result)
    assert len(result.story.faults) >= 20, report(result)


def test_who_comes_back_must_run_the_newest_of_what_was_due_meanwhile() -> None:
    story = Story(begin=100, end=130, absences=[(109.2, 113.5)])
    newest = {("slow", 112), ("heavy", 110)}
    ran = {fire for fire in fires(story) if not 109 < fire[1] < 114} | newest

    def verdict(*lost: tuple[str, float]) -> Verdict:
        left = sorted(ran - {*lost})
        notes = [Note("effect", name, due, 1, "replica", due) for name, due in left]
        return judge(notes, story, LEASE)

    assert verdict().clean
    assert verdict().excused == 7
    assert verdict().caught_up == 2
    for fire in newest:
        assert len(verdict(fire).lost) == 1
    assert verdict(("fast", 108)).lost == ["fast of 108"]


def test_an_effect_apart_from_its_completion_is_seen_twice(apart: Path) -> None:
    control = EVERY["control-separate-finish"]
    pair = replace(control, answers={**control.answers, "database": "sqlite"})
    with under_chaos(pair, apart, replicas=2, lease=LEASE) as service:
        service.start()
        deadline = time.monotonic() + 120
        while not judge(service.effects.read(), Story(), LEASE).duplicated:
            assert time.monotonic() < deadline, "the oracle is blind"
            effects = [note for note in service.effects.read() if note.what == "effect"]
            busy = effects[-1] if effects else None
            # What a job does after its effect takes a moment; only then it is completed.
            if busy and time.time() - busy.at < 0.2:
                for member in service.members:
                    if member.incarnation == busy.replica:
                        member.kill()
                        member.start()
                until(lambda: all(m.up for m in service.members), "its next start")
            time.sleep(0.02)
