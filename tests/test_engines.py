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

from svs_unet_plugin import STFT, Separator, Streamer, UNet, engines
from svs_unet_plugin.cli import main
from svs_unet_plugin.cli.separate import separate as separate_command
from svs_unet_plugin.engines import Graph, make_engine
from svs_unet_plugin.export import export
from svs_unet_plugin.weights import PRETRAINED, bundled

OTHERS = ("onnxruntime", "openvino")


@pytest.fixture(params=OTHERS)
def name(request: pytest.FixtureRequest) -> str:
    if request.param not in engines.installed():  # not by an import, see the last test
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


@pytest.mark.parametrize("in_channels", [1, 2])
def test_masks_are_those_of_torch(name: str, in_channels: int, make_network: Callable[..., UNet]) -> None:
    network = make_network(in_channels=in_channels, sources=("vocals", "drums"), residual_blocks=1)
    reference = make_engine("torch", network, 513)
    # Fewer frames than a column of the deepest layer, all of one, one more; other views of a song; no DC.
    for bins, shapes in {
        513: [(1, 513, 1), (2, 513, 64), (1, 513, 65), (3, 577, 300)],
        64: [(1, 64, 9)],
    }.items():
        engine = make_engine(name, network, bins)
        for batch, bins, frames in shapes:
            magnitude = (
                np.random.default_rng(0).random((batch, network.inputs, bins, frames), np.float32) ** 8
            )
            expected, masks = reference.masks(magnitude), engine.masks(magnitude)
            assert masks.shape == expected.shape and masks.dtype == np.float32
            assert np.ptp(expected) > 0.3
            assert np.abs(masks - expected).max() < 1e-5  # float32; with half precision it is 5e-4
            np.testing.assert_array_equal(engine.masks(magnitude), masks)


def test_threads_share_engines(name: str, network: UNet) -> None:
    magnitudes = np.random.default_rng(0).random((4, 1, 1, 513, 200), np.float32)
    expected = [make_engine("torch", network, 513).masks(magnitude) for magnitude in magnitudes]
    engine, barrier = make_engine(name, network, 513), Barrier(4)

    def masks(i: int) -> list[np.ndarray]:
        barrier.wait()
        own = make_engine(name, network, 513)  # torch exports one network at a time
        return [one.masks(magnitudes[i]) for one in (engine, own, engine)]

    with ThreadPoolExecutor(4) as pool:
        for of_one, one in zip(pool.map(masks, range(4)), expected, strict=True):
            for each in of_one:
                np.testing.assert_allclose(each, one, atol=1e-5, rtol=0)


@pytest.mark.parametrize("weights", bundled())
def test_bundled_graphs_are_the_bundled_networks(name: str, weights: str, song: np.ndarray) -> None:
    separator = Separator(weights, engine=name)
    assert isinstance(separator.network, Graph) and separator.network.model == Path(
        "pretrained", f"{weights}.onnx"
    )
    reference = Separator(weights, "cpu", engine="torch", views=2)
    stems = Separator(weights, engine=name, views=2).separate(song, 44_100)
    for source, stem in reference.separate(song, 44_100).items():
        np.testing.assert_allclose(stems[source], stem, atol=1e-5)
    streamer = Streamer(separator, 44_100, 2, latency=0.5)
    assert streamer.push(song).keys() == stems.keys()


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


def test_a_network_of_ones_own_without_torch(
    name: str,
    make_network: Callable[..., UNet],
    song: np.ndarray,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, stft = make_network(in_channels=2, sources=("drums", "vocals")), STFT(hop_length=512)
    export(network.cpu(), stft, tmp_path / "own.onnx", "onnx")
    separator = Separator(tmp_path / "own.onnx", engine=name, views=2)
    assert separator.stft == stft and separator.sources == ("vocals", "drums", "accompaniment")
    expected = Separator(network, "cpu", stft=stft, engine="torch", views=2).separate(song, 44_100)
    for source, stem in separator.separate(song, 44_100).items():
        np.testing.assert_allclose(stem, expected[source], atol=1e-5)
    pickled = pickle.dumps(separator)
    (tmp_path / "own.onnx").rename(tmp_path / "gone.onnx")
    again = pickle.loads(pickled).separate(song, 44_100)
    np.testing.assert_allclose(again["vocals"], expected["vocals"], atol=1e-5)
    with pytest.raises(ValueError, match="engine torch runs checkpoints, not ONNX models"):
        Separator(tmp_path / "gone.onnx", engine="torch")
    assert main(["info", str(tmp_path / "gone.onnx")]) == 0
    said = capsys.readouterr().out
    assert "an ONNX model" in said and "drums, vocals" in said and "8192 Hz, window 1024, hop 512" in said


def test_what_is_no_graph(make_network: Callable[..., UNet], tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    export(make_network(channels=2), STFT(), tmp_path / "whole.onnx", "onnx")
    export(make_network(channels=2, bottleneck="blstm"), STFT(), tmp_path / "recurrent.onnx", "onnx")
    whole = (tmp_path / "whole.onnx").read_bytes()
    (tmp_path / "half.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.onnx").write_text("a text")
    (tmp_path / "empty.onnx").write_bytes(b"")
    model = onnx.load_model_from_string(whole)
    del model.metadata_props[:]
    (tmp_path / "bare.onnx").write_bytes(model.SerializeToString())
    for key, value in {"sources": '["vocals", "../up"]', "reach": "1000000", "in_channels": "3"}.items():
        odd = onnx.load_model_from_string(whole)
        onnx.helper.set_model_props(odd, {item.key: item.value for item in odd.metadata_props} | {key: value})
        (tmp_path / f"{key}.onnx").write_bytes(odd.SerializeToString())
    for name, said in {
        "sources": "sources must be names that files can have",
        "reach": "it sees 1000000 frames further",
        "in_channels": "in_channels must be 1 or 2, got 3",
        "half": "",
        "text": "",
        "empty": "",
        "bare": "no 'sample_rate'",
        "recurrent": "its recurrent layer takes torch",
    }.items():
        with pytest.raises(
            ValueError, match=f"{name}.onnx is no ONNX model of a .* network: .*{said}"
        ) as caught:
            Separator(tmp_path / f"{name}.onnx")
        assert "\n" not in str(caught.value)
    odd = onnx.load_model_from_string(whole)
    onnx.helper.set_model_props(
        odd, {item.key: item.value for item in odd.metadata_props} | {"sources": '["vocals", "drums"]'}
    )
    (tmp_path / "more.onnx").write_bytes(odd.SerializeToString())
    with pytest.raises(ValueError, match=r"the network gives masks \(1, 1, 513, .* for magnitudes"):
        Separator(tmp_path / "more.onnx").separate(np.ones(1000, np.float32), 8192)


def test_an_engine_that_can_not_be_had(
    make_network: Callable[..., UNet], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(channels=2)
    with pytest.raises(ValueError, match="engine must be one of torch, onnxruntime, openvino, got 'abacus'"):
        Separator(network, "cpu", engine="abacus")
    recurrent = make_network(channels=2, bottleneck="blstm")
    for name in OTHERS:
        with pytest.raises(
            ValueError, match="with a blstm bottleneck, which hears a song as a whole, takes eng"
        ):
            Separator(recurrent, "cpu", engine=name)
        with pytest.raises(ValueError, match=f"{name} computes on the CPU, not on cuda:1"):
            make_engine(name, network, 513, "cuda:1")
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    for name in engines.ENGINES:
        with pytest.raises(ImportError, match=rf"{name} is not installed: pip install .*{name}"):
            Separator(network, "cpu", engine=name)
    with pytest.raises(
        ImportError, match=r"vocals.pth is a checkpoint, which takes torch: pip install .*torch"
    ):
        Separator(PRETRAINED / "vocals.pth")


def test_nothing_is_imported_that_is_not_needed() -> None:
    script = """
import sys
import svs_unet_plugin
from svs_unet_plugin import STFT, Separator, Streamer
from svs_unet_plugin.cli import main
{}
print([name for name in ("torch", "onnx", "onnxruntime", "openvino") if name in sys.modules])
"""
    for code, imported in {
        "": [],
        "from svs_unet_plugin import UNet; Separator(UNet(channels=2), 'cpu')": ["torch"],
        "Separator(engine='onnxruntime').separate(__import__('numpy').zeros(99), 8192)": ["onnxruntime"],
    }.items():
        command = [sys.executable, "-c", script.format(code)]
        said = subprocess.run(command, capture_output=True, text=True, check=True)
        assert said.stdout == f"{imported}\n", code


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


@pytest.mark.parametrize("turn", range(3))
def test_threads_that_are_the_first_to_use_openvino(turn: int) -> None:
    """They waited for each other without end, in nearly every run when threads change this often."""
    if "openvino" not in engines.installed():
        pytest.skip("openvino is not installed")
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from svs_unet_plugin.engines import graph
sys.setswitchinterval(1e-6)
barrier = Barrier(4)
def first(number):
    graph._openvino_core()
    from openvino import Type
    barrier.wait()
    return Type.f32.to_dtype().name
with ThreadPoolExecutor(4) as pool:
    print(*pool.map(first, range(4)))
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert said.stdout == "float32 float32 float32 float32\n", said.stderr
