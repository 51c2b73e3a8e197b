"""Score an experiment's best model on the test songs, as they were recorded, and get it ready to publish."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from svs_unet_plugin.asteroid import asteroid  # repaired
from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.evaluation.report.tables import system_table
from svs_unet_plugin.evaluation.runner import network_entry, run, tracks_to_score
from svs_unet_plugin.evaluation.store import read_scores
from svs_unet_plugin.files import atomic_write, write_json
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.history import read_losses

save_publishable = asteroid.models.save_publishable

SYSTEM = "svsunet"
"""The name of its folder of results."""


def main() -> None:
    parser = configuration.scoring_parser(__doc__)
    parser.add_argument("--examples", type=int, default=2, help="songs of which to save an excerpt")
    options = parser.parse_args()

    experiment, weights = options.exp_dir, options.exp_dir / "best_model.pth"
    tracks = tracks_to_score(options.source, open_prepared(options.data_dir))[: options.tracks]
    conf = configuration.read(experiment)
    entry = network_entry(SYSTEM, conf.name, weights, read_losses(experiment / "losses.csv"))
    results = experiment / "results"
    run(results, [entry], tracks, options.jobs, listened=options.examples)
    print(system_table(results, SYSTEM))

    medians = read_scores(results, [entry.system]).groupby(["source", "metric"]).score.median()
    metrics = {f"{source}_{metric}": float(score) for (source, metric), score in medians.items()}
    write_json(experiment / "final_metrics.json", metrics)
    publish = experiment / "publish_dir"
    publish.mkdir(exist_ok=True)
    conf_text = (experiment / configuration.CONFIGURATION_FILE).read_text()
    # asteroid writes in place, into a folder
    with atomic_write(publish / "model.pth") as beside, TemporaryDirectory() as folder:
        save_publishable(
            folder,
            load_weights_only(weights),
            metrics=metrics,
            train_conf=yaml.safe_load(conf_text),
            recipe="musdb18/SVSUNet",
        )
        shutil.copyfile(Path(folder) / "model.pth", beside)
    print(publish / "model.pth")


if __name__ == "__main__":
    configuration.run(main)
