"""The network by torch: as it is, on any device, and as a graph for other engines."""

from __future__ import annotations

import copy
import io
import warnings
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from svs_unet_plugin.engines.graph import Engine, Graph
from svs_unet_plugin.unet import UNet

OPSET = 18
"""The version of ONNX's operators that graphs are made of."""

_EXPORTING = Lock()
"""Held while a graph is made: torch exports one at a time."""


class TorchEngine(Engine):
    """A copy of the network on the device, in evaluation mode, in which convolutions normalise: `folded`."""

    name = "torch"
    network: UNet

    def __init__(self, network: UNet, device: str | None = None) -> None:
        where = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        super().__init__(network, str(where))
        # With the channels last in memory, convolutions are some ten percent faster on a CPU.
        self.folded = _folded(network).to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def recurrent(self) -> bool:  # type: ignore[override]
        """Whether the network hears a song as a whole."""
        return self.network.bottleneck_type is not None

    def masks(self, magnitude: np.ndarray, heard: np.ndarray | None = None) -> np.ndarray:
        with torch.inference_mode(), in_float32(self.device):
            if heard is None:
                return _array(self.folded(self._tensor(magnitude)))
            features = self.folded.encode(self._tensor(magnitude))
            features[-1] = self._tensor(heard[..., : features[-1].shape[-1]])
            return _array(self.folded.decode(features, *magnitude.shape[-2:]))

    def deepest(self, magnitude: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), in_float32(self.device):
            return _array(self.folded.encode(self._tensor(magnitude))[-1])

    def heard(self, deepest: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), in_float32(self.device):
            return _array(self.folded.bottleneck(self._tensor(deepest)))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def _folded(network: UNet) -> UNet:
    """A copy in evaluation mode in which each normalisation is part of the convolution before it."""
    network = copy.deepcopy(network).eval()
    for layers in network.modules():
        if isinstance(layers, nn.Sequential):
            for i, layer in enumerate(layers):
                if isinstance(layer, nn.BatchNorm2d):
                    before: Any = layers[i - 1]
                    layers[i - 1] = fuse_conv_bn_eval(before, layer, isinstance(before, nn.ConvTranspose2d))
                    layers[i] = nn.Identity()
    return network


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.cpu().numpy()
    return array


def _usable(device: str | torch.device) -> torch.device:
    """The device, if there is one of that name here that computes."""
    try:
        number = torch.ones(1, device=device)
        number.item()  # "meta" has none
        return number.device
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"there is no device {device} that torch can use here; cpu is one") from error


def in_float32(device: str) -> AbstractContextManager[None]:
    """On a GPU, cuDNN without TF32 and by deterministic kernels while it lasts; its flags are global."""
    if not device.startswith("cuda"):
        return nullcontext()
    return torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False
    )


def graph_of(network: UNet, bins: int) -> Graph:
    """The network as a graph for magnitudes of so many bins, or others with as many of them for DC.

    Raises:
        ValueError: if it has a recurrent layer.
    """
    if network.bottleneck_type is not None:
        raise ValueError(
            f"a network with a {network.bottleneck_type} bottleneck, which hears a song as a whole, takes "
            "engine torch"
        )
    return Graph(
        onnx_graph(network, bins), network.sources, network.in_channels, network.stride, network.reach
    )


def onnx_graph(network: UNet, bins: int, folded: bool = True) -> bytes:
    """The network as an ONNX model, from ``magnitude`` to ``masks``, of any batch, bins and frames.

    By torch's exporter that traces: the newer one needs onnxscript as well.

    Args:
        network: in evaluation mode.
        bins: of the magnitudes that it will take, or any with as many for DC.
        folded: whether weights are those of convolutions and normalisations together.
    """
    import onnx  # noqa: F401, which torch asks for with a reason of its own

    device = next(network.parameters()).device
    magnitude = torch.zeros(1, network.inputs, bins, network.stride, device=device)
    axes = {0: "batch", 2: "bins", 3: "frames"}
    content = io.BytesIO()
    with _EXPORTING, torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on its age, and on what becomes constant: the bins that are DC
        torch.onnx.export(
            network,
            (magnitude,),
            content,  # type: ignore[arg-type]  # which the exporter that traces takes
            dynamo=False,
            do_constant_folding=folded,
            training=torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE,
            opset_version=OPSET,
            input_names=["magnitude"],
            output_names=["masks"],
            dynamic_axes={"magnitude": axes, "masks": axes},
        )
    return content.getvalue()
