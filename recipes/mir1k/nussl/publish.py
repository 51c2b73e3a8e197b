"""Put a trained checkpoint among the bundled weights: in half precision, for stereo, with its checksum.

Of several checkpoints, the mean of their weights: that of two trainings which began with the same weights is
often better than either (M. Wortsman et al.: "Model soups", ICML 2022).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.checkpoint import read
from svs_unet_plugin.export import write_graph_beside
from svs_unet_plugin.files import digest, write_text
from svs_unet_plugin.training import configuration
from svs_unet_plugin.unet import UNet, as_stereo
from svs_unet_plugin.weights import PRETRAINED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoints", nargs="+", help="or names of bundled weights")
    parser.add_argument("name", help="what the weights are called: vocals, small …")
    parser.add_argument("--to", type=Path, default=PRETRAINED, help="folder (default: the package's)")
    parser.add_argument("--train-further", action="store_true", help="write the mean as it was trained")
    options = parser.parse_args()

    trained = [read(checkpoint) for checkpoint in options.checkpoints]
    networks = [one.network for one in trained]
    if not options.train_further:
        networks = [one if one.in_channels == 2 else as_stereo(one) for one in networks]
    settings = [(network.arguments(), one.stft) for network, one in zip(networks, trained, strict=True)]
    if any(other != settings[0] for other in settings):
        parser.error(f"the checkpoints have no mean, since their settings differ: {settings}")
    network = mean(networks)
    path = options.to / f"{options.name}.pth"
    if options.train_further:
        print(svs.save(svs.from_network(network), path, stft=trained[0].stft))
        return
    svs.save(svs.from_network(network).half(), path, stft=trained[0].stft)
    write_sums(options.to)
    write_graph_beside(path)
    write_sums(options.to)
    print(path)


def mean(networks: Sequence[UNet]) -> UNet:
    """The first of some networks of the same settings, with the mean of all their weights."""
    states = [network.state_dict() for network in networks]
    networks[0].load_state_dict(
        {
            name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
            for name, value in states[0].items()
        }
    )
    return networks[0]


def write_sums(folder: Path) -> None:
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".pth"))
    write_text(folder / "SHA256SUMS", "".join(f"{digest(path)}  {path.name}\n" for path in paths))


if __name__ == "__main__":
    configuration.run(main)
