import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from svs_unet_plugin import spectrogram

HEIGHT = 100


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("seconds", [0.5, 20.0])
def test_a_tone_in_a_file_is_a_line_at_its_place(rate: int, seconds: float, tmp_path: Path) -> None:
    time = np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 1_000 * time)
    # Out of phase: the mean of the channels would be silent.
    soundfile.write(tmp_path / "tone.wav", np.stack([tone, -tone], axis=1), rate, "FLOAT")
    rows = spectrogram.of_file(tmp_path / "tone.wav", 64, HEIGHT)
    assert rows.shape[0] == HEIGHT and rows.shape[1] <= 64
    octaves = np.log2(rate / 2 / spectrogram.LOWEST_HZ)
    expected = np.log2(rate / 2 / 1_000) / octaves * HEIGHT
    middle = rows[:, rows.shape[1] // 2]
    assert middle.argmax() == pytest.approx(expected, abs=1)
    # Amplitude 1 and a Hann window of n samples: (n / 4)² in the tone's bin, spread over a row of some bins.
    assert 10 * np.log10(rows.sum(axis=0) / rows.sum(axis=0).max()).min() > -6  # as loud at the ends


def test_bands_share_the_power_of_the_bins() -> None:
    """White noise is as bright everywhere, and what is above half the rate is silent."""
    power = np.ones((513, 3))
    rows = spectrogram.log_rows(power, 8_000, 50, 100.0, 3_900.0)
    np.testing.assert_allclose(rows, 1)
    assert not spectrogram.log_rows(power, 8_000, 50, 4_100.0, 16_000.0).any()


@pytest.mark.parametrize("samples", [1, 100])
def test_short_and_silent(samples: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), 44_100)
    rows = spectrogram.of_file(tmp_path / "a.wav", 64, HEIGHT)
    assert rows.shape == (HEIGHT, 1)
    picture = spectrogram.image(spectrogram.brightness(rows, float(rows.max()), 80.0), (30, 20))
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
    assert pixels.shape == (20, 30)
    assert pixels.max() < 16  # dark
