"Void pixels have no class: no loss, metric, mixture or picture gives them one."
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from learners import learner, one_thread  # noqa: F401 (a fixture)
from sotavision.data.datablock import DataBlock, ImageBlock, MaskBlock
from sotavision.data.splits import IndexSplitter
from sotavision.objectives import metrics as M, scores as S
from sotavision.objectives.losses import CrossEntropyLossFlat, fixed
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.training.callback import Callback
from sotavision.training.learner import Learner

def scene(i, void=slice(0, 4)):
    "A picture whose brightness is the class of its pixels, and its mask; half of it is void."
    g = np.random.default_rng(i)
    mask = g.integers(0, 3, (8, 8)).astype(np.uint8)
    picture = (mask * 100).astype(np.uint8)
    if void is not None: mask = mask.copy(); mask[void] = 255
    return picture, mask

def loaders(voids, bs=4):
    items = [scene(i, v) for i, v in enumerate(voids)]
    block = DataBlock(
        (ImageBlock('L'), MaskBlock({0: 'a', 1: 'b', 2: 'c', 255: None})),
        get_x=lambda o: o[0],
        get_y=lambda o: o[1],
        splitter=IndexSplitter(list(range(len(items) // 2))),
    )
    return block.dataloaders(items, bs=bs, device='cpu')

class Knows(nn.Module):
    "Reads the class off the brightness: always right where there is a class."
    def __init__(self): super().__init__(); self.w = nn.Parameter(torch.tensor(40.))
    def forward(self, x): return -(x * 2.55 - torch.arange(3.).view(1, 3, 1, 1)).abs() * self.w

HALF, NONE, ALL = slice(0, 4), None, slice(0, 8)
METRICS = {
    'accuracy': lambda p, t: M.accuracy(p, t, axis=1),
    'foreground_acc': M.foreground_acc,
    'Dice': S.Dice(average='macro'),
    'Jaccard': S.JaccardCoeff(average='macro'),
    'FBeta': S.FBeta(axis=1, average='micro'),
}

@pytest.mark.parametrize(
    'voids',
    [[HALF] * 8, [NONE] * 8, [HALF, NONE] * 4, [ALL, HALF] * 4, [slice(0, k) for k in range(8)]],
    ids=['half', 'none', 'some', 'whole masks', 'growing'])
def test_who_is_always_right_gets_the_best_score(voids):
    known = [
        partial(M.accuracy, axis=1),
        partial(M.error_rate, axis=1),
        partial(M.top_k_accuracy, k=1, axis=1),
        M.foreground_acc,
        S.Dice(average='macro'),
        S.JaccardCoeff(average='macro'),
        S.FBeta(axis=1, average='micro'),
    ]
    for bs in (1, 3):
        loss, *values = Learner(
            loaders(voids, bs), Knows(), metrics=known, precision='fp32', default_cbs=False
        ).validate()
        assert values == pytest.approx([1, 0, 1, 1, 1, 1, 1]) and loss < .01, bs

def test_void_moves_no_weight_and_no_mean():
    "The loss is that of the pixels that have a class, whatever the batches."
    dls, model = loaders([HALF, NONE, slice(0, 7), ALL] * 4), nn.Conv2d(1, 3, 1)
    learn = Learner(dls, model, precision='fp32', default_cbs=False)
    x, y = zip(*[(a, b) for a, b in learn.dls.valid])
    x, y = (
        torch.cat([o.as_subclass(torch.Tensor) for o in x]),
        torch.cat([o.as_subclass(torch.Tensor) for o in y]),
    )
    right = nn.functional.cross_entropy(model(x), y.long(), ignore_index=255).item()
    for bs in (1, 2, 3, 8):
        learn.dls = loaders([HALF, NONE, slice(0, 7), ALL] * 4, bs)
        assert learn.validate()[0] == pytest.approx(right, rel=1e-5)

def test_all_void_is_no_number_in_metrics_and_0_in_the_loss():
    learn = Learner(
        loaders([ALL] * 8),
        nn.Conv2d(1, 3, 1),
        metrics=[M.foreground_acc, S.Dice()],
        precision='fp32',
        default_cbs=False,
    )
    before = learn.model.weight.detach().clone()
    learn.fit(1, lr=1e-2, wd=0.)
    assert torch.equal(before, learn.model.weight) and learn.model.weight.isfinite().all()

def test_wrong_answers_on_void_change_nothing():
    p = torch.zeros(1, 3, 2, 2); p[:, 1] = 1
    t = torch.tensor([[[1, 1], [255, 255]]])
    for f, best in ((M.accuracy, 1.), (M.error_rate, 0.), (M.top_k_accuracy, 1.)):
        kwargs = dict(k=2) if f is M.top_k_accuracy else {}
        assert f(p, t, axis=1, **kwargs) == best
    assert M.accuracy(torch.eye(3), torch.tensor([0, 1, -100])) == 1        # as in single labels

@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_mixing_keeps_void_void(cb):
    from sotavision.training.callback import Callback
    seen = []
    class Look(Callback):
        order = 50
        def after_loss(self):
            if self.training:
                seen.append((self.y.as_subclass(torch.Tensor), self.loss.item(), self.divisor))
    learn = Learner(
        loaders([HALF] * 12),
        nn.Conv2d(1, 3, 1),
        cbs=[cb(), Look()],
        precision='fp32',
        default_cbs=False,
    )
    learn.fit(1)
    for y, loss, n in seen:
        assert np.isfinite(loss) and float(n) == pytest.approx(len(y) / 2)
        if y.ndim == 3: assert (y[:, :4] == 255).all() and (y[:, 4:] < 3).all()
        else:
            assert (y[:, :, :4] == 0).all()
            assert torch.allclose(y[:, :, 4:].sum(1), torch.ones(len(y), 4, 8))

def test_points_are_not_mixed():
    from torchvision import tv_tensors
    if not hasattr(tv_tensors, 'KeyPoints'): pytest.skip('this torchvision has no key points')
    from types import SimpleNamespace
    for cb in (MixUp(), CutMix()):
        points = tv_tensors.KeyPoints(torch.rand(4, 1, 2), canvas_size=(8, 8))
        cb.learn = SimpleNamespace(training=True, xb=(torch.rand(4, 1, 8, 8),), yb=(points,))
        with pytest.raises(ValueError, match='key points'): cb.before_batch()

# What is no class and not void is a fault, and is told

def test_a_target_that_is_no_class_is_refused():
    p = torch.eye(3)
    for f in (M.accuracy, M.error_rate, M.top_k_accuracy):
        with pytest.raises(ValueError, match='Target 5 is not one of 3'):
            f(p, torch.tensor([0, 1, 5]), **(dict(k=1) if 'k' in f.__name__[:5] else {}))
    with pytest.raises(ValueError, match='Target 7'):
        S.Dice().accumulate(torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 7))
    # of single labels 255 is no void
    with pytest.raises(ValueError, match='Target 255'): M.accuracy(p, torch.tensor([0, 1, 255]))

def test_one_output_is_no_choice_of_classes():
    for f in (M.accuracy, M.error_rate):
        with pytest.raises(ValueError, match='accuracy_multi'):
            f(torch.tensor([[-9.], [-9.]]), torch.tensor([1, 0]))

def test_masks_that_lie_on_their_side_are_refused():
    with pytest.raises(ValueError, match='need the shape'):
        M.accuracy(torch.zeros(2, 3, 4, 5), torch.zeros(2, 5, 4).long(), axis=1)
    assert M.accuracy(torch.zeros(2, 3, 4, 5), torch.zeros(2, 1, 4, 5).long(), axis=1) == 1

def test_mixed_masks_with_void_weigh_the_same_in_any_batches():
    from sotavision.objectives.losses import FocalLoss, divisor_of
    from sotavision.techniques.mixup import soft
    g = torch.Generator().manual_seed(0)
    p, y = torch.randn(4, 3, 6, 6, generator=g), torch.randint(3, (4, 6, 6), generator=g)
    for k in range(4): y[k, :k * 2] = 255
    mixed = torch.lerp(soft(y, 3), soft(y.flip(0), 3), .3)
    for loss in (
        CrossEntropyLossFlat(axis=1),
        CrossEntropyLossFlat(axis=1, label_smoothing=.1),
        FocalLoss(axis=1),
        nn.CrossEntropyLoss(),
    ):

        def mean(bs, loss=loss):
            parts = [
                (loss(a, b), divisor_of(loss, a, b)) for a, b in zip(p.split(bs), mixed.split(bs))
            ]
            return float(sum(l * n for l, n in parts) / sum(n for _, n in parts))

        assert [mean(bs) for bs in (1, 2, 4)] == pytest.approx([mean(4)] * 3, rel=1e-5), loss
    assert CrossEntropyLossFlat(axis=1, label_smoothing=.1)(p, torch.zeros_like(mixed)) == 0

def test_numbers_are_not_shared_by_area():
    from sotavision.data.datablock import RegressionBlock
    items = [(scene(i)[0], (1., 2.)) for i in range(12)]
    block = DataBlock(
        (ImageBlock('L'), RegressionBlock(2)),
        get_x=lambda o: o[0],
        get_y=lambda o: o[1],
        splitter=IndexSplitter([0, 1]),
    )
    learn = Learner(
        block.dataloaders(items, bs=4, device='cpu'),
        nn.Sequential(nn.Flatten(), nn.Linear(64, 2)),
        default_cbs=False,
    )
    with pytest.raises(ValueError, match='by area'): learn.fit(1, cbs=CutMix())
    learn.fit(1, cbs=MixUp())

def test_classes_of_metrics_that_accumulate_are_made():
    from sotavision.objectives.metrics import as_metric
    class Count:
        def __init__(self): self.reset()
        def reset(self): self.n = 0
        def update(self, p, t): self.n += len(t)
        def compute(self): return self.n
    metric = as_metric(Count)
    metric.reset(); metric.accumulate(torch.zeros(3, 2), torch.zeros(3))
    assert metric.value == 3 and metric.name == 'count'

@pytest.mark.parametrize('cb', [MixUp, CutMix])
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(ignore_index=1), CrossEntropyLossFlat()])
def test_mixing_leaves_out_what_the_loss_ignores(cb, loss):
    class Seen(Callback):
        order, shares = 15, 0.
        def before_batch(self):
            self.shares = self.shares + self.yb[0].sum(0) if self.training else self.shares
    learn, seen = learner(loss_func=loss), Seen()
    learn.fit(1, cbs=[cb(), seen])
    assert (seen.shares[1] == 0) == (fixed(loss, 'ignore_index') == 1)
    assert seen.shares[0] > 0 and seen.shares[2] > 0
