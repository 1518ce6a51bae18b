"Loaders of pictures on the disk, to compare with and without a cache."
import numpy as np
import pytest
from PIL import Image

from sotavision.augment.resize import FlipItem, RandomResizedCrop, Resize, aug_transforms
from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import parent_label

@pytest.fixture(autouse=True, name='home')
def set_home(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))

@pytest.fixture(name='pictures')
def draw_pictures(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(24):
        w, h = rng.integers(20, 60, 2)
        path = tmp_path/'pictures'/'ab'[n % 2]/f'{n:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(path)
        Image.fromarray(rng.integers(0, 3, (h, w), dtype=np.uint8)).save(path.with_suffix('.bmp'))
    return sorted((tmp_path/'pictures').rglob('*.png'))

def loaders(pictures, tfms=None, blocks=(ImageBlock, CategoryBlock), get_y=parent_label, **kw):
    block = DataBlock(
        blocks,
        get_y=get_y,
        item_tfms=tfms or Resize(16),
        batch_tfms=aug_transforms(size=12, min_scale=.5),
    )
    return block.dataloaders(pictures, bs=5, device='cpu', **kw)

def passes(dls, n=2):
    set_seed(7)
    return [tuple(o.clone() for o in b) for _ in range(n) for dl in dls for b in dl]

def same(a, b):
    return len(a) == len(b) and all(
        x.equal(y) and x.stride() == y.stride()
        for p, q in zip(a, b, strict=True)
        for x, y in zip(p, q, strict=True)
    )

TFMS = dict(
    crop=lambda: Resize(16),
    wide=lambda: Resize((14, 20)),
    squish=lambda: Resize(16, 'squish'),
    pad=lambda: Resize(16, 'pad'),
    flip=lambda: [Resize(16), FlipItem()],
    rrc=lambda: RandomResizedCrop(16, min_scale=.3),
    two=lambda: [Resize(20), RandomResizedCrop(16)],
)
