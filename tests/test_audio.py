import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from svs_unet_plugin import audio
from svs_unet_plugin.encoding import read_tags


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


def tones(path: Path, layout: str, channels: int, *options: str) -> Path:
    """A second of a tone in each channel, 300 Hz in the first one, 400 Hz in the next …"""
    waves = "|".join(f"0.1*sin({300 + 100 * i}*2*PI*t)" for i in range(channels))
    source = f"aevalsrc={waves}:s=48000:d=1:c={layout}"
    subprocess.run(["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, path], check=True)
    return path


def loudest(path: Path) -> list[int]:
    """The frequency in Hz that is loudest in each channel of a second at 48 kHz."""
    samples, sample_rate = audio.read(path)
    assert sample_rate == 48_000 and samples.shape[1] >= 48_000
    return np.abs(np.fft.rfft(samples[:, :48_000])).argmax(axis=1).tolist()


@pytest.mark.parametrize(
    "layout, channels, name, silent",
    [
        ("3.0", 3, "a.wv", ()),
        ("quad", 4, "a.wv", ()),
        ("6.0", 6, "a.wv", ()),
        ("FL+FR+TBC", 3, "a.wv", ()),
        ("quad", 4, "a.ac3", ()),
        ("3.0", 3, "a.ogg", ()),
        ("5.0", 5, "a.ogg", ()),
        ("5.1", 6, "a.ogg", (3,)),  # Vorbis leaves nothing of 600 Hz in the channel of the bass
        ("6.1", 7, "a.ogg", (3,)),
        ("7.1", 8, "a.ogg", (3,)),
        ("3.0", 3, "a.opus", ()),
        ("7.1", 8, "a.opus", ()),
    ],
)
def test_channels_stay_where_they_are(
    tmp_path: Path, layout: str, channels: int, name: str, silent: tuple[int, ...]
) -> None:
    found = loudest(tones(tmp_path / name, layout, channels))
    wanted = [300 + 100 * i for i in range(channels)]
    assert [f for i, f in enumerate(found) if i not in silent] == [
        f for i, f in enumerate(wanted) if i not in silent
    ]


def test_streams_of_ogg_one_after_another(tmp_path: Path) -> None:
    """As recorders of radio write them; the same stream twice, too, which has the same number."""
    one, other = tones(tmp_path / "a.ogg", "stereo", 2), tones(tmp_path / "b.ogg", "stereo", 2)
    for pair in ((one, other), (one, one)):
        (tmp_path / "both.ogg").write_bytes(b"".join(path.read_bytes() for path in pair))
        samples, _ = audio.read(tmp_path / "both.ogg")
        assert len(samples) == 2 and 95_500 < samples.shape[1] < 97_000  # ffmpeg's cut is not exact
        assert np.abs(samples[:, 40_000:90_000]).max(axis=1).min() > 0.09
    (tmp_path / "both.ogg").write_bytes(one.read_bytes() + other.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is truncated: its last page does not end the stream"):
        audio.open_file(tmp_path / "both.ogg")


@pytest.mark.parametrize("options", [("a.mp2",), ("a.wav", "-c:a", "libmp3lame")])
def test_mpeg_audio_that_libsndfile_only_guesses_the_length_of(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    path, *codec = options
    tones(tmp_path / path, "stereo", 2, "-ar", "44100", *codec)
    samples, sample_rate = audio.read(tmp_path / path)
    assert sample_rate == 44_100 and 44_100 <= samples.shape[1] < 44_100 + 3 * 1152


def test_a_part_of_a_file_in_which_nothing_can_be_sought(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1).T, 8000, subtype="GSM610")
    whole = audio.read(tmp_path / "a.wav")[0]
    part = np.concatenate([*audio.open_file(tmp_path / "a.wav", start=1).blocks()], axis=1)
    np.testing.assert_array_equal(part, whole[:, 8000:])


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


def ogg_pages(data: bytes) -> list[bytearray]:
    """The pages of an Ogg file (RFC 3533, section 6)."""
    pages = []
    while data:
        end = 27 + data[26] + sum(data[27 : 27 + data[26]])
        pages.append(bytearray(data[:end]))
        data = data[end:]
    return pages


def set_granule(page: bytearray, granule: int) -> None:
    """Give a page another position of its last sample, and the checksum that goes with it."""
    page[6:14], page[22:26] = granule.to_bytes(8, "little"), bytes(4)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x1_04C1_1DB7 if checksum & 0x8000_0000 else 0)
    page[22:26] = checksum.to_bytes(4, "little")


def test_an_ogg_stream_that_states_a_little_more_than_it_holds(tmp_path: Path) -> None:
    """As music of several games does: its last page names an end behind its last packet."""
    path = encode(tmp_path, "a.ogg", "-page_duration", "200000")  # microseconds
    whole, pages = audio.read(path)[0], ogg_pages(path.read_bytes())
    assert len(pages) > 6
    set_granule(pages[-1], whole.shape[1] + 1105)
    path.write_bytes(b"".join(pages))
    assert soundfile.info(path).frames == whole.shape[1] + 1105
    assert np.array_equal(audio.read(path)[0][:, : whole.shape[1]], whole)


def test_an_ogg_stream_that_ends_with_an_empty_page(tmp_path: Path) -> None:
    path = encode(tmp_path, "a.ogg")
    whole, pages = audio.read(path)[0], ogg_pages(path.read_bytes())
    last = bytearray(pages[-1][:26] + b"\0")
    last[18:22] = (int.from_bytes(last[18:22], "little") + 1).to_bytes(4, "little")
    pages[-1][5] &= ~4  # it no longer ends the stream
    pages.append(last)
    for page in pages[-2:]:
        set_granule(page, whole.shape[1])
    path.write_bytes(b"".join(pages))
    assert audio.read(path)[0].shape[1] >= whole.shape[1]


@pytest.mark.parametrize("name", ["a.ogg", "a.opus"])
@pytest.mark.parametrize("kind", ["lost", "broken"])
def test_an_ogg_page(tmp_path: Path, name: str, kind: str) -> None:
    """Decoders play on without a word."""
    path = encode(tmp_path, name, "-page_duration", "200000")  # microseconds
    whole, pages = audio.read(path)[0], ogg_pages(path.read_bytes())
    if kind == "lost":
        del pages[4]
    else:
        pages[4][-100] ^= 1
    path.write_bytes(b"".join(pages))
    with pytest.raises(ValueError, match=f"{name} is damaged: page [45] is broken"):
        audio.read(path)
    file = audio.open_file(path, keep_going=True)
    found = np.concatenate(list(file.blocks()), axis=1)
    assert "page" in file.warnings[0]
    assert whole.shape[1] - 20_000 < found.shape[1] <= whole.shape[1]


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
    with pytest.raises(ValueError, match=r"is truncated or damaged|is damaged at second 1"):
        audio.read(path)


@pytest.mark.parametrize("name", ["12:30 live.m4a", "-dash.m4a", "Ünï cödé.m4a"])
def test_names_that_ffmpeg_could_misread(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    assert audio.read(name)[1] == 44_100


ID3 = b"ID3\4\0\0\0\0\2\0TIT2\0\0\0\6\0\0\3title" + bytes(241)


@pytest.mark.parametrize("between", [b"", ID3, b"TAG" + bytes(125) + ID3])
@pytest.mark.parametrize("header", ["0", "1"])
def test_mp3_files_joined_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, between: bytes, header: str
) -> None:
    """As DJ mixes and podcasts are."""
    options = ["-write_xing", header, "-id3v2_version", "0"]
    first = encode(tmp_path, "a.mp3", *options).read_bytes()
    second = encode(tmp_path, "b.mp3", *options, "-ar", "48000", "-ac", "1").read_bytes()
    (tmp_path / "joined.mp3").write_bytes(first + between + second)
    joined = audio.read(tmp_path / "joined.mp3")[0]
    command = ["ffmpeg", "-v", "quiet", "-i", tmp_path / "joined.mp3", "-f", "f32le", "-"]
    played = np.frombuffer(subprocess.run(command, capture_output=True).stdout, np.float32).reshape(-1, 2)
    assert joined.shape[1] >= len(played) > 1.9 * 88_200
    ends = [np.std(heard[-60_000:-3000]) for heard in (joined.T, played)]
    assert ends[0] > 0.01 and ends[0] == pytest.approx(ends[1], rel=0.05)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="needs ffmpeg, which is not installed"):
        audio.open_file(tmp_path / "joined.mp3")


def test_an_mp3_with_a_header_that_states_too_few_frames(tmp_path: Path) -> None:
    path = encode(tmp_path, "a.mp3")
    whole = audio.read(path)[0]
    assert whole.shape[1] == 88_200  # without the encoder's delay and padding, which the header states
    data = bytearray(path.read_bytes())
    count = data.index(b"Info") + 8
    assert struct.unpack(">I", data[count : count + 4]) == (78,)
    data[count : count + 4] = struct.pack(">I", 20)
    path.write_bytes(data)
    lied = audio.read(path)[0]
    np.testing.assert_array_equal(lied[:, :88_200], whole)


@pytest.mark.parametrize("name", ["a.mp3", "a.flac", "a.wav", "a.m4a"])
def test_what_can_be_decoded_of_a_damaged_file(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = encode(tmp_path, name, *(["-movflags", "+faststart"] if name == "a.m4a" else []))
    whole = audio.read(path)[0]
    data = bytearray(path.read_bytes())
    if name == "a.wav":
        data = data[: len(data) * 3 // 4]
    else:
        data[len(data) // 2 : len(data) // 2 + 600] = JUNK[:600]
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} is .*(damaged|truncated)") as refused:
        audio.read(path)
    assert "\n" not in str(refused.value)
    file = audio.open_file(path, keep_going=True)
    parts = [np.concatenate(list(file.blocks()), axis=1) for _ in range(2)]
    np.testing.assert_array_equal(*parts)
    assert 0.45 * whole.shape[1] < parts[0].shape[1] <= 1.02 * whole.shape[1]
    assert 1 <= len(file.warnings) <= 2 and str(path) in file.warnings[0]
    assert any(unit in file.warnings[0] for unit in (" s of ", " s are lost", "bytes of audio"))
    assert capfd.readouterr() == ("", "")


def test_a_start_behind_damage_that_is_put_up_with(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", noise().T, 44_100)
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[: len(content) // 2])
    file = audio.open_file(tmp_path / "a.flac", keep_going=True, start=0.6)
    with pytest.raises(ValueError, match=r"a\.flac is 0\.\d+ s long, and can't be started at 0\.6 s"):
        list(file.blocks())


def test_a_start_in_front_of_damage_that_is_put_up_with(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.tile(noise(), (1, 10)).T, 44_100)
    content = bytearray((tmp_path / "a.flac").read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    (tmp_path / "a.flac").write_bytes(content)
    whole, part, short = (
        np.concatenate(list(audio.open_file(tmp_path / "a.flac", keep_going=True, **which).blocks()), axis=1)
        for which in ({}, {"start": 1.3}, {"start": 1.3, "duration": 2.2})
    )
    begin = round(1.3 * 44_100)
    np.testing.assert_array_equal(part, whole[:, begin:])
    np.testing.assert_array_equal(short, part[:, : round(2.2 * 44_100)])


def test_nan_is_silence_if_asked_to_keep_going(tmp_path: Path) -> None:
    samples = noise()
    samples[1, 20_000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples.T, 44_100, subtype="FLOAT")
    file = audio.open_file(tmp_path / "a.wav", keep_going=True)
    (block,) = file.blocks()
    assert block[1, 20_000] == 0 and file.warnings == [f"{file.path} holds samples that are NaN or infinite"]


def patched_wav(path: Path, position: int, value: int, size: int) -> Path:
    """A 16-bit stereo WAV with a number in its header that is not true."""
    soundfile.write(path, noise().T, 44_100)
    data = bytearray(path.read_bytes())
    data[position : position + size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("size", [0, 0xFFFF_FFFF, 0x7FFF_FFFF])
def test_a_wav_of_a_recorder_that_crashed(tmp_path: Path, size: int) -> None:
    path = patched_wav(tmp_path / "a.wav", 40, size, 4)
    data = bytearray(path.read_bytes())
    data[4:8] = struct.pack("<I", size)
    path.write_bytes(data)
    np.testing.assert_allclose(audio.read(path)[0], noise(), atol=2**-15)


@pytest.mark.parametrize(
    "position, value, size, message",
    [
        (24, 1, 4, r"the sample rate of .*a\.wav must lie from 1000 to 768000 Hz, got 1"),
        (24, 10**9, 4, r"the sample rate of .*a\.wav must lie from 1000 to 768000 Hz, got 1000000000"),
        (22, 0, 2, r"a\.wav is not audio that can be read: .*channel"),
    ],
)
def test_a_header_that_makes_no_sense(
    tmp_path: Path, position: int, value: int, size: int, message: str
) -> None:
    path = patched_wav(tmp_path / "a.wav", position, value, size)
    with pytest.raises(ValueError, match=message):
        audio.open_file(path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_with_a_name_and_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    for path in (tmp_path / "pipe.wav", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is a pipe or a device, which can't be read twice"):
            audio.open_file(path)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no names but Unicode ones")
@pytest.mark.parametrize("extension", [b"wav", b"m4a", b"mp3"])
def test_names_in_latin_1(tmp_path: Path, extension: bytes) -> None:
    path = encode(tmp_path, f"a.{extension.decode()}")
    latin = Path(os.fsdecode(os.fsencode(tmp_path) + b"/B\xfchne." + extension))
    path.rename(latin)
    assert audio.read(latin)[0].shape[1] >= 88_200


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.m4a"])
def test_a_part_of_a_file(tmp_path: Path, name: str) -> None:
    whole = audio.read(encode(tmp_path, name))[0]
    for start, duration, samples in [(0.5, 1.0, 44_100), (1.9, 10, whole.shape[1] - 83_790), (0, 1e-9, 1)]:
        file = audio.open_file(tmp_path / name, start=start, duration=duration)
        part = np.concatenate(list(file.blocks()), axis=1)
        first = round(start * 44_100)
        np.testing.assert_array_equal(part, whole[:, first : first + samples])
        assert file.length == pytest.approx(samples, abs=0 if file.samples else 3000)
    with pytest.raises(ValueError, match=r"is 2.* s long, and can't be started at 3 s"):
        list(audio.open_file(tmp_path / name, start=3).blocks())
    for start, duration in ((-1, None), (np.nan, None), (0, 0), (0, np.inf)):
        with pytest.raises(ValueError, match=r"(start|duration) must be .* 0 seconds, got"):
            audio.open_file(tmp_path / name, start=start, duration=duration)


def test_a_part_is_read_without_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1, 500_000).T, 44_100)
    read = []
    original = soundfile.SoundFile.read
    monkeypatch.setattr(audio, "BLOCK_SAMPLES", 10_000)
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, *a, **k: read.append(self.tell()) or original(self, *a, **k)
    )
    list(audio.open_file(tmp_path / "a.wav", start=5, duration=0.5).blocks())
    assert read == [220_500, 230_500, 240_500]


def test_a_video_with_a_picture_and_tags(tmp_path: Path) -> None:
    video = ["-f", "lavfi", "-i", "color=red:s=64x64:d=2", "-map", "1:v", "-map", "0:a"]
    path = encode(tmp_path, "a.mp4", *video, "-metadata", "title=A song", "-metadata", "artist=Some")
    file = audio.open_file(path)
    assert np.concatenate(list(file.blocks()), axis=1).shape[1] >= 88_200
    tags = read_tags(path)
    assert tags["title"] == "A song" and tags["artist"] == "Some"


def test_a_list_of_addresses_is_no_audio(tmp_path: Path) -> None:
    """ffmpeg would fetch what it names."""
    asked = []
    with HTTPServer(("127.0.0.1", 0), lambda request, *_: asked.append(request)) as server:
        lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:2", "#EXTINF:2,"]
        address = f"http://127.0.0.1:{server.server_port}/a.ts"
        (tmp_path / "a.m3u8").write_text("\n".join([*lines, address, "#EXT-X-ENDLIST", ""]))
        server.timeout = 0.1
        with pytest.raises(ValueError, match="is not audio"):
            audio.read(tmp_path / "a.m3u8")
        server.handle_request()
    assert not asked


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.ts\n",
    ],
)
def test_a_list_of_files_is_no_audio(tmp_path: Path, text: str) -> None:
    """A page would hand out what lies beside the files that it is given."""
    encode(tmp_path, "secret.ts")
    assert audio.open_file(tmp_path / "secret.ts").sample_rate == 44_100
    (tmp_path / "song.mp3").write_text(text)
    with pytest.raises(
        ValueError, match=r"is not audio that can be read: (it is a list of other files|Invalid data)"
    ):
        audio.read(tmp_path / "song.mp3")


def test_integers_are_scaled() -> None:
    np.testing.assert_array_equal(audio.from_integers(np.int16([-(2**15), 0, 2**14])), [-1, 0, 0.5])
    np.testing.assert_array_equal(audio.from_integers(np.int32([[2**30]])), [[0.5]])
    np.testing.assert_array_equal(audio.from_integers(np.uint8([0, 128, 192])), [-1, 0, 0.5])
    assert audio.from_integers(np.int8([64])).dtype == np.float32
    with pytest.raises(ValueError, match="must be uint8, int8, int16 or int32, got int64"):
        audio.from_integers([1, 2])


def test_junk_named_mp3_is_refused_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """libsndfile's decoder, which a file of that name would be given to, prints three lines."""
    (tmp_path / "a.mp3").write_text("junk")
    with pytest.raises(ValueError, match=r"a\.mp3 is not audio that can be read: [\w ]+$"):
        audio.read(tmp_path / "a.mp3")
    assert capfd.readouterr().err == ""


def test_blocks_are_decoded_once_if_all_of_them_fit() -> None:
    audio_blocks = [(np.full((2, 80), value, np.float32), np.ones((2, 20), np.float32)) for value in range(3)]
    decoded = []

    def decode() -> Iterator[audio.Blocks]:
        for block in audio_blocks:
            decoded.append(block)
            yield block

    sizes = {2400: [3, 0, 0], 2399: [3, 3, 3]}
    for most_bytes, expected in sizes.items():
        blocks = audio.replayed(decode, most_bytes)
        next(blocks())  # a pass that is not finished holds nothing
        for number in expected:
            decoded.clear()
            for given, block in zip(blocks(), audio_blocks, strict=True):
                assert given is block
            assert len(decoded) == number
