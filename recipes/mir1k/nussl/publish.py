"""Put a trained checkpoint among the bundled weights: in half precision, for stereo, with its checksum."""

from __future__ import annotations

import argparse
from pathlib import Path

import svs_unet_plugin.nussl as svs
from svs_unet_plugin.checkpoint import PRETRAINED, read
from svs_unet_plugin.files import digest, write_text
from svs_unet_plugin.unet import as_stereo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name", help="what the weights are called: vocals, small …")
    parser.add_argument("--to", type=Path, default=PRETRAINED, help="folder (default: the package's)")
    options = parser.parse_args()

    trained = read(options.checkpoint)
    network = trained.network if trained.network.in_channels == 2 else as_stereo(trained.network)
    svs.save(svs.from_network(network).half(), options.to / f"{options.name}.pth", stft=trained.stft)
    lines = (f"{digest(path)}  {path.name}\n" for path in sorted(options.to.glob("*.pth")))
    write_text(options.to / "SHA256SUMS", "".join(lines))
    print(options.to / f"{options.name}.pth")


if __name__ == "__main__":
    main()
