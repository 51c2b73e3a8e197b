"""A network as a file that other programs run: magnitudes in, masks out."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.export import Dim

from svs_unet_plugin import checkpoint, files
from svs_unet_plugin.engines.graph import OnnxRuntimeEngine
from svs_unet_plugin.engines.torch_engine import onnx_graph
from svs_unet_plugin.files import atomic_write
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.unet import UNet

TOLERANCE = 1e-4
"""By how much a mask of the file may differ from the network's."""

METADATA = "svs_unet_plugin.json"
"""The name that the metadata has in files of torch, which are archives."""


def export(network: UNet, stft: STFT, path: str | os.PathLike[str], form: str) -> None:
    """Write a network that takes ``magnitude`` ``(batch, inputs, bins, frames)`` and returns ``masks``.

    Any number of items and frames; the bins are the transform's. The file gets its name once masks that are
    computed from it are the network's to 1e-4. What it takes to use it is in it, see `metadata`.

    Args:
        network: in evaluation mode, on the CPU.
        stft: the transform whose magnitudes it takes.
        form: one of `FORMATS`. An exported program has no recurrent layer.

    Raises:
        ImportError: if it takes a package that is not installed.
        OSError: if the file can't be written.
        ValueError: if there is no such form, or none of this network.
    """
    if form not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    with atomic_write(path) as beside, torch.inference_mode(False), torch.no_grad():
        run = FORMATS[form](network, stft, beside)
        for batch, frames in (1, 1), (1, 64), (3, 200):
            # Mostly small, as those of music.
            magnitude = torch.rand(batch, network.inputs, stft.bins, frames) ** 8
            difference = float((run(magnitude) - network(magnitude)).abs().max())
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the masks of {path} would differ from the network's by {difference:.1e}, "
                    f"more than {TOLERANCE}"
                )


def write_graph_beside(path: Path) -> Path:
    """For a checkpoint of which this package brings a copy: an ONNX model beside it, a few kilobytes.

    Its weights are those in the checkpoint's own file, of which ONNX says where they begin, in half
    precision.

    Returns:
        The model's path, that of the checkpoint with the suffix ``.onnx``.

    Raises:
        ImportError: if onnx is not installed.
        ValueError: if the checkpoint holds no weights in half precision.
    """
    import onnx

    loaded = checkpoint.read(path)
    places = _places(path)
    model = onnx.load_model_from_string(onnx_graph(loaded.network, loaded.stft.bins, folded=False))
    casts = []
    for held in model.graph.initializer:
        values = onnx.numpy_helper.to_array(held)
        begin = places.get(values.astype(np.float16).tobytes())
        if values.size < 2 or begin is None or (values.astype(np.float16) != values).any():
            continue
        half = f"{held.name}.half"
        casts.append(onnx.helper.make_node("Cast", [half], [held.name], to=onnx.TensorProto.FLOAT))
        held.Clear()
        held.name, held.data_type = half, onnx.TensorProto.FLOAT16
        held.dims.extend(values.shape)
        held.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", path.name), ("offset", begin), ("length", 2 * values.size)):
            held.external_data.add(key=key, value=str(value))
    if not casts:
        raise ValueError(f"{path} holds no weights in half precision")
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    out = path.with_suffix(".onnx")
    files.write_bytes(out, _described(model, loaded.network, loaded.stft))
    return out


def _places(path: Path) -> dict[bytes, int]:
    """Where in a file of ``torch.save`` the values of its tensors begin, by what they are."""
    places = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for item in archive.infolist():
            file.seek(item.header_offset)
            header = file.read(30)  # the lengths of the name and of what follows it are at its end
            begin = item.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
            places[archive.read(item)] = begin
    return places


def metadata(network: UNet, stft: STFT) -> dict[str, Any]:
    """What it takes to use a network's file: how its input is made, and what its output is."""
    return {
        "sources": list(network.sources),
        "in_channels": network.in_channels,
        "inputs": ["mono"] if network.inputs == 1 else ["left", "right", "mid", "side"],
        "sample_rate": stft.sample_rate,
        "window_length": stft.window_length,
        "hop_length": stft.hop_length,
        "window_type": stft.window_type,
        "normalized": stft.normalized,
        "stride": network.stride,
        "reach": None if network.bottleneck_type else network.reach,
    }


def _onnx(network: UNet, stft: STFT, path: Path) -> Callable[[Tensor], Tensor]:
    import onnx

    content = _described(onnx.load_model_from_string(onnx_graph(network, stft.bins)), network, stft)
    path.write_bytes(content)
    run = OnnxRuntimeEngine.compile(content, torch.get_num_threads())
    return lambda magnitude: torch.from_numpy(run(magnitude.numpy()))


def _described(model: Any, network: UNet, stft: STFT) -> bytes:
    """An ONNX model with its metadata."""
    import onnx

    model.doc_string = "Magnitudes of a mixture to masks; see the metadata."
    values = metadata(network, stft).items()
    onnx.helper.set_model_props(
        model, {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
    )
    content: bytes = model.SerializeToString()
    return content


def _torchscript(network: UNet, stft: STFT, path: Path) -> Callable[[Tensor], Tensor]:
    scripted = torch.jit.script(network)
    torch.jit.save(scripted, path, _extra_files={METADATA: json.dumps(metadata(network, stft))})
    run: Callable[[Tensor], Tensor] = torch.jit.load(path)
    return run


def _exported_program(network: UNet, stft: STFT, path: Path) -> Callable[[Tensor], Tensor]:
    config = torch.fx.experimental._config
    if not hasattr(config, "backed_size_oblivious"):
        raise ValueError(
            f"torch {torch.__version__} makes no program for any number of frames: a newer one does"
        )
    if network.bottleneck_type is not None:
        raise ValueError(
            f"torch makes no program for any number of frames of a {network.bottleneck_type} bottleneck: "
            "take onnx or torchscript"
        )
    example = torch.rand(2, network.inputs, stft.bins, 150)
    # By itself, torch makes programs of their own for one item, for one column of the deepest layer, and for
    # frames that are a multiple of 64.
    with config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim.DYNAMIC, 3: Dim.DYNAMIC},))
    content = io.BytesIO()  # paths must end in .pt2
    torch.export.save(program, content, extra_files={METADATA: json.dumps(metadata(network, stft))})
    path.write_bytes(content.getbuffer())
    run: Callable[[Tensor], Tensor] = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return run


FORMATS = {"onnx": _onnx, "torchscript": _torchscript, "exported-program": _exported_program}
"""What writes a file in a form, and returns what runs it."""
