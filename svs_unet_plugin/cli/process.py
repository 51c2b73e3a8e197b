"""What the whole process has to be set up for: signals, and names in any encoding."""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType


@contextmanager
def prepared() -> Iterator[None]:
    """SIGTERM ends the program as an exception does, so that unfinished files are cleared away.

    File names that are not UTF-8 are printed as the bytes that they are. All is put back at the end.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, _terminate)
            stack.callback(signal.signal, signal.SIGTERM, before)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="surrogateescape")
        yield


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)
