"""Train an `SVSUNet` on songs that `svs-unet data prepare` has written."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from svs_unet_plugin.asteroid import SVSUNet
from svs_unet_plugin.asteroid.datasets import Excerpts, whole_songs
from svs_unet_plugin.asteroid.training import TrainSettings, VocalsSystem, load_best, train
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.files import atomic_write

HERE = Path(__file__).parent

# Keys which are not in the conf.yml file are added here. In the dictionary of the options, `key` is found at
# conf["main_args"][key].
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--exp_dir", required=True, help="the experiment; goes on if it was begun")
parser.add_argument("--data_dir", required=True, help="prepared songs")
parser.add_argument("--data_name", default="musdb18", help="what they are, for who gets the model")
parser.add_argument("--accelerator", default="auto", help="for Lightning: auto, cpu, gpu …")
parser.add_argument("--devices", default="auto", help="for Lightning: how many on each node, or which")
parser.add_argument("--num_nodes", type=int, default=1, help="for Lightning")
parser.add_argument("--strategy", default="auto", help="for Lightning: auto, ddp …")


def main(conf: dict[str, dict[str, Any]]) -> None:
    given = conf["main_args"]
    out = Path(given["exp_dir"])
    prepared = open_prepared(given["data_dir"])
    settings = TrainSettings(
        **conf["training"],
        **conf["optim"],
        **{name: given[name] for name in ("accelerator", "devices", "num_nodes", "strategy")},
    )
    data = conf["data"]
    excerpts = Excerpts(
        prepared, data["segment"], data["samples_per_track"], data["random_track_mix"], data["seed"]
    )
    torch.manual_seed(data["seed"])
    model = SVSUNet(sample_rate=prepared.settings.sample_rate, **conf["model"])
    system = VocalsSystem(model, excerpts, whole_songs(prepared), settings, config=conf)
    best = train(system, out)
    if not system.trainer.is_global_zero:
        return

    scores = {path: float(loss) for path, loss in system.trainer.checkpoint_callback.best_k_models.items()}
    with atomic_write(out / "best_k_models.json") as beside:
        beside.write_text(json.dumps(scores, indent=0))
    content = load_best(SVSUNet(**model.get_model_args()), best).serialize()
    content.update(dataset=given["data_name"], task="enhancement", licenses=[])
    with atomic_write(out / "best_model.pth") as beside:
        torch.save(content, beside)
    print(out / "best_model.pth")


if __name__ == "__main__":
    from asteroid.utils import parse_args_as_dict, prepare_parser_from_dict

    # Each key of conf.yml is an option, too.
    with open(HERE / "local" / "conf.yml") as file:
        parser = prepare_parser_from_dict(yaml.safe_load(file), parser=parser)
    try:
        options = parse_args_as_dict(parser)
        main({group: options[group] for group in ("data", "model", "optim", "training", "main_args")})
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
