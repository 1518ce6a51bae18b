"Means over batches of any sizes: what a loss divides by is what its batch weighs."
import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learners import learner, linear, one_thread  # noqa: F401 (a fixture)
from sotavision.callbacks import gradients as steps
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLoss,
    L1LossFlat,
    MSELossFlat,
    divisor_of,
)
from sotavision.objectives.metrics import AccumMetric, AvgMetric, as_metric
from sotavision.objectives.multilabel import FBetaMulti
from sotavision.objectives.scores import FBeta
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy

W = torch.tensor([1., 6., .5])
GEN = torch.Generator().manual_seed(0)
X, Y = torch.randn(23, 64, generator=GEN), torch.randint(3, (23,), generator=GEN)
GAPS = Y.clone().masked_fill(torch.rand(23, generator=GEN) < .4, -100)

LOSSES = {
    'weights': CrossEntropyLossFlat(weight=W),
    'ignored': CrossEntropyLossFlat(ignore_index=1),
    'both': CrossEntropyLossFlat(weight=W, ignore_index=0),
    'smooth': LabelSmoothingCrossEntropy(weight=W),
    'focal': FocalLoss(weight=W),
    'sum': CrossEntropyLossFlat(reduction='sum'),
    'plain': CrossEntropyLossFlat(),
    'torch weights': nn.CrossEntropyLoss(weight=W),
    'torch both': nn.CrossEntropyLoss(weight=W, ignore_index=2),
    'torch smooth': nn.CrossEntropyLoss(weight=W, label_smoothing=.2),
    'torch sum': nn.CrossEntropyLoss(reduction='sum'),
    'partial': partial(F.cross_entropy, weight=W),
    'partial sum': partial(F.cross_entropy, weight=W, reduction='sum'),
    'nll': lambda p, t: F.nll_loss(p.log_softmax(1), t),
    'function': F.cross_entropy,
}

def loaders(bs, y=Y, n_acc=None):
    items = list(zip(X, y))
    return DataLoaders(DataLoader(items, bs=bs), DataLoader(items, bs=bs), device='cpu')

def mean_of(loss, bs, y=Y):
    learn = learner(linear, dls=loaders(bs, y), loss_func=loss)
    return learn.validate()[0], learn

@pytest.mark.parametrize('name', LOSSES)
def test_batch_size_does_not_move_the_validation_loss(name):
    whole, learn = mean_of(LOSSES[name], 23)
    expected = float(LOSSES[name](learn.model(X), Y).detach()) / (23 if 'sum' in name else 1)
    assert whole == pytest.approx(expected, rel=1e-5)
    for bs in (1, 4, 22):
        assert mean_of(LOSSES[name], bs)[0] == pytest.approx(expected, rel=1e-5), bs

def test_batches_in_which_nothing_counts():
    whole, _ = mean_of(CrossEntropyLossFlat(weight=W), 23, GAPS)
    for bs in (1, 2, 5):
        assert mean_of(CrossEntropyLossFlat(weight=W), bs, GAPS)[0] == pytest.approx(
            whole, rel=1e-5
        )
    none = CrossEntropyLossFlat()(torch.zeros(2, 3, requires_grad=True), torch.tensor([-100, -100]))
    none.backward()
    assert none == 0

def gradient(loss, bs, n_acc=None, y=Y):
    "The gradient of a whole epoch's one step, with batches of `bs`."
    seen = []
    class Look(steps.Callback):
        order = 1
        def before_step(self): seen.append([p.grad.clone() for p in self.model.parameters()])
    set_up = learner(
        linear,
        dls=DataLoaders(DataLoader(list(zip(X, y)), bs=bs), device='cpu'),
        loss_func=copy.deepcopy(loss),
    )
    set_up.fit(1, cbs=[Look(), *([steps.GradientAccumulation(n_acc)] if n_acc else [])])
    return seen

@pytest.mark.parametrize('name', LOSSES)
def test_accumulated_gradients_are_those_of_the_whole(name):
    right, = gradient(LOSSES[name], 23)
    for bs in (4, 7, 22):
        got, = gradient(LOSSES[name], bs, 23)
        for a, b in zip(got, right): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(weight=W), FocalLoss(weight=W),
                                  LabelSmoothingCrossEntropy(), partial(CrossEntropyLossFlat())])
def test_what_counts_is_counted_once_a_batch(monkeypatch, loss):
    from sotavision.objectives import losses
    seen, counted = [], losses.counted
    def noted(targ, *args):
        seen.append(len(targ))
        return counted(targ, *args)
    monkeypatch.setattr(losses, 'counted', noted)
    learn = learner(linear, dls=loaders(5, GAPS), loss_func=loss)
    learn.validate()
    assert seen == [5, 5, 5, 5, 3]
    learn.fit(1, cbs=steps.GradientAccumulation(10))
    assert seen[5:] == seen[:5] * 2
    monkeypatch.undo()
    right = learner(linear, dls=loaders(5, GAPS), loss_func=lambda p, t: loss(p, t))
    assert right.validate() == learner(linear, dls=loaders(5, GAPS), loss_func=loss).validate()

def test_a_loss_made_of_ours_is_counted_by_itself():
    "It is no longer what our loss has counted for."
    def twice(p, t): return 2 * CrossEntropyLossFlat(weight=W)(p, t)
    learn = learner(linear, dls=loaders(5), loss_func=twice)
    means = [twice(learn.model(a), b).item() * len(b) for a, b in zip(X.split(5), Y.split(5))]
    assert learn.validate()[0] == pytest.approx(sum(means) / len(X), rel=1e-5)

def test_an_incomplete_last_step_too():
    first, last = gradient(LOSSES['weights'], 4, 16)
    for part, got in (slice(0, 16), first), (slice(16, 23), last):
        if part.start: continue   # the weights have moved by then
        model = learner(linear).model
        LOSSES['weights'](model(X[part]), Y[part]).backward()
        for a, p in zip(got, model.parameters()):
            torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-6)

def test_training_loss_in_the_table_weighs_too():
    learn = learner(linear, dls=loaders(5), loss_func=CrossEntropyLossFlat(weight=W), lr=0.)
    learn.fit(1, lr=1e-12)
    train, valid = learn.recorder.values[0][:2]
    assert (
        train
        == pytest.approx(valid, rel=1e-5)
        == pytest.approx(mean_of(CrossEntropyLossFlat(weight=W), 23)[0], rel=1e-5)
    )

def test_a_loss_as_metric():
    metric, p = AvgMetric(nn.CrossEntropyLoss(weight=W)), X[:, :3]
    for a, b in zip(p.split(5), Y.split(5)): metric.accumulate(a, b)
    assert metric.value == pytest.approx(float(F.cross_entropy(p, Y, weight=W)), rel=1e-5)

@pytest.mark.parametrize('loss', [CrossEntropyLossFlat, FocalLoss], ids=['cross-entropy', 'focal'])
@pytest.mark.parametrize('shape', [(5,), (4, 6), (2, 3, 2)], ids=str)
def test_sequences_and_masks_with_weights(loss, shape):
    p, t = torch.randn(3, 3, *shape, generator=GEN), torch.randint(3, (3, *shape), generator=GEN)
    gaps = t.masked_fill(torch.rand(t.shape, generator=GEN) < .3, -100)
    soft = torch.rand(3, 3, *shape, generator=GEN).softmax(1)
    same = dict(gamma=0.) if loss is FocalLoss else {}
    for y in (t, gaps):
        torch.testing.assert_close(loss(axis=1, weight=W, **same)(p, y), F.cross_entropy(p, y, W))
        if loss is CrossEntropyLossFlat:
            torch.testing.assert_close(
                loss(axis=1, weight=W, label_smoothing=.1)(p, y),
                F.cross_entropy(p, y, W, label_smoothing=.1),
            )
    torch.testing.assert_close(loss(axis=1, **same)(p, soft), F.cross_entropy(p, soft))
    assert loss(axis=1).divisor(p, t) == 3
    assert float(loss(axis=1).divisor(p, gaps)) == pytest.approx(
        3 * float((gaps >= 0).float().mean())
    )

def test_means_that_need_no_divisor():
    for f in (
        BCEWithLogitsLossFlat(pos_weight=[2.]),
        MSELossFlat(),
        L1LossFlat(),
        F.mse_loss,
        nn.HuberLoss(),
        lambda p, t: p.mean(),
    ):
        assert divisor_of(f, torch.zeros(4, 1), torch.zeros(4)) == 4
    for f in (
        MSELossFlat(reduction='sum'),
        nn.BCEWithLogitsLoss(reduction='sum'),
        partial(F.l1_loss, reduction='sum'),
    ):
        assert divisor_of(f, torch.zeros(4, 1), torch.zeros(4)) is None

# Metrics that are no means

class Auroc:
    "As torchmetrics has them: it accumulates by itself."
    higher_is_better = True
    def __init__(self): self.reset()
    def reset(self): self.p, self.t = [], []
    def update(self, preds, target): self.p.append(preds); self.t.append(target)
    def compute(self):
        p, t = torch.cat(self.p)[:, 1], torch.cat(self.t)
        return (p[t == 1][:, None] > p[t != 1]).float().mean()
    def __call__(self, preds, target): self.update(preds, target); return self.compute()

def auroc(y_true, y_score):
    return float((y_score[y_true == 1][:, None] > y_score[y_true != 1]).float().mean())

def test_areas_need_all_items():
    ranked = DataLoaders(
        *[
            DataLoader(
                list(zip(torch.arange(12.).view(12, 1).expand(12, 64), [0] * 8 + [1] * 4)), bs=bs
            )
            for bs in (3, 5)
        ],
        device='cpu',
    )
    class Order(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(1))
        def forward(self, x): return torch.stack([-x[:, 0], x[:, 0]], 1) * self.w
    learn = learner(
        Order,
        dls=ranked,
        loss_func=F.cross_entropy,
        metrics=[
            Auroc(),
            AccumMetric(auroc, act=lambda p: p[:, 1], invert_arg=True, lower_is_better=False),
        ],
    )
    for _ in range(2): assert learn.validate()[1:] == [1., 1.]     # and forgotten in between
    learn.fit(2, lr=1e-9)
    assert [r[2:] for r in learn.recorder.values] == [[1., 1.]] * 2
    assert learn.recorder.directions['auroc'] is False

def test_what_cannot_be_averaged_says_so():
    with pytest.raises(TypeError, match='AccumMetric'): as_metric(auroc)
    with pytest.raises(TypeError, match='several metrics'):
        AvgMetric(lambda p, t: dict(a=1)).accumulate(X, Y)
    with pytest.raises(ValueError, match='average it'): AvgMetric(lambda p, t: p).accumulate(X, Y)

def test_a_column_against_a_row_warns():
    p, t = torch.rand(4, 1), torch.rand(4)
    with pytest.warns(UserWarning, match='4 × 4'):
        AvgMetric(lambda a, b: (a - b).square().mean()).accumulate(p, t)
    ours = as_metric(__import__('sotavision.objectives.metrics', fromlist=['mse']).mse)
    ours.accumulate(p, t)
    assert ours.value == pytest.approx(float((p[:, 0] - t).square().mean()))

def test_names_of_scores():
    said = [
        FBeta().name,
        FBeta(average='macro').name,
        FBeta(2, pos_label=3).name,
        FBetaMulti(2).name,
        FBetaMulti(average='samples').name,
        FBetaMulti(thresh=.3).name,
        FBetaMulti(2, .25, average='micro').name,
        FBetaMulti(thresh=.5).name,
    ]
    assert said == [
        'f1_score',
        'f1_score(macro)',
        'f2_score(pos_label=3)',
        'f2_multi',
        'f1_multi(samples)',
        'f1_multi(thresh=0.3)',
        'f2_multi(micro, thresh=0.25)',
        'f1_multi',
    ]

def test_f_score_of_samples():
    "By hand: 2·1/(2+1) for the first, 1 for the second, 0 for a miss and for an empty row."
    said = torch.tensor([[9., 9, -9], [-9, 9, -9], [9, -9, -9], [-9, -9, -9]])
    true = torch.tensor([[1., 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    for bs in (1, 3, 4):
        metric = FBetaMulti(average='samples')
        for a, b in zip(said.split(bs), true.split(bs)): metric.accumulate(a, b)
        assert metric.value == pytest.approx((2 / 3 + 1) / 4)
    twice = FBetaMulti(2, average='samples')
    twice.accumulate(said, true)
    assert twice.value == pytest.approx((5 / 6 + 1) / 4)     # (1 + 4)·1 / ((1 + 4)·1 + 4·0 + 1)
