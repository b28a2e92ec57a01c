"""What is to be done when, drawn from a seed."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Callable
from itertools import count


class Timeline:
    """Does one thing after the other, until nothing is left to do."""

    def __init__(self, random: random.Random) -> None:
        self._random = random
        self._order = count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, due: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._later, (due, next(self._order), do))

    def after(self, low: float, high: float, do: Callable[[], None]) -> None:
        """Somewhen between so many seconds from now."""
        self.at(time.time() + self._random.uniform(low, high), do)

    def run(self) -> None:
        while self._later:
            due, _, do = heapq.heappop(self._later)
            time.sleep(max(0.0, due - time.time()))
            do()
