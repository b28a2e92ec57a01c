"""What goes between a service, the nursery of its process pool, and the workers."""

import os
import signal
import struct
from contextlib import suppress

LENGTH = struct.Struct("!I")
"""Before each message between the service and a worker: how many bytes follow."""
NEWS = struct.Struct("!Ii")
"""What the nursery tells of a worker: its process id, and its exit code; or that it is `BORN`."""
BORN = 1 << 16
ORDER = b"."
"""What the nursery is told, with a socket: a worker for the other end of it."""


def heed_no_signals() -> None:
    """Ctrl-C and SIGTERM are for the service, which decides about what it has started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Not SIG_IGN, which the programs that a job starts would inherit.
        signal.signal(number, lambda *_: None)


def end(pid: int) -> None:
    """Kill a worker, if it lives, and all that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
