"""How long separation takes, by this package and by others."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from statistics import median

from peers import OURS, SYSTEMS, Separate
from timing import Setting, digits, noise, ratio, spread, table

PACKAGES = ("nussl", "asteroid", "openunmix", "demucs")
WARM_UP_SHARE = 6
"""Of the audio: HT Demucs takes minutes."""


def section(setting: Setting) -> str:
    """All systems take turns with the same audio, from memory to memory."""
    systems: dict[str, Separate] = {}
    missing = []
    for name, load in SYSTEMS.items():
        try:
            systems[name] = load(setting.device)
        except ImportError as error:
            missing.append(f" {name} is not here ({error}): see benchmarks/README.md.")
    audio = noise(setting.seconds)
    first = audio[:, : audio.shape[1] // WARM_UP_SHARE]
    taken = setting.turns(
        {name: partial(separate, audio) for name, separate in systems.items()},
        {name: partial(separate, first) for name, separate in systems.items()},
    )
    compared = list(OURS)[:2]
    rows = [
        [
            name,
            spread(seconds),
            digits(setting.seconds / median(seconds)),
            *(ratio(seconds, taken[one]) for one in compared),
        ]
        for name, seconds in taken.items()
    ]
    hosts = ", ".join(f"{package} {version(package)}" for package in PACKAGES if find_spec(package))
    what = f"{digits(setting.seconds)} s of stereo at 44.1 kHz, {setting.rounds} turns each; {hosts}."
    columns = ["system", "seconds", "times real time", *(f"÷ {name}" for name in compared)]
    return f"{what}{''.join(missing)}\n\n{table(columns, rows)}"
