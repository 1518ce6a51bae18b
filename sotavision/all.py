"""Every public name in one place: `from sotavision.all import *`.

The only module that imports stars. It gives what the modules below list in their `__all__`, and
what cells of a notebook rely on: `torch`, `nn`, `F`, `np`, `pd`, `plt`, `Path`, `L`, `partial`, and
`Image` of Pillow. Nothing else: `__all__` is the whole list.
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

from .core.paths import *
from .core.rng import *
from .core.errors import *
from .core.display import *
from .core.transform import *
from .core.device import *
from .toynette.scenes import CODES, Dials, render_scene, toynette_names
from .toynette.dataset import *
from .toynette.reviews import *
from .data.images import *
from .data.survey import *
from .data.duplicates import *
from .data.show import *
from .data.files import *
from .data.tokens import *
from .data.splits import *
from .data.handy import *
from .data.download import *
from .data.limits import *
from .data.archives import *
from .data.collate import *
from .data.dataloader import *
from .data.loaders import *
from .data.labels import *
from .data.blocks import *
from .data.points import *
from .data.text import *
from .data.datablock import *
from .data.oneline import *
from .augment.grid import *
from .augment.affine import *
from .augment.color import *
from .augment.erasing import *
from .augment.resize import *
from .augment.normalize import *
from .models.layers import *
from .models.xresnet import *
from .models.efficientnet import *
from .models.unet import *
from .models.text import *
from .transfer.pretrained import *
from .transfer.heads import *
from .objectives.losses import *
from .objectives.metrics import *
from .objectives.scores import *
from .objectives.unequal import *
from .objectives.segmentation import *
from .objectives.multilabel import *
from .objectives.points import *
from .training.optimizers import *
from .training.lookahead import *
from .training.muon import *
from .training.callback import *
from .training.recorder import *
from .training.checkpoints import *
from .speed.precision import *
from .training.learner import *
from .training.weights import *
from .training.predict import *
from .training.schedules import *
from .training.lr_find import *
from .transfer.freezing import *
from .transfer.vision_learner import *
from .callbacks.tracking import *
from .callbacks.gradients import *
from .callbacks.norms import *
from .callbacks.ema import *
from .callbacks.swa import *
from .techniques.tta import *
from .techniques.mixup import *
from .techniques.cutmix import *
from .techniques.progressive import *
from .techniques.smoothing import *
from .techniques.folds import *
from .techniques.kfold import *
from .techniques.sampling import *
from .techniques.noisy_labels import *
from .techniques.corrections import *
from .techniques.label_correction import *
from .tasks.multilabel import *
from .tasks.segmentation import *
from .tasks.points import *
from .tasks.text import *
from .study.intervals import *
from .study.comparison import *
from .study.compare import *
from .study.interpret import *
from .study.masks import *
from .study.points import *
from .study.gradcam import *

__all__ = sorted(o for o in globals() if not o.startswith('_'))
