"""MIR-1K, sorted into nussl's mix-source layout.

    C.-L. Hsu, J.-S. R. Jang: "On the improvement of singing voice separation for monaural recordings using
    the MIR-1K dataset", IEEE Transactions on Audio, Speech, and Language Processing, 2010.

A clip has the accompaniment on its left channel and the voice on its right, at 16 kHz. The mixture is
their mean, and each source half its channel, so that the sources add up to the mixture.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from svs_unet_plugin import audio

URL = "http://mirlab.org/dataset/public/MIR-1K.zip"
"""The archive of the dataset's authors; it has no published checksum."""

TRAIN_SINGERS = ("abjones", "amy")
"""Those whose clips are for training, by the dataset's usual protocol; the others are for testing."""


def fetch(folder: Path, url: str = URL) -> Path:
    """Download the original archive, about 1 GB, and unpack it into ``folder``, unless it is there.

    Returns:
        The folder of the clips.

    Raises:
        OSError: if it can't be downloaded or is no whole archive; it says what to do by hand.
    """
    import pooch

    clips = Path(folder) / "MIR-1K" / "Wavfile"
    unpacked = Path(folder) / ".unpacked"
    if unpacked.exists():
        return clips
    try:
        archive = pooch.retrieve(url, known_hash=None, path=folder, fname="MIR-1K.zip", progressbar=True)
        with zipfile.ZipFile(archive) as contents:
            members = [name for name in contents.namelist() if name.startswith("MIR-1K/Wavfile/")]
            contents.extractall(folder, tqdm(members, desc="Unpack", unit="file"))  # checks each CRC
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # requests raises OSErrors
        if isinstance(error, zipfile.BadZipFile):  # or it would be taken for the archive next time
            (Path(folder) / "MIR-1K.zip").unlink(missing_ok=True)
        raise OSError(
            f"MIR-1K could not be had from {url} ({type(error).__name__}). "
            "Download it where there is a network, and name its folder Wavfile with --data_dir"
        ) from error
    unpacked.touch()
    return clips


def prepare(clips: Path, out: Path) -> None:
    """Write ``out/{train,test}/{mix,vocals,accompaniment}/<clip>.wav``, mono float, at the clips' rate.

    ``nussl.datasets.MixSourceFolder`` reads each of the two folders. Clips that are there are not written
    again.

    Args:
        clips: a folder of two-channel files ``<singer>_<song>_<clip>.<wav or flac>``.

    Raises:
        ValueError: if there is no such clip in the folder, or one has another number of channels.
    """
    paths = sorted(path for kind in ("wav", "flac") for path in Path(clips).glob(f"*_*_*.{kind}"))
    if not paths:
        raise ValueError(f"{clips} holds no clips of MIR-1K such as abjones_1_01.wav")
    for path in tqdm(paths, desc="MIR-1K", unit="clip"):
        split = "train" if path.name.partition("_")[0] in TRAIN_SINGERS else "test"
        folders = [Path(out) / split / name for name in ("accompaniment", "vocals", "mix")]
        targets = [folder / f"{path.stem}.wav" for folder in folders]
        if all(target.exists() for target in targets):
            continue
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
        if samples.shape[1] != 2:
            raise ValueError(f"{path} has {samples.shape[1]} channels, but a clip of MIR-1K has two")
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        left, right = samples.T / np.float32(2)
        with audio.wav_writers(targets, sample_rate, channels=1, samples=len(samples)) as writers:
            for write, signal in zip(writers, (left, right, left + right), strict=True):
                write(signal[None])
