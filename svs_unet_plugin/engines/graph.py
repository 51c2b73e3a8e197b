"""Engines that compile an ONNX model of the network, and what every engine is."""

from __future__ import annotations

import importlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from svs_unet_plugin.errors import first_line
from svs_unet_plugin.files import check_sources
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.threads import get_threads

if TYPE_CHECKING:
    from svs_unet_plugin.unet import UNet

PACKAGE = Path(__file__).parents[1]

MOST_REACH = 10_000
"""Frames on either side, so that no file makes the network see whole songs at once; it is some hundred."""

Run = Callable[[np.ndarray], np.ndarray]
"""A network that was compiled for one thread of the program at a time."""


@dataclass(frozen=True)
class Graph:
    """A network without a recurrent layer as an ONNX model, from ``magnitude`` to ``masks``.

    Args:
        model: its bytes, or the path of a bundled file from the package's folder, which is elsewhere on
            another machine that the graph is pickled to.
        sources, in_channels, stride, reach: as `UNet` has them.
    """

    model: bytes | Path
    sources: tuple[str, ...]
    in_channels: int
    stride: int
    reach: int

    def __post_init__(self) -> None:
        check_sources(self.sources)
        if self.in_channels not in (1, 2):
            raise ValueError(f"in_channels must be 1 or 2, got {self.in_channels}")
        if not 1 <= self.stride <= 1024 or not 0 <= self.reach <= MOST_REACH:
            raise ValueError(f"it sees {self.reach} frames further, and columns are {self.stride} frames")

    @property
    def inputs(self) -> int:
        """Magnitudes that the network takes, as `UNet.inputs`."""
        return 1 if self.in_channels == 1 else 4


def read_graph(path: Path, bundled: bool = False) -> tuple[Graph, STFT]:
    """What `export` wrote as ONNX: a network, and the transform whose magnitudes it takes.

    Args:
        bundled: whether its weights are in another file, which is where the package is.

    Raises:
        ValueError: if the file is no such model.
    """
    try:
        model = Path(os.path.relpath(path, PACKAGE)) if bundled else path.read_bytes()
        session = _session(model, 1, optimized=False)
        held = session.get_modelmeta().custom_metadata_map
        values = {name: json.loads(held[name]) for name in held.keys() - {"window_type"}}
        stft = STFT(
            values["sample_rate"],
            values["window_length"],
            values["hop_length"],
            held["window_type"],
            values["normalized"],
        )
        if values["reach"] is None:
            raise ValueError("its recurrent layer takes torch, and the checkpoint that it was made from")
        numbers = (int(values[name]) for name in ("in_channels", "stride", "reach"))
        graph = Graph(model, tuple(values["sources"]), *numbers)
        expected = ["batch", graph.inputs, "bins", "frames"]
        if [(tensor.name, tensor.shape) for tensor in session.get_inputs()] != [("magnitude", expected)]:
            raise ValueError("its input is not that of such a network")
    except OSError:
        raise
    except Exception as error:  # ONNX Runtime's have no base of their own
        reason = f"no {error}" if isinstance(error, KeyError) else first_line(error)
        raise ValueError(f"{path} is no ONNX model of a svs_unet_plugin network: {reason}") from error
    return graph, stft


class Engine(ABC):
    """A network's ``forward``; threads share one, and it pickles.

    Args:
        network: in evaluation mode.
        device: where it is, such as ``"cpu"``.
    """

    name: str
    recurrent = False

    def __init__(self, network: UNet | Graph, device: str = "cpu") -> None:
        self.network = network
        self.device = device

    @abstractmethod
    def masks(self, magnitude: np.ndarray, heard: np.ndarray | None = None) -> np.ndarray:
        """What `UNet.forward` returns, ``(batch, sources * in_channels, bins, frames)``.

        Args:
            magnitude: ``(batch, inputs, bins, frames)``.
            heard: of a recurrent layer, what `heard` says from the first of these frames on.
        """

    def deepest(self, magnitude: np.ndarray) -> np.ndarray:
        """What a recurrent layer hears of magnitudes: ``(batch, width, rows, columns)``."""
        raise NotImplementedError(f"engine {self.name} computes no recurrent layer")

    def heard(self, deepest: np.ndarray) -> np.ndarray:
        """What a recurrent layer says about a whole song, of which it hears all at once."""
        raise NotImplementedError(f"engine {self.name} computes no recurrent layer")


class _GraphEngine(Engine):
    """An engine that compiles a graph, on the CPU.

    It takes as many threads as `threads` says when it compiles. Calls at the same time have a compiled
    network each, so that none waits for another.
    """

    network: Graph

    def __init__(self, network: Graph) -> None:
        super().__init__(network)
        self._free: list[Run] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_free": []}

    @staticmethod
    @abstractmethod
    def compile(model: bytes | Path, threads: int) -> Run:
        """A network of its own, ready to run."""

    def masks(self, magnitude: np.ndarray, heard: np.ndarray | None = None) -> np.ndarray:
        assert heard is None
        try:
            run = self._free.pop()
        except IndexError:
            run = self.compile(self.network.model, get_threads())
        masks = run(np.ascontiguousarray(magnitude))
        outputs = len(self.network.sources) * self.network.in_channels
        if masks.shape != (len(magnitude), outputs, *magnitude.shape[-2:]):
            raise ValueError(f"the network gives masks {masks.shape} for magnitudes {magnitude.shape}")
        self._free.append(run)
        return masks


class OnnxRuntimeEngine(_GraphEngine):
    """ONNX Runtime."""

    name = "onnxruntime"

    @staticmethod
    def compile(model: bytes | Path, threads: int) -> Run:
        session = _session(model, threads)
        (name,) = (tensor.name for tensor in session.get_inputs())

        def run(magnitude: np.ndarray) -> np.ndarray:
            masks: np.ndarray = session.run(None, {name: magnitude})[0]
            return masks

        return run


def _session(model: bytes | Path, threads: int, optimized: bool = True) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else os.fspath(PACKAGE / model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


class OpenVINOEngine(_GraphEngine):
    """OpenVINO's CPU plugin, in float32: by itself it takes half precision where the CPU has it."""

    name = "openvino"

    @staticmethod
    def compile(model: bytes | Path, threads: int) -> Run:
        core = _openvino_core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # to the same cores, in each of several processes
        }
        request = core.compile_model(
            core.read_model(model if isinstance(model, bytes) else PACKAGE / model), "CPU", settings
        ).create_infer_request()

        def run(magnitude: np.ndarray) -> np.ndarray:
            # What it returns is a copy: the next run would write over its own.
            masks: np.ndarray = request.infer({0: magnitude}, share_inputs=True, share_outputs=False)[0]
            return masks

        return run


def _openvino_core() -> Any:
    """The one of this process, which is kept.

    With the last one goes the stack on which the thread that made it handles signals (2026.4): if that
    happens in another thread, the next Ctrl-C is a segmentation fault.
    """
    with _MAKING_CORE:
        if not _CORES:
            openvino = _import_openvino()
            # Two threads that are the first to ask for it wait for each other without end (2026.4).
            openvino.Type.f32.to_dtype()
            _CORES.append(openvino.Core())
        return _CORES[0]


_CORES: list[Any] = []
_MAKING_CORE = Lock()


def _import_openvino() -> ModuleType:
    """OpenVINO without its telemetry.

    Its import reports itself to Google Analytics, and keeps an identity in the home folder (2025 and 2026).
    If openvino_telemetry can't be imported, it has a stub for it.
    """
    telemetry = "openvino_telemetry"
    if "openvino" in sys.modules or telemetry in sys.modules:  # whoever did that has reported
        return importlib.import_module("openvino")
    sys.modules[telemetry] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[telemetry]
