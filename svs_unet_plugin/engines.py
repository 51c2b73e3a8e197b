"""What computes the network on its way through a song: magnitudes in, masks out.

PyTorch does on every device. On a CPU, so do ONNX Runtime and OpenVINO, from an ONNX graph that is made of
the network in memory when it is needed first, and kept: an engine computes with the weights that it began
with.
"""

from __future__ import annotations

import importlib.util
import io
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svs_unet_plugin.unet import UNet

ENGINES = ("torch", "onnxruntime", "openvino")
"""The names of engines, each that of a package."""

EXTRAS = {"onnxruntime": "onnx", "openvino": "openvino"}
"""The extra that installs what an engine needs."""

OPSET = 18
"""The version of ONNX's operators that graphs are made of."""

Run = Callable[[np.ndarray], np.ndarray]
"""A network that was compiled for one thread of the program at a time."""


_MAKING = Lock()
"""Held while a network is made: torch exports one at a time."""


class Engine(ABC):
    """A network's ``forward`` by other means; threads share one, and it pickles.

    Args:
        network: in evaluation mode.
        device: where it is.
    """

    name: str

    def __init__(self, network: UNet, device: torch.device) -> None:
        self.network = network
        self.device = device

    @abstractmethod
    def masks(self, magnitude: Tensor) -> Tensor:
        """What `UNet.forward` returns, ``(batch, sources * in_channels, bins, frames)``.

        Args:
            magnitude: ``(batch, inputs, bins, frames)``, on the device.
        """


class TorchEngine(Engine):
    """The network as it is."""

    name = "torch"

    def masks(self, magnitude: Tensor) -> Tensor:
        with in_float32(self.device):
            masks: Tensor = self.network(magnitude)
        return masks


class _GraphEngine(Engine):
    """An engine that compiles an ONNX graph of the network, on the CPU.

    It takes as many threads as torch does when it is compiled. Calls at the same time have a compiled network
    each, so that none waits for another.
    """

    def __init__(self, network: UNet, device: torch.device) -> None:
        super().__init__(network, device)
        self._start()

    def _start(self) -> None:
        self._graphs: dict[int, bytes] = {}  # by the number of bins that are DC, see UNet.dc_bins
        self._free: dict[int, list[Run]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"network": self.network, "device": self.device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    @staticmethod
    @abstractmethod
    def compile(graph: bytes, threads: int) -> Run:
        """A network of its own, ready to run."""

    def masks(self, magnitude: Tensor) -> Tensor:
        bins = magnitude.shape[-2]
        free = self._free.setdefault(self.network.dc_bins(bins), [])
        try:
            run = free.pop()
        except IndexError:
            run = self._made(bins)
        masks = torch.from_numpy(run(magnitude.contiguous().numpy()))
        free.append(run)
        return masks

    def _made(self, bins: int) -> Run:
        dc = self.network.dc_bins(bins)
        with _MAKING:
            if dc not in self._graphs:
                self._graphs[dc] = onnx_graph(self.network, bins, ("batch", "bins", "frames"))
            return self.compile(self._graphs[dc], torch.get_num_threads())


class OnnxRuntimeEngine(_GraphEngine):
    """ONNX Runtime."""

    name = "onnxruntime"

    @staticmethod
    def compile(graph: bytes, threads: int) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        (name,) = (tensor.name for tensor in session.get_inputs())

        def run(magnitude: np.ndarray) -> np.ndarray:
            masks: np.ndarray = session.run(None, {name: magnitude})[0]
            return masks

        return run


class OpenVINOEngine(_GraphEngine):
    """OpenVINO's CPU plugin, in float32: by itself it takes half precision where the CPU has it."""

    name = "openvino"

    @staticmethod
    def compile(graph: bytes, threads: int) -> Run:
        core = _openvino_core()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # to the same cores, in each of several processes
        }
        request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()

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
            _CORES.append(_import_openvino().Core())
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


def installed() -> tuple[str, ...]:
    """The names of the engines that can be had here, torch first."""
    return tuple(name for name in ENGINES if not _missing(name))


def make_engine(name: str | None, network: UNet, device: torch.device) -> Engine:
    """An engine by its name.

    Args:
        name: one of `ENGINES`, or None for torch.
        network: in evaluation mode, on the device.
        device: anything for torch, a CPU for the others.

    Raises:
        ImportError: if a package that it needs is not installed.
        ValueError: if there is no such engine, or not for this device or this network.
    """
    if name is None:
        name = "torch"
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if name == "torch":
        return TorchEngine(network, device)
    if device.type != "cpu":
        raise ValueError(f"engine {name} computes on the CPU, not on {device}: take torch, or device cpu")
    if network.bottleneck_type is not None:
        raise ValueError(
            f"engine {name} can't run a network with a {network.bottleneck_type} bottleneck, which hears a "
            "song as a whole: take torch"
        )
    require(name)
    return OnnxRuntimeEngine(network, device) if name == "onnxruntime" else OpenVINOEngine(network, device)


def require(name: str) -> None:
    """
    Raises:
        ImportError: if what an engine needs is not installed.
    """
    if missing := _missing(name):
        raise ImportError(
            f"{name} needs the package {missing}: pip install 'svs_unet_plugin[{EXTRAS[name]}]'"
        )


def _missing(name: str) -> str | None:
    """The first package that an engine needs and that is not installed."""
    needs = ("torch",) if name == "torch" else (name, "onnx")
    return next((package for package in needs if importlib.util.find_spec(package) is None), None)


def onnx_graph(network: UNet, bins: int, dynamic: Collection[str] = ("batch", "frames")) -> bytes:
    """The network as an ONNX model, from ``magnitude`` to ``masks``.

    By torch's exporter that traces: the newer one needs onnxscript as well.

    Args:
        network: in evaluation mode.
        bins: of the magnitudes that it will take.
        dynamic: which of batch, bins and frames may be any number; of bins, any with as many for DC.
    """
    device = next(network.parameters()).device
    magnitude = torch.zeros(1, network.inputs, bins, network.stride, device=device)
    axes = {i: name for i, name in enumerate(("batch", "channels", "bins", "frames")) if name in dynamic}
    content = io.BytesIO()
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its age, and on what becomes constant: the bins that are DC
        torch.onnx.export(
            network,
            (magnitude,),
            content,  # type: ignore[arg-type]  # which the exporter that traces takes
            dynamo=False,
            opset_version=OPSET,
            input_names=["magnitude"],
            output_names=["masks"],
            dynamic_axes={"magnitude": axes, "masks": axes},
        )
    return content.getvalue()


def in_float32(device: torch.device) -> AbstractContextManager[None]:
    """On a GPU, cuDNN without TF32 and by deterministic kernels while it lasts; its flags are global."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )
