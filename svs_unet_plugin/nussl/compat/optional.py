"""Packages that nussl imports at once, and needs for a part of what it can do."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

OPTIONAL = {
    # nussl takes soxbindings, which compiles against SoX's headers, or else sox, which calls the program.
    "sox": "soxbindings",
    "ffmpeg": "ffmpeg-python",
    "gpytorch": "gpytorch",
    "jams": "jams",
    "musdb": "musdb",
    "museval": "museval",
    "norbert": "norbert",
    "pandas": "pandas",
    "pyloudnorm": "pyloudnorm",
    "termtables": "termtables",
}
"""Modules, and what to install for them."""


class Missing(ModuleType):
    """A module that is not installed; whoever uses it is told what to install."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system
            raise AttributeError(name)
        raise ImportError(
            f"{self.__name__} is not installed, and this part of nussl needs it: "
            f"pip install {OPTIONAL[self.__name__]}"
        )


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Let nussl be imported where some of `OPTIONAL` are not installed."""
    missing = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    before = {name: sys.modules[name] for name in missing if name in sys.modules}  # None, which blocks it
    sys.modules.update({name: Missing(name) for name in missing})
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]
        sys.modules.update(before)
