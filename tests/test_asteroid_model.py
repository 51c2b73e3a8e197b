import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import stft as scipy_stft

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, Separator, UNet, audio, checkpoint
from svs_unet_plugin.asteroid import SVSUNet, asteroid, separate_preserving_scale
from svs_unet_plugin.asteroid.separation import separate_file_preserving_scale
from svs_unet_plugin.cli import main
from svs_unet_plugin.encoding import Encoding, writers
from svs_unet_plugin.nussl import nussl

BaseModel = asteroid.models.BaseModel


@pytest.fixture(scope="module")
def model(network: UNet) -> Any:
    return SVSUNet.from_network(network, STFT())


@pytest.fixture(scope="module")
def path(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model in a file."""
    path = tmp_path_factory.mktemp("asteroid") / "model.pth"
    torch.save(model.serialize(), path)
    return path


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("samples", [1, 700, 1024, 30_000])
def test_shapes(model: Any, samples: int) -> None:
    mixture = noise(3, 1, samples)
    with torch.no_grad():
        estimates = model(mixture)
        assert estimates.shape == (3, 2, samples)
        assert torch.equal(model(mixture[:, 0]), estimates)
        assert model(mixture[0, 0]).shape == (2, samples)
        for i in range(3):  # each item is a song of its own
            torch.testing.assert_close(model(mixture[i, 0]), estimates[i], atol=1e-5, rtol=0)
    assert estimates.isfinite().all()
    torch.testing.assert_close(estimates.sum(dim=1, keepdim=True), mixture)


@pytest.mark.parametrize("shape", [(1, 2, 100), (0,), (2, 0), (1, 1, 1, 100)])
def test_other_shapes_are_refused(model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Separator takes several channels"):
        model(torch.zeros(shape))


def test_silence_stays_silence(model: Any) -> None:
    silence = torch.zeros(1, 5000)
    assert torch.equal(model(silence), torch.zeros(1, 2, 5000))
    assert torch.equal(separate_preserving_scale(model, silence), torch.zeros(1, 2, 5000))
    assert model.separate(silence).isnan().all()  # which is why there is the other


@pytest.mark.parametrize("hop", [768, 256])
@pytest.mark.parametrize("arguments", [{}, {"bottleneck": "blstm"}, {"sources": ("drums", "vocals")}])
def test_the_answer_is_that_of_the_separator(
    make_network: Callable[..., UNet], hop: int, arguments: dict[str, Any]
) -> None:
    network, stft = make_network(**arguments), STFT(hop_length=hop)
    mixture = noise(1, 100_000)
    separated = Separator(network, "cpu", stft=stft, chunk_frames=64).separate(mixture, 8192)
    model = SVSUNet.from_network(network, stft)
    with torch.no_grad():
        estimates = model(mixture)[0]
    assert tuple(separated) == model.sources
    for name, estimate in zip(model.sources, estimates, strict=True):
        torch.testing.assert_close(estimate[None], separated[name], atol=1e-5, rtol=0)
    assert estimates[0].std() > 0.1


def test_one_set_of_weights_three_doors(checkpoint_path: Path, tmp_path: Path) -> None:
    assert main(["convert", str(checkpoint_path), str(tmp_path / "asteroid.pth")]) == 0
    mixture = noise(1, 50_000)
    with torch.no_grad():
        by_asteroid = BaseModel.from_pretrained(tmp_path / "asteroid.pth")(mixture)[0, :1]
    signal = nussl.AudioSignal(audio_data_array=mixture.numpy(), sample_rate=8192)
    by_nussl = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(checkpoint_path))()[
        0
    ].audio_data
    for weights in (checkpoint_path, tmp_path / "asteroid.pth"):
        plain = Separator(weights, "cpu").separate(mixture, 8192)["vocals"]
        torch.testing.assert_close(by_asteroid, plain, atol=1e-4, rtol=0)
        np.testing.assert_allclose(by_nussl, plain, atol=1e-4)
    assert by_asteroid.std() > 0.1


def plain_leaves(content: Any) -> bool:
    if isinstance(content, dict):
        return all(type(key) is str and plain_leaves(value) for key, value in content.items())
    if isinstance(content, list):
        return all(map(plain_leaves, content))
    return content is None or type(content) in (str, float, int)


@pytest.mark.parametrize("channels", [1, 2])
def test_all_doors_give_one_answer_in_stereo(
    make_network: Callable[..., UNet], tmp_path: Path, channels: int
) -> None:
    """A network of two channels, which sees both together, or a single one."""
    network, path = make_network(in_channels=2, sources=("drums", "vocals")), tmp_path / "model.pth"
    svs.save(svs.from_network(network), path, stft=STFT())
    mixture = np.random.default_rng(0).uniform(-1, 1, (channels, 30_000)).astype(np.float32)
    ours = Separator(path, device="cpu").separate(mixture, 8192)["vocals"]
    signal = nussl.AudioSignal(audio_data_array=mixture, sample_rate=8192)
    by_nussl = nussl.separation.deep.DeepMaskEstimation(signal, model_path=str(path))()[1].audio_data
    model = SVSUNet.from_network(checkpoint.read(path).network, STFT())
    with torch.no_grad():
        by_asteroid = model(torch.from_numpy(mixture)[None])[0, 0].numpy()
    inner = slice(0, -2 * 1024)  # where the frames of all are the same
    np.testing.assert_allclose(by_nussl[:, inner], ours[:, inner], rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.atleast_2d(by_asteroid)[:, inner], ours[:, inner], rtol=0, atol=1e-4)
    assert np.std(ours) > 0.05


def test_a_file_holds_plain_data_and_comes_back_to_the_bit(model: Any, path: Path, tmp_path: Path) -> None:
    content = torch.load(path, weights_only=True)
    assert plain_leaves({key: value for key, value in content.items() if key != "state_dict"})
    mixture = noise(1, 20_000)
    torch.save(mixture, tmp_path / "mixture.pt")
    script = (
        "import sys, torch, svs_unet_plugin.asteroid; from asteroid.models import BaseModel;"
        "model = BaseModel.from_pretrained(sys.argv[1]); assert not model.training;"
        "torch.save(model(torch.load(sys.argv[2])).detach(), sys.argv[3])"
    )
    arguments = [path, tmp_path / "mixture.pt", tmp_path / "out.pt"]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    with torch.no_grad():
        expected = model(mixture)
        assert torch.equal(torch.load(tmp_path / "out.pt"), expected)
        loaded = SVSUNet.from_pretrained(content)
        assert not loaded.training and torch.equal(loaded(mixture), expected)
    content["model_args"].pop("sample_rate")
    assert SVSUNet.from_pretrained(content, sample_rate=8192.0).sample_rate == model.sample_rate


def test_found_by_name() -> None:
    assert asteroid.models.get("SVSUNet") is asteroid.models.get("svsunet") is SVSUNet


@pytest.mark.parametrize("extension", [{}, {"bottleneck": "blstm"}, {"residual_blocks": 1}])
def test_torchscript(make_network: Callable[..., UNet], tmp_path: Path, extension: dict[str, Any]) -> None:
    """Traced once, as asteroid's own models are in its tests, for any shape and length."""
    model = SVSUNet.from_network(make_network(**extension), STFT())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # torch warns of what the number of bins decides, which does not change
        torch.jit.trace(model, noise(1, 20_000)).save(tmp_path / "traced.pt")
        traced = torch.jit.load(tmp_path / "traced.pt")
        for shape in [(900,), (1, 60_001), (4, 5000), (1, 1, 1), (3, 1, 20_000)]:
            torch.testing.assert_close(traced(noise(*shape)), model(noise(*shape)), atol=1e-5, rtol=0)


def test_wrong_arguments() -> None:
    for arguments, message in [
        ({"sources": ("drums",)}, "'vocals' among"),
        ({"sample_rate": 8192.5}, "whole number of Hz, got 8192.5"),
        ({"hop_length": 0}, "hop_length must be"),
    ]:
        with pytest.raises(ValueError, match=message):
            SVSUNet(**arguments)


def test_the_losses_magnitudes(model: Any) -> None:
    """Against scipy's frames and the masks of the network, in training mode and with gradients."""
    mixture, vocals = noise(2, 1, 9000), noise(2, 1, 9000)[..., ::2].repeat_interleave(2, dim=-1) / 2
    estimates, references, scaled = model.magnitudes(mixture, vocals[:, None])
    window = {
        "nperseg": 1024,
        "noverlap": 1024 - 768,
        "boundary": "zeros",
        "padded": True,
        "scaling": "spectrum",
    }
    for i in range(2):
        x, s = (np.abs(scipy_stft(signal[i, 0].numpy(), **window)[2]) for signal in (mixture, vocals))
        magnitude = torch.from_numpy(x / x.max())
        np.testing.assert_allclose(references[i, 0, ..., 0].numpy(), s / x.max(), atol=1e-5)
        np.testing.assert_allclose(scaled[i, 0].numpy(), magnitude, atol=1e-5)
        with torch.no_grad():
            mask = model.network(magnitude[None, None].float())[0, 0]
        torch.testing.assert_close(
            estimates[i, 0, ..., 0].detach(), mask * magnitude.float(), atol=1e-5, rtol=0
        )
    reachable = model.magnitudes(mixture, vocals[:, None], phase_sensitive=True)[1]
    assert 0 < reachable.sum() < references.sum() and (reachable <= scaled[..., None]).all()
    model.zero_grad()
    (estimates - references).abs().mean().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_asteroids_ways_to_separate(model: Any, tmp_path: Path) -> None:
    """Tensor, array and file, as in asteroid's own tests of its models."""
    mixture = noise(1, 8000) / 8
    out = model.separate(mixture)
    assert isinstance(out, torch.Tensor) and out.shape == (1, 2, 8000)
    np.testing.assert_array_equal(model.separate(mixture.numpy()), out.numpy())
    soundfile.write(tmp_path / "song.wav", mixture[0].numpy(), 8192)
    model.separate(str(tmp_path / "song.wav"))
    written, rate = soundfile.read(tmp_path / "song_est1.wav", dtype="float32")
    assert rate == 8192
    np.testing.assert_allclose(written, out[0, 0].numpy(), atol=1e-4)  # 16 bits
    with pytest.warns(UserWarning, match="already exists"):
        model.separate(str(tmp_path / "song.wav"))


def test_the_scale_is_kept(model: Any, path: Path, song: np.ndarray, tmp_path: Path) -> None:
    mixture = noise(1, 8000)
    out = separate_preserving_scale(model, mixture)
    torch.testing.assert_close(out.sum(dim=1), mixture)
    scaled = model.separate(mixture)
    assert (scaled.sum(dim=1) - mixture).abs().max() > 0.1
    array = separate_preserving_scale(asteroid.dsp.LambdaOverlapAdd(model, None, 4096), mixture.numpy()[None])
    assert isinstance(array, np.ndarray) and array.shape == (1, 2, 8000)
    with pytest.raises(ValueError, match="the audio has 2"):
        separate_preserving_scale(model, mixture.expand(2, -1))
    doubles = separate_preserving_scale(model, mixture.double().numpy())
    np.testing.assert_allclose(doubles, out.numpy(), atol=1e-6)
    alike = SimpleNamespace(
        forward_wav=model.forward_wav, in_channels=1, sample_rate=8192
    )  # no module of torch
    assert torch.equal(separate_preserving_scale(alike, mixture), out)
    stereo = SVSUNet(channels=2, in_channels=2).eval()
    pair = noise(2, 8000)
    assert torch.equal(separate_preserving_scale(stereo, pair), separate_preserving_scale(stereo, pair[None]))

    with writers([tmp_path / "song.wav"], Encoding(), 44_100, 2, song.shape[1]) as (write,):
        write(song)
    vocals, accompaniment = separate_file_preserving_scale(model, tmp_path / "song.wav", tmp_path / "out")
    written, rate = audio.read(vocals)
    assert (vocals.name, accompaniment.name, rate) == ("song_est1.wav", "song_est2.wav", 44_100)
    assert written.shape == song.shape
    low = audio.resample(audio.resample(song, 44_100, 8192), 8192, 44_100)
    both = written + audio.read(accompaniment)[0]
    np.testing.assert_allclose(both[:, : low.shape[1]], low[:, : both.shape[1]], atol=1e-4)
    # Each channel is a song of its own there, and none gets back what lies above the model's band.
    one = Separator(path, "cpu").separate(audio.resample(song[:1], 44_100, 8192), 8192)["vocals"]
    expected = audio.resample(one, 8192, 44_100)
    np.testing.assert_allclose(written[:1, : expected.shape[1]], expected[:, : written.shape[1]], atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_channels": 8, "residual_blocks": 1},
        {"sources": ("vocals", "drums"), "bottleneck": "blstm"},
    ],
)
def test_convert_there_and_back(
    make_network: Callable[..., UNet], tmp_path: Path, arguments: dict[str, Any]
) -> None:
    network, stft = make_network(**arguments), STFT(hop_length=256)
    torch.save(SVSUNet.from_network(network, stft).serialize(), tmp_path / "0.pth")
    for i in range(2):
        assert main(["convert", str(tmp_path / f"{i}.pth"), str(tmp_path / f"{i + 1}.pth")]) == 0
    hosts = []
    for i in range(3):
        loaded = checkpoint.read(tmp_path / f"{i}.pth")
        hosts.append(loaded.host)
        assert loaded.stft == stft and loaded.network.sources == network.sources
        assert not loaded.network.training
        for key, weight in network.state_dict().items():
            assert torch.equal(loaded.network.state_dict()[key], weight)
    assert hosts == ["asteroid", "nussl", "asteroid"]


@pytest.mark.parametrize("other", [{"window_type": "sqrt_hann"}, {"normalized": False}])
def test_a_transform_that_asteroids_model_has_not(network: UNet, other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"has a Hann window.*{next(iter(other))}"):
        SVSUNet.from_network(network, STFT(**other))


def test_read_without_asteroid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = (
        "import json, sys; from svs_unet_plugin import checkpoint; c = checkpoint.read(sys.argv[1]);"
        "print(json.dumps(['asteroid' in sys.modules, c.host, c.network.channels]))"
    )
    said = subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True)
    assert json.loads(said.stdout) == [False, "asteroid", 4]
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "8192 Hz, window 1024, hop 768" in said and "asteroid         0.7.0" in said


def test_other_models_of_asteroid_are_refused(tmp_path: Path) -> None:
    torch.save(asteroid.models.get("DeMask")().serialize(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is no checkpoint .*it holds asteroid's DeMask"):
        checkpoint.read(tmp_path / "other.pth")
