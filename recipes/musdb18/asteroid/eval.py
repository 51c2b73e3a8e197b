"""Score an experiment's best model on the test songs, as they were recorded, and get it ready to publish."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from svs_unet_plugin.asteroid import asteroid  # repaired
from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.evaluation.experiment import evaluate
from svs_unet_plugin.files import atomic_write, write_json
from svs_unet_plugin.training import configuration

save_publishable = asteroid.models.save_publishable

SYSTEM = "svsunet"
"""The name of its folder of results."""


def main() -> None:
    parser = configuration.scoring_parser(__doc__)
    parser.add_argument("--examples", type=int, default=2, help="songs of which to save an excerpt")
    options = parser.parse_args()

    experiment, scores = options.exp_dir, evaluate(options, SYSTEM, options.examples)

    medians = scores.groupby(["source", "metric"]).score.median()
    metrics = {f"{source}_{metric}": float(score) for (source, metric), score in medians.items()}
    write_json(experiment / "final_metrics.json", metrics)
    publish = experiment / "publish_dir"
    publish.mkdir(exist_ok=True)
    # asteroid writes in place, into a folder
    with atomic_write(publish / "model.pth") as beside, TemporaryDirectory() as folder:
        save_publishable(
            folder,
            load_weights_only(experiment / "best_model.pth"),
            metrics=metrics,
            train_conf=configuration.read(experiment).values,
            recipe="musdb18/SVSUNet",
        )
        shutil.copyfile(Path(folder) / "model.pth", beside)
    print(publish / "model.pth")


if __name__ == "__main__":
    configuration.run(main)
