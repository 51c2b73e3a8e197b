"""Score an experiment's best model on the test songs, as they were recorded, and get it ready to publish."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from svs_unet_plugin import Separator
from svs_unet_plugin.asteroid import asteroid  # repaired
from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.evaluation.runner import Song, Weights, digest, read_song, score_tracks, tracks_to_score
from svs_unet_plugin.evaluation.store import System, read_scores, write_audio, write_system
from svs_unet_plugin.files import atomic_write

save_publishable = asteroid.models.save_publishable

SYSTEM = "svsunet"
EXAMPLE_SECONDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", type=Path, required=True, help="the experiment")
    parser.add_argument("--data_dir", type=Path, required=True, help="prepared songs")
    parser.add_argument("--source", type=Path, required=True, help="the songs before they were prepared")
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument(
        "--n_save_ex", type=int, default=2, help="songs of which to save an example (default 2)"
    )
    options = parser.parse_args()

    weights = options.exp_dir / "best_model.pth"
    tracks = tracks_to_score(options.source, open_prepared(options.data_dir))
    content = load_weights_only(weights)
    results = options.exp_dir / "results"
    system = System(
        SYSTEM, "U-Net", "trained", sum(w.numel() for w in Separator(weights).network.parameters())
    )
    write_system(results, system)
    separate = Weights(weights)
    score_tracks(results, SYSTEM, tracks, separate, made_of=digest(weights), jobs=options.jobs)
    for track in tracks[: options.n_save_ex]:
        save_example(results, read_song(track), separate)

    medians = read_scores(results, [system]).groupby(["source", "metric"]).score.median()
    metrics = {f"{source}_{metric}": float(score) for (source, metric), score in medians.items()}
    print(f"Medians over {len(tracks)} songs, in dB")
    for name, value in metrics.items():
        print(f"{name:<24}{value:6.2f}")
    with atomic_write(options.exp_dir / "final_metrics.json") as beside:
        beside.write_text(json.dumps(metrics, indent=0))
    publish = options.exp_dir / "publish_dir"
    publish.mkdir(exist_ok=True)
    train_conf = yaml.safe_load((options.exp_dir / "conf.yml").read_text())
    with TemporaryDirectory(dir=publish) as folder:  # asteroid writes in place
        save_publishable(folder, content, metrics=metrics, train_conf=train_conf, recipe="musdb18/SVSUNet")
        os.replace(Path(folder) / "model.pth", publish / "model.pth")
    print(publish / "model.pth")


def save_example(results: Path, song: Song, separate: Weights) -> None:
    """Save the first seconds of what a song is separated into."""
    for source, samples in separate(song).items():
        excerpt = samples[:, : EXAMPLE_SECONDS * song.sample_rate]
        write_audio(results, SYSTEM, song.name, source, excerpt, song.sample_rate)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
