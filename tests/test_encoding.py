from pathlib import Path

import numpy as np
import pytest
import soundfile

from svs_unet_plugin import audio, encoding
from svs_unet_plugin.encoding import Encoding, writers


def noise(channels: int = 2, samples: int = 30_000) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal((channels, samples))).astype(np.float32)


def test_writes_beyond_full_scale_without_wrapping(tmp_path: Path) -> None:
    loud = 40 * noise()
    with writers([tmp_path / "loud.wav"], Encoding(), 44_100, 2, 30_000) as (write,):
        write(loud[:, :10_000])
        write(loud[:, 10_000:])
    np.testing.assert_array_equal(audio.read(tmp_path / "loud.wav")[0], loud)
    assert np.abs(loud).max() > 3


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"what was there")
    with (
        pytest.raises(KeyboardInterrupt),
        writers([tmp_path / "a.wav", tmp_path / "b.wav"], Encoding(), 44_100, 2, 100) as (write, _),
    ):
        write(noise(samples=100))
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"what was there"


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    """The last to end wins, and neither disturbs the other."""
    first, second = noise(), 0.5 * noise()
    with writers([tmp_path / "a.wav"], Encoding(), 44_100, 2, 30_000) as (write_first,):
        write_first(first[:, :10_000])
        with writers([tmp_path / "a.wav"], Encoding(), 44_100, 2, 30_000) as (write_second,):
            write_second(second)
            write_first(first[:, 10_000:])
        np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0], second)
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0], first)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_large_file_gets_a_64_bit_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "RIFF_BYTES", 1000)
    with writers([tmp_path / "a.wav"], Encoding(), 44_100, 2, 30_000) as (write,):
        write(noise())
    assert soundfile.info(tmp_path / "a.wav").format == "RF64"
    np.testing.assert_array_equal(audio.read(tmp_path / "a.wav")[0], noise())


def test_a_directory_in_the_way_of_an_output(tmp_path: Path) -> None:
    (tmp_path / "b.wav").mkdir()
    with (
        pytest.raises(IsADirectoryError, match=r"b\.wav is a directory"),
        writers([tmp_path / "a.wav", tmp_path / "b.wav"], Encoding(), 44_100, 2, 100),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["b.wav"]


@pytest.mark.parametrize("form", encoding.FORMATS)
def test_nothing_is_left_of_what_was_not_finished(tmp_path: Path, form: str) -> None:
    paths = [tmp_path / f"{name}.{form}" for name in "ab"]
    paths[0].write_bytes(b"what was there")
    with (
        pytest.raises(KeyboardInterrupt),
        writers(paths, Encoding(form, clip_mode="rescale"), 44_100, 2, 30_000) as (write, _),
    ):
        write(noise())
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == paths[:1] and paths[0].read_bytes() == b"what was there"


def test_by_default_little_is_lost(tmp_path: Path) -> None:
    """At least so many bits a second are kept of two channels of noise; the qualities choose their own."""
    for form, least in {"mp3": 240_000, "ogg": 170_000, "opus": 140_000, "m4a": 240_000}.items():
        path = tmp_path / f"a.{form}"
        with writers([path], Encoding(form), 48_000, 2, 144_000) as (write,):
            write(noise(samples=144_000))
        assert path.stat().st_size * 8 / 3 > least, form


def test_rates_that_a_format_has_and_has_not() -> None:
    for form, rate, expected in [
        ("wav", 7919, 7919),
        ("ogg", 96_000, 96_000),
        ("ogg", 384_000, 192_000),
        ("flac", 655_350, 655_350),
        ("flac", 705_600, 655_350),
        ("mp3", 44_100, 44_100),
        ("mp3", 96_000, 48_000),
        ("opus", 44_100, 48_000),
        ("m4a", 5000, 8000),
    ]:
        assert Encoding(form).file_rate(rate) == expected
    assert Encoding("opus", sample_rate=16_000).file_rate(44_100) == 16_000


@pytest.mark.parametrize("form, rate", [("ogg", 192_000), ("flac", 655_350)])
def test_the_highest_rate_of_a_format(tmp_path: Path, form: str, rate: int) -> None:
    with writers([tmp_path / f"a.{form}"], Encoding(form), 768_000, 2, 76_800) as (write,):
        write(noise(2, 76_800))
    assert soundfile.info(tmp_path / f"a.{form}").samplerate == rate


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("form", ["m4a", "opus", "ogg"])
def test_each_channel_is_written(tmp_path: Path, form: str, channels: int) -> None:
    frequencies = np.arange(300, 300 + 100 * channels, 100)[:, None]
    tones = 0.1 * np.sin(2 * np.pi * frequencies * np.arange(48_000) / 48_000, dtype=np.float32)
    with writers([tmp_path / f"a.{form}"], Encoding(form), 48_000, channels, 48_000) as (write,):
        write(tones)
    read = audio.read(tmp_path / f"a.{form}")[0][:, :48_000]
    assert np.abs(np.fft.rfft(read)).argmax(axis=1).tolist() == frequencies[:, 0].tolist()
    assert read.std(axis=1).min() > 0.06


def test_an_encoding_that_there_is_not() -> None:
    for options, message in [
        ({"format": "aiff"}, "format must be one of wav, flac, mp3, ogg, opus, m4a, got 'aiff'"),
        ({"bit_depth": "8"}, "the bit depth of wav is float or 24 or 16, got '8'"),
        ({"format": "ogg", "bitrate": 100}, "from 6000 to 2000000 bit/s, got 100"),
        ({"sample_rate": 1}, "the sample rate of wav is from 1000 to 768000 Hz, got 1"),
        ({"clip_mode": "loud"}, "clip_mode must be one of rescale, clamp, none, got 'loud'"),
    ]:
        with pytest.raises(ValueError) as refused:
            Encoding(**options)  # type: ignore[arg-type]
        assert message in str(refused.value)


def test_what_a_format_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(ValueError, match="mp3 can be of 1, 2 channels, and not of 6"),
        writers([tmp_path / "a.mp3"], Encoding("mp3"), 44_100, 6, 100),
    ):
        pass
    with (
        pytest.raises(
            OSError, match="as ogg of 2 channels at 44100 Hz and 1000000 bit/s: encoder setup failed"
        ),
        writers([tmp_path / "a.ogg"], Encoding("ogg", bitrate=1_000_000), 44_100, 2, 100) as (write,),
    ):
        write(noise())
    with (
        pytest.raises(ValueError, match="opus can be of 1, 2, 3, 4, 6, 8 channels, and not of 5"),
        writers([tmp_path / "a.opus"], Encoding("opus"), 48_000, 5, 100),
    ):
        pass
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(ValueError, match="mp3 is written by ffmpeg, which is not installed"),
        writers([tmp_path / "a.mp3"], Encoding("mp3"), 44_100, 2, 100),
    ):
        pass
    assert encoding.read_tags(tmp_path / "a.mp3") == {} and list(tmp_path.iterdir()) == []
