from collections.abc import Callable, Iterable
from itertools import pairwise

import numpy as np
import pytest

from svs_unet_plugin import STFT, Separator, UNet, chunks
from svs_unet_plugin.streaming import Streamer
from svs_unet_plugin.treble import treble_gain


def streamed(streamer: Streamer, mixture: np.ndarray, sizes: Iterable[int]) -> dict[str, np.ndarray]:
    """All stems of a mixture that is pushed in blocks of these sizes, and then the rest of it."""
    parts, start = [], 0
    for size in sizes:
        block = mixture[:, start : start + size].copy()
        parts.append(streamer.push(block))
        block[:] = 9  # as who records into the same array again
        start += size
        came = sum(part["vocals"].shape[1] for part in parts)
        assert came >= min(start, mixture.shape[1]) - streamer.latency * streamer.sample_rate
        if start >= mixture.shape[1]:
            break
    parts.append(streamer.flush())
    return {name: np.concatenate([part[name] for part in parts], axis=1) for name in streamer.sources}


@pytest.mark.parametrize(
    "views, hop, rate", [(1, 768, 44_100), (3, 256, 44_100), (1, 256, 8192), (1, 768, 48_000)]
)
def test_with_all_that_the_network_sees_a_stream_is_separated_like_a_song(
    network: UNet, song: np.ndarray, views: int, hop: int, rate: int
) -> None:
    separator = Separator(network, "cpu", stft=STFT(hop_length=hop), views=views)
    mixture = np.tile(song, 9 if hop == 768 else 3)[:, :-77]
    streamer = Streamer(separator, rate, 2, peaks=separator.peaks(mixture, rate))
    assert streamer.exact and mixture.shape[1] > streamer.latency * rate
    expected = separator.separate(mixture, rate)
    sizes = np.random.default_rng(0).integers(1, 70_000, 1000)
    for name, stem in streamed(streamer, mixture, sizes).items():
        assert stem.shape == mixture.shape and stem.dtype == np.float32
        np.testing.assert_allclose(stem, expected[name], rtol=0, atol=1e-4)
    assert expected["vocals"].std() > 0.01


@pytest.mark.parametrize("hop, rate", [(256, 44_100), (768, 44_100), (256, 48_000), (256, 8192)])
def test_a_low_latency_is_kept(
    network: UNet, song: np.ndarray, monkeypatch: pytest.MonkeyPatch, hop: int, rate: int
) -> None:
    used = []

    def gain(masks: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
        used.append(masks.copy())
        return treble_gain(masks, magnitudes)

    separator = Separator(network, "cpu", stft=STFT(hop_length=hop))
    streamer = Streamer(separator, rate, 2, latency=0.5)
    assert streamer.latency <= 0.5 and not streamer.exact
    mixture = song[:, : 3 * rate] if rate > 8192 else song[:, : 5 * 3 * rate : 5]
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "treble_gain", gain)
        stems = streamed(streamer, mixture, np.full(400, rate // 100))
    np.testing.assert_allclose(sum(stems.values()), mixture, atol=2e-7)
    # No click where one step of the network ends: steps of the vocals are no larger than the mixture's own,
    # and the frame that two steps of the network share has one mask.
    step, largest = (np.abs(np.diff(x, axis=1)).max() for x in (stems["vocals"], mixture))
    assert step <= largest
    assert len(used) > 2
    for before, after in pairwise(used):
        np.testing.assert_array_equal(before[..., -1], after[..., 0])
    expected = separator.separate(mixture, rate)["vocals"]
    assert np.corrcoef(stems["vocals"].ravel(), expected.ravel())[0, 1] > 0.9


def test_silence_before_the_music(network: UNet, song: np.ndarray) -> None:
    streamer = Streamer(Separator(network, "cpu"), 44_100, 2, latency=0.8)
    mixture = np.concatenate([0 * song[:, :100_000], song[:, :100_000]], axis=1)
    stems = streamed(streamer, mixture, np.full(400, 20_000))
    assert not stems["vocals"][:, :90_000].any() and stems["vocals"].std() > 0.001


def test_a_stream_keeps_no_more_than_it_needs(network: UNet) -> None:
    streamer = Streamer(Separator(network, "cpu"), 8192, 1, latency=2.0)

    def held() -> int:
        pipeline = streamer._pipeline
        assert pipeline is not None
        (view,) = pipeline._views
        queues = [pipeline._mixture, pipeline._high, *pipeline._rests]
        samples = sum(block.size for queue in queues for block in queue._blocks)
        return samples + view._chunks._signal.size + view.gain._gains.size

    noise = np.random.default_rng(0).uniform(-1, 1, (1, 8192)).astype(np.float32)
    kept = []
    for _ in range(60):
        streamer.push(noise)
        kept.append(held())
    assert max(kept[30:]) == max(kept[15:30])


def test_streams_that_can_not_be(make_network: Callable[..., UNet], network: UNet, song: np.ndarray) -> None:
    separator = Separator(network, "cpu")
    with pytest.raises(ValueError, match="a recurrent layer hears a song as a whole"):
        Streamer(Separator(make_network(bottleneck="blstm"), "cpu"), 44_100, 2)
    with pytest.raises(ValueError, match=r"latency must be None or at least 0\.3\d s .*, got 0\.1"):
        Streamer(separator, 44_100, 2, latency=0.1)
    with pytest.raises(ValueError, match="peaks must be 1, one for each view, got 2"):
        Streamer(separator, 44_100, 2, peaks=(1.0, 2.0))
    streamer = Streamer(separator, 44_100, 2)
    with pytest.raises(ValueError, match=r"block must be \(2, samples\), got \(1, 99\)"):
        streamer.push(song[:1, :99])
    assert streamer.push(song[:, :99])["vocals"].shape == (2, 0)
    assert streamer.flush()["vocals"].shape == (2, 99)
    with pytest.raises(ValueError, match="the stream was flushed"):
        streamer.push(song)
