import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import butter, sosfilt

from svs_unet_plugin import STFT, Separator, UNet, audio, encoding, pipeline, separate
from svs_unet_plugin.corpora.synthetic.song import make_song
from svs_unet_plugin.engines.torch_engine import in_float32
from svs_unet_plugin.separator import Cancelled
from svs_unet_plugin.streaming import Streamer


@pytest.fixture(scope="module")
def separator(network: UNet) -> Separator:
    return Separator(network, device="cpu")


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("sample_rate", [8000, 8192, 22_050, 44_100, 192_000])
@pytest.mark.parametrize("samples", [1, 2, 1023, 20_011])
def test_audio_out_is_like_audio_in(
    separator: Separator, channels: int, sample_rate: int, samples: int
) -> None:
    mixture = np.random.default_rng(0).uniform(-1, 1, (channels, samples)).astype(np.float32)
    stems = separator.separate(mixture, sample_rate)
    assert list(stems) == ["vocals", "accompaniment"]
    assert all(stem.shape == mixture.shape and stem.dtype == np.float32 for stem in stems.values())
    # A rounding of float32 at an amplitude of 1.
    np.testing.assert_allclose(sum(stems.values()), mixture, rtol=0, atol=2e-7)


def test_shapes_and_types_come_back(separator: Separator, song: np.ndarray) -> None:
    mono = song[0, :50_000]
    vocals = separator.separate(mono, 44_100)["vocals"]
    assert vocals.shape == mono.shape
    tensor = separator.separate(torch.from_numpy(mono)[None], 44_100)["vocals"]
    assert isinstance(tensor, torch.Tensor) and torch.equal(tensor[0], torch.from_numpy(vocals))
    half = separator.separate(torch.zeros(2, 99, dtype=torch.bfloat16), 44_100)["vocals"]
    assert half.dtype == torch.float32
    double = separator.separate(mono.astype(np.float64), 44_100)["vocals"]
    np.testing.assert_array_equal(double, vocals)


def test_silence_stays_silence(separator: Separator) -> None:
    stems = separator.separate(np.zeros((2, 44_100), np.float32), 44_100)
    assert not any(stem.any() for stem in stems.values())


def test_a_quiet_song_is_separated_like_a_loud_one(separator: Separator, song: np.ndarray) -> None:
    loud = separator.separate(song, 44_100)["vocals"]
    quiet = separator.separate(song * np.float32(2**-10), 44_100)["vocals"]
    np.testing.assert_allclose(quiet * 2**10, loud, atol=1e-5)


def test_channels_do_not_leak(separator: Separator, song: np.ndarray) -> None:
    both = np.stack([song[0], np.zeros_like(song[0])])
    vocals = separator.separate(both, 44_100)["vocals"]
    assert not vocals[1].any()
    np.testing.assert_allclose(vocals[0], separator.separate(song[:1], 44_100)["vocals"][0], atol=1e-6)


@pytest.mark.parametrize("mask", [0.25, 1.0])
def test_stays_in_place(make_network: Callable[..., UNet], song: np.ndarray, mask: float) -> None:
    """With one number for all masks the vocals are that much of the mixture, treble and all."""
    network = make_network()
    with torch.no_grad():
        network.decoder[-1].weight.zero_()
        network.decoder[-1].bias.fill_(torch.logit(torch.tensor(mask), eps=1e-12))
    noisy = song + np.random.default_rng(0).normal(0, 1e-3, song.shape).astype(np.float32)
    vocals = Separator(network, device="cpu").separate(noisy, 44_100)["vocals"]
    np.testing.assert_allclose(vocals, mask * noisy, atol=1e-5)  # from edge to edge


def test_the_treble_goes_where_the_band_below_it_goes() -> None:
    """A singer's consonants get into the vocals, and little of the drums where nobody sings."""
    stems = make_song(3, 8.0, 44_100)
    vocals, band = stems["vocals"], stems["drums"] + stems["bass"] + stems["other"]
    estimates = Separator(device="cpu").separate(vocals + band, 44_100)
    treble = butter(8, 4600, "high", fs=44_100, output="sos")

    def error(estimate: np.ndarray, source: np.ndarray) -> float:
        return float(np.linalg.norm(sosfilt(treble, estimate - source)))

    assert error(estimates["vocals"], vocals) < 0.9 * error(0 * vocals, vocals)
    alone = Separator(device="cpu").separate(band, 44_100)["vocals"]
    assert error(alone, 0 * alone) < 0.15 * error(band, 0 * band)


def test_views_are_averaged(network: UNet, song: np.ndarray) -> None:
    mixture = np.tile(song[:1, ::5], 3)
    views = Separator(network, "cpu", views=4, chunk_frames=64).separate(mixture, 8192)["vocals"]
    alone = [
        Separator(network, "cpu", stft=STFT(8192, window, hop)).separate(mixture, 8192)["vocals"]
        for window, hop in ((896, 672), (1024, 768), (1152, 864), (1280, 960))
    ]
    np.testing.assert_allclose(views, np.mean(alone, axis=0), atol=1e-6)
    assert np.abs(views - alone[1]).max() > 0.01


@pytest.mark.parametrize("extension", [{}, {"bottleneck": "blstm"}, {"residual_blocks": 1}])
@pytest.mark.parametrize("hop", [768, 256])
def test_chunks_are_not_heard(
    make_network: Callable[..., UNet], extension: dict, hop: int, song: np.ndarray
) -> None:
    network = make_network(**extension)
    mixture = np.tile(song[:1], 25)[:, ::5].copy()  # at 8820 Hz, 2 and a half minutes
    whole, *chunked = (
        Separator(network, "cpu", stft=STFT(hop_length=hop), chunk_frames=frames).separate(mixture, 8820)
        for frames in (2**20, 1024, 64)
    )
    assert whole["vocals"].std() > 0.01
    for stems in chunked:
        np.testing.assert_allclose(stems["vocals"], whole["vocals"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("views", [1, 3])
def test_views_of_different_hops_are_cut_into_chunks_and_blocks(
    network: UNet, song: np.ndarray, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Window lengths have chunks and pieces that end at different times."""
    mixture = np.tile(song, 4)
    frames = STFT().frames(mixture.shape[1] * 8192 // 44_100)
    assert frames > 4 * 64  # five chunks and more of the smallest
    estimates = []
    for chunk_frames, block in ((2**20, 2**18), (64, 2**18), (128, 2**18), (128, 100_003), (64, 9_999)):
        for module in (audio, pipeline):
            monkeypatch.setattr(module, "BLOCK_SAMPLES", block)
        separator = Separator(network, "cpu", views=views, chunk_frames=chunk_frames)
        estimates.append(separator.separate(mixture, 44_100)["vocals"])
    assert estimates[0].std() > 0.01
    for estimate in estimates[1:]:
        np.testing.assert_allclose(estimate, estimates[0], rtol=0, atol=1e-4)


def test_no_tf32_on_a_gpu() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    with in_float32("cuda:0"):
        assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


def test_a_file_is_separated_like_an_array(
    separator: Separator, song_path: Path, song: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "RIFF_BYTES", 1000)
    paths = separator.separate_file(song_path, tmp_path / "out")
    expected = separator.separate(song, 44_100)
    assert {soundfile.info(path).format for path in paths.values()} == {"RF64"}  # as of large files
    for name, path in paths.items():
        stem, sample_rate = audio.read(path)
        assert sample_rate == 44_100
        np.testing.assert_allclose(stem, expected[name], atol=1e-6)


def test_a_song_is_separated_like_its_pieces(separator: Separator, song: np.ndarray, tmp_path: Path) -> None:
    """Joined, they are the whole: with enough around each, and where chunks begin at the same frames."""
    loop = np.resize(song[0], 44_100 * 6)  # a round of it is 64 frames, as is one of the network's grid
    soundfile.write(tmp_path / "song.wav", np.tile(loop, 20), 44_100, subtype="FLOAT")
    (whole,) = separator.separate_file(tmp_path / "song.wav", tmp_path, stems=["vocals"]).values()
    expected = audio.read(whole)[0]
    joined = []
    for start in range(0, 120, 30):
        before = min(start, 36)
        piece = audio.open_file(tmp_path / "song.wav", start=start - before, duration=before + 30 + 36)
        (path,) = separator.separate_file(piece, tmp_path / f"{start}", stems=["vocals"]).values()
        joined += audio.open_file(path, start=before, duration=30).blocks()
    np.testing.assert_allclose(np.concatenate(joined, axis=1), expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01


MEMORY = """
import resource, sys, numpy as np, soundfile, torch
from svs_unet_plugin import Separator
path, out, weights, amplitude = sys.argv[1:]
with soundfile.SoundFile(path, "w", 44_100, 2, "PCM_16") as file:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (44_100, 2)) * float(amplitude)
    for _ in range(10 * 60):
        file.write(noise)
separator = Separator(weights, device="cpu")
separator.separate(np.zeros((2, 44_100), np.float32), 44_100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
separator.separate_file(path, out)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@pytest.mark.parametrize("amplitude", ["1", "0"])
def test_memory_does_not_grow_with_a_file(checkpoint_path: Path, tmp_path: Path, amplitude: str) -> None:
    arguments = [tmp_path / "long.wav", tmp_path / "out", checkpoint_path, amplitude]
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, *arguments], check=True, capture_output=True, text=True
    )
    # Ten minutes of stereo are 212 MB as float32, and 40 MB at 8192 Hz, which is kept; the rest are chunks.
    assert float(run.stdout) < 250


def test_binary_masks(network: UNet, song: np.ndarray) -> None:
    mixture = audio.resample(song, 44_100, 8192)
    binary = Separator(network, "cpu", mask_threshold=0.5).separate(mixture, 8192)["vocals"]
    soft = Separator(network, "cpu").separate(mixture, 8192)["vocals"]
    stft = STFT()
    mixture_stft = stft.analyse(mixture)
    magnitude = np.abs(mixture_stft) / np.abs(mixture_stft).max()
    masks = network(torch.from_numpy(magnitude)[:, None])[:, 0].detach().numpy() > 0.5
    assert 0.05 < masks.mean() < 0.95
    expected = stft.synthesise(masks * mixture_stft)[:, : mixture.shape[1]]
    np.testing.assert_allclose(binary, expected, atol=1e-5)
    assert np.abs(binary - soft).max() > 0.01


def test_several_sources(make_network: Callable[..., UNet], song: np.ndarray) -> None:
    network = make_network(sources=("accompaniment", "drums", "vocals"))
    stems = Separator(network, device="cpu").separate(song, 44_100)
    assert list(stems) == ["vocals", "drums", "accompaniment"]
    np.testing.assert_allclose(stems["vocals"] + stems["accompaniment"], song, atol=1e-6)
    assert np.abs(stems["drums"] - stems["vocals"]).max() > 0.01


def test_the_one_liner(checkpoint_path: Path, separator: Separator, song: np.ndarray) -> None:
    stems = separate(song, 44_100, checkpoint_path)
    np.testing.assert_array_equal(stems["vocals"], separator.separate(song, 44_100)["vocals"])


@pytest.mark.parametrize(
    "mixture, sample_rate, message",
    [
        (np.zeros((2, 0)), 44_100, r"not empty, got \(2, 0\)"),
        (np.zeros((1, 2, 3)), 44_100, r"got \(1, 2, 3\)"),
        (np.zeros((88_200, 2)), 44_100, r"got \(88200, 2\): transpose it"),
        (np.zeros((65, 64)), 44_100, r"got \(65, 64\): transpose it"),
        (np.zeros((2, 9), np.int16), 44_100, "floating point with full scale at 1, got int16"),
        (np.array([0.0, np.nan]), 44_100, "NaN, infinite"),
        (np.array([0.0, np.inf]), 44_100, "NaN, infinite"),
        (np.full(9, 1e300), 44_100, "too large for float32"),
        (np.full(9999, 1e37, np.float32), 44_100, "too loud for float32"),
        (np.eye(1, 9999, 5000, dtype=np.float32) * np.float32(1e37), 44_100, "too loud for float32"),
        (np.zeros((2, 9)), 0, "sample_rate must lie from 1000 to 768000 Hz, got 0"),
        (np.zeros((2, 9)), 44_100.5, "sample_rate must be a whole number of Hz, got 44100.5"),
        (np.zeros((2, 9)), np.nan, "sample_rate must lie from 1000 to 768000 Hz, got nan"),
    ],
)
def test_bad_audio(separator: Separator, mixture: np.ndarray, sample_rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        separator.separate(mixture, sample_rate)


@pytest.mark.parametrize(
    "mixture, sample_rate, message",
    [
        (None, 44_100, "audio must be an array of numbers, got"),
        ("song.wav", 44_100, "audio must be an array of numbers, got"),
        ([[0.0], [0.0, 1.0]], 44_100, "audio must be an array of numbers, got list"),
        (np.zeros(9, complex), 44_100, "audio must be an array of numbers, got complex128"),
        (np.zeros((2, 9)), "44100", "sample_rate must be a number in Hz, got '44100'"),
        (np.zeros((2, 9)), None, "sample_rate must be a number in Hz, got None"),
    ],
)
def test_what_is_no_audio(separator: Separator, mixture: Any, sample_rate: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        separator.separate(mixture, sample_rate)


def test_a_rate_that_is_a_whole_number_as_a_float(separator: Separator, song: np.ndarray) -> None:
    """As nussl and asteroid have them at times."""
    part = song[:, 50_000:60_000]
    for rate in (44_100.0, np.float64(44_100)):
        stems = separator.separate(part, rate)  # type: ignore[call-overload]
        np.testing.assert_array_equal(stems["vocals"], separator.separate(part, 44_100)["vocals"])
        assert separator.peaks(part, rate) == separator.peaks(part, 44_100)  # type: ignore[arg-type]
        streamer = Streamer(separator, rate, 2)  # type: ignore[arg-type]
        assert streamer.push(part)["vocals"].shape[1] + streamer.flush()["vocals"].shape[1] == 10_000


def test_anything_like_an_array_is_audio(separator: Separator, song: np.ndarray) -> None:
    part = song[:, 50_000:51_000]
    expected = separator.separate(part, 44_100)["vocals"]
    for audio_like in (
        part.tolist(),
        tuple(map(tuple, part.tolist())),
        part.astype(">f4"),
        part[:, ::-1].copy()[:, ::-1],
    ):
        vocals = separator.separate(audio_like, 44_100)["vocals"]  # type: ignore[call-overload]
        np.testing.assert_array_equal(vocals, expected)
    integers = np.round(part * 2**15).astype(np.int16)
    with pytest.raises(ValueError, match=r"got int16: svs_unet_plugin\.audio\.from_integers scales it"):
        separator.separate(integers, 44_100)
    scaled = separator.separate(audio.from_integers(integers), 44_100)["vocals"]
    np.testing.assert_allclose(scaled, expected, atol=1e-3)


def test_threads_share_a_separator(separator: Separator, song: np.ndarray) -> None:
    songs = [song[:, start:] for start in range(0, 40_000, 10_000)]
    alone = [separator.separate(mixture, 44_100)["vocals"] for mixture in songs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda mixture: separator.separate(mixture, 44_100)["vocals"], songs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_separator_pickles(separator: Separator, song: np.ndarray) -> None:
    again = pickle.loads(pickle.dumps(separator))
    expected = separator.separate(song, 44_100)
    for name, stem in again.separate(song, 44_100).items():
        np.testing.assert_array_equal(stem, expected[name])


def test_bad_arguments(network: UNet, checkpoint_path: Path) -> None:
    for arguments, message in [
        ({"weights": UNet(sources=["drums"], channels=2)}, "sources must have 'vocals' among them"),
        ({"weights": network, "mask_threshold": 1.0}, "between 0 and 1, got 1.0"),
        ({"weights": network, "views": 9}, "from 1 to 8, got 9"),
        ({"weights": network, "chunk_frames": 100}, "multiple of 64, got 100"),
        ({"weights": checkpoint_path, "stft": STFT()}, "a checkpoint brings its own"),
        ({"weights": network, "device": "abacus"}, "no device abacus that torch can use here"),
        ({"weights": network, "device": "meta"}, "no device meta that torch can use here"),
        ({"weights": network, "views": "3"}, "views must be a whole number, got '3'"),
        ({"weights": network, "chunk_frames": 64.0}, "chunk_frames must be a whole number, got 64.0"),
        ({"weights": 123}, "weights must be a path, a name or a network, got 123"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message) as refused:
            Separator(**arguments)  # type: ignore[arg-type]
        assert len(str(refused.value)) < 110 + len(str(checkpoint_path))


def test_nothing_is_left_of_a_song_that_can_not_be_separated(separator: Separator, tmp_path: Path) -> None:
    samples = np.zeros((300_000, 2))
    samples[-1] = np.nan
    soundfile.write(tmp_path / "bad.wav", samples, 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN or infinite"):
        separator.separate_file(tmp_path / "bad.wav", tmp_path / "out" / "song")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.wav"]


def test_the_end_of_a_song_is_no_voice() -> None:
    song = make_song(2, 5.0, 8192)
    band = np.sum([song[name] for name in ("drums", "bass", "other")], axis=0, dtype=np.float32)
    vocals = Separator(device="cpu").separate(band, 8192)["vocals"]
    # Where frames of silence follow, the mask opens, and this is 0.6.
    assert np.linalg.norm(vocals[:, -2400:]) < 0.05 * np.linalg.norm(band[:, -2400:])


def test_progress_counts_the_seconds_of_both_passes_on_one_scale(
    separator: Separator, song_path: Path, song: np.ndarray, tmp_path: Path
) -> None:
    runs: dict[str, list[tuple[float, float]]] = {"file": [], "array": []}
    separator.separate_file(song_path, tmp_path / "out", progress=lambda *now: runs["file"].append(now))
    separator.separate(song, 44_100, progress=lambda *now: runs["array"].append(now))
    for told in runs.values():
        done, total = np.transpose(told)
        assert (np.diff(done) > 0).all() and done[0] > 0
        assert done[-1] == total[-1] == song.shape[1] / 44_100


@pytest.mark.parametrize("after", [0.0, 0.2])
def test_a_cancelled_separation_leaves_nothing(separator: Separator, tmp_path: Path, after: float) -> None:
    """While it reads, and while it separates."""
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).uniform(-1, 1, 900_000), 44_100)
    cancel = Event()

    def progress(done: float, total: float) -> None:
        if done > after * total:
            cancel.set()

    with pytest.raises(Cancelled):
        separator.separate_file(tmp_path / "song.wav", tmp_path / "out", progress=progress, cancel=cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["song.wav"]
    with pytest.raises(Cancelled):
        separator.separate(np.ones(9, np.float32), 8192, cancel=cancel)


def test_stems_and_where_they_go(separator: Separator, song_path: Path, tmp_path: Path) -> None:
    opened = audio.open_file(song_path, start=1, duration=2)
    paths = separator.separate_file(opened, tmp_path / "out", stems=["accompaniment"])
    assert paths == {"accompaniment": tmp_path / "out" / "accompaniment.wav"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["accompaniment.wav"]
    named = {"vocals": tmp_path / "a" / "voice.wav", "accompaniment": tmp_path / "b" / "band.wav"}
    assert separator.separate_file(opened, named) == named
    (voice, rate), (band, _) = map(audio.read, named.values())
    np.testing.assert_array_equal(band, audio.read(paths["accompaniment"])[0])
    np.testing.assert_allclose(voice + band, audio.read(song_path)[0][:, rate : 3 * rate], atol=1e-6)
    with pytest.raises(ValueError, match="each stem needs a path of its own"):
        separator.separate_file(
            song_path, {"vocals": tmp_path / "x", "accompaniment": tmp_path / "y" / ".." / "x"}
        )
    for stems in (["drums"], []):
        with pytest.raises(ValueError, match="stems must be some of vocals, accompaniment, got"):
            separator.separate_file(song_path, tmp_path / "out", stems=stems)
