"Metrics against loops, in batches of every size, and with what people get wrong."
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from batches import (
    classified,
    generator,  # noqa: F401 (a fixture)
    masked,
    softly,
    tagged,
)
from sotavision.objectives.metrics import (
    AvgMetric,
    Metric,
    accuracy,
    accuracy_multi,
    as_metric,
    error_rate,
    foreground_acc,
    mae,
    mse,
    top_k_accuracy,
)
from sotavision.objectives.multilabel import F1ScoreMulti, FBetaMulti, HammingLoss
from sotavision.objectives.scores import Dice, FBeta, JaccardCoeff

METRICS = (
    [
        (classified, f)
        for f in (
            accuracy,
            error_rate,
            top_k_accuracy,
            partial(top_k_accuracy, k=2),
            FBeta(2),
            FBeta(average='macro'),
            FBeta(average='micro'),
        )
    ]
    + [
        (tagged, f)
        for f in (
            accuracy_multi,
            partial(accuracy_multi, thresh=.2),
            mse,
            mae,
            FBetaMulti(2),
            FBetaMulti(average='micro'),
            FBetaMulti(average='samples'),
            F1ScoreMulti([.2, .4, .6, .8]),
            HammingLoss(),
        )
    ]
    + [
        (masked, f)
        for f in (
            partial(accuracy, axis=1),
            foreground_acc,
            partial(foreground_acc, bkg_idx=2),
            Dice(),
            Dice(average='macro'),
            JaccardCoeff(),
        )
    ]
    + [(softly, f) for f in (accuracy, top_k_accuracy)]
)
named = pytest.mark.parametrize(
    'data, func', METRICS, ids=lambda o: getattr(o, '__name__', None) or as_metric(o).name
)

def over(metric, batches):
    metric.reset()
    for b in batches: metric.accumulate(*b)
    return metric.value

@named
@pytest.mark.parametrize('sizes', [[17], [16, 1], [1] * 17, [5, 5, 5, 2], [1, 16]], ids=str)
def test_the_value_does_not_depend_on_the_batches(gen, data, func, sizes):
    preds, targs = data(gen, 17)
    metric = as_metric(func)
    value = over(metric, zip(preds.split(sizes), targs.split(sizes)))
    assert value == pytest.approx(over(metric, [(preds, targs)]), abs=1e-6) and 0 < value
    if not isinstance(func, Metric):
        assert value == pytest.approx(func(preds, targs).item(), abs=1e-6)

@named
def test_metrics_watch_and_change_nothing(gen, data, func):
    preds, targs = data(gen, 5)
    before = preds.clone(), targs.clone()
    metric = as_metric(func)
    metric.reset(); assert metric.value is None
    metric.accumulate(preds.requires_grad_(), targs)
    assert torch.equal(preds, before[0]) and torch.equal(targs, before[1]) and preds.grad is None
    assert not metric.total.requires_grad and isinstance(metric.value, float)
    metric.reset(); assert metric.value is None

@named
def test_accumulating_never_reads_a_number(gen, data, func):
    "A tensor on the meta device has no numbers: whatever would make a GPU wait fails on it."
    preds, targs = data(gen, 5)
    metric = as_metric(func)
    for n in 5, 1: metric.accumulate(preds[:n].to('meta'), targs[:n].to('meta'))
    assert metric.total.device.type == 'meta'
    metric.reset()

def test_top_k_against_sorting_by_hand(gen):
    preds, targs = classified(gen, 40)
    for k in range(1, 7):
        hits = [
            t in sorted(range(6), key=lambda i: -p[i])[:k]
            for p, t in zip(preds.tolist(), targs.tolist())
        ]
        assert top_k_accuracy(preds, targs, k=k).item() == pytest.approx(sum(hits) / 40)
    assert top_k_accuracy(preds, targs, k=1) == accuracy(preds, targs)
    for k in 0, 7:
        with pytest.raises(ValueError, match=f'k={k} with 6 classes: choose k from 1 to 6'):
            top_k_accuracy(preds, targs, k=k)

def test_counted_scores_against_loops(gen):
    preds, targs = classified(gen, 60)
    guess = preds.argmax(1).tolist()
    def f(c, b=2):
        tp, fp, fn = (
            sum(h(g, t) for g, t in zip(guess, targs.tolist()))
            for h in (lambda g, t: g == c == t, lambda g, t: g == c != t, lambda g, t: g != c == t)
        )
        return (1 + b*b) * tp / ((1 + b*b) * tp + b*b*fn + fp)
    assert over(FBeta(2, pos_label=4), [(preds, targs)]) == pytest.approx(f(4))
    assert over(FBeta(2, average='macro'), [(preds, targs)]) == pytest.approx(
        sum(map(f, range(6))) / 6
    )
    assert over(FBeta(2, average='micro'), [(preds, targs)]) == pytest.approx(
        accuracy(preds, targs).item()
    )

def test_scores_leave_out_void_pixels():
    preds = F.one_hot(torch.tensor([[[0, 1, 1, 1]]]), 2).permute(0, 3, 1, 2).float()
    assert over(Dice(), [(preds, torch.tensor([[[0, 1, 1, 255]]]))]) == 1
    assert over(Dice(), [(preds, torch.tensor([[[0, 1, 1, -100]]]))]) == 1
    assert over(Dice(), [(preds, torch.tensor([[[0, 1, 1, 0]]]))]) == pytest.approx(.8)

def test_macro_leaves_out_classes_that_never_occur():
    preds, targs = F.one_hot(torch.tensor([0, 1, 1]), 5).float(), torch.tensor([0, 1, 0])
    assert over(FBeta(average='macro'), [(preds, targs)]) == pytest.approx(2/3)

@pytest.mark.parametrize(
    'f, says',
    [(FBeta(pos_label=9), 'pos_label=9 is not one of 6 classes'),
     (FBeta(pos_label=-1), 'pos_label=-1')])
def test_a_positive_label_that_is_no_class(gen, f, says):
    with pytest.raises(ValueError, match=says): over(f, [classified(gen, 3)])

def test_as_metric_takes_what_people_give():
    class Mine:
        def __call__(self, preds, targs): return 1.
    def own(preds, targs): return (preds.argmax(1) == targs).float().mean().item()
    assert [
        as_metric(o).name for o in (own, Mine(), lambda p, t: 0, FBeta, Dice(), partial(own))
    ] == ['own', 'Mine', 'lambda', 'f1_score', 'dice', 'own']
    assert over(
        as_metric(own),
        [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))],
    ) == pytest.approx(2 / 3)
    for bad in None, 3, 'accuracy':
        with pytest.raises(TypeError, match='not a metric'): as_metric(bad)
    with pytest.raises(TypeError): AvgMetric(own, nmae='x')
    with pytest.raises(TypeError): accuracy(torch.eye(2), torch.tensor([0, 1]), tresh=1)

def test_half_precision_metrics_add_up_in_float32():
    metric = as_metric(lambda p, t: p.mean())
    # 128,000 is beyond float16
    assert over(metric, [(torch.ones(64, dtype=torch.float16), torch.zeros(64))] * 2000) == 1

def test_wrong_shapes_reach_the_reader_as_words(gen):
    preds, targs = classified(gen, 4)
    with pytest.raises(ValueError, match=r'indices need the shape \(4,\)'):
        accuracy(preds, targs[:3])
    with pytest.raises(ValueError, match='do not fit predictions'): accuracy_multi(preds, targs)

def test_what_a_metric_of_ones_own_must_have():
    class Mine(Metric): pass
    for ask in (Mine.reset, lambda o: o.accumulate(None, None), lambda o: o.value):
        with pytest.raises(NotImplementedError, match=r'Mine\.'): ask(Mine())
