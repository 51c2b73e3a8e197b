"""What computes the network on its way through a song: magnitudes in, masks out.

PyTorch does on every device, from a `UNet`. On a CPU, so do ONNX Runtime and OpenVINO, from a `Graph`, which
takes no torch.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from svs_unet_plugin.engines.graph import Engine, Graph, OnnxRuntimeEngine, OpenVINOEngine, read_graph

if TYPE_CHECKING:
    from svs_unet_plugin.unet import UNet

__all__ = ["ENGINES", "Engine", "Graph", "installed", "make_engine", "read_graph", "require"]

ENGINES = ("torch", "onnxruntime", "openvino")
"""The names of engines, each that of a package."""


def installed() -> tuple[str, ...]:
    """The names of the engines that can be had here."""
    return tuple(name for name in ENGINES if importlib.util.find_spec(name) is not None)


def make_engine(name: str | None, network: UNet | Graph, bins: int, device: str | None = None) -> Engine:
    """An engine by its name.

    Args:
        name: one of `ENGINES`, or None for torch, and for ONNX Runtime if the network is a graph.
        network: a graph for all but torch. A `UNet`, in evaluation mode, is made one, which takes onnx.
        bins: of the magnitudes that it will take, or any other number with as many of them for DC.
        device: anything for torch, by default a GPU if there is one; a CPU for the others.

    Raises:
        ImportError: if a package that it needs is not installed.
        ValueError: if there is no such engine, or not for this device or this network.
    """
    if name is None:
        name = "onnxruntime" if isinstance(network, Graph) else "torch"
    require(name)
    if name == "torch":
        from svs_unet_plugin.engines.torch_engine import TorchEngine

        if isinstance(network, Graph):
            raise ValueError("engine torch runs checkpoints, not ONNX models: take onnxruntime or openvino")
        return TorchEngine(network, device)
    if device not in (None, "cpu"):
        raise ValueError(f"engine {name} computes on the CPU, not on {device}: take torch, or device cpu")
    if not isinstance(network, Graph):
        from svs_unet_plugin.engines.torch_engine import graph_of

        network = graph_of(network, bins)
    return (OnnxRuntimeEngine if name == "onnxruntime" else OpenVINOEngine)(network)


def require(name: str) -> None:
    """
    Raises:
        ImportError: if an engine is not installed.
        ValueError: if there is none of that name.
    """
    if name not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if importlib.util.find_spec(name) is None:
        package = name if name == "onnxruntime" else f"'svs_unet_plugin[{name}]'"
        raise ImportError(f"engine {name} is not installed: pip install {package}")
