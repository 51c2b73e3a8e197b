"""What is in a checkpoint, and other forms of it: ``svs-unet info``, ``convert`` and ``export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from svs_unet_plugin.cli.completion import complete_weights
from svs_unet_plugin.cli.paths import PATH

if TYPE_CHECKING:
    from svs_unet_plugin.stft import STFT

FORMATS = ("onnx", "torchscript", "exported-program")  # those of export, which takes long to import
CHECKPOINT = click.argument("checkpoint", shell_complete=complete_weights)


@click.command(short_help="Show what a checkpoint holds.")
@CHECKPOINT
def info(checkpoint: str) -> None:
    """Show what a CHECKPOINT or an ONNX model holds: a path, or the name of bundled weights."""
    from svs_unet_plugin.engines import installed, read_graph
    from svs_unet_plugin.weights import find, verify

    path = find(checkpoint, ".pth" if "torch" in installed() else ".onnx")
    if path.suffix == ".onnx":
        graph, stft = read_graph(path, bundled=verify(path))
        rows: dict[str, object] = {
            "file": path,
            "network": "an ONNX model",
            **_described(graph.sources, stft),
        }
    else:
        rows = {"file": path, **_of_checkpoint(path)}
    for key, value in rows.items():
        if value is not None:
            print(f"{key:<16} {value}")


def _described(sources: Sequence[str], stft: STFT) -> dict[str, object]:
    return {
        "sources": ", ".join(sources),
        "transform": f"{stft.sample_rate} Hz, window {stft.window_length}, hop {stft.hop_length}"
        + (f", {stft.window_type}" if stft.window_type != "hann" else "")
        + ("" if stft.normalized else ", plain magnitudes"),
    }


def _of_checkpoint(path: Path) -> dict[str, object]:
    from svs_unet_plugin.checkpoint import read

    loaded = read(path)
    network, metadata = loaded.network, loaded.metadata
    parameters = sum(parameter.numel() for parameter in network.parameters())
    rows: dict[str, object] = {
        "network": f"U-Net, {parameters:,} parameters, first layer {network.channels} wide"
        + (f", {network.residual_blocks} residual blocks a layer" if network.residual_blocks else "")
        + (f", {network.bottleneck_type} bottleneck" if network.bottleneck_type else ""),
        **_described(network.sources, loaded.stft),
    }
    with suppress(AttributeError, IndexError, TypeError, ValueError):  # a file may say anything here
        rows |= _of_training(metadata)
    return rows


def _of_training(metadata: Mapping[str, Any]) -> dict[str, object]:
    rows: dict[str, object] = {
        "nussl": metadata.get("nussl_version"),
        "asteroid": metadata.get("software_versions", {}).get("asteroid_version"),
        "trained on": (metadata.get("train_dataset") or {}).get("name"),
        "epochs": (metadata.get("trainer.state_dict") or {}).get("epoch"),
    }
    for key, losses in (metadata.get("trainer.state.epoch_history") or {}).items():
        rows[key] = f"{losses[-1]:.5f} at the end, {min(losses):.5f} at best"
    return rows


@click.command(short_help="Turn a checkpoint of one host into one of the other.")
@CHECKPOINT
@click.argument("out", type=PATH)
def convert(checkpoint: str, out: Path) -> None:
    """Turn a checkpoint of nussl into an asteroid file, or an asteroid file into a checkpoint of nussl.

    CHECKPOINT is a path, or the name of bundled weights.
    """
    from svs_unet_plugin.checkpoint import read, write

    loaded = read(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    if loaded.host == "asteroid":
        import svs_unet_plugin.nussl as svs

        svs.save(svs.from_network(loaded.network), out, stft=loaded.stft)
    else:
        from svs_unet_plugin.asteroid import SVSUNet

        write(SVSUNet.from_network(loaded.network, loaded.stft).serialize(), out)
    print(out)


@click.command(short_help="Write a checkpoint's network for other programs: ONNX, TorchScript ...")
@CHECKPOINT
@click.argument("out", type=PATH)
@click.option("--format", "form", type=click.Choice(FORMATS), required=True)
def export(checkpoint: str, out: Path, form: str) -> None:
    """Write the network of a CHECKPOINT, a path or the name of bundled weights, to the file OUT.

    It takes magnitudes (batch, inputs, bins, frames), as many items and frames as you like, and returns masks
    (batch, sources * channels, bins, frames). The file gets its name once its masks are the checkpoint's to
    1e-4. In it are the sources and the transform as well.
    """
    from svs_unet_plugin.checkpoint import read
    from svs_unet_plugin.export import export as write

    loaded = read(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    write(loaded.network, loaded.stft, out, form)
    print(out)
