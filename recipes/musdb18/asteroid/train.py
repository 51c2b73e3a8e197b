"""Train an `SVSUNet` on songs that `svs-unet data prepare` has written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from svs_unet_plugin.asteroid import SVSUNet
from svs_unet_plugin.asteroid.datasets import Excerpts, whole_songs
from svs_unet_plugin.asteroid.training import MaskSystem, load_best, train
from svs_unet_plugin.checkpoint import write
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.files import write_json
from svs_unet_plugin.mixing.excerpts import mapped_songs
from svs_unet_plugin.training import configuration

LIGHTNING = {"accelerator": str, "devices": int | str, "num_nodes": int, "strategy": str, "precision": str}
"""Options that go to ``pytorch_lightning.Trainer`` as they are."""


def main() -> None:
    parser = configuration.RecipeParser(__doc__)
    parser.add_script_argument("--exp_dir", required=True, help="the experiment; it is resumed if it exists")
    parser.add_script_argument("--data_dir", required=True, help="prepared songs")
    parser.add_script_argument("--data_name", default="musdb18", help="what they are, for who gets the model")
    parser.add_script_argument("--workers", type=int, default=0, help="processes that read data")
    for name, kind in LIGHTNING.items():
        parser.add_script_argument(f"--{name}", type=kind | None, help="for Lightning, as it is")
    options = parser.parse_args()
    conf, experiment = parser.configuration(options), Path(options.exp_dir)
    trainer_options = {name: options[name] for name in LIGHTNING if options[name] is not None}

    prepared = open_prepared(options.data_dir)
    stft = conf.stft(prepared.settings.sample_rate)
    items = conf.training.epoch_steps * conf.training.batch_size
    excerpts = Excerpts(
        mapped_songs(prepared.train, STEMS),
        stft,
        conf.sources,
        settings=conf.excerpts,
        items=items,
        seed=conf.training.seed,
        in_channels=conf.network["in_channels"],
    )
    torch.manual_seed(conf.training.seed)
    model = SVSUNet(
        conf.sources,
        sample_rate=stft.sample_rate,
        window_length=stft.window_length,
        hop_length=stft.hop_length,
        **conf.network,
    )
    conf.load_weights(model.network, stft)
    songs = whole_songs(prepared, conf.sources)
    system = MaskSystem(model, excerpts, songs, conf.training, workers=options.workers)
    configuration.keep(conf, experiment, options.data_dir)
    best = train(system, experiment, **trainer_options)
    if system.trainer.is_global_zero:
        publish(system, model.get_model_args(), best, experiment, options.data_name)


def publish(system: MaskSystem, arguments: dict[str, Any], best: Path, experiment: Path, data: str) -> None:
    """Write the best model, as asteroid's recipes leave it."""
    scores = {path: float(loss) for path, loss in system.trainer.checkpoint_callback.best_k_models.items()}
    write_json(experiment / "best_k_models.json", scores)
    content = load_best(SVSUNet(**arguments), best).serialize()
    content.update(dataset=data, task="enhancement", licenses=[])
    write(content, experiment / "best_model.pth")
    print(experiment / "best_model.pth")


if __name__ == "__main__":
    configuration.run(main)
