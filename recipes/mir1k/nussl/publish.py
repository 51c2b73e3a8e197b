"""Put a trained checkpoint among the bundled weights: in half precision, for stereo, with its checksum."""

from __future__ import annotations

import argparse
from pathlib import Path

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.checkpoint import read
from svs_unet_plugin.export import write_graph_beside
from svs_unet_plugin.files import digest, write_text
from svs_unet_plugin.unet import as_stereo
from svs_unet_plugin.weights import PRETRAINED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name", help="what the weights are called: vocals, small …")
    parser.add_argument("--to", type=Path, default=PRETRAINED, help="folder (default: the package's)")
    options = parser.parse_args()

    trained = read(options.checkpoint)
    network = trained.network if trained.network.in_channels == 2 else as_stereo(trained.network)
    path = options.to / f"{options.name}.pth"
    svs.save(svs.from_network(network).half(), path, stft=trained.stft)
    write_sums(options.to)
    write_graph_beside(path)
    write_sums(options.to)
    print(path)


def write_sums(folder: Path) -> None:
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".onnx", ".pth"))
    write_text(folder / "SHA256SUMS", "".join(f"{digest(path)}  {path.name}\n" for path in paths))


if __name__ == "__main__":
    main()
