"""`@job`: what it takes, and what it refuses."""

import pickle
from collections.abc import Callable
from types import SimpleNamespace

import pytest

import app.jobs
import app.services
from app.core.scheduling import Job, Run, date, interval, job
from app.core.scheduling.declaration import discover, find
from app.settings import Settings
from tests.core import sample_jobs

Declare = Callable[..., Job]


def body(run: Run, count: int = 1) -> int:
    """What it does."""
    return count


def test_a_job_is_called_like_its_function(declare: Declare, run: Run) -> None:
    job = declare(body, interval(minutes=5), kwargs={"count": 3})
    assert job(run, count=2) == 2
    assert job.__doc__ == "What it does."
    assert (job.id, job.name) == ("body", "Body")
    assert job.bind(run, (), job.kwargs)() == 3


def test_a_trigger_may_depend_on_the_settings(declare: Declare, settings: Settings) -> None:
    job = declare(body, lambda s: interval(seconds=s.max_workers))
    assert job.trigger(settings) == interval(seconds=2)
    with pytest.raises(TypeError, match=r"return interval\(\), cron\(\) or date\(\)"):
        declare(body, lambda s: "every day").trigger(settings)
    assert declare(body).trigger(settings) is None


def test_a_declared_job_is_sent_by_name(declare: Declare) -> None:
    assert pickle.loads(pickle.dumps(sample_jobs.note)) is sample_jobs.note
    with pytest.raises(LookupError, match="no job 'nowhere' is declared"):
        find("nowhere")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"kwargs": {"count": object()}}, "must be JSON values"),
        ({"kwargs": {"count": float("nan")}}, "must be JSON values"),
        ({"kwargs": {"number": 1}}, "kwargs do not fit the function"),
        ({"timeout": 0}, "timeout=0 must be more than 0"),
        ({"retries": -1}, "retries=-1 must be more than -1"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_declared(
    declare: Declare, options: dict[str, object], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        declare(body, date("2030-01-01"), **options)


def test_a_schedule_that_is_none_is_refused_with_one_that_is() -> None:
    with pytest.raises(TypeError, match=r"for example @job\(cron\('1 7 \* \* \*'\)\)"):
        job("1 7 * * *")  # type: ignore[arg-type]


def test_a_job_without_parentheses_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = job(body)  # type: ignore[arg-type]
    monkeypatch.setattr(sample_jobs, "bare", bare, raising=False)
    monkeypatch.setattr(
        "pkgutil.walk_packages", lambda *_: [SimpleNamespace(name=sample_jobs.__name__)]
    )
    with pytest.raises(TypeError, match=r"bare: @job needs parentheses"):
        discover(app.jobs)


def test_two_jobs_cannot_share_an_id(declare: Declare) -> None:
    with pytest.raises(ValueError, match=r"two jobs have the id 'tests.core.sample_jobs.note'"):
        declare(lambda: 1, id=sample_jobs.note.id)


def test_every_job_of_the_service_can_be_sent_to_a_worker(settings: Settings) -> None:
    for declared in discover(app.jobs).values():
        assert pickle.loads(pickle.dumps(declared)) is declared
        declared.trigger(settings)
