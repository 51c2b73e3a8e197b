"""A plugin of pytest for nussl's tests: a zoo of files, and songs, where it looks for downloads.

nussl's External File Zoo is a server; this one is on this machine, with files of the same names and kinds
that are made on the spot. So nussl's own way of downloading is tested, too.
"""

import hashlib
import http.server
import importlib
import importlib.util
import json
import os
import threading
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

HOME = Path(os.environ["HOST_SCRATCH"], "home")
ZOO = Path(os.environ["HOST_SCRATCH"], "zoo")
os.environ["HOME"] = str(HOME)  # before nussl, which keeps downloads there
os.environ["MPLBACKEND"] = "Agg"
os.environ["SDL_AUDIODRIVER"] = "dummy"  # for what is played

RATE = 44_100


def pytest_sessionstart() -> None:
    """Make everything and open the zoo."""
    if not hasattr(np, "alltrue"):  # what nussl's tests call by themselves: NumPy 2.0 removed it
        vars(np)["alltrue"] = np.all
    if not os.environ["HOST_PLUGIN"]:  # nussl may not be importable
        return
    # A test opens a checkpoint by torch.load itself, which since 2.6 takes only classes that it was told of.
    compat = importlib.import_module("svs_unet_plugin.nussl.compat")
    torch.serialization.add_safe_globals(compat.safe_globals())
    constants = importlib.import_module("nussl.core.constants")
    _fill_zoo()
    handler = partial(_Quiet, directory=str(ZOO))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name, value in vars(constants).items():
        if name.startswith("NUSSL_EFZ") and name.endswith("URL"):
            address = f"http://127.0.0.1:{server.server_port}/"
            setattr(constants, name, value.replace("http://nussl.ci.northwestern.edu/", address))
    corpus = importlib.import_module("svs_unet_plugin.corpora.synthetic.corpus")
    # In the place of MUSDB18's 7-second sample, where the tests have musdb look for it.
    corpus.make_corpus(HOME / ".nussl" / "tests", tracks=12, seconds=7.0, seed=0, stems=True)
    tests = Path.cwd() / "tests"
    (tests / "local").mkdir(exist_ok=True)  # in which the tests write
    # Scores of the downloaded audio. Where there are none a test notes its own: see nussl_numbers.py for
    # numbers.
    for path in tests.rglob("regression/**/*.json"):
        path.unlink()
    if importlib.util.find_spec("gradio") is not None:
        # A test puts nothing in the place of what nussl's page was made of; this page is of Blocks.
        importlib.import_module("gradio").Blocks.launch = lambda *_, **__: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test calls librosa itself, in nussl's old way: it gets the librosa that nussl's own code has."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.module, "test_ml_mel_projection"):
            item.module.librosa = importlib.import_module("nussl.ml.networks.modules.blocks").librosa


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def list_directory(self, path: str | os.PathLike[str]) -> None:  # as the zoo's server has it
        self.send_error(404)


def _notes(frequencies: list[float], samples: int, seed: int) -> np.ndarray:
    """Notes of half a second that die away, and some noise, one channel a list's item, ``(samples, …)``."""
    time, random = np.arange(samples) / RATE, np.random.default_rng(seed)
    tones = [np.sin(2 * np.pi * f * time * (1 + 0.2 * (time // 0.5 % 2))) for f in frequencies]
    wave = np.stack(tones, axis=-1) * np.exp(-3 * (time % 0.5))[:, None]
    return 0.3 * wave + 0.01 * random.standard_normal(wave.shape)


def _fill_zoo() -> None:
    audio, benchmarks, models = (ZOO / "static" / name for name in ("audio", "benchmarks", "trained_models"))
    for folder in (audio, benchmarks, models):
        folder.mkdir(parents=True)
    soundfile.write(audio / "K0140.wav", _notes([261.6], 220_672, 0)[:, 0], RATE)
    soundfile.write(audio / "K0149.wav", _notes([440.0], 220_160, 1)[:, 0], RATE)
    voices = _notes([180.0, 220.0, 250.0], 10 * RATE, 2) @ np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]])
    soundfile.write(audio / "dev1_female3_inst_mix.wav", voices, RATE)
    soundfile.write(audio / "marimba_timbre.mp3", _notes([523.3], 10 * RATE, 3)[:, 0], RATE)
    with zipfile.ZipFile(benchmarks / "babywsj_oW0F0H9.zip", "w") as archive:
        for split in ("train", "dev", "test"):
            for speaker, pitch in (("050", 150.0), ("051", 250.0)):
                for take in range(3):
                    path = ZOO / "take.wav"
                    soundfile.write(path, _notes([pitch + 200 * take], 5 * RATE, take)[:, 0], RATE)
                    archive.write(path, f"babywsj/{split}/{speaker}/{speaker}{take}.wav")
    (models / "model.pth").write_bytes(b"weights")
    for name, folder in (("audio", audio), ("benchmark", benchmarks), ("model", models)):
        entries = [_entry(path) for path in sorted(folder.iterdir())]
        (ZOO / f"{name}-metadata.json").write_text(json.dumps(entries))


def _entry(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    return {
        "file_name": path.name,
        "file_hash": hashlib.sha256(content).hexdigest(),
        "file_size_bytes": len(content),
        "file_size": f"{len(content) / 1024:.1f}KiB",
        "file_length_seconds": 5.0,
        "file_description": "made on the spot",
        "for_class": "none",
    }
