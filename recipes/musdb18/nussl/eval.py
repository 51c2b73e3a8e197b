"""Score an experiment's best model on the test songs, as they were recorded: BSS Eval v4 and SI-SDR."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from configuration import network_name

from svs_unet_plugin import checkpoint
from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.evaluation import store as folders
from svs_unet_plugin.evaluation.runner import Weights, alarms, digest, score_tracks, tracks_to_score

SYSTEM = "unet"
"""The name of its folder of results."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", type=Path, required=True, help="the experiment")
    parser.add_argument("--prepared", type=Path, required=True, help="what `svs-unet data prepare` wrote")
    parser.add_argument("--originals", type=Path, required=True, help="the songs before they were prepared")
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--tracks", type=int, help="score so many test songs only (default: all)")
    options = parser.parse_args()

    tracks = tracks_to_score(options.originals, open_prepared(options.prepared))[: options.tracks]
    results = options.exp_dir / "results"
    weights = options.exp_dir / "best_model.pth"
    conf = yaml.safe_load((options.exp_dir / "conf.yml").read_text())
    describe(results, SYSTEM, network_name(conf), weights)
    score_tracks(results, SYSTEM, tracks, Weights(weights), made_of=digest(weights), jobs=options.jobs)
    print(table(results, SYSTEM))
    for said in alarms(results, SYSTEM):
        print(f"ALARM: {said}")


def describe(results: Path, system: str, name: str, weights: Path) -> None:
    """Write what the system is and how its losses went; keep what was measured of its cost."""
    loaded = checkpoint.read(weights)
    parameters = sum(parameter.numel() for parameter in loaded.network.parameters())
    known = results.is_dir() and {found.id for found in folders.read_systems(results)}
    if not known or system not in known:
        folders.write_system(results, folders.System(system, name, "trained", parameters))
    latest = checkpoint.read(weights.parent / "checkpoints" / "latest.model.pth")
    history = latest.metadata["trainer.state.epoch_history"]
    losses = folders.Losses(tuple(history["train/loss"]), tuple(history["validation/loss"]))
    folders.write_losses(results, system, losses)


def table(results: Path, system: str) -> str:
    """Medians over the tracks, a row for each source."""
    (described,) = (found for found in folders.read_systems(results) if found.id == system)
    scores = folders.read_scores(results, [described])
    medians = scores.groupby(["source", "metric"]).score.median().unstack()
    metrics = [name for name in folders.METRICS if name in medians]
    lines = [f"{described.name}, medians over {scores.track.nunique()} tracks, in dB", ""]
    lines.append(f"| | {' | '.join(metrics)} |")
    lines.append(f"|---{'|---:' * len(metrics)}|")
    for source in medians.index:
        lines.append(f"| {source} | {' | '.join(f'{medians[name][source]:.2f}' for name in metrics)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
