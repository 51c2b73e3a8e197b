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
