"""Ctrl-C without torn state: held back while a step or a checkpoint is under way, delivered at the next boundary."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """While entered, SIGINT takes effect only inside `allowed`. Outside the main thread, where no handler can be set, and where
    SIGINT is ignored anyway, everything stays as it is.

    `consistent` is true while inside `allowed`: whatever is raised there finds the training between two steps.
    """

    def __init__(self) -> None:
        self.consistent = False
        self._pending = False
        self._previous: Any = None

    def __enter__(self) -> Interrupts:
        previous = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and callable(previous):
            self._previous = previous
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if self._pending:
            raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.consistent:
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A stretch between two steps in which Ctrl-C takes effect at once, one that came earlier included."""
        self.consistent = True
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt
        yield
        self.consistent = False
