"""Compare an experiment with other networks, with nussl's separators and with oracles; write the report.

Everything that is finished is kept, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from configuration import Conf, network_name
from train import STEMS, network_config, train, training_data, transform_of

import svs_unet_plugin.nussl as svs
from svs_unet_plugin import STFT, audio, files
from svs_unet_plugin.checkpoint import load_weights_only
from svs_unet_plugin.corpora.musdb import Track
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared
from svs_unet_plugin.evaluation import store as folders
from svs_unet_plugin.evaluation.comparison import HOW_COSTS_ARE_MEASURED, Contestant, compare
from svs_unet_plugin.evaluation.report import MUSDB18_TEST_TRACKS, Fact, write_report
from svs_unet_plugin.evaluation.report.tables import markdown, score_table
from svs_unet_plugin.evaluation.runner import Separate, Song, Weights, alarms, digest, tracks_to_score
from svs_unet_plugin.evaluation.store import Losses, System
from svs_unet_plugin.mixing import scaper as mixing
from svs_unet_plugin.nussl import baselines, compat, nussl
from svs_unet_plugin.workers import in_parallel

BLSTM = "blstm"
"""The id of the one network that is no U-Net."""

MUSDB18_TEST_NAMES = {"AM Contra - Heart Peripheral", "Al James - Schoolboy Facination", "Zeno - Signs"}
"""Some of the 50, by which the split is known."""

SHORTEST_REAL_TRACK = 60.0
"""Seconds; MUSDB18's 7-second sample has the same tracks, and nobody has published scores of it."""


@dataclass(frozen=True)
class Classical:
    """One of `svs_unet_plugin.nussl.baselines`, by its id."""

    id: str

    def __call__(self, song: Song) -> Mapping[str, np.ndarray]:
        return baselines.baselines()[self.id].separate(song.mixture, song.sources, song.sample_rate)


@dataclass(frozen=True)
class DeepMask:
    """Any mask estimator for vocals, through nussl's own ``DeepMaskEstimation``."""

    path: Path
    stft: STFT

    def __call__(self, song: Song) -> Mapping[str, np.ndarray]:
        low = audio.resample(song.mixture, song.sample_rate, self.stft.sample_rate)
        signal = nussl.AudioSignal(audio_data_array=low, sample_rate=self.stft.sample_rate)
        (estimate,) = nussl.separation.deep.DeepMaskEstimation(signal, str(self.path), device="cpu")()
        estimated = estimate.audio_data.astype(np.float32)
        high = audio.resample(estimated, self.stft.sample_rate, song.sample_rate)
        samples = song.mixture.shape[1]
        vocals = np.pad(high[:, :samples], ((0, 0), (0, max(samples - high.shape[1], 0))))
        return {"vocals": vocals, "accompaniment": song.mixture - vocals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exp_dir", type=Path, required=True, help="the experiment, trained")
    parser.add_argument("--prepared", type=Path, required=True, help="what `svs-unet data prepare` wrote")
    parser.add_argument("--originals", type=Path, required=True, help="the songs before they were prepared")
    parser.add_argument("--out", type=Path, required=True, help="the folder of results")
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    parser.add_argument("--tracks", type=int, help="score so many test songs only (default: all)")
    parser.add_argument(
        "--epochs",
        type=int,
        help="train the other networks for so long (default: as long as the experiment's)",
    )
    parser.add_argument("--device", help="to train on: cpu, cuda …; default: a GPU if there is one")
    parser.add_argument("--only", help="ids of systems, with commas between (default: all)")
    options = parser.parse_args()

    prepared = open_prepared(options.prepared)
    tracks = tracks_to_score(options.originals, prepared)[: options.tracks]
    only = set(options.only.split(",")) if options.only else None
    contestants = [
        *networks(options.exp_dir, prepared, only, options.epochs, options.device, options.jobs),
        *classical(only),
    ]
    if unknown := (only or set()) - {contestant.system.id for contestant in contestants}:
        raise ValueError(f"there is no system {', '.join(sorted(unknown))}")
    compare(options.out, contestants, tracks, options.jobs)

    report = write_report(
        options.out,
        options.exp_dir,
        "Singing-voice separation: the U-Net and others",
        facts(options.exp_dir, tracks, options.epochs),
        musdb18_test=is_musdb18_test(prepared, tracks),
    )
    systems = folders.read_systems(options.out)
    print(markdown(score_table(systems, folders.read_scores(options.out, systems), "vocals")))
    for contestant in contestants:
        if contestant.system.kind == "trained":
            for said in alarms(options.out, contestant.system.id):
                print(f"ALARM: {said}")
    print(report.page)


def networks(
    exp_dir: Path,
    prepared: Prepared,
    only: set[str] | None,
    epochs: int | None,
    device: str | None,
    jobs: int | None,
) -> list[Contestant]:
    """The experiment's own network, and others that are trained here by the same recipe.

    The others are the paper's U-Net, one with a recurrent bottleneck, one for four stems, and the mask
    inference by a BLSTM of nussl's tutorial (E. Manilow, P. Seetharaman, J. Salamon: "Open source tools &
    data for music source separation", 2020), each where the experiment's network is not the same. Without a
    GPU they are trained in parallel, a thread each.
    """
    conf = yaml.safe_load((exp_dir / "conf.yml").read_text())
    stft = stft_of(conf, prepared)
    weights = exp_dir / "best_model.pth"
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing: train the experiment first, with stage 3")
    found = []
    if only is None or "unet" in only:
        system = System("unet", network_name(conf), "trained", parameters_of(network_config(conf)))
        found.append(trained(system, exp_dir, Weights(weights)))
    others = [other for other in other_networks(conf, stft, epochs) if only is None or other.id in only]
    if device != "cpu" and (device or torch.cuda.is_available()):
        jobs = 1
    train_one = partial(train_other, prepared=prepared, exp_dir=exp_dir, device=device)
    missing = [other for other in others if not other.is_trained(exp_dir)]
    for _ in in_parallel(train_one, missing, jobs, title="Train", unit="network"):
        pass
    for other in others:
        folder = other.folder(exp_dir)
        best = folder / "best_model.pth"
        name = "BLSTM of nussl's tutorial" if other.id == BLSTM else network_name(other.conf)
        system = System(other.id, name, "trained", parameters_of(other.network))
        found.append(trained(system, folder, DeepMask(best, stft) if other.id == BLSTM else Weights(best)))
    return found


@dataclass(frozen=True)
class Other:
    """A network to compare with.

    Args:
        id: of the system, and the name of its folder.
        conf: how it is trained.
        network: what nussl makes it of.
    """

    id: str
    conf: Conf
    network: dict[str, Any]

    def folder(self, exp_dir: Path) -> Path:
        return exp_dir / "compared" / self.id

    def text(self) -> str:
        return yaml.safe_dump(self.conf, sort_keys=False)

    def is_trained(self, exp_dir: Path) -> bool:
        best, kept = (self.folder(exp_dir) / name for name in ("best_model.pth", "conf.yml"))
        return best.is_file() and kept.is_file() and kept.read_text() == self.text()


def other_networks(conf: Conf, stft: STFT, epochs: int | None) -> list[Other]:
    """The networks to compare with the experiment's; they are trained for so many epochs, or for as many."""
    conf = copy.deepcopy(conf)
    own = conf["sources"], conf["network"]
    conf["training"]["epochs"] = epochs or conf["training"]["epochs"]
    found = []
    for id, sources, network in (
        ("unet-plain", "vocals", {"bottleneck": None, "max_channels": None, "residual_blocks": 0}),
        ("unet-blstm", "vocals", {"bottleneck": "blstm"}),
        ("unet-four-stems", ",".join(STEMS), {}),
    ):
        changed = copy.deepcopy(conf)
        changed["sources"] = sources
        changed["network"].update(network)
        if (changed["sources"], changed["network"]) != own:
            found.append(Other(id, changed, network_config(changed)))
    changed = copy.deepcopy(conf)
    changed["sources"] = "vocals"
    tutorials = nussl.ml.networks.builders.build_recurrent_mask_inference(
        num_features=stft.bins,
        hidden_size=50,
        num_layers=1,
        bidirectional=True,
        dropout=0.0,
        num_sources=1,
        mask_activation=["sigmoid"],
    )
    return [*found, Other(BLSTM, changed, tutorials)]


def parameters_of(network: dict[str, Any]) -> int:
    model = nussl.ml.SeparationModel(network)
    return sum(parameter.numel() for parameter in model.parameters())


def train_other(other: Other, prepared: Prepared, exp_dir: Path, device: str | None) -> None:
    """Train a network in a folder of its own."""
    folder, mixtures = other.folder(exp_dir), exp_dir / "mixtures"
    train_it = train_blstm if other.id == BLSTM else train
    alone = multiprocessing.parent_process() is None  # or the bars would be in each other's way
    found = train_it(
        other.network, other.conf, prepared, folder, mixtures=mixtures, device=device, progress=alone
    )
    for name, content in (("conf.yml", other.text().encode()), ("best_model.pth", found.read_bytes())):
        with files.atomic_write(folder / name) as beside:
            beside.write_bytes(content)


def train_blstm(
    network: dict[str, Any],
    conf: Conf,
    prepared: Prepared,
    folder: Path,
    *,
    mixtures: Path,
    device: str | None,
    progress: bool,
) -> Path:
    """As `train` does it, but validated on the first channels, since it takes a fixed number of them: one."""
    settings, stft = svs.TrainSettings(**conf["training"]), stft_of(conf, prepared)
    nussl.utils.seed(settings.seed)
    val_data = mixing.whole_songs(
        prepared.valid,
        num_channels=1,
        stft_params=svs.stft_params(stft),
        transform=transform_of(conf, ["vocals"], stft, cache=folder / "cache" / "valid"),
    )
    train_data = training_data(conf, ["vocals"], stft, prepared, folder, mixtures)
    return svs.train(
        nussl.ml.SeparationModel(network),
        train_data,
        val_data,
        folder,
        settings,
        device=device,
        progress=progress,
    )


def stft_of(conf: Conf, prepared: Prepared) -> STFT:
    return STFT(prepared.settings.sample_rate, hop_length=conf["hop_length"])


def trained(system: System, folder: Path, separate: Separate) -> Contestant:
    """What the training in a folder has led to."""
    latest = load_weights_only(folder / "checkpoints" / "latest.model.pth", compat.safe_globals())
    history = latest["metadata"]["trainer.state.epoch_history"]
    losses = Losses(*(tuple(map(float, history[f"{name}/loss"])) for name in ("train", "validation")))
    return Contestant(system, separate, digest(folder / "best_model.pth"), losses)


def classical(only: set[str] | None) -> list[Contestant]:
    """nussl's separators, and those that this package adds to them."""
    made_of = digest(Path(baselines.__file__))
    return [
        Contestant(
            System(id, baseline.name, baseline.kind), Classical(id), f"nussl {nussl.__version__} {made_of}"
        )
        for id, baseline in baselines.baselines().items()
        if only is None or id in only
    ]


def is_musdb18_test(prepared: Prepared, tracks: Sequence[Track]) -> bool:
    """Whether these are all songs of MUSDB18's own test split, at full length."""
    names = {track.name for track in tracks}
    if len(names) != MUSDB18_TEST_TRACKS or not MUSDB18_TEST_NAMES <= names:
        return False
    shortest = min(audio.open_file(track.path / "mixture.wav").samples or 0 for track in prepared.test)
    return shortest > SHORTEST_REAL_TRACK * prepared.settings.sample_rate


def facts(exp_dir: Path, tracks: Sequence[Track], epochs: int | None) -> list[Fact]:
    """What the report tells of the data and the measurement."""
    conf = yaml.safe_load((exp_dir / "conf.yml").read_text())["training"]
    found = [
        Fact("Experiment", exp_dir.name),
        Fact("Scored on", f"{len(tracks)} test songs, such as {tracks[0].name}"),
        Fact("Time and memory", HOW_COSTS_ARE_MEASURED),
    ]
    if epochs is not None and epochs != conf["epochs"]:
        found.append(Fact("Training", f"the U-Net {conf['epochs']} epochs, the other networks {epochs}"))
    return found


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
