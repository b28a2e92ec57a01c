"""Where a job's function runs: on the event loop, in a thread, or in a worker process."""

from app.core.executors.protocol import Call, Ended, ExecutorBackend, describe, names

__all__ = ["Call", "Ended", "ExecutorBackend", "describe", "names"]
