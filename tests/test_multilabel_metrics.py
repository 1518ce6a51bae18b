"""Scores of several labels an item: scikit-learn's numbers over batches of any size, with empty
rows and absent labels; one threshold, or one for each label."""
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from sotavision.objectives.losses import BCEWithLogitsLossFlat
from sotavision.objectives.metrics import accuracy_multi, as_metric
from sotavision.objectives.multilabel import (
    APScoreMulti,
    F1ScoreMulti,
    FBetaMulti,
    HammingLoss,
    RocAucMulti,
)

@pytest.fixture(scope='module')
def oracle(): return pytest.importorskip('sklearn.metrics')

def drawn(seed=0, n=300, absent=False, empty=False):
    "Logits that know something of five labels, and the labels."
    r = np.random.RandomState(seed)
    yes = r.rand(n, 5) < [.5, .3, .2, .1, .05]
    if absent: yes[:, 3] = False
    if empty: yes[::3] = False
    logits = r.randn(n, 5) + 2 * yes - 1
    if empty: logits[::6] = -4
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(yes).float()

KINDS = pytest.mark.parametrize(
    'kind', [{}, dict(absent=True), dict(empty=True), dict(absent=True, empty=True)], ids=str
)
SEEDS = pytest.mark.parametrize('seed', range(3))

def over(metric, preds, targs, bs=37):
    "The value over batches."
    metric = as_metric(metric)
    metric.reset()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for k in range(0, len(preds), bs): metric.accumulate(preds[k:k + bs], targs[k:k + bs])
        return metric.value

def said(preds, thresh=.5): return preds.sigmoid().numpy() > np.asarray(thresh, np.float32)

@SEEDS
@KINDS
@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted', 'samples'])
@pytest.mark.parametrize('beta', [.5, 1., 2.])
def test_f_scores_are_those_of_scikit_learn(oracle, beta, average, kind, seed):
    preds, targs = drawn(seed, **kind)
    zero = 0. if average == 'samples' else np.nan
    for thresh in .5, .2, [.1, .3, .5, .7, .9]:
        theirs = oracle.fbeta_score(targs, said(preds, thresh), beta=beta, average=average,
                                    zero_division=zero)
        ours = over(FBetaMulti(beta, thresh, average=average), preds, targs)
        assert abs(ours - theirs) < 1e-6

@pytest.mark.parametrize('empty', [0., 1., np.nan])
def test_items_without_a_label_count_as_asked(oracle, empty):
    preds, targs = drawn(empty=True)
    assert not said(preds)[::6].any() and not targs[::6].any()
    theirs = oracle.f1_score(targs, said(preds), average='samples', zero_division=empty)
    assert abs(over(F1ScoreMulti(average='samples', empty=empty), preds, targs) - theirs) < 1e-6

@SEEDS
@KINDS
def test_shares_of_answers_are_those_of_scikit_learn(oracle, kind, seed):
    preds, targs = drawn(seed, **kind)
    for thresh in .5, .2, [.1, .3, .5, .7, .9]:
        theirs = oracle.hamming_loss(targs, said(preds, thresh))
        assert abs(over(HammingLoss(thresh), preds, targs) - theirs) < 1e-6
        right = over(partial(accuracy_multi, thresh=thresh), preds, targs)
        assert abs(right - (1 - theirs)) < 1e-6

@SEEDS
@KINDS
@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted', 'samples'])
@pytest.mark.parametrize('name, metric', [('average_precision_score', APScoreMulti),
                                          ('roc_auc_score', RocAucMulti)])
def test_orders_are_those_of_scikit_learn(oracle, name, metric, average, kind, seed):
    "scikit-learn is given what has a yes and a no; ours leaves the rest out by itself."
    preds, targs = drawn(seed, **kind)
    p, y = preds.numpy(), targs.numpy()
    if average in ('macro', 'weighted'): p, y = p[:, y.any(0)], y[:, y.any(0)]
    if average == 'samples':
        rows = y.any(1) & ~y.all(1) if metric is RocAucMulti else y.any(1)
        p, y = p[rows], y[rows]
    theirs = getattr(oracle, name)(y, p, average=average)
    assert abs(over(metric(average), preds, targs) - theirs) < 1e-6

EVERY = [
    FBetaMulti(2), F1ScoreMulti([.1, .2, .3, .4, .5], average='samples'), HammingLoss(.3),
    APScoreMulti(), RocAucMulti('weighted'), partial(accuracy_multi, thresh=.2),
]

@pytest.mark.parametrize('metric', EVERY, ids=lambda o: as_metric(o).name)
def test_any_batch_size_gives_the_same(metric):
    preds, targs = drawn(absent=True, empty=True)
    values = [over(metric, preds, targs, bs) for bs in (1, 7, 64, 300)]
    assert values == pytest.approx(values[:1] * 4, abs=1e-6)

@pytest.mark.parametrize('metric', EVERY, ids=lambda o: as_metric(o).name)
def test_whole_numbers_and_booleans_are_targets_too(metric):
    preds, targs = drawn()
    assert over(metric, preds, targs.long()) == over(metric, preds, targs.bool()) \
        == over(metric, preds, targs)

@pytest.mark.parametrize('metric', [FBetaMulti(2), HammingLoss()])
def test_probabilities_need_no_sigmoid(metric):
    preds, targs = drawn()
    of_probs = type(metric)(sigmoid=False)
    of_probs.beta = getattr(metric, 'beta', None)
    assert over(of_probs, preds.sigmoid(), targs) == over(metric, preds, targs)

@pytest.mark.parametrize('metric', [F1ScoreMulti, APScoreMulti, RocAucMulti])
def test_absent_labels_are_named(metric):
    preds, targs = drawn(absent=True)
    m = metric(vocab=list('abcde'))
    m.accumulate(preds, targs)
    with pytest.warns(UserWarning, match="No target is of 'd'"): assert m.value > .3
    assert list(m.per_class) == list('abcde')
    if metric is not F1ScoreMulti: assert m.per_class['d'] is None

def test_scores_of_each_label_are_those_of_scikit_learn(oracle):
    preds, targs = drawn(1)
    pairs = [(FBetaMulti(2), oracle.fbeta_score(targs, said(preds), beta=2, average=None)),
             (APScoreMulti(), oracle.average_precision_score(targs, preds, average=None))]
    for metric, theirs in pairs:
        over(metric, preds, targs)
        assert np.allclose(list(metric.per_class.values()), theirs, atol=1e-6)

@pytest.mark.parametrize('metric', [FBetaMulti, HammingLoss, APScoreMulti, RocAucMulti])
def test_nothing_measured_is_none(metric):
    assert metric().value is None
    assert getattr(metric(), 'per_class', {}) == {}

def test_nothing_to_find_and_nothing_said():
    preds, targs = torch.full((4, 3), -9.), torch.zeros(4, 3)
    for metric in F1ScoreMulti(), APScoreMulti(), RocAucMulti(), APScoreMulti('samples'):
        assert over(metric, preds, targs) is None
    assert over(F1ScoreMulti(average='samples', empty=np.nan), preds, targs) is None
    assert over(F1ScoreMulti(average='samples', empty=1.), preds, targs) == 1
    assert over(HammingLoss(), preds, targs) == 0

def test_names_say_what_differs_from_usual():
    names = [m.name for m in (
        F1ScoreMulti(), FBetaMulti(2, [.1] * 5, average='samples'), HammingLoss(), HammingLoss(.2),
        APScoreMulti(), APScoreMulti('micro'), RocAucMulti('samples'),
        as_metric(partial(accuracy_multi, thresh=.2)), as_metric(partial(accuracy_multi,
                                                                         thresh=[.1] * 30)),
    )]
    assert names == [
        'f1_multi', 'f2_multi(samples, thresh per label)', 'hamming_loss',
        'hamming_loss(thresh=0.2)', 'ap_score_multi', 'ap_score_multi(micro)',
        'roc_auc_multi(samples)', 'accuracy_multi(thresh=0.2)',
        'accuracy_multi(thresh=[30 values])',
    ]

@pytest.mark.parametrize('make, told', [
    (lambda: F1ScoreMulti(average='makro'), "average='makro'.*Did you mean 'macro'"),
    (lambda: APScoreMulti('binary'), "average='binary' is not one of"),
    (lambda: over(HammingLoss([.1, .2]), *drawn()), r'Thresholds of shape \(2,\).*\(37, 5\)'),
    (lambda: over(APScoreMulti(), torch.zeros(3, 2), torch.tensor([0, 1, 1])), 'do not fit'),
    (lambda: over(F1ScoreMulti(), torch.zeros(3, 2), torch.tensor([0, 1, 1])), 'do not fit'),
    (lambda: over(APScoreMulti(), torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)), r'\(N, C\)'),
    (lambda: over(APScoreMulti(), torch.full((3, 2), torch.nan), torch.ones(3, 2)), 'not finite'),
    (lambda: over(RocAucMulti('samples'), torch.full((3, 2), torch.inf), torch.ones(3, 2)),
     'not finite'),
    (lambda: BCEWithLogitsLossFlat(thresh=50), 'thresh=50: thresholds are probabilities'),
    (lambda: BCEWithLogitsLossFlat(thresh=[.5, -.1]), 'thresholds are probabilities'),
    (lambda: BCEWithLogitsLossFlat(thresh=[.5, .1]).decodes(torch.rand(4, 3)), 'one for each'),
])
def test_what_makes_no_sense(make, told):
    with pytest.raises(ValueError, match=told): make()

def test_the_loss_decodes_with_a_threshold_for_each_label():
    probs = torch.tensor([[.3, .3], [.6, .6]])
    assert BCEWithLogitsLossFlat(thresh=[.2, .7]).decodes(probs).tolist() == [[True, False]] * 2
    maps = probs[..., None].expand(2, 2, 3)
    assert BCEWithLogitsLossFlat(thresh=[.2, .7]).decodes(maps).shape == (2, 2, 3)

def test_a_yes_may_weigh_more_for_each_label():
    loss, logits = BCEWithLogitsLossFlat(pos_weight=[1., 3.]), torch.tensor([[.4, -.2]])
    p = logits.sigmoid()
    by_hand = -(p[0, 0].log() + 3 * p[0, 1].log()) / 2
    assert loss(logits, torch.tensor([[1, 1]])).isclose(by_hand)
