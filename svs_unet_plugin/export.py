"""A network as a file that other programs run: magnitudes in, masks out."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental._config
from torch import Tensor
from torch.export import Dim

from svs_unet_plugin.engines import OnnxRuntimeEngine, onnx_graph, require
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
    }


def _onnx(network: UNet, stft: STFT, path: Path) -> Callable[[Tensor], Tensor]:
    require("onnxruntime")
    import onnx

    model = onnx.load_model_from_string(onnx_graph(network, stft.bins))
    model.doc_string = "Magnitudes of a mixture to masks; see the metadata."
    values = metadata(network, stft).items()
    onnx.helper.set_model_props(
        model, {name: value if isinstance(value, str) else json.dumps(value) for name, value in values}
    )
    content = model.SerializeToString()
    path.write_bytes(content)
    run = OnnxRuntimeEngine.compile(content, torch.get_num_threads())
    return lambda magnitude: torch.from_numpy(run(magnitude.numpy()))


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
