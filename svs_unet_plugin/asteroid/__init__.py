"""The U-Net in asteroid: importing this repairs asteroid for today's Python and registers the model.

`SVSUNet` is then found by ``asteroid.models.get("SVSUNet")``, and so by ``BaseModel.from_pretrained`` and by
``svs-unet asteroid infer``.
"""

from svs_unet_plugin.asteroid import compat
from svs_unet_plugin.asteroid.model import SVSUNet
from svs_unet_plugin.asteroid.separation import separate_preserving_scale

asteroid = compat.import_asteroid()

# register_model raises where a name is taken, as by this very module if it is loaded a second time.
vars(asteroid.models).pop(SVSUNet.__name__, None)
asteroid.models.register_model(SVSUNet)

__all__ = ["SVSUNet", "separate_preserving_scale"]
