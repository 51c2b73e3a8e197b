"""A module with some names changed, for one file of another package; the module itself stays as it is."""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Any


def module_view(module: ModuleType, **changed: Any) -> ModuleType:
    """A stand-in for a module, in which some names are others."""
    view = ModuleType(module.__name__, module.__doc__)
    vars(view).update(changed, __getattr__=partial(getattr, module))  # PEP 562
    return view
