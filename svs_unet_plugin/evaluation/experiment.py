"""Score an experiment's best model on the test songs, as they were recorded: BSS Eval v4 and SI-SDR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import Namespace

from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.evaluation.report.tables import system_table
from svs_unet_plugin.evaluation.runner import Entry, alarms, network_entry, run, tracks_to_score
from svs_unet_plugin.evaluation.store import read_scores
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.history import read_losses

if TYPE_CHECKING:
    import pandas as pd


def entry_of(experiment: Path, id: str) -> Entry:
    """An experiment's network as it takes part in a comparison."""
    name = configuration.read(experiment).name
    return network_entry(id, name, experiment / "best_model.pth", read_losses(experiment / "losses.csv"))


def evaluate(options: Namespace, id: str, listened: int = 0) -> pd.DataFrame:
    """Score an experiment, and print medians and what looks like a defect.

    Args:
        options: of `svs_unet_plugin.training.configuration.scoring_parser`.
        id: of the system, and the name of its folder of results.
        listened: see `svs_unet_plugin.evaluation.runner.run`.

    Returns:
        The scores, see `svs_unet_plugin.evaluation.store.read_scores`.
    """
    tracks = tracks_to_score(options.source, open_prepared(options.data_dir))[: options.tracks]
    entry, results = entry_of(options.exp_dir, id), options.exp_dir / "results"
    run(results, [entry], tracks, options.jobs, listened=listened)
    names = [track.name for track in tracks]
    print(system_table(results, id, names))
    for alarm in alarms(results, id, names):
        print(f"ALARM: {alarm}")
    return read_scores(results, [entry.system], names)
