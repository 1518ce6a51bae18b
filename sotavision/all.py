"""Every public name in one place: `from sotavision.all import *`.

The only module that imports stars. It gives what the modules below list in their `__all__`, and what
cells of a notebook rely on: `torch`, `nn`, `F`, `np`, `pd`, `plt`, `Path`, `L`, `partial`, and `Image` of Pillow.
Nothing else: `__all__` is the whole list.
"""
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastcore.foundation import L
from PIL import Image
from torch import nn

from .core import *
from .data.scenes import CODES, Dials, render_scene, toynette_names
from .data.toynette import *
from .data.pictures import *
from .data.files import *
from .data.handy import *
from .data.download import *
from .data.archives import *
from .data.batches import *
from .data.loaders import *
from .data.labels import *
from .data.kinds import *
from .data.block import *
from .data.oneline import *
from .augment.grid import *
from .augment.affine import *
from .augment.colour import *
from .augment.erasing import *
from .augment.presize import *
from .augment.normalize import *
from .models.layers import *
from .models.xresnet import *
from .models.efficientnet import *
from .models.pretrained import *
from .models.heads import *
from .training.losses import *
from .training.metrics import *
from .training.scores import *
from .training.optimizers import *
from .training.callbacks import *
from .training.recorder import *
from .training.checkpoints import *
from .training.speed import *
from .training.learner import *
from .training.weights import *
from .training.inference import *
from .training.schedules import *
from .training.lr_find import *
from .training.parts import *
from .training.vision import *
from .training.keepers import *
from .training.steps import *
from .training.vision import *
from .techniques.tta import *
from .techniques.mixup import *
from .techniques.cutmix import *
from .techniques.progressive import *
from .techniques.smoothing import *
from .study.intervals import *
from .study.comparison import *
from .study.compare import *
from .study.interpret import *
from .study.gradcam import *

__all__ = sorted(o for o in globals() if not o.startswith('_'))
