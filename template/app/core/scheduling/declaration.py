"""`@job`: what runs, when, and what happens if it fails, overlaps or is missed."""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import json
import pkgutil
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from app.core.scheduling.run import Run
from app.core.scheduling.triggers import Trigger

if TYPE_CHECKING:
    from app.settings import Settings

    Schedule = Trigger | Callable[[Settings], Trigger]

_NOT_JSON = (TypeError, ValueError)
_declared: dict[str, Job] = {}
_ALLOWED: dict[str, tuple[str, ...]] = {
    "overlap": ("skip", "allow"),
    "catch_up": ("latest", "none"),
    "on_crash": ("retry", "lost"),
    "on_store_loss": ("cancel", "continue"),
}


@dataclass(frozen=True, eq=False)
class Job:
    """A function with its schedule and policies. Call it like the function, `run` included.

    Picklable by its id: a worker process looks the declaration up in its own copy of the code.
    """

    function: Callable[..., Any]
    id: str
    name: str
    schedule: Schedule | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    executor: str | None = None
    timeout: float | None = None
    retries: int = 0
    backoff: float = 1.0
    overlap: Literal["skip", "allow"] = "skip"
    catch_up: Literal["latest", "none"] = "latest"
    on_crash: Literal["retry", "lost"] = "retry"
    on_store_loss: Literal["cancel", "continue"] = "cancel"
    declared: bool = True

    def __post_init__(self) -> None:
        for attribute in ("__module__", "__qualname__", "__name__", "__doc__"):
            if hasattr(self.function, attribute):
                object.__setattr__(self, attribute, getattr(self.function, attribute))
        object.__setattr__(self, "__signature__", _signature(self.function)[0])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.declared:
            return find, (self.id, self.function.__module__)
        return undeclared, (self.function, self.id)

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(inspect.unwrap(self.function))

    def trigger(self, settings: Settings) -> Trigger | None:
        """When it is due, in TIMEZONE where the trigger names no zone. None: added at run time."""
        if self.schedule is None:
            return None
        made = self.schedule if isinstance(self.schedule, Trigger) else self.schedule(settings)
        if not isinstance(made, Trigger):
            raise TypeError(
                f"{self.id}: the trigger is {made!r}; return interval(), cron() or date()"
            )
        return made.in_zone(settings.zone)

    def bind(self, run: Run, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Callable[[], Any]:
        """The call that is left to make; the run goes to the parameter annotated `Run`."""
        parameter = _signature(self.function)[1]
        given = {**kwargs, parameter: run} if parameter else dict(kwargs)
        return functools.partial(self.function, *args, **given)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The declared arguments with these on top, by name. Raises `TypeError` if they do not fit
        the function, or are not JSON."""
        signature = _signature(self.function)[0]
        names = [p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        if len(args) > len(names):
            raise TypeError(f"{self.id}: {len(args)} args for {len(names)} parameters; use kwargs")
        merged = {**self.kwargs, **dict(zip(names, args, strict=False)), **kwargs}
        signature.bind(**merged)
        check_json(self.id, merged)
        return merged

    def delay(self, attempt: int) -> float:
        """Seconds to wait after this failed attempt: doubling, jittered, at most five minutes."""
        return min(300.0, self.backoff * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def job(
    trigger: Schedule | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    id: str | None = None,
    name: str | None = None,
    executor: str | None = None,
    timeout: float | None = None,
    retries: int = 0,
    backoff: float = 1.0,
    overlap: Literal["skip", "allow"] = "skip",
    catch_up: Literal["latest", "none"] = "latest",
    on_crash: Literal["retry", "lost"] = "retry",
    on_store_loss: Literal["cancel", "continue"] = "cancel",
) -> Callable[[Callable[..., Any]], Job]:
    """Declare a job. `def` and `async def` both run on every executor.

    `trigger` is `interval()`, `cron()`, `date()`, or a function of the settings that returns one;
    without it the job only runs when it is added to the scheduler at run time. `kwargs` are JSON
    values for the function. `id` is the module and function name unless given. `timeout` and
    `backoff` are seconds. Retries happen within the same fire. `overlap="skip"` lets a fire pass
    while the job still runs; `catch_up` says what becomes of fires that were missed while
    everything was down, `on_crash` of a run whose process died, `on_store_loss` of a run once the
    ledger has been silent for a lease: another replica may have begun it again by then.
    """

    if trigger is not None and not isinstance(trigger, Trigger) and not callable(trigger):
        raise TypeError(f"@job({trigger!r}): for example @job(cron({trigger!r}))")

    def declare(function: Callable[..., Any]) -> Job:
        identity = id or f"{function.__module__}.{function.__qualname__}".removeprefix("app.jobs.")
        declaration = Job(
            function=function,
            id=identity,
            name=name or function.__name__.replace("_", " ").capitalize(),
            schedule=trigger,
            kwargs=dict(kwargs or {}),
            executor=executor,
            timeout=timeout,
            retries=retries,
            backoff=backoff,
            overlap=overlap,
            catch_up=catch_up,
            on_crash=on_crash,
            on_store_loss=on_store_loss,
        )
        _check(declaration)
        other = _declared.get(identity)
        if other and _place(other.function) != _place(function):
            raise ValueError(
                f"two jobs have the id {identity!r}, {'.'.join(_place(other.function))} and "
                f"{'.'.join(_place(function))}; give one an id=... of its own"
            )
        _declared[identity] = declaration
        return declaration

    return declare


def undeclared(function: Callable[..., Any], id: str, **policies: Any) -> Job:
    """A plain callable of the memory store, dressed as a job."""
    return Job(function=function, id=id, name=id, declared=False, **policies)


def discover(package: ModuleType) -> dict[str, Job]:
    """Import every module of a package, in order, and return all jobs declared so far, by id."""
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        found = importlib.import_module(module.name)
        for name, value in vars(found).items():
            if getattr(value, "__qualname__", "") == "job.<locals>.declare":
                raise TypeError(f"{module.name}.{name}: @job needs parentheses, @job(...)")
    return dict(_declared)


def find(id: str, module: str = "app.jobs") -> Job:
    """The declared job of this id, from `module` on. Raises `LookupError` naming it."""
    if id not in _declared:
        importlib.import_module(module)
    if id not in _declared:
        raise LookupError(f"no job {id!r} is declared in app/jobs/ of this version of the service")
    return _declared[id]


def check_json(owner: str, kwargs: Mapping[str, Any]) -> None:
    """Raise `TypeError` unless the arguments come back from JSON as they were."""
    try:
        same = json.loads(json.dumps(kwargs, allow_nan=False)) == kwargs
    except _NOT_JSON:
        same = False
    if not same:
        raise TypeError(
            f"{owner}: its arguments must be JSON values, not {kwargs!r}: pass ids, and read the "
            "rest, settings above all, when the job runs (run.settings)"
        )


@functools.cache
def _signature(function: Callable[..., Any]) -> tuple[inspect.Signature, str | None]:
    """The signature without the parameter for the run, and that parameter's name."""
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        if parameter.annotation in (Run, "Run"):
            rest = [p for p in signature.parameters.values() if p is not parameter]
            return signature.replace(parameters=rest), parameter.name
    return signature, None


def _check(job: Job) -> None:
    check_json(f"@job {job.id}", job.kwargs)
    try:
        _signature(job.function)[0].bind(**job.kwargs)
    except TypeError as error:
        if job.schedule is not None:
            raise TypeError(f"@job {job.id}: kwargs do not fit the function: {error}") from None
    for field_name, allowed in _ALLOWED.items():
        if (chosen := getattr(job, field_name)) not in allowed:
            known = ", ".join(repr(value) for value in allowed if value)
            raise ValueError(f"@job {job.id}: {field_name}={chosen!r} is none of {known}")
    for field_name, least in (("timeout", 0.0), ("backoff", 0.0), ("retries", -1)):
        value = getattr(job, field_name)
        if value is not None and value <= least:
            raise ValueError(f"@job {job.id}: {field_name}={value!r} must be more than {least:g}")


def _place(function: Callable[..., Any]) -> tuple[str, str]:
    """Where a function is written: a module imported twice declares its jobs twice."""
    code = inspect.unwrap(function).__code__
    return code.co_filename, function.__qualname__


def is_on_loop() -> bool:
    """Is an event loop running in this thread, so that a blocking call would hold it?"""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
