# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial
#
# Separate a song, look at it and listen to it; train a small network on a small corpus, and evaluate it:
# once in nussl, once in asteroid. This page is a notebook (`docs/tutorial.py`), executed when the site is
# built; `jupytext --to ipynb docs/tutorial.py` makes one for Jupyter, which needs
# `pip install ".[nussl,asteroid,recipes,notebook]" jupytext notebook`. It takes about two minutes on two
# cores without a GPU, and needs no download.

# %%
import logging
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Audio

import svs_unet_plugin.asteroid
import svs_unet_plugin.nussl as svs  # both imports repair the host for today's Python: they come before it
from svs_unet_plugin import STFT, Separator, audio
from svs_unet_plugin.asteroid.datasets import Excerpts, whole_songs
from svs_unet_plugin.asteroid.training import MaskSystem, load_best, train
from svs_unet_plugin.corpora.musdb import STEMS
from svs_unet_plugin.corpora.prepare import prepare
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.evaluation.metrics import sdr
from svs_unet_plugin.mixing.excerpts import mapped_songs
from svs_unet_plugin.nussl import nussl

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

# %% tags=["hidden"]
for _name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# %% [markdown]
# ## A corpus
#
# Sixteen synthetic songs of ten seconds: a voice, drums, bass and chords, in the layout of MUSDB18-HQ. A
# real corpus in that layout takes their place without another change.

# %%
make_corpus(folder / "corpus", tracks=16, seconds=10, seed=0)
test_tracks = sorted((folder / "corpus" / "test").iterdir())
[path.name for path in sorted(test_tracks[0].iterdir())]

# %% [markdown]
# ## Separate
#
# `Separator` takes audio of any rate, length and number of channels, and returns each source with the same
# ones. Its default is the bundled weights `vocals`.

# %%
mixture, sample_rate = audio.read(test_tracks[0] / "mixture.wav")
stems = Separator().separate(mixture, sample_rate)
{name: stem.shape for name, stem in stems.items()}

# %% [markdown]
# The sources add up to the mixture:

# %%
float(np.abs(stems["vocals"] + stems["accompaniment"] - mixture).max())

# %% [markdown]
# ## Look and listen


# %%
def show(signals: dict[str, np.ndarray]) -> None:
    """Spectrograms of signals ``(channels, samples)``, in dB of full scale."""
    panels = plt.subplots(1, len(signals), figsize=(11, 3), sharey=True, layout="constrained")[1]
    for axes, (name, signal) in zip(panels, signals.items(), strict=True):
        axes.specgram(signal.mean(axis=0), NFFT=2048, noverlap=1024, Fs=sample_rate, vmin=-140, vmax=-30)
        axes.set(title=name, xlabel="time in s", ylim=(0, 8000))
    panels[0].set_ylabel("frequency in Hz")


show({"mixture": mixture, **stems})

# %%
excerpt = slice(0, 5 * sample_rate)
Audio(audio.resample(stems["vocals"][:, excerpt], sample_rate, 16_000), rate=16_000)

# %%
Audio(audio.resample(stems["accompaniment"][:, excerpt], sample_rate, 16_000), rate=16_000)

# %% [markdown]
# ## Evaluate
#
# The SDR of whole songs, in dB, of vocals and accompaniment. Beside the network stands the mixture itself,
# as an estimate of either. `svs_unet_plugin.evaluation` also has museval's BSS Eval v4, nussl's SI-SDR and
# the oracles. Songs like these were in the training data of the bundled weights: their score here says
# little about real songs.


# %%
def evaluate(separator: Separator) -> None:
    """Print the median SDR over the test songs."""
    scores = []
    for track in test_tracks:
        mixture, sample_rate = audio.read(track / "mixture.wav")
        vocals, _ = audio.read(track / "vocals.wav")
        references = np.stack([vocals, mixture - vocals])
        stems = separator.separate(mixture, sample_rate)
        estimates = np.stack([stems["vocals"], stems["accompaniment"]])
        untouched = np.stack([mixture, mixture])
        scores.append([sdr(references, untouched), sdr(references, estimates)])
    mixture_sdr, network_sdr = np.median(scores, axis=0)
    print(f"mixture  vocals {mixture_sdr[0]:5.1f} dB   accompaniment {mixture_sdr[1]:5.1f} dB")
    print(f"network  vocals {network_sdr[0]:5.1f} dB   accompaniment {network_sdr[1]:5.1f} dB")


evaluate(Separator())

# %% [markdown]
# ## Train in nussl
#
# `Remix` draws new mixtures from the songs of any nussl dataset, `train` runs nussl's engines. Called
# again with the same folder, `train` resumes where it was stopped. Two songs are held back to choose the
# best epoch. The network has a quarter of the paper's width and sees 160 batches, which is far too little
# for real songs.


# %%
def songs(items: slice, **arguments: Any) -> Any:
    """Some of the training songs as a nussl dataset."""
    data = nussl.datasets.MUSDB18(str(folder / "corpus"), is_wav=True, subsets=["train"], **arguments)
    data.items = data.items[items]
    return data


whole_song = svs.training_transform(excerpt_frames=None)
nussl.utils.seed(0)
checkpoint = svs.train(
    nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=4)),
    svs.Remix(songs(slice(2, None))),
    songs(slice(2), stft_params=svs.stft_params(), transform=whole_song),
    folder / "nussl",
    svs.TrainSettings(epochs=4, epoch_steps=40, schedule="one-cycle", learning_rate=3e-3),
    progress=False,
)
evaluate(Separator(checkpoint))

# %% [markdown]
# The checkpoint is nussl's own, and so nussl's `DeepMaskEstimation` opens it as well. `UNetSeparation`
# does what `Separator` does, in nussl's terms:

# %%
signal = nussl.AudioSignal(str(test_tracks[0] / "mixture.wav"))
vocals, accompaniment = nussl.separation.deep.UNetSeparation(signal, str(checkpoint))()
print(vocals)

# %% [markdown]
# ## Train in asteroid
#
# asteroid's recipes train on songs that are at the network's rate already: `prepare` brings them to 8192
# Hz once. The model is `SVSUNet`, waveforms in and waveforms out; Lightning trains it.

# %%
prepared = prepare(folder / "corpus", folder / "prepared")
torch.manual_seed(0)
model = svs_unet_plugin.asteroid.SVSUNet(channels=4)
settings = svs.TrainSettings(epochs=4, epoch_steps=40, schedule="one-cycle", learning_rate=3e-3)
mixed = mapped_songs(prepared.train, STEMS)
excerpts = Excerpts(mixed, STFT(), items=settings.epoch_steps * settings.batch_size)
system = MaskSystem(model, excerpts, whole_songs(prepared), settings)
best = train(system, folder / "asteroid", progress=False, accelerator="cpu", devices=1)
model = load_best(model, best)

# %%
with torch.no_grad():
    estimates = model(torch.rand(1, 8192))  # (batch, time) at 8192 Hz -> (batch, sources, time)
tuple(estimates.shape)

# %% [markdown]
# Saved as asteroid saves models, it opens in `BaseModel.from_pretrained` and in `Separator`. (`svs-unet
# convert` turns it into a nussl checkpoint.)

# %%
torch.save(model.serialize(), folder / "asteroid.pth")
evaluate(Separator(folder / "asteroid.pth"))

# %%
temporary.cleanup()
