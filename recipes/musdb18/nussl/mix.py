"""Mix prepared songs by scaper, as a configuration states: part of stage 1 of the recipe."""

from __future__ import annotations

from pathlib import Path

from train import command_line

from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.mixing.scaper import MixSettings, write_mixtures
from svs_unet_plugin.training.configuration import run


def main() -> None:
    parser = command_line(__doc__)
    parser.add_script_argument("--jobs", type=int | None, help="processes (default: one a core)")
    options = parser.parse_args()
    settings = MixSettings(**options.scaper.as_dict())
    if options.mixing == "on_the_fly" or not settings.mixtures:
        print(f"Nothing to write: with mixing: {options.mixing}, songs are mixed while training")
        return
    prepared = open_prepared(options.data_dir)
    print(write_mixtures(prepared, Path(options.mixtures), settings, jobs=options.jobs))


if __name__ == "__main__":
    run(main)
