"""Compare an experiment with other networks, with nussl's separators and with oracles; write the report.

Everything that is finished is kept, and a run that was stopped is resumed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from eval import SYSTEM
from train import make_model, network_of, train

from svs_unet_plugin import STFT, audio
from svs_unet_plugin.corpora.musdb import STEMS, Track
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared
from svs_unet_plugin.evaluation import store
from svs_unet_plugin.evaluation.costs import HOW_COSTS_ARE_MEASURED
from svs_unet_plugin.evaluation.experiment import entry_of
from svs_unet_plugin.evaluation.oracles import MIXTURE, IdealRatioMask
from svs_unet_plugin.evaluation.report import MUSDB18_TEST_TRACKS, Fact, write_report
from svs_unet_plugin.evaluation.report.tables import markdown, score_table
from svs_unet_plugin.evaluation.runner import (
    Entry,
    Separate,
    Song,
    alarms,
    network_entry,
    run,
    tracks_to_score,
)
from svs_unet_plugin.evaluation.store import System
from svs_unet_plugin.files import copy, digest, write_text
from svs_unet_plugin.nussl import baselines, nussl
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.configuration import CONFIGURATION_FILE, Configuration
from svs_unet_plugin.training.history import read_losses
from svs_unet_plugin.workers import in_parallel

BLSTM = "blstm"
"""The id of the one network that is no U-Net."""

MUSDB18_TEST_NAMES = {"AM Contra - Heart Peripheral", "Al James - Schoolboy Facination", "Zeno - Signs"}
"""Some of the 50, by which the split is known."""

SHORTEST_REAL_TRACK = 60.0
"""Seconds; MUSDB18's 7-second sample has the same tracks, and nobody has published scores of it."""

LISTENED_TRACKS = 2
"""How many of the tracks there are to listen to."""


def main() -> None:
    parser = configuration.scoring_parser(__doc__)
    parser.add_argument(
        "--epochs",
        type=int | None,
        help="train the other networks for so long (default: as long as the experiment's)",
    )
    parser.add_argument("--device", help="to train on: cpu, cuda …; default: a GPU if there is one")
    parser.add_argument("--only", help="ids of systems, with commas between (default: all)")
    options = parser.parse_args()

    experiment, prepared = options.exp_dir, open_prepared(options.data_dir)
    tracks = tracks_to_score(options.source, prepared)[: options.tracks]
    only = set(options.only.split(",")) if options.only else None
    conf = configuration.read(experiment)
    stft = conf.stft(prepared.settings.sample_rate)
    known = {entry.system.id: entry for entry in (IdealRatioMask(stft).entry(), MIXTURE, *classical())}
    others = {other.id: other for other in other_networks(conf, stft, options.epochs)}
    ids = [SYSTEM, *others, *known]
    if unknown := (only or set()) - set(ids):
        raise ValueError(f"there is no system {', '.join(sorted(unknown))}; there are {', '.join(ids)}")
    chosen = [id for id in ids if only is None or id in only]

    train_all(
        [others[id] for id in chosen if id in others], prepared, experiment, options.device, options.jobs
    )
    entries = [
        known.get(id) or (others[id].entry(experiment) if id in others else entry_of(experiment, id))
        for id in chosen
    ]
    results, names = experiment / "results", [track.name for track in tracks]
    run(results, entries, tracks, options.jobs, costs=True, listened=LISTENED_TRACKS)
    report = write_report(
        results,
        experiment,
        "Singing-voice separation: the U-Net and others",
        facts(experiment, conf, tracks, options.epochs if set(chosen) & set(others) else None),
        ids=chosen,
        tracks=names,
        musdb18_test=is_musdb18_test(prepared, tracks),
    )
    systems = store.read_systems(results, chosen)
    print(markdown(score_table(systems, store.read_scores(results, systems, names), "vocals")))
    for entry in entries:
        if entry.system.kind == "trained":
            for alarm in alarms(results, entry.system.id, names):
                print(f"ALARM: {alarm}")
    print(report.page)


@dataclass(frozen=True)
class Classical:
    """Loads one of `svs_unet_plugin.nussl.baselines`, by its id."""

    id: str

    def __call__(self) -> Separate:
        baseline = baselines.baselines()[self.id]
        return lambda song: baseline.separate(song.mixture, song.sources, song.sample_rate)


def classical() -> list[Entry]:
    """nussl's separators, and those that this package adds to them."""
    identity = f"nussl {nussl.__version__} {digest(baselines.__file__)}"
    return [
        Entry(System(id, baseline.name, baseline.kind), Classical(id), identity)
        for id, baseline in baselines.baselines().items()
    ]


@dataclass(frozen=True)
class DeepMask:
    """Loads any mask estimator for vocals, through nussl's own ``DeepMaskEstimation``."""

    path: Path
    stft: STFT

    def __call__(self) -> Separate:
        def signal(samples: np.ndarray) -> Any:
            return nussl.AudioSignal(audio_data_array=samples, sample_rate=self.stft.sample_rate)

        silence = signal(np.zeros((1, self.stft.window_length), np.float32))
        separator = nussl.separation.deep.DeepMaskEstimation(silence, str(self.path), device="cpu")

        def separate(song: Song) -> Mapping[str, np.ndarray]:
            low = audio.resample(song.mixture, song.sample_rate, self.stft.sample_rate)
            (estimate,) = separator(audio_signal=signal(low))
            estimated = estimate.audio_data.astype(np.float32)
            samples = song.mixture.shape[1]
            vocals = audio.resample(estimated, self.stft.sample_rate, song.sample_rate, samples)
            return {"vocals": vocals, "accompaniment": song.mixture - vocals}

        return separate


@dataclass(frozen=True)
class Other:
    """A network to compare with.

    Args:
        id: of the system.
        conf: how it is trained.
        network: what nussl makes it of.
        stft: the transform.
    """

    id: str
    conf: Configuration
    network: dict[str, Any]
    stft: STFT

    def folder(self, experiment: Path) -> Path:
        """One for each number of epochs: a training of another length can't be resumed by every schedule."""
        return experiment / "compared" / f"{self.id}-{self.conf.training.epochs}"

    def is_trained(self, experiment: Path) -> bool:
        folder = self.folder(experiment)
        there = all((folder / name).is_file() for name in ("best_model.pth", CONFIGURATION_FILE))
        return there and configuration.read(folder).values == self.conf.values

    def entry(self, experiment: Path) -> Entry:
        """As it takes part, trained."""
        folder = self.folder(experiment)
        weights, losses = folder / "best_model.pth", read_losses(folder / "losses.csv")
        if self.id != BLSTM:
            return network_entry(self.id, self.conf.name, weights, losses)
        model = nussl.ml.SeparationModel(self.network)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        system = System(self.id, "BLSTM of nussl's tutorial", "trained", parameters)
        return Entry(system, DeepMask(weights, self.stft), digest(weights), losses)


def other_networks(conf: Configuration, stft: STFT, epochs: int | None) -> list[Other]:
    """The networks to compare with the experiment's; they are trained for so many epochs, or for as many.

    They are the paper's U-Net, one with a recurrent bottleneck, one for four stems, and the mask inference
    by a BLSTM of nussl's tutorial (E. Manilow, P. Seetharaman, J. Salamon: "Open source tools & data for
    music source separation", 2020), each where the experiment's network is not the same.
    """
    epochs = conf.training.epochs if epochs is None else epochs
    values = {**conf.values, "epochs": epochs, "weights": None}
    paper = {"in_channels": 1, "bottleneck": None, "max_channels": None, "residual_blocks": 0}
    found = []
    for id, changes in (
        ("unet-plain", {"sources": "vocals", **paper}),
        ("unet-blstm", {"sources": "vocals", "bottleneck": "blstm"}),
        ("unet-four-stems", {"sources": ",".join(STEMS)}),
    ):
        changed = Configuration.of({**values, **changes})
        if (set(changed.sources), changed.network) != (set(conf.sources), conf.network):
            found.append(Other(id, changed, network_of(changed), stft))
    tutorials = nussl.ml.networks.builders.build_recurrent_mask_inference(
        num_features=stft.bins,
        hidden_size=50,
        num_layers=1,
        bidirectional=True,
        dropout=0.0,
        num_sources=1,
        mask_activation=["sigmoid"],
    )
    of_one_channel = Configuration.of({**values, "sources": "vocals", "in_channels": 1})
    return [*found, Other(BLSTM, of_one_channel, tutorials, stft)]


def train_all(
    others: Sequence[Other], prepared: Prepared, experiment: Path, device: str | None, jobs: int | None
) -> None:
    """Train networks by the experiment's recipe; without a GPU in parallel, a thread each."""
    if device != "cpu" and (device or torch.cuda.is_available()):
        jobs = 1
    train_one = partial(train_other, prepared=prepared, experiment=experiment, device=device)
    missing = [other for other in others if not other.is_trained(experiment)]
    for _ in in_parallel(train_one, missing, jobs, title="Train", unit="network"):
        pass


def train_other(other: Other, prepared: Prepared, experiment: Path, device: str | None) -> None:
    """Train a network in a folder of its own."""
    folder = other.folder(experiment)
    best = train(
        other.conf,
        prepared,
        folder,
        make_model(other.conf, other.network, other.stft),
        mixtures=experiment / "mixtures",
        device=device,
        progress=multiprocessing.parent_process() is None,  # or the bars would be in each other's way
        # The BLSTM takes a fixed number of channels, one, and is validated on the first.
        **({"num_channels": 1} if other.id == BLSTM else {}),
    )
    write_text(folder / CONFIGURATION_FILE, yaml.safe_dump(other.conf.values, sort_keys=False))
    copy(best, folder / "best_model.pth")


def is_musdb18_test(prepared: Prepared, tracks: Sequence[Track]) -> bool:
    """Whether these are all songs of MUSDB18's own test split, at full length."""
    names = {track.name for track in tracks}
    if len(names) != MUSDB18_TEST_TRACKS or not MUSDB18_TEST_NAMES <= names:
        return False
    shortest = min(audio.open_file(track.path / "mixture.wav").samples or 0 for track in prepared.test)
    return shortest > SHORTEST_REAL_TRACK * prepared.settings.sample_rate


def facts(experiment: Path, conf: Configuration, tracks: Sequence[Track], epochs: int | None) -> list[Fact]:
    """What the report states of the data and the measurement."""
    found = [
        Fact("Experiment", experiment.name),
        Fact("Scored on", f"{len(tracks)} test songs, such as {tracks[0].name}"),
        Fact("Time and memory", HOW_COSTS_ARE_MEASURED),
    ]
    if epochs is not None and epochs != conf.training.epochs:
        trained = f"the U-Net {conf.training.epochs} epochs, the other networks {epochs}"
        found.append(Fact("Training", trained))
    return found


if __name__ == "__main__":
    configuration.run(main)
