"""Requests to stop: signals that the training answers between two steps."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from train import distributed

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass
class _Ear:
    """Plain flags: a handler may come between any two instructions, so nothing here takes a lock."""

    listens: bool = False
    asked: bool = False


_ear = _Ear()


class Stopped(KeyboardInterrupt):
    """A run that stopped on request and can be continued; the message says how."""


@contextmanager
def listening() -> Iterator[None]:
    """Takes SIGTERM and SIGUSR1 as requests to stop, in place of whatever they did before; also a decorator.

    A handler only sets a flag: a second signal disturbs nothing that is being saved. What was installed before comes back at the end; it is
    not called, since the request was answered by then. Inside another `listening`, or outside the main thread, this changes nothing.
    """
    if _ear.listens or threading.current_thread() is not threading.main_thread():
        yield
        return
    _ear.asked, _ear.listens = False, True
    before = {number: signal.signal(number, _ask) for number in SIGNALS}
    try:
        yield
    except Stopped:
        distributed.wait()  # a launcher ends the others once one has left, and the first has to write down how the run ended
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _ear.listens = False


def asked() -> bool:
    """Whether this process was asked to stop since it began to listen."""
    return _ear.asked


def _ask(number: int, frame: FrameType | None) -> None:
    _ear.asked = True
