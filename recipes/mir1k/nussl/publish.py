"""Make a checkpoint to ship from one of training: half precision, weights and transforms, nothing else."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import checkpoint
from svs_unet_plugin.nussl import nussl


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="such as exp/pretrained/checkpoints/best.model.pth")
    parser.add_argument("--name", default=checkpoint.DEFAULT_NAME, help="of the bundled weights")
    options = parser.parse_args()

    trained = checkpoint.read(options.checkpoint)
    network = trained.network
    config = svs.build_unet_mask_inference(
        network.sources, network.in_channels, network.channels, network.bottleneck_type
    )
    model = nussl.ml.SeparationModel(config)
    model.layers["mask"].load_state_dict(network.state_dict())
    path = checkpoint.PRETRAINED / f"{options.name}.pth"
    svs.save(model.half(), path, stft=trained.stft)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{digest}  {path.name}  # for {checkpoint.PRETRAINED / checkpoint.CHECKSUMS}")


if __name__ == "__main__":
    main()
