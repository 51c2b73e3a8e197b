"""Fixtures that many tests share."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stempeg
import torch
from hypothesis import settings

from svs_unet_plugin import STFT, UNet, audio

collect_ignore = ["hosts", "fuzz"]  # make test-hosts; what test_fuzz.py runs, and needs atheris in part

# For tests/test_properties.py. The quick examples are always the same.
settings.register_profile("quick", max_examples=8, deadline=None, derandomize=True, database=None)
settings.register_profile("nightly", max_examples=200, deadline=None, database=None, print_blob=True)
settings.load_profile("quick")


def _make_network(**arguments: object) -> UNet:
    torch.manual_seed(0)
    network = UNet(**{"channels": 4, **arguments})  # type: ignore[arg-type]
    magnitudes = torch.rand(4, network.inputs, 513, 64) ** 8  # mostly small, as those of music are
    network.train()(magnitudes)  # sets the statistics of the normalisation
    with torch.no_grad():
        network.decoder[-1].weight *= 20
    return network.eval()


@pytest.fixture(scope="session")
def make_network() -> Callable[..., UNet]:
    """Makes a small network that was not trained, but whose masks use all of [0, 1]."""
    return _make_network


@pytest.fixture(scope="session")
def network() -> UNet:
    return _make_network()


@pytest.fixture(scope="session")
def song_path() -> Path:
    """Six seconds of a real song, 44.1 kHz stereo, the first of five streams of a .stem.mp4."""
    return Path(stempeg.example_stem_path())


@pytest.fixture(scope="session")
def song(song_path: Path) -> np.ndarray:
    """The same song, (2, samples) at 44.1 kHz."""
    return audio.read(song_path)[0]


@pytest.fixture(scope="session")
def checkpoint_path(network: UNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network in a file, as nussl and this package save it."""
    import svs_unet_plugin.nussl as svs

    path = tmp_path_factory.mktemp("checkpoint") / "network.pth"
    svs.save(svs.from_network(network), path, stft=STFT())
    return path


@pytest.fixture(scope="module")  # while it is there, asyncio can't run in this thread
def browser() -> Iterator[Any]:
    """Chromium, which has no window, but a microphone that beeps."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium here")
    arguments = [
        "--no-sandbox",
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ]
    with playwright.sync_playwright() as drivers:
        browser = drivers.chromium.launch(executable_path=program, args=arguments)
        yield browser
        browser.close()
