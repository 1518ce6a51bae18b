"Test-time augmentation of points, boxes and masks, and with transforms of one's own."
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import tv_tensors

from learners import block, items_of, learner, one_thread  # noqa: F401 (a fixture)
from questions import snapshot, unchanged
from sotavision.augment.grid import KeyPoints
from sotavision.augment.normalize import Normalize
from sotavision.augment.resize import FlipItem
from sotavision.data.loaders import DataLoader, DataLoaders

class Sides(list): c = 2

def points_learner(n_points=1, shape=None, target=KeyPoints):
    "A perfect model: it finds the brightest pixels."
    gen = torch.Generator().manual_seed(0)
    data = Sides()
    for _ in range(6):
        x = torch.zeros(1, 16, 20)
        at = torch.stack(
            [
                torch.randint(4, 16, (n_points,), generator=gen),
                torch.randint(4, 12, (n_points,), generator=gen),
            ],
            1,
        )
        for k, (u, v) in enumerate(at.tolist()): x[0, v, u] = 1 + k
        data.append(
            (
                tv_tensors.Image(x),
                target(at.float(), canvas_size=(16, 20))
                if target is KeyPoints
                else target(at.float()),
            )
        )
    class Finds(nn.Module):
        def forward(self, x):
            best = (
                x.flatten(1).topk(n_points, 1).indices.flip(1)
                if n_points > 1
                else x.flatten(1).argmax(1, keepdim=True)
            )
            found = torch.stack([best % 20, best // 20], -1).float()
            return found.flatten(1) if shape == 'flat' else found
    loss = lambda p, t: F.mse_loss(p.reshape(t.shape), t)
    return learner(Finds, dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2), loss_func=loss)

needs_points = pytest.mark.skipif(KeyPoints == (), reason='torchvision has key points from 0.23 on')

@needs_points
@pytest.mark.parametrize('shape', [None, 'flat'])
def test_flips_of_points_are_undone(shape):
    learn = points_learner(shape=shape)
    plain, targs = learn.get_preds()
    assert plain.reshape(targs.shape).equal(targs)
    assert learn.tta(views='flip')[0].allclose(plain, atol=1e-4)
    # found in an enlarged picture: within a pixel
    assert learn.tta(views='five_crop')[0].allclose(plain, atol=.7)
    assert learn.tta(views='flip', n=0)[0].equal(plain)

@needs_points
def test_points_from_chance_are_refused():
    learn = points_learner(3)
    assert learn.tta(views='flip')[0].allclose(learn.get_preds()[0], atol=1e-4)
    with pytest.raises(ValueError, match="Key points.*views='flip'"): learn.tta()
    with pytest.raises(ValueError, match='use_max'): learn.tta(views='flip', use_max=True)

@needs_points
def test_predictions_that_are_no_points():
    learn = points_learner()
    class Odd(nn.Module):
        def forward(self, x): return x.flatten(1)[:, :3]
    learn.model, learn.loss_func = Odd(), lambda p, t: p.mean()
    with pytest.raises(ValueError, match=r'\(6, 3\) for points: x and y of each'):
        learn.tta(views='flip')

def test_views_that_all_say_the_same_are_warned_of():
    with pytest.warns(UserWarning, match='gave the same answers: these loaders'): learner().tta(n=2)

def test_boxes_and_masks_without_a_block():
    boxes = lambda o: tv_tensors.BoundingBoxes(
        torch.cat([o, o + 1], 1), format='XYXY', canvas_size=(16, 20)
    )
    for looks in ('random', 'flip'):
        with pytest.raises(ValueError, match='Boxes'): points_learner(target=boxes).tta(views=looks)
    data = [
        (tv_tensors.Image(torch.rand(3, 8, 8)), tv_tensors.Mask(torch.randint(3, (8, 8))))
        for _ in range(4)
    ]
    learn = learner(
        lambda: nn.Conv2d(3, 3, 1),
        dls=DataLoaders(*[DataLoader(data, 2, device='cpu')] * 2),
        loss_func=nn.CrossEntropyLoss(),
    )
    with pytest.raises(ValueError, match='Masks'): learn.tta()
    assert learn.tta(views='flip')[0].allclose(learn.get_preds()[0], atol=1e-5)

def test_numbers_of_whole_pictures_need_no_way_back():
    data = [(tv_tensors.Image(torch.rand(1, 8, 8)), torch.rand(1)) for _ in range(4)]
    learn = learner(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)),
        dls=DataLoaders(*[DataLoader(data, 2, device='cpu')] * 2),
        loss_func=nn.MSELoss(),
    )
    assert learn.tta(views='flip')[0].shape == (4, 1)

def test_a_data_set_that_draws_is_asked_without_a_trace():
    class RandomTransform(list):
        def __getitem__(self, i): return torch.rand(64) + random.random(), i % 3
    data = RandomTransform(range(8))
    learn = learner(
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2), loss_func=nn.CrossEntropyLoss()
    )
    learn.fit(1)
    before = snapshot(learn)
    for ask in (lambda: learn.tta(views='flip', n=0), lambda: learn.get_preds(0), learn.validate):
        ask()
    unchanged(before, learn)

# Transforms of the views

def test_looks_with_transforms_of_ones_own():
    b = block()
    b.item_tfms, b.batch_tfms = [FlipItem(p=0.)], [Normalize(mean=(.5,), std=(.25,))]
    learn = learner(dls=b.dataloaders(items_of(42), bs=8, device='cpu'))
    plain, mirrored = learn.get_preds()[0], learn.tta(n=1, beta=0., item_tfms=FlipItem(p=1.))[0]
    x = torch.cat([o[0] for o in learn.dls.valid]).as_subclass(torch.Tensor)
    with torch.no_grad(): assert mirrored.allclose(learn.model(x.flip(-1)).softmax(1), atol=1e-5)
    class Halved:
        def __call__(self, sample): return (tv_tensors.Image(sample[0] / 2), *sample[1:])
    # normalized behind it, as the model wants it
    halved = learn.tta(n=1, beta=0., batch_tfms=Halved())[0]
    raw = x * .25 + .5
    with torch.no_grad():
        assert halved.allclose(learn.model((raw / 2 - .5) / .25).softmax(1), atol=1e-5)
    own = learn.tta(n=1, beta=0., batch_tfms=[Halved(), Normalize(mean=(0.,), std=(1.,))])[0]
    with torch.no_grad(): assert own.allclose(learn.model(raw / 2).softmax(1), atol=1e-5)
    assert learn.get_preds()[0].equal(plain) and learn.dls.valid.item_tfms[0].p == 0
    with pytest.raises(ValueError, match='random views'):
        learn.tta(views='flip', item_tfms=FlipItem(1.))
    with pytest.raises(ValueError, match='looked at anew'):
        learn.tta(dl=[learn.dls.valid.one_batch()])
    assert learn.tta(dl=[learn.dls.valid.one_batch()], views='flip')[0].shape == (10, 3)
