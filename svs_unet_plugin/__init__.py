"""Singing-voice separation with the U-Net of Jansson et al. (ISMIR 2017), for nussl and on its own.

>>> import svs_unet_plugin
>>> stems = svs_unet_plugin.separate(mixture, 44_100, "vocals.pth")  # doctest: +SKIP
"""

from svs_unet_plugin.separator import Separator, separate
from svs_unet_plugin.stft import STFT
from svs_unet_plugin.unet import UNet

__version__ = "0.1.0"

__all__ = ["STFT", "Separator", "UNet", "__version__", "separate"]
