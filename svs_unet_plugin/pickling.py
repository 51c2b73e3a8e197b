"""Objects of a package that needs repairs, on their way to another process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any


def bring_repairs_along(package: str, importer: Callable[[], Any]) -> None:
    """Let a package's objects that are sent to another process have it repaired there first.

    A process that is spawned or comes from a fork server (DataLoader's workers on macOS, and on Linux since
    Python 3.14) has not imported what this one has, and would import the package as it is. Only what
    multiprocessing sends is changed: what ``pickle`` and ``torch.save`` write into files stays as it was.

    Args:
        package: its name; it is imported already, with all modules whose classes are meant.
        importer: imports the package, repaired; a function of a module whose own import does so.
    """

    def reduce(instance: Any) -> tuple[Any, ...]:
        # The importer is named first, so that its module is imported before the package's names are read.
        function, arguments, *rest = instance.__reduce_ex__(4)
        return _rebuild, (importer, function, *arguments), *rest

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == package:
            for value in list(vars(module).values()):
                if isinstance(value, type) and value.__module__.partition(".")[0] == package:
                    ForkingPickler.register(value, reduce)


def _rebuild(importer: Callable[[], Any], function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
