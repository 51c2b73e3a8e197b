"""The seven properties of docs/reliability.md over rates, lengths, channels, numbers, views and chunk sizes.

Few examples by default, always the same ones; many new ones by ``--hypothesis-profile nightly`` (``make
fuzz``).
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from test_rooms import HOSTS, MODULES, room

from svs_unet_plugin import STFT, Separator, UNet, audio, encoding, ffmpeg
from svs_unet_plugin.encoding import Encoding
from svs_unet_plugin.separator import Cancelled

FEW = settings(max_examples=max(settings.default.max_examples // 4, 2))  # type: ignore[union-attr]

KINDS = st.fixed_dictionaries(
    {
        "in_channels": st.sampled_from([1, 2]),
        "channels": st.sampled_from([2, 4]),
        "bottleneck": st.sampled_from([None, "blstm"]),
        "residual_blocks": st.sampled_from([0, 1]),
        "sources": st.sampled_from([("vocals",), ("drums", "vocals"), ("vocals", "accompaniment")]),
    }
)
"""Arguments of networks."""

TRANSFORMS = st.builds(STFT, hop_length=st.sampled_from([256, 300, 512, 768]))
RATES = st.one_of(st.sampled_from([8000, 8192, 22_050, 44_100, 48_000, 192_000]), st.integers(1000, 200_000))
LENGTHS = st.one_of(st.integers(1, 3), st.sampled_from([767, 768, 1024, 1025]), st.integers(1, 12_000))


def noise(channels: int, samples: int, seed: int = 0, loudness: float = 0.5) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(-loudness, loudness, (channels, samples))
    return values.astype(np.float32)


@cache
def separator(make_network: Callable[..., UNet], hop: int = 768, **options: Any) -> Separator:
    return Separator(make_network(), "cpu", stft=STFT(hop_length=hop), **options)


# 1. One set of weights, three doors, one answer.


@FEW
@given(KINDS, TRANSFORMS, st.integers(1, 2), st.integers(4000, 30_000))
def test_one_set_of_weights_has_one_answer(
    make_network: Callable[..., UNet], kind: dict[str, Any], stft: STFT, channels: int, samples: int
) -> None:
    import svs_unet_plugin.asteroid as asteroid
    import svs_unet_plugin.nussl as svs

    nussl = svs.nussl
    network, mixture = make_network(**kind), noise(channels, samples)
    together = kind["in_channels"] == channels == 2
    with TemporaryDirectory() as folder:
        path = Path(folder, "network.pth")
        svs.save(svs.from_network(network), path, stft=stft)
        signal = nussl.AudioSignal(audio_data_array=mixture, sample_rate=8192)
        estimates = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(path))()
        plain = Separator(path, "cpu").separate(mixture, 8192)["vocals"]
    by_nussl = estimates[kind["sources"].index("vocals")].audio_data
    with torch.no_grad():
        items = torch.from_numpy(mixture)[None if together else slice(None)]
        separated = asteroid.SVSUNet.from_network(network, stft)(items)[:, 0].numpy()
        by_asteroid = separated[0] if together else separated
    inner = slice(0, samples - stft.window_length)
    np.testing.assert_allclose(by_nussl[:, inner], plain[:, inner], rtol=0, atol=1e-4)
    np.testing.assert_allclose(by_asteroid[:, inner], plain[:, inner], rtol=0, atol=1e-4)


# 2. A round trip is exact.

READER = """
import sys, torch
from svs_unet_plugin import checkpoint
for line in sys.stdin:
    loaded = checkpoint.read(line.rstrip())
    torch.manual_seed(1)
    mask = loaded.network(torch.rand(1, loaded.network.inputs, 513, 70))
    torch.save((mask, str(loaded.stft)), line.rstrip() + ".out")
    print("read", flush=True)
"""


@pytest.fixture(scope="module")
def read_elsewhere() -> Iterator[Callable[[Path], tuple[torch.Tensor, str]]]:
    """Reads a checkpoint in another process: its mask and transform."""
    command = [sys.executable, "-c", READER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:

        def read(path: Path) -> tuple[torch.Tensor, str]:
            assert process.stdin is not None and process.stdout is not None
            print(path, file=process.stdin, flush=True)
            assert process.stdout.readline() == "read\n"
            return torch.load(f"{path}.out")

        yield read
        process.communicate()


@given(KINDS, TRANSFORMS, st.booleans(), st.booleans())
def test_a_round_trip_is_exact(
    make_network: Callable[..., UNet],
    read_elsewhere: Callable[[Path], tuple[torch.Tensor, str]],
    kind: dict[str, Any],
    stft: STFT,
    for_asteroid: bool,
    zipped: bool,
) -> None:
    import svs_unet_plugin.asteroid as asteroid
    import svs_unet_plugin.nussl as svs

    network = make_network(**kind)
    torch.manual_seed(1)
    with torch.no_grad(), TemporaryDirectory() as folder:
        expected = network(torch.rand(1, network.inputs, 513, 70))
        path = Path(folder, "network.pth")
        if for_asteroid:
            content = asteroid.SVSUNet.from_network(network, stft).serialize()
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
        else:
            svs.save(svs.from_network(network), path, stft=stft)
        mask, transform = read_elsewhere(path)
        assert torch.equal(mask, expected) and transform == str(stft)


# 3. Audio in = audio out.


@st.composite
def mixtures(draw: Callable[..., Any]) -> np.ndarray | torch.Tensor:
    """Audio in memory, whatever its numbers are and however they lie there."""
    channels, samples = draw(st.integers(1, 3)), draw(LENGTHS)
    assume(channels <= samples)
    values = noise(channels, samples, draw(st.integers(0, 99)), draw(st.sampled_from([0.0, 1e-6, 0.5, 3.0])))
    values = values.astype(draw(st.sampled_from(["f2", "f4", "f8", ">f4"])))
    layout = draw(
        st.sampled_from(["plain", "columns", "reversed", "every third", "flat", "tensor", "read-only"])
    )
    if layout == "columns":
        values = np.asfortranarray(values)
    elif layout == "reversed":
        values = values[:, ::-1]
    elif layout == "every third":
        values = np.repeat(values, 3, axis=1)[:, ::3]
    elif layout == "flat":
        values = values[0]
    elif layout == "tensor":
        return torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))
    values.flags.writeable = layout != "read-only"
    return values


@given(mixtures(), RATES, st.integers(1, 3))
def test_audio_in_is_audio_out(
    make_network: Callable[..., UNet], mixture: np.ndarray | torch.Tensor, rate: int, views: int
) -> None:
    before = np.array(mixture, dtype=np.float32)
    stems = separator(make_network, views=views).separate(mixture, rate)
    assert list(stems) == ["vocals", "accompaniment"]
    np.testing.assert_array_equal(np.array(mixture, dtype=np.float32), before)
    for stem in stems.values():
        assert type(stem) is type(mixture) and stem.shape == mixture.shape
        assert str(stem.dtype).removeprefix("torch.") == "float32"
    vocals, accompaniment = (np.asarray(stem) for stem in stems.values())
    np.testing.assert_allclose(
        vocals + accompaniment, before, rtol=0, atol=2e-6 * max(1, np.abs(before).max())
    )
    plain = separator(make_network, views=views).separate(np.ascontiguousarray(before), rate)
    np.testing.assert_array_equal(vocals, plain["vocals"])
    assert before.any() or not vocals.any()


@given(RATES, st.integers(1, 40_000), st.sampled_from([256, 300, 512, 768]), st.integers(1, 3))
@example(44_100, 5000, 768, 1)  # whose last frame lies behind all samples
def test_what_is_let_through_stays_where_it_is(rate: int, samples: int, hop: int, views: int) -> None:
    """Of a network whose masks are 1 the vocals are the mixture, but at its ends, where resampling rings."""
    network = UNet(channels=2)
    with torch.no_grad():
        network.decoder[-1].weight.zero_()  # type: ignore[operator, union-attr]
        network.decoder[-1].bias.fill_(20)  # type: ignore[operator, union-attr]
    mixture = noise(1, samples)
    stems = Separator(network, "cpu", stft=STFT(hop_length=hop), views=views).separate(mixture, rate)
    edge = -(-64 * rate // min(rate, STFT.sample_rate))
    inner = slice(edge, max(samples - edge, edge))
    np.testing.assert_allclose(stems["vocals"][:, inner], mixture[:, inner], rtol=0, atol=1e-3)


# 4. No seam can be heard.


@given(
    st.sampled_from([256, 512, 768]),
    st.integers(1, 2),
    st.sampled_from([8192, 8192, 11_025]),
    st.integers(1, 60_000),
    st.sampled_from([64, 128, 192]),
    st.integers(200, 50_000),
)
def test_chunked_is_whole(
    make_network: Callable[..., UNet], hop: int, views: int, rate: int, samples: int, chunk: int, block: int
) -> None:
    mixture = noise(1, samples)
    whole = separator(make_network, hop, views=views, chunk_frames=64 * 16).separate(mixture, rate)
    with mock.patch.object(audio, "BLOCK_SAMPLES", block):
        chunked = separator(make_network, hop, views=views, chunk_frames=chunk).separate(mixture, rate)
    for name, stem in whole.items():
        np.testing.assert_allclose(chunked[name], stem, rtol=0, atol=1e-4)


@given(RATES, RATES, st.lists(st.integers(0, 12_000), min_size=1, max_size=5))
def test_resampling_in_blocks_is_resampling(old: int, new: int, cuts: list[int]) -> None:
    samples = max(cuts) + 1
    signal = noise(2, samples)
    edges = [0, *sorted(cuts), samples]
    blocks = [signal[:, start:end] for start, end in pairwise(edges)]
    pieces = np.concatenate(list(audio.resample_blocks(blocks, 2, old, new)), axis=1)
    whole = audio.resample(signal, old, new)
    assert abs(whole.shape[1] - samples * new / old) <= 1
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=1e-6)


# 5. The same input gives the same bytes.

FORMATS = [form for form in encoding.FORMATS if form in ("wav", "flac") or ffmpeg.installed()]


@FEW
@given(
    st.sampled_from(FORMATS),
    st.sampled_from([8000, 44_100, 48_000]),
    st.integers(100, 9000),
    st.integers(1, 2),
)
def test_the_same_bytes_again(
    make_network: Callable[..., UNet], form: str, rate: int, samples: int, channels: int
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder, "song.wav")
        write(path, noise(channels, samples), rate)
        runs = []
        for name in ("one", "two"):
            out = separator(make_network).separate_file(path, Path(folder, name), encoding=Encoding(form))
            runs.append({stem: written.read_bytes() for stem, written in out.items()})
    assert runs[0] == runs[1]


def write(path: Path, samples: np.ndarray, rate: int) -> None:
    with encoding.writers([path], Encoding(), rate, *samples.shape) as (push,):
        push(samples)


# 6. Interrupted is not broken.


@given(
    st.sampled_from(["wav", "flac"]),
    st.integers(0, 9),
    st.sampled_from([KeyboardInterrupt, OSError, MemoryError, Cancelled]),
    st.sampled_from(["none", "all", "one"]),
)
def test_interrupted_is_not_broken(
    make_network: Callable[..., UNet], form: str, moment: int, error: type[BaseException], there: str
) -> None:
    """Whatever is there of an earlier run stays whole, and the next run ends as an undisturbed one."""
    worker, encode = separator(make_network, 256, chunk_frames=64), Encoding(form)
    calls, cancel = 0, Event()

    def disturb(done: float, total: float) -> None:
        nonlocal calls
        calls += 1
        if calls > moment:
            cancel.set()
            if error is not Cancelled:
                raise error("disturbed")

    with TemporaryDirectory() as folder:
        song, out = Path(folder, "song.wav"), Path(folder, "out")
        write(song, noise(1, 20_000), 8192)
        expected = worker.separate_file(song, Path(folder, "expected"), encoding=encode)
        for name in {"none": [], "one": ["vocals"], "all": list(worker.sources)}[there]:
            out.mkdir(exist_ok=True)
            (out / f"{name}.{form}").write_bytes(b"of an earlier run")
        before = {path.name: path.read_bytes() for path in out.glob("*")}
        with suppress(error), mock.patch.object(audio, "BLOCK_SAMPLES", 4096):
            worker.separate_file(song, out, encoding=encode, progress=disturb, cancel=cancel)
        if cancel.is_set():
            assert {path.name: path.read_bytes() for path in out.glob("*")} == before
        written = worker.separate_file(song, out, encoding=encode)
        for name, path in written.items():
            assert path.read_bytes() == expected[name].read_bytes()


# 7. The plugin stays in its lane.

OURS = sorted(name for name in MODULES if room(name) not in ("nussl", "asteroid") and "__main__" not in name)
LANE = """
import importlib, sys
import numpy, torch
load, names = torch.load, set(vars(numpy))
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert not error.name.startswith("svs_unet_plugin")
found = set(sys.argv[1].split(",")) & set(sys.modules)
assert not found, found
assert torch.load is load
gone = {name for name in ("int", "float", "bool", "complex") if name in vars(numpy) and name not in names}
assert not gone, gone
"""


@FEW
@given(
    st.lists(
        st.sampled_from([name for name in OURS if not name.startswith("svs_unet_plugin.cli.asteroid")]),
        min_size=1,
        max_size=6,
    )
)
def test_no_host_is_imported_in_any_order(names: list[str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LANE, ",".join(HOSTS), *names], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
