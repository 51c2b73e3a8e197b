"""Score an experiment's best model on the test songs, as they were recorded: BSS Eval v4 and SI-SDR."""

from __future__ import annotations

from pathlib import Path

from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.evaluation.report.tables import system_table
from svs_unet_plugin.evaluation.runner import Entry, alarms, network_entry, run, tracks_to_score
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.history import read_losses

SYSTEM = "unet"
"""The name of its folder of results."""


def main() -> None:
    parser = configuration.scoring_parser(__doc__)
    options = parser.parse_args()

    tracks = tracks_to_score(options.source, open_prepared(options.data_dir))[: options.tracks]
    results = options.exp_dir / "results"
    run(results, [entry_of(options.exp_dir)], tracks, options.jobs)
    print(system_table(results, SYSTEM))
    for alarm in alarms(results, SYSTEM):
        print(f"ALARM: {alarm}")


def entry_of(experiment: Path) -> Entry:
    """The experiment's network as it takes part in a comparison."""
    name = configuration.read(experiment).name
    return network_entry(SYSTEM, name, experiment / "best_model.pth", read_losses(experiment / "losses.csv"))


if __name__ == "__main__":
    configuration.run(main)
