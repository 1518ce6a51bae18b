"""Pictures that are drawn on the spot, and loaders of them. Nothing trains and nothing is
downloaded."""
import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from sotavision.augment.resize import Resize
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import get_image_files, parent_label
from sotavision.data.splits import GrandparentSplitter

def draw(path, size=(40, 30), seed=0, mode='RGB'):
    "Write a noisy picture, every one different."
    path.parent.mkdir(parents=True, exist_ok=True)
    g = np.random.default_rng(seed)
    Image.fromarray(g.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(
        path
    )
    return path

@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')

@pytest.fixture(scope='module', name='folder')
def draw_folder(tmp_path_factory):
    "Two classes, ten training and four validation pictures each, of different sizes."
    root = tmp_path_factory.mktemp('pets')
    for split, n in (('train', 10), ('val', 4)):
        for k, label in enumerate(('cat', 'dog')):
            for i in range(n):
                draw(
                    root / split / label / f'{i}.png',
                    (30 + 2 * i, 40 - i),
                    seed=100 * k + i + (50 if split == 'val' else 0),
                )
    return root

def block(**kwargs):
    "The usual block, with changes."
    return DataBlock(
        **{
            **dict(
                blocks=(ImageBlock, CategoryBlock),
                get_items=get_image_files,
                get_y=parent_label,
                splitter=GrandparentSplitter(),
                item_tfms=Resize(16),
            ),
            **kwargs,
        }
    )

def loaders(folder, bs=4, num_workers=0, **kwargs):
    return block(**kwargs).dataloaders(folder, bs=bs, num_workers=num_workers, device='cpu')

def pictures(dl): return torch.cat([b[0] for b in dl])
