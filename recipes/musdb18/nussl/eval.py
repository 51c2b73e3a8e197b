"""Score an experiment's best model on the test songs, as they were recorded: BSS Eval v4 and SI-SDR."""

from __future__ import annotations

from svs_unet_plugin.evaluation.experiment import evaluate
from svs_unet_plugin.training import configuration

SYSTEM = "unet"
"""The name of its folder of results."""


def main() -> None:
    evaluate(configuration.scoring_parser(__doc__).parse_args(), SYSTEM)


if __name__ == "__main__":
    configuration.run(main)
