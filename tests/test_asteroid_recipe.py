"""recipes/musdb18/asteroid/compare.py, by its parts and from its command line."""

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from svs_unet_plugin.corpora.prepare import prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.training.settings import TrainSettings

RECIPE = Path(__file__).parent.parent / "recipes" / "musdb18" / "asteroid"


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("asteroid_compare", RECIPE / "compare.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weighted_sdr(compare: ModuleType) -> None:
    """Against equation 6 of Choi et al., item by item."""
    torch.manual_seed(0)
    estimates, targets = torch.randn(3, 2, 50), torch.randn(3, 2, 50)
    expected = []
    for (vocals, rest), (true_vocals, true_rest) in zip(estimates.tolist(), targets.tolist(), strict=True):

        def dot(x: list[float], y: list[float]) -> float:
            return sum(a * b for a, b in zip(x, y, strict=True))

        def loss(x: list[float], y: list[float]) -> float:
            return -dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))

        alpha = dot(true_vocals, true_vocals) / (dot(true_vocals, true_vocals) + dot(true_rest, true_rest))
        expected.append(alpha * loss(vocals, true_vocals) + (1 - alpha) * loss(rest, true_rest))
    assert compare.negative_weighted_sdr(estimates, targets).item() == pytest.approx(
        sum(expected) / 3, abs=1e-5
    )
    assert compare.negative_weighted_sdr(targets, targets).item() == pytest.approx(-1)


class Noise:
    """Excerpts of noise."""

    def __getitem__(self, draw: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(draw[1])
        return torch.randn(1, 5000, generator=generator), torch.randn(1, 1, 5000, generator=generator)


@pytest.mark.parametrize("name", ["svsunet", "xumx", "dcunet-10"])
def test_what_is_compared_makes_two_waveforms_and_learns(compare: ModuleType, name: str) -> None:
    candidate = next(candidate for candidate in compare.CANDIDATES if candidate.id == name)
    model = candidate.make(Noise(), 8192)
    batch = torch.utils.data.default_collate([Noise()[0, i] for i in range(2)])
    system = candidate.system(model, Noise(), [], TrainSettings(loss="snr"))
    system.common_step(batch, 0).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert compare.waveforms(model.eval(), batch[0]).shape == (2, 2, 5000)


def test_compares_what_it_trains(compare: ModuleType, tmp_path: Path) -> None:
    make_corpus(tmp_path / "songs", 6, seconds=8.0, seed=0, sample_rate=8192)
    prepare(tmp_path / "songs", tmp_path / "prepared", jobs=1)
    options = [
        "--exp_dir",
        tmp_path / "exp",
        "--data_dir",
        tmp_path / "prepared",
        "--source",
        tmp_path / "songs",
    ]
    options += ["--jobs", 1, "--models", "xumx"]
    script = [sys.executable, str(RECIPE / "compare.py"), *map(str, options)]
    for minutes, networks in ((0.05, 1), (0.05, 1), (0.1, 2)):  # the second time there is nothing left to do
        command = [*script, "--minutes", str(minutes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"Training: {minutes} minutes" in done.stdout
        assert len(list(tmp_path.glob("exp/compared/*/best_model.pth"))) == networks
        assert "| X-UMX |" in done.stdout and "| *Ideal ratio mask, 8192 Hz, hop 768* |" in done.stdout
    done = subprocess.run([*script[:-1], "magic"], capture_output=True, text=True)
    assert done.returncode == 1 and "there is no network magic" in done.stderr
