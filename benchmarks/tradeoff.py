"""What quality costs: SDR of the vocals against time, by weights, views and 8-bit integers.

    python benchmarks/tradeoff.py SONGS --picture docs/images/tradeoff.svg

scores the example song of the package stempeg and the songs in ``SONGS/test``, in MUSDB18's format, and
times a minute of stereo on one thread, by the processor's time. 8-bit networks are made by ONNX Runtime from
the bundled ones, and calibrated on an excerpt of the first song in ``SONGS/train``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any

import altair as alt
import numpy as np
import onnx
import pandas as pd
import stempeg
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from timing import RATE, digits, noise, table

from svs_unet_plugin import Separator
from svs_unet_plugin.checkpoint import read
from svs_unet_plugin.corpora.musdb import Track, find_tracks
from svs_unet_plugin.evaluation.metrics import sdr
from svs_unet_plugin.evaluation.runner import read_song
from svs_unet_plugin.export import export
from svs_unet_plugin.files import atomic_write
from svs_unet_plugin.threads import set_threads

ENGINE = "onnxruntime"
SECONDS = 60.0
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("songs", type=Path, help="a folder with train/ and test/ of songs with stems")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = parser.parse_args()
    set_threads(1)
    tracks = find_tracks(options.songs)
    songs = [Track(Path(stempeg.example_stem_path()), "test"), *(t for t in tracks if t.subset == "test")]
    calibration = next(track for track in tracks if track.subset == "train").read()[0]["mixture"]
    with TemporaryDirectory() as folder:
        rows = []
        for name in ("vocals", "small"):
            whole, small = (Path(folder) / f"{name}{kind}.onnx" for kind in ("", "-int8"))
            loaded = read(name)
            export(loaded.network, loaded.stft, whole, "onnx")
            quantize(whole, small, calibration)
            for weights, views in ((whole, 1), (whole, 2), (whole, 3), (whole, 4), (small, 1)):
                separator = Separator(weights, views=views, engine=ENGINE)
                rows.append(
                    {
                        "weights": weights.stem,
                        "views": views,
                        "MB": weights.stat().st_size / 1e6,
                        "seconds": seconds(separator),
                        **{track.name: score(separator, track) for track in songs},
                    }
                )
                print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    frame["mean"] = frame[[track.name for track in songs]].mean(axis=1)
    cells = [
        [digits(value) if isinstance(value, float) else str(value) for value in row] for row in frame.values
    ]
    print(table(list(frame.columns), cells))
    if options.picture:
        draw(frame, options.picture)


def quantize(model: Path, out: Path, mixture: np.ndarray) -> None:
    """A network with weights and activations of 8 bits, each channel of the weights with a scale of its own.

    Args:
        mixture: what scales are chosen by, ``(channels, samples)`` at `RATE`.
    """
    heard = magnitudes(Separator(model, engine=ENGINE), mixture[:, 60 * RATE : 90 * RATE])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"magnitude": heard.pop()} if heard else None

    ready = out.with_suffix(".ready.onnx")
    quant_pre_process(model, ready, skip_symbolic_shape=True)
    quantize_static(
        ready,
        out,
        Reader(),
        per_channel=True,
        weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    quantized = onnx.load(out)
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(onnx.load(model).metadata_props)
    onnx.save(quantized, out)


def magnitudes(separator: Separator, mixture: np.ndarray) -> list[np.ndarray]:
    """What the network is given while it separates a mixture."""
    engine: Any = separator.masker.engine
    given, masks = [], engine.masks

    def listening(magnitude: np.ndarray, heard: None = None) -> np.ndarray:
        given.append(magnitude)
        return masks(magnitude)

    engine.masks = listening
    separator.separate(mixture, RATE)
    return given


def seconds(separator: Separator) -> float:
    """Of the processor, for a minute of stereo."""
    audio, taken = noise(SECONDS), []
    separator.separate(audio, RATE)
    for _ in range(ROUNDS):
        start = process_time()
        separator.separate(audio, RATE)
        taken.append(process_time() - start)
    return median(taken)


def score(separator: Separator, track: Track) -> float:
    song = read_song(track)
    vocals = separator.separate(song.mixture, song.sample_rate)["vocals"]
    return float(sdr(song.sources["vocals"][None], vocals[None])[0])


def draw(frame: pd.DataFrame, out: Path) -> None:
    frame = frame.assign(label=[f"{n} view{'s' * (n > 1)}" for n in frame.views])
    base = alt.Chart(frame).encode(
        x=alt.X("seconds", title="seconds of one core for a minute of stereo").scale(
            type="log", domain=[0.3, 5]
        ),
        y=alt.Y("mean", title="SDR of the vocals, dB, mean of three songs").scale(zero=False),
        color=alt.Color("weights", title="weights"),
    )
    points = base.mark_point(filled=True, size=70)
    lines = base.transform_filter("!test(/int8/, datum.weights)").mark_line(opacity=0.4)
    names = base.mark_text(dx=8, align="left").encode(text="label:N")
    with atomic_write(out) as beside:
        (points + lines + names).properties(width=520, height=320).save(str(beside), format="svg")


if __name__ == "__main__":
    main()
