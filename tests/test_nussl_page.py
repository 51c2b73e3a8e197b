"""nussl's ``interact()``: the page of svs_unet_plugin.page around any nussl separator."""

import html
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from svs_unet_plugin import UNet, audio
from svs_unet_plugin.nussl import UNetSeparation, nussl

gradio_client = pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")

RATE = 44_100


def signal(samples: np.ndarray, sample_rate: int = RATE) -> nussl.AudioSignal:
    return nussl.AudioSignal(audio_data_array=samples, sample_rate=sample_rate)


@dataclass
class Page:
    address: str

    def separate(self, song: Path) -> dict[str, Any]:
        """What the mixer is told of a song that was given and separated."""
        songs = re.search(r"songs/[\w-]+", httpx.get(self.address).text)
        assert songs
        given = httpx.post(f"{self.address}{songs[0]}?name={song.name}", content=song.read_bytes()).json()
        client = gradio_client.Client(self.address, verbose=False)
        message, mixer = client.predict(given["song"], "", 1, api_name="/separate")
        assert message == ""
        return json.loads(html.unescape(re.search(r'data-given="([^"]*)"', mixer)[1]))  # type: ignore[index]

    def download(self, mixer: dict[str, Any], stem: str, to: Path) -> np.ndarray:
        """``(channels, samples)``, at the mixture's rate."""
        to.write_bytes(httpx.get(f"{self.address}{mixer['address']}/files/{stem}.wav").content)
        samples, rate = soundfile.read(to, dtype="float32", always_2d=True)
        assert rate == RATE
        return samples.T


@contextmanager
def shown(separator: Any, **arguments: Any) -> Iterator[Page]:
    app, address, _ = separator.interact(prevent_thread_lock=True, quiet=True, **arguments)
    try:
        yield Page(address)
    finally:
        app.get_blocks().close(verbose=False)


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 2))
    soundfile.write(tmp_path / "mix.wav", samples, RATE, "FLOAT")
    return tmp_path / "mix.wav"


def test_this_packages_separator(network: UNet, mixture: Path, tmp_path: Path) -> None:
    separator = UNetSeparation(signal(np.zeros((1, 9))), network)
    with shown(separator) as page:
        mixer = page.separate(mixture)
        assert list(mixer["stems"].values()) == ["Mixture", "Vocals", "Accompaniment"]
        stems = [page.download(mixer, stem, tmp_path / "stem.wav") for stem in ("vocals", "accompaniment")]
    expected = separator.separator.separate(audio.read(mixture)[0], RATE)
    for stem, estimate in zip(stems, expected.values(), strict=True):
        np.testing.assert_array_equal(stem, estimate)


def test_estimates_without_names_and_the_residual(mixture: Path, tmp_path: Path) -> None:
    separator = nussl.separation.benchmark.HighLowPassFilter(signal(np.zeros((1, 9_000))), 1000)
    with shown(separator, add_residual=True) as page:
        mixer = page.separate(mixture)
        assert list(mixer["stems"].values()) == ["Mixture", "Estimate 0", "Estimate 1", "Residual"]
        first, residual = (
            page.download(mixer, stem, tmp_path / "stem.wav") for stem in ("estimate-0", "residual")
        )
    samples = audio.read(mixture)[0]
    assert 0.01 < np.abs(first).max() < 1
    np.testing.assert_allclose(first + residual, samples, atol=1e-6)


class Low(nussl.separation.benchmark.MixAsEstimate):  # type: ignore[misc]
    """Answers at its own rate and a few samples short, as a deep model does, and has any names."""

    def make_audio_signals(self) -> list[Any]:
        low = audio.resample(self.audio_signal.audio_data, RATE, 8192)[:, :-3]
        self.metadata["sources"] = ["mixture", "Drums & Bass/Other", "drums, bass, other", "Residual"]
        return [signal(low, 8192)] * 4


def test_estimates_of_another_rate_and_length_are_brought_to_the_mixtures(tmp_path: Path) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)[None]
    soundfile.write(tmp_path / "mix.wav", tone.T, RATE, "FLOAT")
    with shown(Low(signal(np.zeros((1, 9))), 4), add_residual=True) as page:
        mixer = page.separate(tmp_path / "mix.wav")
        names = ["mixture-estimate", "drums-bass-other", "drums-bass-other-2", "residual", "residual-2"]
        assert list(mixer["stems"]) == ["mixture", *names]
        estimate = page.download(mixer, "drums-bass-other", tmp_path / "stem.wav")
    assert estimate.shape == tone.shape
    np.testing.assert_allclose(estimate[:, 2_000:-2_000], tone[:, 2_000:-2_000], atol=1e-3)


def test_a_password_keeps_others_from_sending_songs() -> None:
    separator = nussl.separation.benchmark.MixAsEstimate(signal(np.zeros((1, 9))), 2)
    with shown(separator, auth=("user", "password")) as page:
        assert "songs/" not in httpx.get(page.address).text
        assert httpx.get(f"{page.address}config").status_code == 401


def test_a_page_that_cannot_be_shown_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    separator = nussl.separation.benchmark.MixAsEstimate(signal(np.zeros((1, 9))), 2)
    threads = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="empty port"):
        separator.interact(server_port=taken.getsockname()[1], quiet=True)
    with pytest.raises(TypeError, match="colour"):
        separator.interact(colour="red")
    assert list(tmp_path.glob("svs-unet-page-*")) == []
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive()


def test_without_gradio_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ImportError, match=r"pip install 'svs_unet_plugin\[gradio\]'"):
        nussl.separation.benchmark.MixAsEstimate(signal(np.zeros((1, 9))), 2).interact()
