"""What the whole process has to be set up for: signals, and names in any encoding."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

STOPPED = "stopped; what was finished is kept"

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def prepared() -> Iterator[None]:
    """SIGTERM ends the program as an exception does, so that unfinished files are cleared away.

    File names that are not UTF-8 are printed as the bytes that they are, and characters that the terminal's
    encoding lacks as in Python. All is put back at the end.
    """
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
                stack.callback(signal.signal, number, signal.getsignal(number))
            signal.signal(signal.SIGTERM, _terminate)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors=_ANY_NAME)
        yield


def _any_name(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":  # a byte of a name, as Python keeps it
        return bytes([ord(character) & 0xFF]), error.start + 1
    return character.encode("ascii", "backslashreplace").decode("ascii"), error.start + 1


_ANY_NAME = "svs_unet_plugin.any_name"
codecs.register_error(_ANY_NAME, _any_name)


def _terminate(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


@contextmanager
def quits_at_once() -> Iterator[None]:
    """Signals end the program without an exception, which an import could swallow or print in the middle.

    For as long as there is nothing to be cleared away.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    quit_at_next_signal()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def quit_at_next_signal() -> None:
    """The next signal ends the program at once."""
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            signal.signal(number, _quit)


def _quit(number: int, frame: FrameType | None) -> None:
    os.write(2, f"svs-unet: {STOPPED}\n".encode())
    os._exit(128 + number)
