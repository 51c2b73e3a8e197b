"""Mix prepared songs by scaper, as a configuration says: stage 2 of the recipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from configuration import add_options, read_conf

from svs_unet_plugin.corpora.prepare import open_prepared
from svs_unet_plugin.mixing.scaper import MixSettings, write_mixtures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prepared", type=Path, required=True, help="what `svs-unet data prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the mixtures")
    parser.add_argument("--jobs", type=int, help="processes (default: one a core)")
    add_options(parser)
    options = parser.parse_args()
    conf = read_conf(options)
    settings = MixSettings(**conf["scaper"])
    if conf["mixing"] == "on_the_fly" or not settings.mixtures:
        print(f"nothing to write: with mixing: {conf['mixing']}, songs are mixed while training")
        return
    print(write_mixtures(open_prepared(options.prepared), options.out, settings, jobs=options.jobs))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")
