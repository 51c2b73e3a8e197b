from typing import Any

import numpy as np
import pytest

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT
from svs_unet_plugin.nussl import nussl


def song(value: float, seconds: float = 2.0, sample_rate: int = 8192) -> dict[str, Any]:
    """A song whose vocals are ``value`` everywhere, and its accompaniment (two stems) -10 times that."""

    def signal(level: float) -> Any:
        samples = np.full((1, round(seconds * sample_rate)), level)
        return nussl.AudioSignal(audio_data_array=samples, sample_rate=sample_rate)

    stems = {"vocals": signal(value), "drums": signal(-4 * value), "other": signal(-6 * value)}
    return {"mix": signal(-9 * value), "sources": stems}


def draw(dataset: Any, times: int = 400) -> np.ndarray:
    """Vocals and accompaniment (times, 2) of items drawn in turn, whose samples are all alike."""
    nussl.utils.seed(0)
    rows = []
    for i in range(times):
        item = dataset.process_item(i % len(dataset))
        sources = [item["sources"][name].audio_data for name in ("vocals", "accompaniment")]
        assert all(source.shape == (1, dataset.stretch) and np.ptp(source) == 0 for source in sources)
        np.testing.assert_allclose(item["mix"].audio_data, sum(sources), atol=1e-6)
        rows.append([source[0, 0] for source in sources])
    return np.array(rows)


def test_sources_of_different_songs_at_gains_of_their_own() -> None:
    # Levels so far apart that a gain of ±6 dB, a factor of two, does not hide which song it was.
    drawn = draw(svs.Remix([song(0.0001), song(0.01)], svs.training_transform(), seconds=1))
    vocals, accompaniment = np.abs(drawn.T)
    for values, level in ((vocals, 1), (accompaniment, 10)):
        low, high = values[values < 0.001 * level], values[values > 0.001 * level]
        assert len(low) + len(high) == 400
        for part, middle in ((low, 0.0001 * level), (high, 0.01 * level)):
            assert middle / 2 <= part.min() < 0.6 * middle and 1.7 * middle < part.max() <= 2 * middle
    exchanged = (vocals < 0.001) != (accompaniment < 0.01)
    # Half are drawn anew, and half of those from the other of two songs: 100 of 400, with a deviation of 9.
    assert 70 < exchanged.sum() < 130


def test_stretches_come_from_everywhere() -> None:
    ramp = song(0.0, seconds=3)
    ramp["sources"]["vocals"].audio_data = np.linspace(0, 1, 3 * 8192)[None]
    dataset = svs.Remix([ramp], svs.training_transform(), seconds=0.1, gain=0)
    nussl.utils.seed(0)
    starts = [dataset.process_item(0)["sources"]["vocals"].audio_data[0, 0] for _ in range(200)]
    # The lowest and highest of 200 numbers in [0, 1] are within 0.05 of the ends, but for once in 15,000.
    assert min(starts) < 0.05 and max(starts) > 0.95


def test_short_songs_are_repeated_and_any_rate_will_do() -> None:
    short = song(0.5, seconds=0.3, sample_rate=8192)
    dataset = svs.Remix([short], svs.training_transform(), seconds=2, gain=0)
    assert dataset.process_item(0)["mix"].audio_data.shape == (1, 2 * 8192)
    other = svs.Remix([song(0.5, seconds=1, sample_rate=44_100)], svs.training_transform())
    assert other.songs[0].shape == (2, 8192)


def test_channels_are_songs_and_transforms_apply() -> None:
    stereo = song(0.1)
    for signal in stereo["sources"].values():
        signal.audio_data = np.concatenate([signal.audio_data, 0.5 * signal.audio_data])
    stft = STFT(hop_length=256)
    dataset = svs.Remix([stereo], svs.training_transform(excerpt_frames=20, stft=stft), stft)
    assert len(dataset) == 2
    item = dataset[1]
    assert item["mix_magnitude"].shape == (20, 513, 1)
    assert item["source_magnitudes"].shape == (20, 513, 1, 1)


def test_no_songs() -> None:
    with pytest.raises(ValueError, match="no songs to mix"):
        svs.Remix([], svs.training_transform())
