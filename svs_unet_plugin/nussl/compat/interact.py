"""The page in the browser, for any nussl separator; see `svs_unet_plugin.page`.

nussl's own page was written for gradio 2; ``gradio.inputs``, which it is made of, went in gradio 4.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from svs_unet_plugin import audio, encoding, page
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.page.songs import MIXTURE, Limits, Song, Songs
from svs_unet_plugin.separator import Progress


def separate(separator: Any, song: Song, add_residual: bool = False) -> dict[str, Path]:
    """Separate a song of the page.

    Args:
        separator: any ``nussl.separation`` object; the song replaces its audio signal.
        add_residual: also write the mixture less the first estimate.

    Returns:
        A WAV file in the song's folder for each estimate. An estimate at another rate, or of another length,
        is brought to the mixture's.
    """
    from nussl import AudioSignal

    samples, rate = audio.read(song.stems[MIXTURE])
    signals = separator(audio_signal=AudioSignal(audio_data_array=samples, sample_rate=rate))
    named = separator.metadata.get("sources") or [f"Estimate {i}" for i in range(len(signals))]
    estimates: dict[str, np.ndarray] = {}
    for name, signal in zip(named, signals, strict=True):
        fitted = _fitted(signal.audio_data, signal.sample_rate, samples, rate)
        estimates[_unused(_plain(str(name)), estimates)] = fitted
    if add_residual:
        estimates[_unused("residual", estimates)] = samples - next(iter(estimates.values()))
    paths = {name: song.folder / f"{name}.wav" for name in estimates}
    with encoding.writers(paths.values(), Encoding(), rate, *samples.shape) as writers:
        for write, estimate in zip(writers, estimates.values(), strict=True):
            write(estimate)
    return paths


def _plain(name: str) -> str:
    """A name that can be a file's and part of an address, and is none that the page has for itself."""
    plain = re.sub(r"\W+", "-", name.lower()).strip("-") or "estimate"
    return f"{plain}-estimate" if plain in (MIXTURE, page.MASK, page.MIX) else plain


def _unused(name: str, used: Collection[str]) -> str:
    """The name, with a number if another estimate has it."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(other for other in chain([name], numbered) if other not in used)


def _fitted(estimate: np.ndarray, rate: int, mixture: np.ndarray, mixture_rate: int) -> np.ndarray:
    """An estimate ``(channels, samples)`` as float32 of the mixture's rate, channels and length."""
    # A deep model may leave the last few samples out.
    found = audio.resample(estimate.astype(np.float32), rate, mixture_rate, mixture.shape[1])
    return np.broadcast_to(found, mixture.shape)


def interact(
    self: Any,
    add_residual: bool = False,
    source: page.Source = "upload",
    label: str | None = None,
    share: bool = False,
    inbrowser: bool = False,
    debug: bool = False,
    auth: tuple[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    """Show the page; stands in for ``SeparationBase.interact``.

    Args:
        add_residual: also play the mixture less the first estimate.
        source: where songs come from: 'upload' or 'microphone'.
        label: the page's title; by default the separator's class.
        share: also make a public link, through gradio's servers.
        inbrowser: open a browser.
        debug: block, and print errors.
        auth: user and password that the page asks for.
        **kwargs: for ``gradio.Blocks.launch``.

    Returns:
        What ``launch`` returns: the app, the local address, the public address.

    Raises:
        ImportError: if gradio is not installed.
    """

    def work(
        song: Song, weights: str, views: int, progress: Progress, cancel: threading.Event
    ) -> Mapping[str, Path]:
        return separate(self, song, add_residual)

    page.import_gradio()
    songs = Songs(Limits(), jobs=1)  # a separator has one mixture at a time
    title = label or f"Separation via {type(self).__name__}"
    choices = page.Choices({}, views=(), sources=(source,))
    built = page.build(songs, work, choices, title, page.ABOUT)
    return page.launch(built, songs, share=share, inbrowser=inbrowser, debug=debug, auth=auth, **kwargs)
