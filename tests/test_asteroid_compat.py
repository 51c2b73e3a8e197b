import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import svs_unet_plugin.asteroid
from svs_unet_plugin.asteroid import asteroid, compat

BROKEN = {  # what PyPI's torchaudio does beside a torch for the CPU
    "torchaudio/__init__.py": "import torchaudio.part\nraise OSError('Could not load this library')",
    "torchaudio/part.py": "",
    "torch_stoi/__init__.py": "import torchaudio",
}
WORKING = {"torch_stoi/__init__.py": "import torch\nclass NegSTOILoss(torch.nn.Module): pass"}

LEFT = "sorted(name for name in sys.modules if name.partition('.')[0] in ('torch_stoi', 'torchaudio'))"


def run(script: str, *paths: Path, **environment: str) -> str:
    """What a fresh process prints, in which the packages in the paths come first."""
    path = os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr.strip().rpartition("\n")[2]


def packages(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_torchaudio_that_does_not_load_is_in_the_way_no_more(tmp_path: Path) -> None:
    broken = packages(tmp_path, BROKEN)
    script = f"""
import sys
try:
    import asteroid
except OSError as error:
    print(error)
import svs_unet_plugin.asteroid, asteroid
print({LEFT}, asteroid.ConvTasNet.__name__)
from asteroid.losses import SingleSrcNegSTOI
SingleSrcNegSTOI(8192)
"""
    said = run(script, broken).splitlines()
    assert said[0] == "Could not load this library"  # and so it is not only this machine's torchaudio
    # What Python leaves of the failed import above is not ours; afterwards there is no more.
    assert said[1] == "['torchaudio.part'] ConvTasNet"
    assert said[2] == "ModuleNotFoundError: No module named 'torch_stoi'"


def test_a_torchaudio_that_loads_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import svs_unet_plugin.asteroid, asteroid.losses as l, sys; print(l.SingleSrcNegSTOI.__bases__, "
    )
    said = run(f"{script} {LEFT})", packages(tmp_path, WORKING))
    assert said == "(<class 'torch_stoi.NegSTOILoss'>,) ['torch_stoi']\n"


def test_without_asteroid_one_sentence_says_so(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['asteroid'] = None; from svs_unet_plugin.cli import main;"
        "print(main(['asteroid-infer', '-h']))"
    )
    assert run(script) == "2\nsvs-unet: asteroid is not installed: pip install 'svs_unet_plugin[asteroid]'"


def test_importing_again_is_harmless() -> None:
    script = """
import importlib, sys
import svs_unet_plugin.asteroid as first, asteroid
importlib.reload(first)
for name in [name for name in sys.modules if name.startswith("svs_unet_plugin.asteroid")]:
    del sys.modules[name]
import svs_unet_plugin.asteroid as second
model = asteroid.models.BaseModel.from_pretrained(second.SVSUNet(channels=2).serialize())
print(asteroid.models.get("svsunet") is second.SVSUNet, model.training)
"""
    assert run(script) == "True False\n"


def conv_tasnet() -> Any:
    torch.manual_seed(0)
    return asteroid.ConvTasNet(
        n_src=2, n_blocks=1, n_repeats=1, bn_chan=4, hid_chan=4, skip_chan=4, n_filters=16
    )


def test_asteroids_models_come_back_from_files(tmp_path: Path) -> None:
    model, path = conv_tasnet(), tmp_path / "model.pth"
    plain = type(model).serialize.__wrapped__
    torch.save(plain(model), path)
    with pytest.raises(Exception, match="TorchVersion"):
        torch.load(path)
    torch.save(model.serialize(), path)
    loaded = asteroid.models.BaseModel.from_pretrained(path)
    mixture = torch.rand(1, 800)
    assert torch.equal(loaded(mixture), model(mixture))
    assert loaded.training  # as its users know it


def test_published_models_come_back_and_what_runs_is_refused(tmp_path: Path) -> None:
    model, path = conv_tasnet(), tmp_path / "model.pth"
    content = type(model).serialize.__wrapped__(model)
    content["infos"]["final_metrics"] = {"si_sdr": np.float64(1.0)}
    torch.save(content, path)
    assert torch.equal(
        asteroid.ConvTasNet.from_pretrained(str(path))(torch.ones(1, 800)), model(torch.ones(1, 800))
    )
    content["infos"]["final_metrics"] = {"si_sdr": os.system}
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"model\.pth was refused.*\.system"):
        asteroid.ConvTasNet.from_pretrained(str(path))


def test_models_from_the_hub(tmp_path: Path) -> None:
    """As the hub's own client leaves them in its cache; there is no network here."""
    cached = tmp_path / "models--someone--SVSUNet"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    model = svs_unet_plugin.asteroid.SVSUNet(channels=2)
    torch.save(model.serialize(), cached / "snapshots" / "abc" / "pytorch_model.bin")
    script = (
        "import svs_unet_plugin.asteroid; from asteroid.models import BaseModel;"
        "print(BaseModel.from_pretrained('someone/SVSUNet').network.channels)"
    )
    assert run(script, ASTEROID_CACHE=str(tmp_path), HF_HUB_OFFLINE="1") == "2\n"


def test_overlap_add_knows_its_default_window() -> None:
    overlap_add = asteroid.dsp.LambdaOverlapAdd
    with pytest.raises(ValueError, match="hanning"):
        overlap_add.__init__.__wrapped__(overlap_add.__new__(overlap_add), None, 2, 64, window="hanning")
    added = overlap_add(lambda x: x[:, None], 1, 64, window="hanning", reorder_chunks=False)
    audio = torch.rand(1, 1, 500)
    torch.testing.assert_close(added(audio), audio)  # Hann windows at half their length add up to 1


def test_xumx_works_again() -> None:
    x_umx = sys.modules["asteroid.models.x_umx"]
    make = asteroid.models.get("XUMX")
    arguments = {"window_length": 256, "in_chan": 256, "n_hop": 64, "hidden_size": 8, "nb_channels": 1}
    model = make(["vocals", "other"], **arguments, sample_rate=8192, return_time_signals=True).eval()
    mixture = torch.rand(2, 1, 6400) - 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        magnitude, phase = model.encoder(mixture)
    expected = torch.stft(mixture[:, 0], 256, 64, window=torch.hann_window(256), return_complex=True).abs()
    torch.testing.assert_close(magnitude[:, :, 0], expected.permute(2, 0, 1))
    # what the encoder takes apart, the decoder puts together
    again = model.decoder(magnitude.permute(1, 2, 3, 0)[None], phase)
    torch.testing.assert_close(again[0], mixture, atol=1e-4, rtol=0)
    loaded = asteroid.models.BaseModel.from_pretrained(model.serialize(), return_time_signals=True).eval()
    assert type(loaded) is make
    signals = loaded(mixture)[1]
    assert signals.shape == (2, 2, 1, 6400) and torch.equal(signals, model(mixture)[1])
    assert x_umx.XUMX is make


def test_every_repair_is_tested_here() -> None:
    assert {repair.__name__ for repair in compat.REPAIRS} == {
        "_serialize", "_from_pretrained", "_overlap_add", "_xumx"
    }  # fmt: skip
