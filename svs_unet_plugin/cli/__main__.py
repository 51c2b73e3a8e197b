"""``python -m svs_unet_plugin.cli``."""

import sys

from svs_unet_plugin.cli import main

sys.exit(main())
