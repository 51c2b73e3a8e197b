import random
from collections.abc import Sequence

import numpy as np
import pytest

from svs_unet_plugin import STFT
from svs_unet_plugin.mixing.excerpts import (
    Collection,
    DrawSampler,
    ExcerptMixer,
    ExcerptSettings,
    draw_generator,
    placed,
    random_filter,
)
from svs_unet_plugin.training.configuration import picked


def test_a_draw_depends_on_nothing_else() -> None:
    """Also not on how often, and in which order, others were drawn before."""
    names = ("vocals", "drums", "bass")
    songs = [
        {
            name: np.random.default_rng(i).standard_normal((2, 40_000), np.float32)
            for i, name in enumerate(names)
        }
        for _ in range(2)
    ]
    settings = ExcerptSettings(excerpt_frames=4, filtered=0.5, silence=0.5)
    draws = [(epoch, index) for epoch in range(3) for index in range(4)]
    one, other = (ExcerptMixer([Collection(songs)], names, STFT(), settings, 2) for _ in range(2))
    first = {draw: one.draw(draw_generator(7, draw)) for draw in draws}
    random.seed(1)
    for draw in reversed(draws):
        np.testing.assert_array_equal(other.draw(draw_generator(7, draw)), first[draw])
    assert all(excerpt.shape == (3, 2, 3 * 768 + 1024) for excerpt in first.values())
    assert len({excerpt.tobytes() for excerpt in first.values()}) == len(draws)
    assert not np.array_equal(one.draw(draw_generator(8, (0, 0))), first[0, 0])


def test_a_digest_tells_what_is_drawn_and_how_often() -> None:
    def digest(samples: int = 900, weight: float = 1.0, names: Sequence[str] = ("vocals", "drums")) -> str:
        song = {name: np.ones((1, samples), np.float32) for name in ("vocals", "drums")}
        collections = [Collection([song], weight), Collection([song])]
        return ExcerptMixer(collections, names, STFT(), ExcerptSettings()).digest()

    assert digest() == digest()
    assert len({digest(), digest(800), digest(weight=9.0), digest(names=("drums", "vocals"))}) == 4


def test_a_batch_is_shared_out() -> None:
    one = list(DrawSampler(24))
    assert one == [(0, index) for index in range(24)]
    parts = [DrawSampler(24, rank, 4) for rank in range(4)]
    for step in range(3):
        whole = one[8 * step : 8 * step + 8]
        shares = [list(part)[2 * step : 2 * step + 2] for part in parts]
        assert [share[i] for i in range(2) for share in shares] == whole
    parts[0].set_epoch(1)
    assert {epoch for epoch, _ in parts[0]} == {1}
    with pytest.raises(ValueError, match="25 items can't be shared equally by 3"):
        DrawSampler(25, processes=3)


def test_a_random_filter_colours_and_echoes_at_the_same_level() -> None:
    generator = np.random.default_rng(0)
    click = np.zeros(4 * 8192, np.float32)
    click[8192] = 0.5
    spectra = []
    for _ in range(200):
        heard = random_filter(click[None], 8192, generator)[0]
        assert heard.dtype == np.float32 and heard.shape == click.shape
        assert np.linalg.norm(heard) == pytest.approx(0.5, rel=1e-4)
        direct, late = np.abs(heard[8192 - 500 : 8192 + 500]).max(), np.abs(heard[int(2.7 * 8192) :]).max()
        assert late < direct / 100  # the longest room has fallen by 60 dB 1.53 s after the click
        spectra.append(20 * np.log10(np.abs(np.fft.rfft(heard[8192 - 120 : 8192 + 120]))[30:33].mean()))
    assert 3 < np.std(spectra) < 6  # the equalizer's 4 dB around 1 kHz, and some of the room
    assert not random_filter(np.zeros((2, 5000), np.float32), 8192, generator).any()


def test_where_a_signal_is_placed() -> None:
    """What is added to one side is taken from the other, or one side alone is quieter."""
    generator = np.random.default_rng(0)
    signal = generator.standard_normal(8192).astype(np.float32)
    norm = np.linalg.norm(signal)
    for _ in range(20):
        left, right = placed(signal, 8192, generator, "middle")
        assert np.array_equal(left, signal) and np.array_equal(right, signal)
        left, right = placed(signal, 8192, generator, "side")
        for side in (left, right):
            assert abs(np.dot(side, signal)) == pytest.approx(np.linalg.norm(side) * norm, rel=1e-4)
        assert max(np.linalg.norm(left), np.linalg.norm(right)) == pytest.approx(norm)
        left, right = placed(signal, 8192, generator, "wide")
        np.testing.assert_allclose((left + right) / 2, signal, atol=1e-4)
        assert 0.1 < np.linalg.norm(left - right) / np.linalg.norm(left + right) < 1.2
        both = placed(signal, 8192, generator, "spread")
        spectra = np.abs(np.fft.rfft(both[:, 1000:-1000] * np.hanning(6192)))
        bands = np.log2(spectra[:, 100:3000].reshape(2, 29, 100).mean(axis=2))
        assert np.std(bands[0] - bands[1]) > 0.2 and np.linalg.norm(both, axis=1).max() <= norm * 1.001
        for heard in (left, right, *both):
            assert heard.dtype == np.float32 and heard.shape == signal.shape


def test_a_song_in_stereo_is_as_it_is_or_the_other_way_round() -> None:
    levels = np.array([[0.1], [0.4]], np.float32)
    song = {"vocals": np.broadcast_to(levels, (2, 9000)), "other": np.broadcast_to(levels / 2, (2, 9000))}
    settings = ExcerptSettings(4, swap=0, gain=0, speed=1, mono=0.5)
    mixer = ExcerptMixer([Collection([song])], ("vocals", "other"), STFT(), settings, channels=2)
    generator = np.random.default_rng(0)
    drawn = np.array([mixer.draw(generator)[..., 0] for _ in range(200)])
    np.testing.assert_allclose(drawn[:, 1], drawn[:, 0] / 2, rtol=1e-6)
    for expected, times in (([0.1, 0.4], 50), ([0.4, 0.1], 50), ([0.25, 0.25], 100)):
        assert abs(np.isclose(drawn[:, 0], expected).all(axis=1).sum() - times) < 30


def test_settings_are_picked_from_a_configuration() -> None:
    assert picked(ExcerptSettings, {"swap": 0.25, "epochs": 3}) == ExcerptSettings(swap=0.25)
    with pytest.raises(ValueError, match="excerpt_frames must be at least 1, got 0"):
        picked(ExcerptSettings, {"excerpt_frames": 0})
