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
# # nussl's tutorial, with the U-Net
#
# *Open source tools & data for music source separation* (E. Manilow, P. Seetharaman, J. Salamon, ISMIR 2020,
# <https://source-separation.github.io/tutorial>) trains a BLSTM in nussl on mixtures by scaper. This page
# follows its chapters in its own way of working: nussl's engines and handlers, a training step of one's own,
# nussl's evaluation. The BLSTM is trained first, and then the U-Net takes its place: at the tutorial's STFT,
# and at the paper's. All of it is executed when the site is built, in a short form.
#
# What differs from the published text:
#
# - `svs_unet_plugin.nussl` is imported first: it repairs nussl and scaper for today's Python.
# - The songs are synthetic, in MUSDB18's layout, where the tutorial downloads its 7-second sample. Give that
#   folder, or MUSDB18's, instead.
# - Its helper package `common` is a repository of its own; what is needed of it is written out.
# - Pictures and players are plain ones: the tutorial's multitrack players load scripts from elsewhere.
# - `UNetSeparation` uses the U-Net: it answers at the mixture's rate and length, whatever the model's are.
#   It returns the accompaniment as well, so that nothing has to be subtracted.
# - Batches are small and there are 10 steps instead of thousands, without worker processes.
#
# It needs `pip install ".[nussl,recipes,notebook]"` in the checkout, and `[gradio]` for the last section.

# %%
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scaper
import torch
from IPython.display import Audio

import svs_unet_plugin.nussl as svs  # this repairs nussl and scaper
from svs_unet_plugin.corpora.synthetic.corpus import make_corpus
from svs_unet_plugin.nussl import nussl

tfm = nussl.datasets.transforms
warnings.simplefilter("ignore")
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
LABELS = ["bass", "drums", "other", "vocals"]

# %% [markdown]
# ## Data
#
# Nine songs: six to train on, one for validation, two for testing. nussl's `MUSDB18` has musdb's splits.

# %%
corpus = str(folder / "corpus")
make_corpus(folder / "corpus", tracks=9, seconds=8, seed=0)


def songs(subset: str, split: str | None = None, **arguments: Any) -> Any:
    """The songs of a part of the corpus, as a nussl dataset."""
    return nussl.datasets.MUSDB18(corpus, is_wav=True, subsets=[subset], split=split, **arguments)


parts = {"train": songs("train", "train"), "valid": songs("train", "valid"), "test": songs("test")}
{name: len(part) for name, part in parts.items()}

# %% [markdown]
# scaper takes its sources from folders, one a label.

# %%
for name, part in parts.items():
    for item in part:
        for label, source in item["sources"].items():
            path = folder / "foreground" / name / label / f"{item['mix'].file_name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            source.write_audio_to_file(str(path))

# %% [markdown]
# ## Mix by scaper, on the fly
#
# A mixture is made when it is asked for: coherent, from one song and moment, or incoherent, from any. Pitch,
# tempo and loudness are drawn. nussl's `OnTheFly` makes a dataset of such a function.

# %%
SECONDS = 2.0


class Mixer:
    """Mixtures of a part of the songs, each from its index alone."""

    def __init__(self, part: str, coherent: float = 0.5) -> None:
        self.folder, self.coherent = folder / "foreground" / part, coherent
        self.songs = sorted(path.name for path in (self.folder / "vocals").iterdir())

    def __call__(self, dataset: Any, index: int) -> dict[str, Any]:
        random = np.random.RandomState(index)
        mixer = scaper.Scaper(SECONDS, str(self.folder), str(self.folder), random_state=random)
        mixer.sr, mixer.n_channels, mixer.ref_db = dataset.sample_rate, 1, -20
        coherent = random.rand() < self.coherent
        for number, label in enumerate(LABELS):
            if number == 0 or not coherent:
                song, start = random.choice(self.songs), random.uniform(0, 5)
                pitch, stretch = random.uniform(-2, 2), random.uniform(0.9, 1.1)
            mixer.add_event(
                label=("const", label),
                source_file=("const", str(self.folder / label / song)),
                source_time=("const", start),
                event_time=("const", 0),
                event_duration=("const", SECONDS),
                snr=("uniform", -5, 5),
                pitch_shift=("const", pitch),
                time_stretch=("const", stretch),
            )
        mixed, annotation, _, events = mixer.generate(fix_clipping=True, quick_pitch_time=True)
        labels = [event.value["label"] for event in annotation.annotations[0].data]
        signal = dataset._load_audio_from_array
        return {
            "mix": signal(audio_data=mixed, sample_rate=dataset.sample_rate),
            "sources": {
                label: signal(audio_data=event, sample_rate=dataset.sample_rate)
                for label, event in zip(labels, events, strict=True)
            },
            "metadata": {"scaper": annotation},
        }


def mixtures(part: str, items: int, transform: Any = None, stft_params: Any = None) -> Any:
    """A dataset of mixtures at 44.1 kHz."""
    return nussl.datasets.OnTheFly(
        Mixer(part), items, transform=transform, stft_params=stft_params, sample_rate=44_100
    )


item = mixtures("train", 1)[0]
plt.figure(figsize=(11, 3), layout="constrained")
nussl.utils.visualize_sources_as_masks(item["sources"], db_cutoff=-60, y_axis="mel")
plt.show()

# %% [markdown]
# ## The training script
#
# The tutorial's STFT has windows of 512 samples at 44.1 kHz, the root of Hann's, and a hop of 128. Its
# transform adds up all but the vocals, takes magnitudes, and leaves the second source, which are the vocals.

# %%
stft_params = nussl.STFTParams(window_length=512, hop_length=128, window_type="sqrt_hann")
transform = tfm.Compose(
    [
        tfm.SumSources([["bass", "drums", "other"]]),
        tfm.MagnitudeSpectrumApproximation(),
        tfm.IndexSources("source_magnitudes", 1),
        tfm.ToSeparationModel(),
    ]
)


def train(model: Any, out: str, transform: Any, stft_params: Any) -> str:
    """Train by nussl's engines, with steps of our own; the path of the best checkpoint."""
    train_data = mixtures("train", 10_000, transform, stft_params)
    valid_data = mixtures("valid", 4, transform, stft_params)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_function = nussl.ml.train.loss.L1Loss()

    def train_step(engine: Any, batch: Any) -> dict[str, float]:
        model.train()
        optimizer.zero_grad()
        loss = loss_function(model(batch)["estimates"], batch["source_magnitudes"])
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    def valid_step(engine: Any, batch: Any) -> dict[str, float]:
        model.eval()
        with torch.no_grad():
            loss = loss_function(model(batch)["estimates"], batch["source_magnitudes"])
        return {"loss": loss.item()}

    trainer, validator = nussl.ml.train.create_train_and_validation_engines(
        train_step, valid_step, device="cpu"
    )
    nussl.ml.train.add_stdout_handler(trainer, validator)
    nussl.ml.train.add_validate_and_checkpoint(
        str(folder / out),
        model,
        optimizer,
        train_data,
        trainer,
        torch.utils.data.DataLoader(valid_data, batch_size=4),
        validator,
    )
    trainer.run(torch.utils.data.DataLoader(train_data, batch_size=4), epoch_length=5, max_epochs=2)
    print([round(loss, 5) for loss in trainer.state.epoch_history["validation/loss"]])
    return str(folder / out / "checkpoints" / "best.model.pth")


# %% [markdown]
# ## The tutorial's BLSTM
#
# nussl's builder makes what the tutorial builds by hand: magnitudes in dB, normalised, a BLSTM, a mask.

# %%
nussl.utils.seed(0)
config = nussl.ml.networks.builders.build_recurrent_mask_inference(
    num_features=257,
    hidden_size=50,
    num_layers=1,
    bidirectional=True,
    dropout=0.0,
    num_sources=1,
    mask_activation="sigmoid",
)
blstm = train(nussl.ml.SeparationModel(config), "blstm", transform, stft_params)

# %% [markdown]
# ## The U-Net in its place
#
# One line is another. The network was made for spectrograms whose largest value is 1, but learns from
# nussl's plain magnitudes as well: the checkpoint says which, and with which window and at what rate.

# %%
nussl.utils.seed(0)
unet = train(
    nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=4)), "unet", transform, stft_params
)

# %% [markdown]
# ## The paper's transform
#
# `training_transform` brings the audio to 8192 Hz and divides magnitudes by the song's largest; windows are
# Hann's, of 1024 samples, 768 apart. The same script trains on it.

# %%
nussl.utils.seed(0)
unet_8192 = train(
    nussl.ml.SeparationModel(svs.build_unet_mask_inference(channels=4)),
    "unet_8192",
    svs.training_transform(excerpt_frames=None),
    svs.stft_params(),
)

# %% [markdown]
# ## Separate
#
# A separator is made once, and gets one mixture after another. Estimates can be subtracted from the mixture,
# which is at 44.1 kHz, also those of the model at 8192 Hz.

# %%
empty = nussl.AudioSignal()
separators = {
    "BLSTM": nussl.separation.deep.DeepMaskEstimation(empty, model_path=blstm),
    "U-Net": nussl.separation.deep.UNetSeparation(empty, unet),
    "U-Net, 8192 Hz": nussl.separation.deep.UNetSeparation(empty, unet_8192),
}
item = mixtures("test", 1)[0]
separator = separators["U-Net, 8192 Hz"]
separator.audio_signal = item["mix"]
vocals, accompaniment = separator()
rest = item["mix"] - vocals
print(vocals, float(np.abs((rest - accompaniment).audio_data).max()))

# %%
plt.figure(figsize=(11, 3), layout="constrained")
nussl.utils.visualize_sources_as_waveform({"vocals": vocals, "accompaniment": accompaniment})
plt.show()

# %%
Audio(vocals.audio_data, rate=vocals.sample_rate)  # or vocals.embed_audio(), which calls ffmpeg

# %% [markdown]
# ## Evaluate
#
# nussl's scale-invariant scores of whole songs; the medians, by source. What was measured goes into the
# model's metadata and stays with it. Ten steps teach a network little: the numbers show that all of it
# runs, not which network is better.


# %%
def evaluate(name: str, separator: Any) -> None:
    """Score a separator on the test songs, print its report card, and keep the scores with its model."""
    out = folder / "scores" / name
    out.mkdir(parents=True)
    test_data = songs("test", transform=tfm.Compose([tfm.SumSources([["bass", "drums", "other"]])]))
    for item in test_data:
        separator.audio_signal = item["mix"]
        estimates = separator()
        found = {"vocals": estimates[0], "bass+drums+other": item["mix"] - estimates[0]}
        labels = list(item["sources"])
        scores = nussl.evaluation.BSSEvalScale(
            [item["sources"][label] for label in labels],
            [found[label] for label in labels],
            source_labels=labels,
        ).evaluate()
        (out / f"{item['mix'].file_name}.json").write_text(json.dumps(scores))
    frame = nussl.evaluation.aggregate_score_files([str(path) for path in sorted(out.glob("*.json"))])
    nussl.evaluation.associate_metrics(separator.model, frame, test_data)
    print(name, frame.groupby("source")[["SI-SDR", "SI-SIR", "SI-SAR"]].median().round(2), sep="\n")


for name, separator in separators.items():
    evaluate(name, separator)

# %%
saved = separators["U-Net"].model.save(str(folder / "evaluated.pth"))
_, metadata = nussl.ml.SeparationModel.load(saved)
metadata["evaluation"]["SI-SDR"]

# %% [markdown]
# ## A page to try it on
#
# `interact()` opens a page in the browser: a song in, its estimates out.

# %%
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
app, address, _ = separators["U-Net"].interact(
    add_residual=True, source="upload", prevent_thread_lock=True, quiet=True, inline=False
)
print(address)
app.get_blocks().close()

# %%
temporary.cleanup()
