"""The folder of results: scores, costs, losses and some audio, from which a report is made.

Each system has a folder of its own, and all that is in it is written whole or not at all::

    <results>/<system>/system.json              `System`
                       test/<track>.json        museval's own file, so that its tools read the folder too
                       scale/<track>.json       {source: {metric: [dB of each channel]}}
                       audio/<track>/<source>.flac   short excerpts, to listen to
                       losses.csv               see `svs_unet_plugin.training.history`
                       settings.json            what decided all of it (see `runner`)
    <results>/reference/audio/<track>/          the mixture and the true sources of those excerpts
                        settings.json           the fingerprints of the tracks' files
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from svs_unet_plugin.encoding import write_errors
from svs_unet_plugin.evaluation.metrics import BSS_METRICS, SCALE_METRICS
from svs_unet_plugin.files import atomic_write, one_line, read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["trained", "classical", "oracle", "bound"]
"""An oracle uses the true sources; a bound is the mixture itself, which does nothing."""

REFERENCE = "reference"
"""The folder of the true sources, beside those of the systems."""

METRICS = (*BSS_METRICS, *SCALE_METRICS)


@dataclass(frozen=True)
class System:
    """What was compared, and what it costs.

    Args:
        id: letters, digits, ``-`` and ``_``: the name of its folder.
        name: as people read it.
        kind: see `Kind`.
        parameters: that were trained; None where nothing was.
        seconds_per_minute: wall-clock seconds to separate a minute of audio, in one process.
        peak_memory_mb: the most memory of its process, in MB (10⁶ bytes).

    Raises:
        ValueError: if the id or the kind is none.
    """

    id: str
    name: str
    kind: Kind
    parameters: int | None = None
    seconds_per_minute: float | None = None
    peak_memory_mb: float | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.id) or self.id == REFERENCE:
            raise ValueError(
                f"a system's id is made of letters, digits, '-' and '_', and is not {REFERENCE!r}; "
                f"got {self.id!r}"
            )
        if self.kind not in get_args(Kind):
            raise ValueError(f"a system's kind is one of {', '.join(get_args(Kind))}; got {self.kind!r}")


def write_system(results: Path, system: System) -> None:
    """Write a system's ``system.json``."""
    content = {key: value for key, value in asdict(system).items() if key != "id"}
    write_json(results / system.id / "system.json", content)


def read_systems(results: Path, ids: Collection[str] | None = None) -> list[System]:
    """Systems of a folder, in the order of their ids.

    Args:
        ids: which to read; all by default.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a ``system.json`` is not what `write_system` writes.
    """
    systems = []
    for path in sorted(results.glob("*/system.json")):
        if ids is not None and path.parent.name not in ids:
            continue
        content = read_json(path, "description of a system")
        try:
            systems.append(System(path.parent.name, **content))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} does not describe a system: {one_line(str(error))}") from error
    if not systems:
        raise FileNotFoundError(f"{results} holds no results: there is no <system>/system.json in it")
    return systems


def bss_file(results: Path, system: str, track: str) -> Path:
    """Where museval's file of a track goes."""
    return results / system / "test" / f"{track}.json"


def scale_file(results: Path, system: str, track: str) -> Path:
    """Where the scores of a track by `svs_unet_plugin.evaluation.metrics.scale_scores` go."""
    return results / system / "scale" / f"{track}.json"


def write_scale(
    results: Path, system: str, track: str, scores: Mapping[str, Mapping[str, Sequence[float]]]
) -> None:
    """Write a track's scores by `scale_scores`, to five decimals, as museval's are.

    Args:
        scores: for each source and metric, a number in dB for each channel.
    """
    rounded = {
        source: {metric: [round(value, 5) for value in values] for metric, values in metrics.items()}
        for source, metrics in scores.items()
    }
    write_json(scale_file(results, system, track), rounded)


def read_scores(
    results: Path, systems: Sequence[System] | None = None, tracks: Collection[str] | None = None
) -> pd.DataFrame:
    """Every system's score of every track: a row each, with one number in dB.

    A score of museval's is the median over a track's windows of one second, without those where it is not
    defined; one of `scale_scores` is the mean over the channels.

    Args:
        systems: which to read; all by default.
        tracks: names of those to read; all by default, also those of earlier runs.

    Returns:
        Columns ``system`` (the id), ``track``, ``source``, ``metric`` and ``score``. A score is NaN where it
        is defined in no window, for example of a source that is silent.

    Raises:
        ValueError: if a file is no file of scores.
    """
    import pandas as pd

    rows: list[tuple[str, str, str, str, float]] = []
    for system in read_systems(results) if systems is None else systems:
        for folder, read in (("test", _bss), ("scale", _scale)):
            for path in sorted((results / system.id / folder).glob("*.json")):
                if tracks is not None and path.stem not in tracks:
                    continue
                content = read_json(path, "file of scores")
                try:
                    scores = read(content)
                except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                    reason = one_line(f"{type(error).__name__}: {error}")
                    raise ValueError(f"{path} is no file of scores: {reason}") from error
                rows.extend((system.id, path.stem, *score) for score in scores)
    return pd.DataFrame(rows, columns=["system", "track", "source", "metric", "score"])


def _bss(content: Any) -> list[tuple[str, str, float]]:
    return [
        (target["name"], metric, _median([frame["metrics"][metric] for frame in target["frames"]]))
        for target in content["targets"]
        for metric in BSS_METRICS
    ]


def _scale(content: Any) -> list[tuple[str, str, float]]:
    return [
        (source, metric, float(np.mean(scores[metric])))
        for source, scores in content.items()
        for metric in SCALE_METRICS
        if metric in scores
    ]


def _median(values: Sequence[float]) -> float:
    defined = np.array(values, dtype=float)
    defined = defined[np.isfinite(defined)]
    return float(np.median(defined)) if defined.size else float("nan")


def audio_folder(results: Path, system: str, track: str) -> Path:
    """Where a system's excerpts of a track go."""
    return results / system / "audio" / track


def write_audio(results: Path, system: str, track: str, source: str, samples: np.ndarray, rate: int) -> Path:
    """Write an excerpt to listen to, as 16-bit FLAC; what is beyond full scale is clipped.

    Args:
        system: an id, or `REFERENCE`.
        source: such as ``"vocals"``; of the reference also ``"mixture"``.
        samples: ``(channels, samples)``, full scale at ±1.
        rate: in Hz.
    """
    import soundfile

    path = audio_folder(results, system, track) / f"{source}.flac"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as beside, write_errors([path]):
        soundfile.write(beside, np.clip(samples, -1, 1).T, rate, format="FLAC", subtype="PCM_16")
    return path


def losses_file(results: Path, system: str) -> Path:
    """Where the losses of a system's training go."""
    return results / system / "losses.csv"


def audio_tracks(results: Path) -> list[str]:
    """The tracks of which there are excerpts to listen to."""
    return sorted(path.parent.name for path in (results / REFERENCE / "audio").glob("*/mixture.*"))


def audio_files(results: Path, system: str, track: str) -> dict[str, Path]:
    """A system's excerpts of a track, by source; none if there are none."""
    folder = audio_folder(results, system, track)
    return {path.stem: path for path in sorted(folder.glob("*")) if path.suffix in (".flac", ".wav")}
