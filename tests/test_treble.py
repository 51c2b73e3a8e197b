"""The gain of a source's treble between the frames at which it is known."""

import numpy as np
import pytest

from svs_unet_plugin import STFT
from svs_unet_plugin.treble import Gain


@pytest.mark.parametrize("hop, sample_rate", [(256, 44_100), (768, 8192), (256, 8000), (700, 22_050)])
def test_lines_between_frames_whatever_is_asked_for_at_once(hop: int, sample_rate: int) -> None:
    generator = np.random.default_rng(0)
    gains = generator.random((2, 40)).astype(np.float32)
    gain = Gain(STFT(hop_length=hop), 2)
    gain.append(gains)
    time = np.arange(41 * hop * sample_rate // 8192) * 8192 / sample_rate / hop  # beyond the last frame, too
    got, start = [], 0
    while start < len(time):
        end = min(start + int(generator.integers(1, 3000)), len(time))
        got.append(gain.at(start, end, sample_rate))
        gain.forget(end, sample_rate)
        start = end
    expected = [np.interp(time, np.arange(40), of_one) for of_one in gains]
    np.testing.assert_allclose(np.concatenate(got, axis=-1), expected, atol=1e-6)
