import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from svs_unet_plugin import audio


def noise(channels: int = 2, samples: int = 30_000) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


@pytest.mark.parametrize(
    "name, subtype, tolerance",
    # Rounding to 16 and 24 bits, none, and what lossy codecs do to noise at -20 dB.
    [
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "FLOAT", 0),
        ("a.flac", "PCM_24", 2**-23),
        ("a.ogg", None, 1),
        ("a.mp3", None, 1),
    ],
)
def test_reads_what_libsndfile_knows(
    tmp_path: Path, name: str, subtype: str | None, tolerance: float
) -> None:
    written = noise()
    soundfile.write(tmp_path / name, written.T, 44_100, subtype=subtype)
    read, sample_rate = audio.read(tmp_path / name)
    assert sample_rate == 44_100 and read.dtype == np.float32 and read.shape == written.shape
    assert np.abs(read - written).max() <= tolerance


def test_reads_the_first_stream_of_a_stem_file(song_path: Path, song: np.ndarray) -> None:
    file = audio.open_file(song_path)
    assert (file.sample_rate, file.channels, file.decoder) == (44_100, 2, "ffmpeg")
    command = ["ffmpeg", "-v", "error", "-i", song_path, "-map", "0:0", "-f", "f32le", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    np.testing.assert_array_equal(song, np.frombuffer(raw, np.float32).reshape(-1, 2).T)


@pytest.mark.parametrize("new", [8192, 44_100, 192_000])
def test_resampling_keeps_a_sine_in_place(new: int) -> None:
    old = 22_050
    time = np.arange(old) / old
    resampled = audio.resample(np.sin(2 * np.pi * 1000 * time)[None].astype(np.float32), old, new)
    expected = np.sin(2 * np.pi * 1000 * np.arange(resampled.shape[1]) / new)
    inner = slice(new // 20, -new // 20)  # but for the ends, where the sine begins and stops
    assert resampled.shape[1] == pytest.approx(new, abs=1)
    # soxr's "high quality" is good for 20 bits.
    np.testing.assert_allclose(resampled[0, inner], expected[inner], atol=2**-18)


def test_resampling_by_blocks_is_resampling() -> None:
    signal = noise(samples=50_000)
    blocks = [signal[:, i : i + 777] for i in range(0, 50_000, 777)]
    together = np.concatenate(list(audio.resample_blocks(blocks, 2, 44_100, 8192)), axis=1)
    np.testing.assert_array_equal(together, audio.resample(signal, 44_100, 8192))
    # An independent resampler agrees below both filters' edges.
    low = scipy.signal.butter(8, 2000, fs=8192, output="sos")
    ours, theirs = together, scipy.signal.resample_poly(signal, 8192, 44_100, axis=1)
    filtered = [scipy.signal.sosfiltfilt(low, x, axis=1)[:, 200:-200] for x in (ours, theirs)]
    assert np.std(filtered[0] - filtered[1]) < 1e-3 * np.std(filtered[0])


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file: .*nothing\.wav"):
        audio.read(tmp_path / "nothing.wav")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a directory"):
        audio.read(tmp_path)


def test_not_audio(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("these are words")
    with pytest.raises(ValueError, match="is not audio"):
        audio.read(tmp_path / "text.wav")


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 44_100)
    with pytest.raises(ValueError, match="zero samples"):
        audio.read(tmp_path / "empty.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(tmp_path: Path, value: float) -> None:
    samples = noise()
    samples[1, 20_000] = value
    soundfile.write(tmp_path / "a.wav", samples.T, 44_100, subtype="FLOAT")
    with pytest.raises(ValueError, match="NaN or infinite"):
        audio.read(tmp_path / "a.wav")


def encode(folder: Path, name: str, *options: str) -> Path:
    """Two seconds of noise in a file of that name, by ffmpeg."""
    soundfile.write(folder / "whole.wav", noise(samples=88_200).T, 44_100)
    command = ["ffmpeg", "-v", "error", "-y", "-i", folder / "whole.wav", *options, f"file:{folder / name}"]
    subprocess.run(command, check=True)
    return folder / name


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.m4a", "a.mp3", "a.ogg", "a.opus"])
def test_truncated(tmp_path: Path, name: str) -> None:
    # An index at the front is what lets a part of an MP4 look like a file.
    path = encode(tmp_path, name, *(["-movflags", "+faststart"] if name == "a.m4a" else []))
    assert audio.read(path)[0].shape[0] == 2
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ValueError, match="truncated"):
        audio.read(path)


@pytest.mark.parametrize("kind", ["wav", "flac"])
def test_written_to_a_pipe_and_so_of_no_stated_length(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / "whole.wav", noise().T, 44_100)
    command = ["ffmpeg", "-v", "error", "-i", tmp_path / "whole.wav", "-f", kind, "-"]
    piped = subprocess.run(command, check=True, capture_output=True).stdout
    (tmp_path / f"piped.{kind}").write_bytes(piped)
    np.testing.assert_allclose(audio.read(tmp_path / f"piped.{kind}")[0], noise(), atol=2**-15)


def test_an_mp3_that_does_not_state_its_length(tmp_path: Path) -> None:
    """libsndfile guesses from the first frame, which of a song with a quiet beginning is short."""
    path = encode(tmp_path, "a.mp3", "-write_xing", "0", "-q:a", "2", "-af", "volume='t':eval=frame")
    # All of it, and the encoder's delay.
    assert audio.read(path)[0].shape[1] >= 88_200


JUNK = np.random.default_rng(0).bytes(3000)


@pytest.mark.parametrize(
    "before, after",
    [
        (b"", JUNK),
        (JUNK, b""),
        (b"", bytes(5000)),
        # An old tag with lyrics, and one of the first kind behind it.
        (b"", b"LYRICSBEGININD0000200LYR00100" + b"hello" * 20 + b"000143LYRICS200TAG" + bytes(125)),
        # A tag with a frame that is longer than it.
        (b"ID3\4\0\0\0\0\2\0TXXX\0\0\1\x7fwords" + b"\xff" * 300, b""),
    ],
)
def test_an_mp3_between_junk_is_read_whole(tmp_path: Path, before: bytes, after: bytes) -> None:
    """Players skip it; ffmpeg takes it for a damaged frame, and complains."""
    plain = encode(tmp_path, "plain.mp3", "-write_xing", "0", "-id3v2_version", "0")
    (tmp_path / "a.mp3").write_bytes(before + plain.read_bytes() + after)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.mp3")[0], audio.read(plain)[0])


def test_an_mp3_with_a_header_that_has_no_number_of_frames(tmp_path: Path) -> None:
    path = encode(tmp_path, "a.mp3", "-q:a", "2", "-af", "volume='t':eval=frame")
    data = bytearray(path.read_bytes())
    flags = data.index(b"Xing") + 7
    assert data[flags] & 1
    data[flags] ^= 1
    path.write_bytes(data)
    assert audio.read(path)[0].shape[1] >= 88_200


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.aac"])
def test_damaged_in_the_middle(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path, name, *(["-write_xing", "0"] if name == "a.mp3" else []))
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 2, len(data) // 2 + 600)
    data[middle] = JUNK[:600]
    path.write_bytes(data)
    with pytest.raises(ValueError, match="is truncated or damaged"):
        audio.read(path)


@pytest.mark.parametrize("name", ["12:30 live.m4a", "-dash.m4a", "Ünï cödé.m4a"])
def test_names_that_ffmpeg_could_misread(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    assert audio.read(name)[1] == 44_100
