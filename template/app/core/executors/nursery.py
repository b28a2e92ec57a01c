"""The nursery of the process pool: a process that has imported what every worker needs.

Workers are forked off it: each begins within milliseconds and shares that memory. The nursery has
no threads, no connections and none of your modules; each worker imports those for itself.
"""

import gc
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress

from sqlalchemy import make_url

from app.core.executors import worker
from app.core.executors.wire import BORN, NEWS, ORDER, end, heed_no_signals
from app.core.wiring import database

_SPAWNED = "import sys; from app.core.executors.worker import main; main(int(sys.argv[1]))"


def main(number: int, forks: bool) -> None:
    """Begin a worker for each socket that comes over the one of this number, until it closes.

    `forks`: else each worker is a new interpreter, where libraries do not take to a fork.
    """
    heed_no_signals()
    for driver in (database.DIALECT.sync_driver, database.DIALECT.async_driver):
        make_url(f"{driver}://").get_dialect().import_dbapi()
    control = socket.socket(fileno=number)
    control.set_inheritable(False)  # where a worker had it, too, nobody would hear of our end
    deaths, told = socket.socketpair()
    told.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
    gc.freeze()  # what is there by now stays, and no collection writes to its pages
    alive: set[int] = set()
    try:
        with suppress(ConnectionError):  # the service is gone
            _serve(control, deaths, alive, forks)
    finally:
        for pid in alive:
            end(pid)
            os.waitpid(pid, 0)


def _serve(control: socket.socket, deaths: socket.socket, alive: set[int], forks: bool) -> None:
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(deaths, selectors.EVENT_READ)
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if deaths in ready:
            deaths.recv(4096)
            for pid, code in _dead(alive):
                control.send(NEWS.pack(pid, code))
        if control in ready:
            order, numbers, _, _ = socket.recv_fds(control, len(ORDER), 1)
            if not order:
                return
            pid = _fork(numbers[0], control) if forks else _spawn(numbers[0])
            os.close(numbers[0])
            alive.add(pid)
            control.send(NEWS.pack(pid, BORN))


def _dead(alive: set[int]) -> Iterator[tuple[int, int]]:
    """Those that have ended; what they have started is ended now, too."""
    for pid in tuple(alive):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            end(pid)
            alive.remove(pid)
            yield pid, os.waitstatus_to_exitcode(status)


def _fork(number: int, control: socket.socket) -> int:
    pid = os.fork()
    with suppress(OSError):  # by both, so that it is so from the first on
        os.setpgid(pid, 0)
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        control.close()
        worker.main(number)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _spawn(number: int) -> int:
    os.set_inheritable(number, True)
    command = [sys.executable, "-c", _SPAWNED, str(number)]
    return os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)
