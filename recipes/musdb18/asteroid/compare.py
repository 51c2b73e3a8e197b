"""Train SVSUNet and asteroid's own music separators for the same time on the same songs, and compare them.

Each has the configuration and the loss of its recipe or paper, for one channel at the rate of the prepared
songs. Songs are scored as they were recorded.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Subset

from svs_unet_plugin import STFT
from svs_unet_plugin.asteroid import SVSUNet, asteroid
from svs_unet_plugin.asteroid.datasets import Excerpts, Item, whole_songs
from svs_unet_plugin.asteroid.separation import separate_song
from svs_unet_plugin.asteroid.training import MaskSystem, load_best, one_channel_each, train
from svs_unet_plugin.checkpoint import write
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import Prepared, open_prepared
from svs_unet_plugin.evaluation.costs import HOW_COSTS_ARE_MEASURED
from svs_unet_plugin.evaluation.oracles import MIXTURE, IdealRatioMask
from svs_unet_plugin.evaluation.report import Fact, write_report
from svs_unet_plugin.evaluation.runner import Entry, Separate, Song, Weights, run, tracks_to_score
from svs_unet_plugin.evaluation.store import System
from svs_unet_plugin.files import digest
from svs_unet_plugin.mixing.excerpts import ExcerptSettings, mapped_songs
from svs_unet_plugin.training import configuration
from svs_unet_plugin.training.history import read_losses
from svs_unet_plugin.training.settings import TrainSettings

SEED = 0
VALIDATION_SONGS = 2
"""So few, because the slow ones would spend their time on validation."""

SOURCES = ("vocals", "accompaniment")


@dataclass(frozen=True)
class Candidate:
    """A model and how its recipe trains it.

    Args:
        id, name: see `svs_unet_plugin.evaluation.store.System`.
        make: makes it, untrained.
        system: what computes its loss.
        seconds: length of an excerpt.
        batch_size, learning_rate: see `TrainSettings`.
    """

    id: str
    name: str
    make: Callable[[Excerpts, int], nn.Module]
    system: type[MaskSystem]
    seconds: float
    batch_size: int
    learning_rate: float = 1e-3


class ConvTasNetSystem(MaskSystem):
    """L1 of the waveforms, as in asteroid's DAMP-VSEP recipe, without its STOI, which needs torchaudio."""

    def common_step(self, batch: Item, batch_nb: int, train: bool = True) -> Tensor:
        mixture, targets = mixture_and_targets(batch)
        return F.l1_loss(self.model(mixture), targets)


class DCUNetSystem(MaskSystem):
    """The weighted SDR of its paper."""

    def common_step(self, batch: Item, batch_nb: int, train: bool = True) -> Tensor:
        mixture, targets = mixture_and_targets(batch)
        return negative_weighted_sdr(self.model(mixture), targets)


class XUMXSystem(MaskSystem):
    """Magnitudes by MSE and waveforms by weighted SDR, as in asteroid's X-UMX recipe.

    With two sources there are no combinations of them but those of one.
    """

    def common_step(self, batch: Item, batch_nb: int, train: bool = True) -> Tensor:
        mixture, targets = mixture_and_targets(batch)
        # (sources, frames, batch, 1, bins), (sources, batch, 1, time) and (frames, batch · sources, 1, bins)
        magnitudes, signals = self.model(mixture)
        references = self.model.encoder(targets.flatten(0, 1)[:, None])[0]
        references = references.unflatten(1, targets.shape[:2]).permute(2, 0, 1, 3, 4)
        estimates = signals[:, :, 0].transpose(0, 1)
        in_time = negative_weighted_sdr(estimates, targets[..., : estimates.shape[-1]])
        return F.mse_loss(magnitudes, references) + 10 * (1 + in_time)


def mixture_and_targets(batch: Item) -> tuple[Tensor, Tensor]:
    """Mixtures ``(batch, 1, time)``, and vocals and accompaniment ``(batch, 2, time)``."""
    mixture, vocals = one_channel_each(batch)
    return mixture, torch.cat([vocals, mixture - vocals], dim=1)


def negative_weighted_sdr(estimates: Tensor, targets: Tensor) -> Tensor:
    """H.-S. Choi et al.: "Phase-aware speech enhancement with deep complex U-Net", 2019, equation 6.

    Args:
        estimates, targets: ``(batch, 2, time)``, vocals and accompaniment. Each source is weighted by its
            share of the energy; the other source is its noise.

    Returns:
        Their mean, in [−1, 1].
    """
    energies = targets.square().sum(dim=-1)
    shares = energies / energies.sum(dim=1, keepdim=True).clamp_min(1e-8)
    cosines = F.cosine_similarity(estimates, targets, dim=-1)
    return -(shares * cosines).sum(dim=1).mean()


def waveforms(model: nn.Module, mixture: Tensor) -> Tensor:
    """What a model makes of ``(batch, 1, time)``: vocals and accompaniment, ``(batch, 2, time)``."""
    estimates = model(mixture)
    if isinstance(model, asteroid.models.XUMX):
        signals = estimates[1][:, :, 0].transpose(0, 1)  # cut to a multiple of the hop
        return F.pad(signals, (0, mixture.shape[-1] - signals.shape[-1]))
    return estimates


def make_svsunet(excerpts: Excerpts, rate: int) -> nn.Module:
    """The paper's."""
    return SVSUNet(sample_rate=rate)


def make_xumx(excerpts: Excerpts, rate: int) -> nn.Module:
    """As in the X-UMX recipe, with windows of 0.125 s (there 0.093 s) and the statistics of the mixtures."""
    make = partial(
        asteroid.models.XUMX,
        sources=list(SOURCES),
        window_length=1024,
        in_chan=1024,
        n_hop=256,
        nb_channels=1,
        sample_rate=rate,
        return_time_signals=True,
    )
    mixtures = torch.stack([excerpts[0, i][0] for i in range(64)])
    with torch.no_grad():
        magnitudes = make().encoder(mixtures)[0].flatten(0, 2).numpy()
    spread = magnitudes.std(axis=0)
    return make(input_mean=magnitudes.mean(axis=0), input_scale=np.maximum(spread, 1e-4 * spread.max()))


def make_convtasnet(excerpts: Excerpts, rate: int) -> nn.Module:
    """As in the DAMP-VSEP recipe."""
    return asteroid.models.ConvTasNet(
        n_src=2, n_blocks=10, n_repeats=4, bn_chan=256, hid_chan=512, skip_chan=256, mask_act="relu",
        kernel_size=20, stride=10, n_filters=256, sample_rate=rate,
    )  # fmt: skip


def make_dcunet(architecture: str, excerpts: Excerpts, rate: int) -> nn.Module:
    """With asteroid's own STFT of 1024 at a hop of 256."""
    return asteroid.models.DCUNet(architecture, n_src=2, fix_length_mode="pad", sample_rate=rate)


CANDIDATES = (
    Candidate("svsunet", "U-Net", make_svsunet, MaskSystem, seconds=12.0, batch_size=8),
    Candidate("xumx", "X-UMX", make_xumx, XUMXSystem, seconds=6.0, batch_size=14),
    Candidate(
        "convtasnet",
        "ConvTasNet",
        make_convtasnet,
        ConvTasNetSystem,
        seconds=3.0,
        batch_size=7,
        learning_rate=5e-4,
    ),
    Candidate(
        "dcunet-10", "DCUNet-10", partial(make_dcunet, "DCUNet-10"), DCUNetSystem, seconds=3.0, batch_size=8
    ),
    Candidate(
        "dcunet-20", "DCUNet-20", partial(make_dcunet, "DCUNet-20"), DCUNetSystem, seconds=3.0, batch_size=8
    ),
)


def fit(candidate: Candidate, prepared: Prepared, out: Path, minutes: float) -> Path:
    """Train for so many minutes of wall-clock time, validation included; the file of the best model."""
    stft = STFT(prepared.settings.sample_rate)
    frames = round(candidate.seconds * stft.sample_rate / stft.hop_length)
    items = 16 * len(prepared.train) // candidate.batch_size * candidate.batch_size
    drawn_from = mapped_songs(prepared.train, STEMS)
    excerpts = Excerpts(drawn_from, stft, settings=ExcerptSettings(frames), items=items, seed=SEED)
    songs = Subset(whole_songs(prepared), range(min(VALIDATION_SONGS, len(prepared.valid))))
    settings = TrainSettings(
        epochs=1_000_000,
        epoch_steps=items // candidate.batch_size,
        batch_size=candidate.batch_size,
        learning_rate=candidate.learning_rate,
        loss="snr",
        minutes=minutes,
        seed=SEED,
    )
    torch.manual_seed(SEED)
    model = candidate.make(excerpts, prepared.settings.sample_rate)
    system = candidate.system(model, excerpts, songs, settings)
    best = train(system, out, devices=1)
    weights = out / "best_model.pth"
    write(load_best(model, best).serialize(), weights)
    return weights


def trained(candidate: Candidate, prepared: Prepared, out: Path, minutes: float) -> Entry:
    """A candidate when it has been trained for so long, in its folder in ``out``, one for each length."""
    folder = out / f"{candidate.id}-{minutes:g}"
    weights = folder / "best_model.pth"
    if not weights.is_file():  # they are written last
        fit(candidate, prepared, folder, minutes)
    model = asteroid.models.BaseModel.from_pretrained(str(weights))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    load = (Weights if isinstance(model, SVSUNet) else Separation)(weights)
    losses = read_losses(folder / "losses.csv")
    return Entry(System(candidate.id, candidate.name, "trained", parameters), load, digest(weights), losses)


@dataclass(frozen=True)
class Separation:
    """Loads a saved model of asteroid's own."""

    weights: Path

    def __call__(self) -> Separate:
        options = {"return_time_signals": True} if self.weights.parent.name.startswith("xumx-") else {}
        model = asteroid.models.BaseModel.from_pretrained(str(self.weights), **options).eval()

        def one_by_one(mixtures: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return np.concatenate(
                    [waveforms(model, torch.from_numpy(mixture)[None]).numpy() for mixture in mixtures]
                )

        def separate(song: Song) -> Mapping[str, np.ndarray]:
            vocals = separate_song(one_by_one, model.sample_rate, song.mixture, song.sample_rate)[0]
            return {"vocals": vocals, "accompaniment": song.mixture - vocals}

        return separate


def main() -> None:
    parser = configuration.scoring_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="of training for each")
    parser.add_argument("--models", help="ids of networks, with commas between (default: all)")
    options = parser.parse_args()
    ids = [candidate.id for candidate in CANDIDATES]
    chosen = options.models.split(",") if options.models else ids
    if unknown := set(chosen) - set(ids):
        raise ValueError(f"there is no network {', '.join(sorted(unknown))}; there are {', '.join(ids)}")

    prepared, out = open_prepared(options.data_dir), options.exp_dir / "compared"
    tracks = tracks_to_score(options.source, prepared)[: options.tracks]
    entries = [
        trained(candidate, prepared, out, options.minutes)
        for candidate in CANDIDATES
        if candidate.id in chosen
    ]
    entries += [MIXTURE, IdealRatioMask(STFT(prepared.settings.sample_rate)).entry()]
    run(out / "results", entries, tracks, options.jobs, costs=True, listened=2)
    hardware = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    facts = [
        Fact("Training", f"{options.minutes:g} minutes of wall-clock time each, validation included"),
        Fact("Hardware", f"{platform.machine()}, {torch.get_num_threads()} thread(s), {hardware}"),
        Fact("Time and memory", HOW_COSTS_ARE_MEASURED),
        Fact("Songs to train on", str(len(prepared.train))),
        Fact("Songs to test on", str(len(tracks))),
    ]
    report = write_report(
        out / "results",
        out / "report",
        "U-Net and asteroid's separators",
        facts,
        ids=[entry.system.id for entry in entries],
        tracks=[track.name for track in tracks],
    )
    print(report.markdown.read_text(encoding="utf-8"))
    print(report.page)


if __name__ == "__main__":
    configuration.run(main)
