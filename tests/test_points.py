"""Key points: one that leaves its picture is nan, by every transform; one that stays goes where the
pixels went; none spoils the loss."""
import itertools

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from sotavision.augment.affine import Dihedral, Flip, Rotate, Warp, Zoom
from sotavision.augment.grid import KeyPoints
from sotavision.augment.resize import DihedralItem, FlipItem, RandomCrop, RandomResizedCrop, Resize
from sotavision.core.rng import set_seed
from sotavision.core.transform import join
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import L1LossFlat, MSELossFlat
from sotavision.objectives.metrics import AvgMetric, mae, mse
from sotavision.training.learner import Learner

pytestmark = pytest.mark.skipif(not KeyPoints, reason='this torchvision has no KeyPoints')
H, W = 40, 60
NAN = float('nan')

def pts(*xy, size=(H, W), dtype=torch.float32):
    return KeyPoints(torch.tensor(xy, dtype=dtype), canvas_size=size)

ITEM = {
    'crop': Resize(24),
    'squish': Resize((20, 30), 'squish'),
    'pad': Resize(50, 'pad', 'zeros'),
    'window': RandomCrop(20),
    'window, padded': RandomCrop(70, 'zeros'),
    'random crop': RandomResizedCrop(24, .2),
    'mirror': FlipItem(1.),
    'symmetry': DihedralItem(1.),
}
BATCH = {
    'flip': Flip(p=1),
    'symmetry': Dihedral(p=1),
    'turn': Rotate(180, p=1, pad_mode='zeros'),
    'zoom in': Zoom(1.5, 3., p=1),
    'zoom out': Zoom(.4, .9, p=1, pad_mode='zeros'),
    'tilt': Warp(.5, p=1, pad_mode='zeros'),
    'crop': RandomResizedCrop(24, .2),
    'to a size': Flip(p=1, size=(30, 20)),
    'joined': join([Flip(p=1), Rotate(90, p=1, pad_mode='zeros'), Zoom(1., 2., p=1), Warp(p=1)])[
        0
    ],
}
ALL = {**{f'item: {k}': v for k, v in ITEM.items()}, **{f'batch: {k}': v for k, v in BATCH.items()}}


def image_of(x, y, pil):
    "A picture that shows a dot at the point."
    g = (-((torch.arange(W) - x)**2 + (torch.arange(H)[:, None] - y)**2) / 8).exp()
    if pil: return Image.fromarray((g * 255).byte().numpy())
    return tv_tensors.Image(g[None].expand(3, -1, -1))

@pytest.mark.parametrize('name', ALL)
def test_points_go_where_pixels_go_or_are_nan(name, often):
    t, rng, kept = ALL[name], torch.Generator().manual_seed(0), 0
    pil = name.startswith('item')
    set_seed(0)
    for i in range(often(60)):
        x, y = (torch.rand(2, generator=rng) * torch.tensor([W - 1, H - 1])).tolist()
        im, p = t((image_of(x, y, pil), pts([x, y], [NAN, NAN])), split_idx=i % 4 == 3)
        size = (im.height, im.width) if pil else tuple(im.shape[-2:])
        assert tuple(p.canvas_size) == size and p[1].isnan().all(), 'nan stays nan'
        (px, py), (h, w) = p[0].tolist(), size
        inside = -.5 <= px <= w - .5 and -.5 <= py <= h - .5
        assert inside or p[0].isnan().all(), 'never outside, never half nan'
        a = torch.as_tensor(__import__('numpy').array(im)).float() / 255 if pil else im[0]
        if inside and 3 < px < w - 4 and 3 < py < h - 4 and a.max() > .3:
            bright = (a == a.max()).nonzero()[0].flip(0).tolist()
            assert abs(bright[0] - px) < 3.5 and abs(bright[1] - py) < 3.5
            kept += 1
        if not inside:
            assert a[1:-1, 1:-1].max() < .99 or 'reflection' in repr(vars(t)), (
                'what is gone is not seen'
            )
    assert kept


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('where', ['a batch', 'a sample'])
def test_a_point_outside_that_is_not_nan_is_refused_by_every_transform(name, where):
    t = ALL[name]
    for bad in ([W + 3., 5.], [5., -2.], [float('inf'), 3.]):
        if where == 'a batch' and name.startswith('batch'):
            sample = (
                tv_tensors.Image(torch.rand(2, 3, H, W)),
                KeyPoints(torch.tensor([[bad], [[1., 1.]]]), canvas_size=(H, W)),
            )
        else: sample = tv_tensors.Image(torch.rand(3, H, W)), pts([1., 1.], bad)
        for split_idx in (0, 1):
            with pytest.raises(ValueError, match='lies outside its image of 40 × 60'):
                t(sample, split_idx=split_idx)


@pytest.mark.parametrize('name', ALL)
def test_points_of_another_picture_size_are_refused(name):
    with pytest.raises(ValueError, match='different heights'):
        ALL[name](
            (tv_tensors.Image(torch.rand(3, H, W)), pts([1., 1.], size=(W, H))), split_idx=0
        )


def test_boxes_are_refused_not_left_behind():
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[1., 2., 3., 4.]]), format='XYXY', canvas_size=(H, W)
    )
    for t in ALL.values():
        with pytest.raises(TypeError, match='does not move boxes'):
            t((tv_tensors.Image(torch.rand(3, H, W)), boxes), split_idx=0)


@pytest.mark.parametrize('first, second', list(itertools.product(ITEM, BATCH)))
def test_the_edge_survives_any_two(first, second):
    "Rounding leads no point over the edge, where the next transform would refuse it."
    set_seed(1)
    corners = pts(
        [-.5, -.5], [W - .5, H - .5], [-.5, H - .5], [0, 0], [W - 1, H - 1], [W / 2, H / 2]
    )
    for _ in range(4):
        sample = ITEM[first]((tv_tensors.Image(torch.rand(3, H, W)), corners), split_idx=0)
        for _ in range(3): sample = BATCH[second](sample, split_idx=0)


def test_nothing_moves_nothing():
    p = pts([-.5, -.5], [W - .5, H - .5], [3.25, 7.5], [NAN, NAN])
    for t in (
        Zoom(draw=1., p=1),
        Rotate(draw=0., p=1),
        Warp(draw=0., p=1),
        Resize((H, W), 'squish'),
        RandomCrop((H, W)),
    ):
        got = t((tv_tensors.Image(torch.rand(3, H, W)), p), split_idx=0)[1]
        assert got.nan_to_num(-9).allclose(p.nan_to_num(-9), atol=1e-4), t


# --- what a loss makes of it

def test_nan_points_count_for_nothing():
    g = torch.Generator().manual_seed(0)
    pred = torch.randn(4, 6, generator=g, requires_grad=True)
    targ = torch.randn(4, 3, 2, generator=g)
    hidden = targ.clone(); hidden[0, 1] = NAN; hidden[2] = NAN
    there = ~hidden.reshape(4, 6).isnan()
    for ours, theirs, metric in (
            (MSELossFlat, nn.functional.mse_loss, mse), (L1LossFlat, nn.functional.l1_loss, mae)):
        points = KeyPoints(hidden, canvas_size=(9, 9))
        want = theirs(pred[there], targ.reshape(4, 6)[there])
        assert ours()(pred, points).allclose(want) and metric(pred.detach(), points).allclose(want)
        grads = [torch.autograd.grad(o, pred)[0] for o in (ours()(pred, points), want)]
        assert grads[0].allclose(grads[1]) and grads[0].isfinite().all()
        assert ours('none')(pred, points).shape == (4, 6)
        assert ours('sum')(pred, points).allclose(
            theirs(pred[there], targ.reshape(4, 6)[there], reduction='sum')
        )
        assert float(ours().divisor(pred, points)) == pytest.approx(4 * 8 / 12)
        assert ours()(pred, KeyPoints(hidden * NAN, canvas_size=(9, 9))) == 0
        whole = KeyPoints(targ, canvas_size=(9, 9))
        assert ours()(pred, whole).allclose(ours()(pred, targ))
        assert float(ours().divisor(pred, whole)) == 4
        # unequal batches: the mean over points that are there
        m = AvgMetric(metric)
        for k in (slice(0, 1), slice(1, 4)):
            m.accumulate(pred[k].detach(), KeyPoints(hidden[k], canvas_size=(9, 9)))
        assert m.value == pytest.approx(float(want.detach()), rel=1e-5)


def test_nan_numbers_that_are_no_points_still_show():
    assert MSELossFlat()(torch.zeros(2, 1), torch.tensor([1., NAN])).isnan()
    assert mse(torch.zeros(2, 1), torch.tensor([1., NAN])).isnan()


class Dots:
    "Dots anywhere, near the edge too."
    vocab, c = None, 2
    def __len__(self): return 24
    def __getitem__(self, i):
        x, y = (
            torch.rand(2, generator=torch.Generator().manual_seed(i)) * torch.tensor([W - 1, H - 1])
        ).tolist()
        return image_of(x, y, False), pts([x, y])

@pytest.mark.parametrize('loss', [MSELossFlat(), L1LossFlat()], ids=str)
def test_training_with_points_that_leave_does_not_diverge(loss):
    set_seed(0)
    common = dict(device='cpu', item_tfms=RandomResizedCrop(24, .3))
    dls = DataLoaders(
        DataLoader(Dots(), 8, True, batch_tfms=[Rotate(90, p=1), Zoom(1.5, 3., p=1)], **common),
        DataLoader(Dots(), 8, **common),
    )
    targets = torch.cat([y for _, y in dls.train])
    assert targets.isnan().any() and not targets.isnan().all()
    learn = Learner(
        dls,
        nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 2)),
        loss_func=loss,
        metrics=[mse, mae],
        lr=1e-3,
    )
    learn.fit(2)
    assert all(
        torch.tensor([o for o in row if isinstance(o, float)]).isfinite().all()
        for row in learn.recorder.values
    )
