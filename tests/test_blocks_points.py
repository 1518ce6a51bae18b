"Key points as the target of a block: where they may be, and what is said when one leaves its picture."
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from sotavision.all import (Block, DataBlock, DataLoader, FlipItem, ImageBlock, Learner, MSELossFlat, RandomResizedCrop, Resize, Rotate, Zoom,
                            get_image_files, set_seed)

KeyPoints = getattr(tv_tensors, 'KeyPoints', None)
pytestmark = pytest.mark.skipif(KeyPoints is None, reason='torchvision has key points from 0.23 on')

@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))
    for i in range(20): Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path/f'{i:02}.png')
    return tmp_path

def near_the_edge(f): return KeyPoints(torch.tensor([[2., 3.], [30., 10.]]), canvas_size=(40, 60))
def in_the_middle(f): return KeyPoints(torch.tensor([[29.5, 19.5]]), canvas_size=(40, 60))
def one_missing(f): return KeyPoints(torch.tensor([[math.nan, math.nan], [30., 20.]]), canvas_size=(40, 60))

def dls(folder, points, item_tfms, batch_tfms=None, may_leave=False, **kw):
    block = DataBlock((ImageBlock, Block(create=points, may_leave=may_leave)), get_items=get_image_files, item_tfms=item_tfms, batch_tfms=batch_tfms)
    return block.dataloaders(folder, bs=4, device='cpu', **kw)

@pytest.mark.parametrize('kw', [dict(cache=None), dict(cache='ram'), dict(cache='disk'), dict(num_workers=1)])
def test_a_point_that_a_crop_cuts_off_names_the_item_and_the_mend(folder, kw):
    with pytest.raises(ValueError, match=r"Resize.*key point of item \d+ .*\d\d\.png.*squish.*may_leave"): list(dls(folder, near_the_edge, Resize(24), **kw).valid)

@pytest.mark.parametrize('tfm', [RandomResizedCrop(20, min_scale=.1), [Resize(24, 'squish'), RandomResizedCrop(8, min_scale=.1)]])
def test_random_crops_say_so_too(folder, tfm):
    set_seed(0)
    with pytest.raises(ValueError, match='RandomResizedCrop.*key point of item'): list(dls(folder, near_the_edge, tfm).train)

@pytest.mark.parametrize('tfm', [Rotate(80, p=1.), Zoom(draw=2.5, p=1.)])
def test_batch_transforms_say_so_too(folder, tfm):
    set_seed(0)
    with pytest.raises(ValueError, match=r'key point of an item out of the picture'): list(dls(folder, near_the_edge, Resize(24, 'squish'), tfm).train)

def test_points_that_stay_train(folder):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 4), nn.Unflatten(1, (2, 2)))
    data = dls(folder, near_the_edge, [Resize(24, 'squish'), FlipItem()])
    Learner(data, model, MSELossFlat(), lr=1e-4, default_cbs=False).fit(1)
    assert data.one_batch()[1].isfinite().all() and dls(folder, in_the_middle, Resize(24)).one_batch()[1].isfinite().all()

def test_points_may_leave_where_the_loss_knows(folder):
    batch = torch.cat([y for _, y in dls(folder, near_the_edge, Resize(24), may_leave=True).valid])
    assert batch[:, 0].isnan().all() and batch[:, 1].isfinite().all()

def test_missing_points_stay_missing(folder):
    y = dls(folder, one_missing, [Resize(24, 'squish'), FlipItem()]).one_batch()[1]
    assert y[:, 0].isnan().all() and y[:, 1].isfinite().all()

def test_plain_data_sets_get_what_transforms_say(folder):
    pairs = [(Image.open(f), near_the_edge(f)) for f in get_image_files(folder)]
    assert next(iter(DataLoader(pairs, 4, item_tfms=Resize(24), device='cpu')))[1].isnan().any()

def test_new_pictures_have_no_points_to_lose(folder):
    data = dls(folder, in_the_middle, Resize(24))
    assert len(data.test_dl(get_image_files(folder)[:3]).one_batch()) == 1
    assert len(data.valid.new(bs=2).one_batch()) == 2
