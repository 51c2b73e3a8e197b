from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT
from svs_unet_plugin.mixing.excerpts import Collection, ExcerptSettings, draw_generator
from svs_unet_plugin.nussl import nussl

tfm = nussl.datasets.transforms


def signal(samples: np.ndarray, sample_rate: int = 8192) -> Any:
    return nussl.AudioSignal(audio_data_array=np.atleast_2d(samples), sample_rate=sample_rate)


def song(value: float, seconds: float = 6.0, sample_rate: int = 8192) -> dict[str, Any]:
    """A song whose vocals are ``value`` everywhere, and its accompaniment (two stems) -10 times that."""

    def stem(level: float) -> Any:
        return signal(np.full((1, round(seconds * sample_rate)), level), sample_rate)

    stems = {"vocals": stem(value), "drums": stem(-4 * value), "other": stem(-6 * value)}
    return {"mix": stem(-9 * value), "sources": stems}


def remix(songs: list[Any], stft: STFT | None = None, **options: Any) -> svs.Remix:
    """A `Remix` whose options are its own or those of `ExcerptSettings`."""
    own = {
        key: options.pop(key)
        for key in ("sources", "others", "phase_sensitive", "seed", "in_channels")
        if key in options
    }
    return svs.Remix(songs, stft, settings=ExcerptSettings(**options), **own)


def draw(dataset: Any, times: int = 400) -> np.ndarray:
    """Vocals and accompaniment (times, 2) of what is drawn, whose samples are all alike."""
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(times):
        excerpt = dataset.mixer.draw(generator)[:, 0]
        assert np.ptp(excerpt, axis=1).max() == 0
        rows.append(excerpt[:, 0])
    return np.array(rows)


def test_sources_of_different_songs_at_gains_of_their_own() -> None:
    # Levels so far apart that a gain of ±6 dB, a factor of two, does not hide which song it was.
    songs = [song(0.0001), song(0.01)]
    vocals, accompaniment = np.abs(draw(remix(songs, excerpt_frames=4, speed=1)).T)
    for values, level in ((vocals, 1), (accompaniment, 10)):
        low, high = values[values < 0.001 * level], values[values > 0.001 * level]
        assert len(low) + len(high) == 400
        for part, middle in ((low, 0.0001 * level), (high, 0.01 * level)):
            assert middle / 2 <= part.min() < 0.6 * middle and 1.7 * middle < part.max() <= 2.001 * middle
    exchanged = (vocals < 0.001) != (accompaniment < 0.01)
    # Half are drawn anew, and half of those from the other of two songs: 100 of 400, with a deviation of 9.
    assert 70 < exchanged.sum() < 130
    same, foreign = (draw(remix(songs, excerpt_frames=4, speed=1, gain=0, swap=swap)) for swap in (0, 1))
    np.testing.assert_allclose(same[:, 1], -10 * same[:, 0], rtol=1e-6)
    assert 150 < (np.abs(foreign[:, 1] / foreign[:, 0] + 10) > 1).sum() < 250


def test_each_source_is_swapped_by_itself() -> None:
    songs = [song(0.001), song(1.0)]
    dataset = remix(
        songs, sources=["vocals", "drums"], others=["other"], excerpt_frames=4, speed=1, gain=0, swap=1
    )
    assert dataset.estimated == ["drums", "vocals"]
    generator = np.random.default_rng(0)
    kinds = {tuple(np.abs(dataset.mixer.draw(generator)[:, 0, 0]) > 0.1) for _ in range(200)}
    assert len(kinds) == 8


def test_excerpts_come_from_everywhere_and_longer_songs_more_often() -> None:
    ramp = song(0.0, seconds=3)
    ramp["sources"]["vocals"].audio_data = np.linspace(0, 1, 3 * 8192)[None]
    dataset = remix([ramp], excerpt_frames=1, gain=0, speed=1)
    generator = np.random.default_rng(0)
    starts = [dataset.mixer.draw(generator)[0, 0, 0] for _ in range(200)]
    # An excerpt begins in the first 96 % of these 3 s. The extremes of 200 such numbers are within 0.05 of
    # the ends, but for once in 15,000.
    assert min(starts) < 0.05 and max(starts) > 0.91
    songs = [song(0.001, seconds=1), song(1.0, seconds=9)]
    long = np.abs(draw(remix(songs, excerpt_frames=1, speed=1, swap=0))[:, 0]) > 0.1
    assert 0.84 < long.mean() < 0.96  # 90 % of 400, with a deviation of 1.5 %


def test_speed_changes_pitch_and_no_length() -> None:
    tone = song(0.0, seconds=20)
    tone["sources"]["vocals"].audio_data = np.sin(2 * np.pi * 1000 * np.arange(20 * 8192) / 8192)[None]
    dataset = remix([tone], excerpt_frames=128, gain=0, swap=0, speed=1.25)
    generator = np.random.default_rng(0)
    pitches = []
    for _ in range(200):
        excerpt = dataset.mixer.draw(generator)[:, 0]
        assert excerpt.shape == (2, 127 * 768 + 1024)
        pitches.append(np.abs(np.fft.rfft(excerpt[0])).argmax() * 8192 / excerpt.shape[1])
    assert 1000 / 1.25 - 1 <= min(pitches) < 830 and 1200 < max(pitches) <= 1251
    unchanged = np.abs(np.array(pitches) - 1000) < 0.1
    assert 0.2 < unchanged.mean() < 0.4


def test_a_share_of_the_sources_is_filtered() -> None:
    songs = [song(0.1)]
    dataset = remix(songs, excerpt_frames=4, gain=0, speed=1, filtered=0.25)
    generator = np.random.default_rng(0)
    changed = [np.ptp(dataset.mixer.draw(generator)[:, 0], axis=1) > 0 for _ in range(200)]
    assert 70 < np.sum(changed) < 130  # a quarter of 400, with a deviation of 9


def test_a_share_of_the_excerpts_begins_or_ends_in_silence() -> None:
    dataset = remix([song(0.1)], excerpt_frames=4, gain=0, speed=1, silence=0.5)
    generator = np.random.default_rng(0)
    shapes = []
    for _ in range(200):
        heard = dataset.mixer.draw(generator)[:, 0] != 0
        assert (heard[0] == heard[1]).all() and 0.24 < heard[0].mean()
        shapes.append((heard[0, 0], heard[0, -1]))
        assert np.diff(heard[0].astype(int)).any() == (not all(shapes[-1]))
    for shape, expected in (((True, True), 100), ((True, False), 50), ((False, True), 50)):
        assert abs(shapes.count(shape) - expected) < 25


def test_short_songs_are_repeated_and_any_rate_will_do() -> None:
    short = song(0.5, seconds=0.3, sample_rate=8192)
    assert remix([short]).__getitems__([0])["mix_magnitude"].shape == (1, 128, 513, 1)
    other = remix([song(0.5, seconds=1, sample_rate=44_100)])
    assert {stem.shape for stem in other.mixer.songs[0].values()} == {(1, 8192)}


@pytest.mark.parametrize("phase_sensitive", [False, True])
@pytest.mark.parametrize("in_channels", [1, 2])
def test_a_batch_is_what_nussls_transforms_make(phase_sensitive: bool, in_channels: int) -> None:
    generator = np.random.default_rng(0)
    noise = generator.standard_normal((2, 2, 2 * 8192)) * [[[0.1]], [[0.3]]]  # sources, channels, samples
    sources = {"vocals": signal(noise[0]), "accompaniment": signal(noise[1])}
    stft = STFT(hop_length=256)
    dataset = remix(
        [{"mix": signal(noise.sum(axis=0)), "sources": sources}],
        stft,
        excerpt_frames=20,
        phase_sensitive=phase_sensitive,
        in_channels=in_channels,
        mono=0,
    )
    draws = [(0, 0), (0, 1), (2, 0)]
    batch = dataset.__getitems__(draws)
    assert batch["mix_magnitude"].shape == (3, 20, 513, in_channels)
    assert batch["source_magnitudes"].shape == (3, 20, 513, in_channels, 1)
    assert ("mid_side_magnitude" in batch) == (in_channels == 2)
    for i, drawn in enumerate(draws):
        vocals, accompaniment = dataset.mixer.draw(draw_generator(0, drawn))
        item = {"mix": signal(vocals + accompaniment), "sources": {"vocals": signal(vocals)}}
        for audio in (item["mix"], *item["sources"].values()):
            audio.stft_params = svs.stft_params(stft)
        # The training transform's, but for the choice of sources and an excerpt.
        steps = svs.training_transform(
            stft=stft, phase_sensitive=phase_sensitive, in_channels=in_channels
        ).transforms[1:-1]
        made = tfm.Compose([step for step in steps if not isinstance(step, svs.NormalizeMagnitude)])(item)
        scale = made["mix_magnitude"].max() / batch["mix_magnitude"][i].max()
        for name, ours in batch.items():
            # nussl centres its frames, and ours lie inside: of them, its are those from the second on.
            np.testing.assert_allclose(
                ours[i].numpy() * float(scale), made[name][2:22].numpy(), atol=2e-4 * float(scale)
            )
        assert 0.25 < batch["mix_magnitude"][i].max() <= 1  # up to 12 dB below the song's peak


def test_what_a_song_does_not_have_is_drawn_from_others() -> None:
    """A voice alone, an accompaniment alone, and songs, each kind as often as it should be."""
    arrays = {
        "song": {"vocals": 0.001, "accompaniment": 0.001},
        "voice": {"vocals": 0.01},
        "band": {"accompaniment": 0.1},
    }
    songs = {
        kind: {name: np.full((1, 9000), level, np.float32) for name, level in stems.items()}
        for kind, stems in arrays.items()
    }
    collections = [Collection([songs["song"]], 2), Collection([songs["voice"]]), Collection([songs["band"]])]
    # An excerpt is begun with the song (2 of 4 times), the voice or the band, and the rest drawn from those
    # that have it; swapped, only the first stem that it has is of what it was begun with.
    for swap, expected in ((0, (267, 267)), (1, (267, 200))):
        vocals, accompaniment = draw(remix(collections, excerpt_frames=4, speed=1, gain=0, swap=swap)).T
        of_the_song = [np.isclose(vocals, 0.001), np.isclose(accompaniment, 0.001)]
        assert (of_the_song[0] | np.isclose(vocals, 0.01)).all()
        assert (of_the_song[1] | np.isclose(accompaniment, 0.1)).all()
        np.testing.assert_allclose(np.sum(of_the_song, axis=1), expected, atol=40)
    with pytest.raises(ValueError, match="no song has accompaniment"):
        remix([songs["voice"]])
    with pytest.raises(ValueError, match="weight must be a number above 0, got 0"):
        Collection([], 0)


def test_an_item_is_a_mixture_like_any_other() -> None:
    item = remix([song(0.1)], excerpt_frames=4)[0]
    assert item["mix_magnitude"].shape[1:] == (513, 1) and item["source_magnitudes"].shape[1:] == (513, 1, 2)


def test_stems_that_are_not_mixed_count_for_nothing() -> None:
    long = song(0.1)
    with_click = {**long, "click": np.zeros((1, 10), np.float32)}
    one, other = (remix([some], excerpt_frames=4)[0]["mix_magnitude"] for some in (long, with_click))
    assert torch.equal(one, other)


def test_a_loader_of_ones_own() -> None:
    dataset = remix([song(0.1), song(0.2)], excerpt_frames=4)
    batch = next(iter(DataLoader(dataset, 2, collate_fn=svs.collate)))  # a batch is drawn at once
    assert batch["mix_magnitude"].shape == (2, 4, 513, 1)


def test_the_seed_the_epoch_and_the_index_decide() -> None:
    songs = [song(0.1), song(0.2)]
    dataset = remix(songs, excerpt_frames=4)

    def magnitudes(*draws: Any, seed: int = 0) -> torch.Tensor:
        return remix(songs, excerpt_frames=4, seed=seed).__getitems__(draws)["mix_magnitude"]

    one = magnitudes((1, 0), (1, 1))
    torch.manual_seed(7)  # no global state takes part
    assert torch.equal(dataset.__getitems__([(1, 0), (1, 1)])["mix_magnitude"], one)
    assert torch.equal(magnitudes((1, 1)), one[1:])  # nor does the rest of a batch
    for other in (magnitudes((1, 2)), magnitudes((2, 1)), magnitudes((1, 1), seed=1)):
        assert not torch.equal(other, one[1:])
    assert torch.equal(magnitudes(3), magnitudes((0, 3)))


def test_bad_arguments() -> None:
    for make in (svs.build_unet_mask_inference, svs.training_transform, svs.SelectSources):
        with pytest.raises(ValueError, match="sources must be different names such as"):
            make("vocals")
    with pytest.raises(ValueError, match="no songs to mix"):
        remix([])
    with pytest.raises(ValueError, match=r"speed must be at least 1, got 0\.5"):
        remix([song(0.1)], speed=0.5)
    with pytest.raises(ValueError, match=r"swap must be a chance in \[0, 1\], got 2"):
        remix([song(0.1)], swap=2)
    with pytest.raises(ValueError, match=r"filtered must be a chance in \[0, 1\], got -1"):
        remix([song(0.1)], filtered=-1)
