"""Signals for tests of nussl, in a module that other processes can import."""

import numpy as np

from svs_unet_plugin.nussl import compat

nussl = compat.import_nussl()

RATE = 8192
STFT_PARAMS = nussl.STFTParams(1024, 768, "hann")


def tone(frequency: float, left: float = 0.3, right: float = 0.3, seconds: float = 1.0):
    """A stereo sine as an AudioSignal; its STFT is one ridge, so that every oracle below is a sum."""
    wave = np.sin(2 * np.pi * frequency * np.arange(int(RATE * seconds)) / RATE)
    signal = nussl.AudioSignal(audio_data_array=np.stack([left * wave, right * wave]), sample_rate=RATE)
    signal.stft_params = STFT_PARAMS
    return signal


def item(dataset, index):
    """One training example for ``OnTheFly``; the index is in the vocals' level."""
    vocals, drums = tone(440, left=0.1 * (index + 1)), tone(1500)
    return {"mix": vocals + drums, "sources": {"vocals": vocals, "drums": drums}, "metadata": {}}
