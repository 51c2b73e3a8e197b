"""Engines: the same masks, whatever computes the network."""

import importlib.util
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
import torch

from svs_unet_plugin import Separator, UNet, engines
from svs_unet_plugin.cli import main
from svs_unet_plugin.cli.separate import separate as separate_command
from svs_unet_plugin.engines import make_engine

CPU = torch.device("cpu")
OTHERS = ("onnxruntime", "openvino")


@pytest.fixture(params=OTHERS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in engines.installed():  # not by an import, see the last test
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.parametrize("in_channels", [1, 2])
def test_masks_are_those_of_torch(name: str, in_channels: int, make_network: Callable[..., UNet]) -> None:
    network = make_network(in_channels=in_channels, sources=("vocals", "drums"), residual_blocks=1)
    engine = make_engine(name, network, CPU)
    with torch.inference_mode():
        # Fewer frames than a column of the deepest layer, all of one, one more; other views of a song; no DC.
        for batch, bins, frames in [
            (1, 513, 1),
            (1, 513, 20),
            (2, 513, 64),
            (1, 513, 65),
            (3, 577, 300),
            (1, 64, 9),
        ]:
            magnitude = torch.rand(batch, network.inputs, bins, frames) ** 8
            expected = network(magnitude)
            masks = engine.masks(magnitude)
            assert masks.shape == expected.shape and masks.dtype == torch.float32
            assert expected.max() - expected.min() > 0.3
            assert (masks - expected).abs().max() < 1e-5  # float32; with half precision it is 5e-4
            assert torch.equal(engine.masks(magnitude), masks)


def test_threads_share_engines(name: str, network: UNet) -> None:
    several = [make_engine(name, network, CPU) for _ in range(2)]  # torch exports one network at a time
    magnitudes = torch.rand(4, 1, 1, 513, 200)
    with torch.inference_mode():
        expected = [network(magnitude) for magnitude in magnitudes]
    barrier = Barrier(4)

    def masks(i: int) -> list[torch.Tensor]:
        barrier.wait()
        with torch.inference_mode():
            return [several[i % 2].masks(magnitudes[i]) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for of_one, one in zip(pool.map(masks, range(4)), expected, strict=True):
            for each in of_one:
                torch.testing.assert_close(each, one, atol=1e-5, rtol=0)


def test_a_separator_by_an_engine(name: str, network: UNet, song: np.ndarray) -> None:
    separator = Separator(network, "cpu", engine=name)
    assert separator.engine == name
    stems = separator.separate(song, 44_100)
    for source, stem in Separator(network, "cpu", engine="torch").separate(song, 44_100).items():
        np.testing.assert_allclose(stems[source], stem, atol=1e-5)
    again = pickle.loads(pickle.dumps(separator))  # the engine has been used
    assert again.engine == name
    for source, stem in again.separate(song, 44_100).items():
        np.testing.assert_array_equal(stem, stems[source])


def test_an_engine_that_can_not_be_had(
    make_network: Callable[..., UNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(channels=2)
    with pytest.raises(ValueError, match="engine must be one of torch, onnxruntime, openvino, got 'abacus'"):
        Separator(network, "cpu", engine="abacus")
    recurrent = make_network(channels=2, bottleneck="blstm")
    for name in OTHERS:
        with pytest.raises(ValueError, match=f"{name} can't run a network with a blstm bottleneck"):
            Separator(recurrent, "cpu", engine=name)
        with pytest.raises(ValueError, match=f"{name} computes on the CPU, not on cuda:1"):
            make_engine(name, network, torch.device("cuda:1"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    for name, extra in [("onnxruntime", "onnx"), ("openvino", "openvino")]:
        with pytest.raises(ImportError, match=rf"needs the package {name}: .* 'svs_unet_plugin\[{extra}\]'"):
            Separator(network, "cpu", engine=name)


def test_engines_are_imported_when_they_run() -> None:
    script = """
import sys
from svs_unet_plugin import Separator, UNet, engines
Separator(UNet(channels=2), engine=engines.installed()[-1])
print([name for name in ("onnx", "onnxruntime", "openvino") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


def test_names_on_the_command_line() -> None:
    choices = {parameter.name: parameter.type for parameter in separate_command.params}
    assert tuple(choices["engine"].choices) == engines.ENGINES  # type: ignore[attr-defined]


def test_separate_by_an_engine(
    name: str, checkpoint_path: Path, song_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["separate", str(song_path), "-w", str(checkpoint_path), "-o", str(tmp_path / "out"), "-v"]
    assert main([*arguments, "--filename", "{stem}.{ext}", "--device", "cpu", "--engine", name]) == 0
    assert f" by {name} on cpu" in capsys.readouterr().err
    separator = Separator(checkpoint_path, "cpu", engine=name)
    expected = separator.separate_file(song_path, tmp_path / "expected")
    assert (tmp_path / "out" / "vocals.wav").read_bytes() == expected["vocals"].read_bytes()


def test_openvino_does_not_report_to_its_makers() -> None:
    if "openvino" not in engines.installed():
        pytest.skip("openvino is not installed")
    script = """
import sys
import torch
from svs_unet_plugin import Separator, UNet
separator = Separator(UNet(channels=2), "cpu", engine="openvino")
separator.separate(torch.rand(1000), 8192)
print([name for name in sys.modules if name.startswith("openvino_telemetry")])
print(sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\nopenvino.tools.ovc.telemetry_stub\n"


def test_signals_after_an_engine_is_gone(name: str) -> None:
    """OpenVINO took the stack away on which they are handled, when its last engine went in another thread."""
    script = f"""
import gc, os, signal, threading
import torch
from svs_unet_plugin import Separator, UNet
made = [Separator(UNet(channels=2), "cpu", engine={name!r})]
made[0].separate(torch.rand(1000), 8192)
def drop():
    made.clear()
    gc.collect()
thread = threading.Thread(target=drop)
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    said = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script], capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (0, "handled\n"), said.stderr
