"""Key points as the target of a block: where they go, what becomes of one that leaves its picture,
and that they train."""
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from sotavision.all import (
    Block,
    DataBlock,
    FlipItem,
    ImageBlock,
    Learner,
    MSELossFlat,
    Resize,
    get_image_files,
)

KeyPoints = getattr(tv_tensors, 'KeyPoints', None)
pytestmark = pytest.mark.skipif(KeyPoints is None, reason='torchvision has key points from 0.23 on')

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))
    for i in range(20):
        Image.fromarray(
            np.random.default_rng(i).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        ).save(tmp_path / f'{i:02}.png')
    return tmp_path

def near_the_edge(f): return KeyPoints(torch.tensor([[2., 3.], [30., 10.]]), canvas_size=(40, 60))
def one_missing(f):
    return KeyPoints(torch.tensor([[math.nan, math.nan], [30., 20.]]), canvas_size=(40, 60))

def dls(folder, points, item_tfms, **kw):
    block = DataBlock(
        (ImageBlock, Block(create=points)), get_items=get_image_files, item_tfms=item_tfms
    )
    return block.dataloaders(folder, bs=4, device='cpu', **kw)

@pytest.mark.parametrize(
    'kw', [dict(cache=None), dict(cache='ram'), dict(cache='disk'), dict(num_workers=1)])
def test_a_point_that_a_crop_cuts_off_is_nan_whoever_loads(folder, kw):
    y = torch.cat([y for _, y in dls(folder, near_the_edge, Resize(24), **kw).valid])
    assert y[:, 0].isnan().all() and y[:, 1].isfinite().all()

@pytest.mark.parametrize(
    'points,tfm',
    [(near_the_edge, Resize(24)), (near_the_edge, [Resize(24, 'squish'), FlipItem()]),
     (one_missing, Resize(24))])
def test_points_that_are_gone_do_not_end_a_training(folder, points, tfm):
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4), nn.Unflatten(1, (2, 2))
    )
    Learner(dls(folder, points, tfm), model, MSELossFlat(), lr=1e-4, default_cbs=False).fit(1)
    assert all(p.isfinite().all() for p in model.parameters())
