"""Writing audio, a block at a time: files of one form, which get their names only if all goes well."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svs_unet_plugin.files import atomic_write

_SFC_SET_ADD_PEAK_CHUNK = 0x1050  # of libsndfile, which soundfile has no name for

RIFF_BYTES = 4_000_000_000
"""Above this a WAV file needs the 64-bit header RF64."""


@dataclass(frozen=True)
class Encoding:
    """The form of a file: 32-bit float WAV at the audio's own rate, if nothing else is said.

    Args:
        format: "wav".
        bit_depth: "float": nothing is clipped, wrapped or rounded.
        bitrate: in bit/s, of formats that lose some of the audio.
        sample_rate: in Hz; None for the audio's own.
        clip_mode: what to do beyond full scale where the format ends there; "none": nothing.

    Raises:
        ValueError: if an argument is none of these.
    """

    format: str = "wav"
    bit_depth: str = "float"
    bitrate: int | None = None
    sample_rate: int | None = None
    clip_mode: str = "none"

    def __post_init__(self) -> None:
        given = self.format, self.bit_depth, self.bitrate, self.sample_rate, self.clip_mode
        if given != ("wav", "float", None, None, "none"):
            raise ValueError(f"only 32-bit float WAV at the audio's own rate can be written, not {self}")


@contextmanager
def writers(
    paths: Iterable[Path],
    encoding: Encoding,
    sample_rate: int,
    channels: int,
    samples: int,
    tags: Mapping[str, str] | None = None,
) -> Iterator[list[Callable[[np.ndarray], None]]]:
    """Files to write blocks to, which get their names only if all goes well.

    Args:
        sample_rate: of the blocks, in Hz.
        samples: of all blocks together, give or take a few.

    Yields:
        A list of functions, one a path, each of which writes a block ``(channels, samples)``.

    Raises:
        OSError: if they can't be written.
    """
    import soundfile

    kind = "RF64" if 4 * channels * samples > RIFF_BYTES else "WAV"
    with ExitStack() as stack:
        # Entered first, and so renamed last, when the files below are closed.
        parts = [stack.enter_context(atomic_write(path)) for path in paths]
        try:
            files = [
                stack.enter_context(
                    soundfile.SoundFile(part, "w", sample_rate, channels, "FLOAT", format=kind)
                )
                for part in parts
            ]
            for file in files:  # no PEAK chunk, which holds the time: the same audio gives the same bytes
                soundfile._snd.sf_command(file._file, _SFC_SET_ADD_PEAK_CHUNK, soundfile._ffi.NULL, 0)
            yield [lambda block, file=file: file.write(block.T) for file in files]  # type: ignore[misc]
        except soundfile.LibsndfileError as error:
            raise OSError(f"{parts[0].parent} can't be written to: {error.error_string}") from error
