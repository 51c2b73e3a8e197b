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
from svs_unet_plugin.weights import PRETRAINED

BROKEN = {  # what PyPI's torchaudio does beside a torch for the CPU
    "torchaudio/__init__.py": "import torchaudio.part\nfrom . import _extension, functional",
    "torchaudio/part.py": "",
    "torchaudio/_extension.py": "raise OSError('Could not load this library')",
    "torchaudio/functional.py": "from torchaudio._extension import _IS_ANY_AVAILABLE, fail_if_no_any\n"
    "@fail_if_no_any\ndef align(): pass",
    "torch_stoi/__init__.py": "import torch, torchaudio\n"
    "class NegSTOILoss(torch.nn.Module):\n"
    "    def __init__(self, rate): print(torchaudio.functional._IS_ANY_AVAILABLE, rate)",
}
HOPELESS = {**BROKEN, "torchaudio/functional.py": "raise OSError('no other part loads, either')"}
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


STOI = f"""
import sys
for attempt in ("asteroid", "svs_unet_plugin.asteroid", "torchaudio"):
    try:
        __import__(attempt)
    except OSError as error:
        print(attempt, error, {LEFT})
from asteroid.losses import SingleSrcNegSTOI
SingleSrcNegSTOI(8192)
"""


def test_stoi_beside_a_torchaudio_that_does_not_load(tmp_path: Path) -> None:
    # What Python leaves of a failed import is not ours; of ours nothing is left but torch_stoi.
    assert run(STOI, packages(tmp_path, BROKEN)).splitlines() == [
        "asteroid Could not load this library ['torchaudio.part']",
        "torchaudio Could not load this library ['torch_stoi', 'torchaudio.part']",
        "False 8192",
    ]


def test_without_any_torchaudio_all_but_stoi_works(tmp_path: Path) -> None:
    assert run(STOI, packages(tmp_path, HOPELESS)).splitlines() == [
        "asteroid Could not load this library ['torchaudio.part']",
        "torchaudio Could not load this library ['torchaudio.part']",
        "ModuleNotFoundError: No module named 'torch_stoi'",
    ]


@pytest.mark.filterwarnings("ignore:.*resampling method name is being deprecated")
def test_stoi_is_that_of_pystoi() -> None:
    pystoi = pytest.importorskip("pystoi")
    random, rate = np.random.default_rng(0), 10_000  # the rate that needs no resampling
    reference = random.standard_normal(30_000) * np.repeat(random.random(60), 500)
    estimate = reference + random.standard_normal(30_000) / 2
    loss = asteroid.losses.SingleSrcNegSTOI(rate)
    tensors = (torch.tensor(audio, dtype=torch.float32)[None] for audio in (estimate, reference))
    assert -loss(*tensors).item() == pytest.approx(pystoi.stoi(reference, estimate, rate), abs=1e-5)
    assert -asteroid.losses.SingleSrcNegSTOI(8192)(*torch.rand(2, 2, 16_000)).mean() < 1  # resampled


def test_a_torchaudio_that_loads_is_left_alone(tmp_path: Path) -> None:
    script = (
        "import svs_unet_plugin.asteroid, asteroid.losses as l, sys; print(l.SingleSrcNegSTOI.__bases__, "
    )
    said = run(f"{script} {LEFT})", packages(tmp_path, WORKING))
    assert said == "(<class 'torch_stoi.NegSTOILoss'>,) ['torch_stoi']\n"


def test_without_asteroid_one_sentence_says_so(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['asteroid'] = None; from svs_unet_plugin.cli import main;"
        "print(main(['asteroid', 'infer', '-h']))"
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
    with pytest.raises(ValueError, match="svs-unet convert opens nussl's checkpoints"):
        asteroid.ConvTasNet.from_pretrained(str(PRETRAINED / "small.pth"))


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


def test_dccrnet_takes_a_size_of_numpys() -> None:
    rnn_class = sys.modules["asteroid.masknn.recurrent"].DCCRMaskNetRNN
    assert rnn_class(np.prod((8, 4))).rnn is not None


FILTERS = {"n_filters": 32, "kernel_size": 32, "stride": 16}
SUDORMRF = {"n_src": 2, "bn_chan": 8, "num_blocks": 1, "upsampling_depth": 2, "n_filters": 32}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("DPRNNTasNet", {"n_src": 2, "n_repeats": 1, "bn_chan": 8, "hid_size": 4, **FILTERS}),
        ("DPTNet", {"n_src": 2, "n_heads": 2, "ff_hid": 4, "chunk_size": 20, "n_repeats": 1, **FILTERS}),
        ("LSTMTasNet", {"n_src": 2, "hid_size": 4, "n_layers": 1, **FILTERS}),
        ("SuDORMRFNet", SUDORMRF),
        ("SuDORMRFImprovedNet", SUDORMRF),
        ("DeMask", {"hidden_dims": (8,), **FILTERS}),
        ("DCUNet", {"architecture": "mini", "fix_length_mode": "pad"}),
        ("DCCRNet", {"architecture": "mini"}),
    ],
)
def test_each_model_comes_back_from_a_file(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    model, mixture = asteroid.models.get(name)(**arguments).eval(), torch.rand(1, 1, 1500) - 0.5
    torch.save(model.serialize(), tmp_path / "model.pth")
    loaded = asteroid.models.BaseModel.from_pretrained(tmp_path / "model.pth").eval()
    with torch.no_grad():
        assert torch.equal(loaded(mixture), model(mixture))


def test_names_that_numpy_removed() -> None:
    from pb_bss_eval.evaluation import mir_eval_sources

    sources = np.random.default_rng(0).standard_normal((2, 3, 800))
    *_, selection = mir_eval_sources(sources, sources[::-1], return_dict=False)  # needs np.int for channels
    assert selection.tolist() == [[1, 1, 1], [0, 0, 0]]
    bank = sys.modules["asteroid_filterbanks"].get("mpgtf")(n_filters=128, kernel_size=16, sample_rate=8000)
    filters = bank.filters()[:, 0]
    assert filters.shape == (128, 16) and torch.equal(filters[3], -filters[0])  # half a turn apart
    assert not hasattr(np, "int") and not hasattr(np, "float")


def test_lightning_needs_no_pkg_resources() -> None:
    """setuptools 82 has it no more; with older ones there is no warning that it will go."""
    script = """
import sys, warnings
warnings.simplefilter("error")
{}
import svs_unet_plugin.asteroid, pytorch_lightning, asteroid.engine, torchmetrics.utilities.imports as imports
warnings.simplefilter("ignore", ResourceWarning)  # of what is cleared away at the end
print(imports.get_distribution("numpy").version, sys.modules.get("pkg_resources"))
"""
    for blocked in ("sys.modules['pkg_resources'] = None", ""):
        assert run(script.format(blocked)) == f"{np.__version__} None\n"


WORKERS = """
if __name__ == "__main__":
    import sys
    import torch
    import svs_unet_plugin.asteroid
    from asteroid.data import MUSDB18Dataset
    from asteroid.models import DCUNet
    from torch.utils.data import DataLoader

    # Its own default is a lambda, which no pickle takes.
    songs = MUSDB18Dataset(sys.argv[1], sample_rate=8192, source_augmentations=torch.nn.Identity())
    data = [(songs, DCUNet("mini"))]
    for items in [
        iter(DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start_method))
        for start_method in ("spawn", "forkserver")
    ]:
        received, model = next(items)
        print((received[0][0] == songs[0][0]).all().item(), type(model).__name__)
"""


def test_workers_that_are_not_forked_get_a_repaired_asteroid(tmp_path: Path) -> None:
    import soundfile

    packages(tmp_path, BROKEN)
    for stem in ("vocals", "bass", "drums", "other"):
        path = tmp_path / "songs" / "train" / "song" / f"{stem}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.random.default_rng(0).uniform(-0.1, 0.1, 8192), 8192)
    (tmp_path / "program.py").write_text(WORKERS)
    script = f"""
import runpy, sys
sys.argv = ["", {str(tmp_path / "songs")!r}]
runpy.run_path({str(tmp_path / "program.py")!r}, run_name="__main__")
"""
    said = run(script, tmp_path)
    assert said.startswith("True DCUNet\nTrue DCUNet\n"), said


def test_every_repair_is_tested_here() -> None:
    """`_commands` by tests/test_asteroid_commands.py."""
    assert {repair.__name__ for repair in compat.REPAIRS} == {
        "_serialize", "_from_pretrained", "_commands", "_overlap_add", "_xumx", "_dccrnet",
        "_removed_numpy_names", "_torchmetrics", "_other_processes",
    }  # fmt: skip
