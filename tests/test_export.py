"""Networks as files that other programs run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from svs_unet_plugin import STFT, UNet, checkpoint, export
from svs_unet_plugin.cli import main
from svs_unet_plugin.cli.checkpoints import export as export_command

TRANSFORM = STFT(8192, 1024, 256)


@pytest.fixture(scope="module")
def stereo(make_network: Callable[..., UNet]) -> UNet:
    return make_network(channels=2, in_channels=2, residual_blocks=1)


def check(run: Callable[[torch.Tensor], torch.Tensor], network: UNet) -> None:
    """Masks are the network's, of numbers of items and frames that the file was not made with."""
    with torch.no_grad():
        for batch, frames in [(1, 2), (1, 128), (3, 201), (2, 500)]:
            magnitude = torch.rand(batch, network.inputs, 513, frames) ** 8
            torch.testing.assert_close(run(magnitude), network(magnitude), atol=1e-5, rtol=0)


def test_onnx(stereo: UNet, make_network: Callable[..., UNet], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    for network in (stereo, make_network(channels=2, bottleneck="blstm")):
        export.export(network, TRANSFORM, tmp_path / "network.onnx", "onnx")
        onnx.checker.check_model(tmp_path / "network.onnx", full_check=True)
        session = onnxruntime.InferenceSession(tmp_path / "network.onnx")
        assert session.get_inputs()[0].shape == ["batch", network.inputs, "bins", "frames"]
        check(lambda x: torch.from_numpy(session.run(["masks"], {"magnitude": x.numpy()})[0]), network)  # noqa: B023
        held = session.get_modelmeta().custom_metadata_map
        assert (
            json.loads(held["sources"]) == ["vocals"]
            and json.loads(held["in_channels"]) == network.in_channels
        )
        assert (held["sample_rate"], held["window_length"], held["hop_length"]) == ("8192", "1024", "256")
        assert (held["window_type"], held["normalized"]) == ("hann", "true")
    assert len(list(tmp_path.iterdir())) == 1


def test_torchscript(stereo: UNet, tmp_path: Path) -> None:
    export.export(stereo, TRANSFORM, tmp_path / "network.pt", "torchscript")
    held = {export.METADATA: ""}
    check(torch.jit.load(tmp_path / "network.pt", _extra_files=held), stereo)
    assert json.loads(held[export.METADATA]) == export.metadata(stereo, TRANSFORM)
    assert export.metadata(stereo, TRANSFORM)["inputs"] == ["left", "right", "mid", "side"]


def test_exported_program(stereo: UNet, make_network: Callable[..., UNet], tmp_path: Path) -> None:
    export.export(stereo, TRANSFORM, tmp_path / "network.pt2", "exported-program")
    held = {export.METADATA: ""}
    check(torch.export.load(tmp_path / "network.pt2", extra_files=held).module(), stereo)
    assert json.loads(held[export.METADATA]) == export.metadata(stereo, TRANSFORM)
    recurrent = make_network(channels=2, bottleneck="blstm")
    with pytest.raises(ValueError, match="of a blstm bottleneck: take onnx or torchscript"):
        export.export(recurrent, TRANSFORM, tmp_path / "recurrent.pt2", "exported-program")
    assert [path.name for path in tmp_path.iterdir()] == ["network.pt2"]


def test_a_file_that_is_not_the_network_gets_no_name(
    network: UNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(network: UNet, stft: STFT, path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
        path.write_bytes(b"something")
        return lambda magnitude: network(magnitude) + 2e-4

    monkeypatch.setitem(export.FORMATS, "onnx", write)
    with pytest.raises(
        ValueError, match=r"network.onnx would differ from the network's by 2.0e-04, more than"
    ):
        export.export(network, STFT(), tmp_path / "network.onnx", "onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ValueError, match="format must be one of onnx, torchscript, exported-program, got 'tflite'"
    ):
        export.export(network, STFT(), tmp_path / "network", "tflite")


def test_the_command(checkpoint_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = {parameter.name: parameter.type for parameter in export_command.params}
    assert tuple(choices["form"].choices) == tuple(export.FORMATS)  # type: ignore[attr-defined]
    out = tmp_path / "network.pt"
    assert main(["export", str(checkpoint_path), str(out), "--format", "torchscript"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    check(torch.jit.load(out), checkpoint.read(checkpoint_path).network)
