"""How long the demo trains, and with which network, to end in time: prints `CHANNELS EPOCHS`.

Short trainings are timed. The paper's network is taken where it can be trained long enough for 8 dB, else one
of half its width, which takes a third of the time. Other options are those of the recipe's train.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "musdb18" / "nussl"))

import train as recipe

from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.training import configuration

FEWEST_EPOCHS = {16: 8, 8: 8}
"""Epochs that 8 dB take with ease, by the width of the network's first layer; the last is the last resort."""

REST_STEPS = 120
"""What follows the training takes as long as so many steps of the paper's network."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True, help="what is left of the time")
    options, rest = parser.parse_known_args()
    end = time.monotonic() + options.seconds
    rest_seconds = None
    for channels, fewest in FEWEST_EPOCHS.items():
        given = [*rest, "--channels", str(channels)]
        short, long = 1, 9
        seconds(given, short)  # the first is slow
        least = seconds(given, short)
        step = max(seconds(given, long) - least, 0.0) / (long - short)
        if rest_seconds is None:
            rest_seconds = REST_STEPS * step
        most = recipe.command_line(None).parse_args(given)
        epoch = (most.epoch_steps - short) * step + least
        left = end - time.monotonic() - rest_seconds
        print(f"{channels} channels: {step:.2f} s a step, {epoch:.0f} s an epoch", file=sys.stderr)
        if left >= fewest * epoch:
            break
    else:
        late = (fewest * epoch - left) / 60
        print(f"This machine is slow, or busy: the demo takes about {late:.0f} minutes more", file=sys.stderr)
    print(channels, max(min(int(left / epoch), most.epochs), fewest))


def seconds(given: list[str], steps: int) -> float:
    """What a training of one epoch of so many steps takes."""
    parser = recipe.command_line(None)
    options = parser.parse_args([*given, "--epochs", "1", "--epoch_steps", str(steps)])
    conf, prepared = parser.configuration(options), open_prepared(options.data_dir)
    with TemporaryDirectory() as out:
        start = time.monotonic()
        model = recipe.make_model(conf, recipe.network_of(conf), conf.stft(prepared.settings.sample_rate))
        recipe.train(conf, prepared, Path(out), model, mixtures=out, progress=False)
        return time.monotonic() - start


if __name__ == "__main__":
    configuration.run(main)
