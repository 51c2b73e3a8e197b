"""Errors as one sentence each."""

from __future__ import annotations

import os

from svs_unet_plugin.files import printable

ERRORS = (OSError, ValueError, ImportError, RuntimeError, MemoryError)
"""What is said in one sentence: bad input, a full disk or GPU, a missing package, a dead worker."""


def sentence(error: BaseException) -> str:
    """What was wrong, in one line, which does nothing to a terminal, whatever names are in it."""
    return printable(_said(error))


def _said(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError) and not error.filename and not _here():
        return "the current folder was removed: go to another one"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, ModuleNotFoundError):
        extra = {"torch": "torch", "onnx": "onnx", "joblib": "recipes"}.get(error.name or "", "all")
        return f"this needs the package {error.name}: pip install 'svs_unet_plugin[{extra}]'"
    # Those of this package are one sentence; torch writes more lines below the first.
    whole = isinstance(error, (OSError, ValueError))
    said = str(error).strip() if whole else first_line(error)
    return said or f"{type(error).__name__}, without a reason"


def first_line(error: BaseException) -> str:
    """What an error says, without the stack that torch writes below it."""
    return next(iter(str(error).splitlines()), "")


def _here() -> str:
    """The current folder; empty if it is gone."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""
