"""Scores for unequal classes: scikit-learn's numbers, over batches, with absent classes named."""
import numpy as np
import pytest
import torch

from learners import learner, loaders, one_thread  # noqa: F401
from sotavision.objectives.unequal import (
    APScore,
    BalancedAccuracy,
    F1Score,
    Precision,
    Recall,
    RocAuc,
)

COUNTED = dict(precision_score=Precision, recall_score=Recall, f1_score=F1Score)
RANKED = dict(roc_auc_score=RocAuc, average_precision_score=APScore)

@pytest.fixture(scope='module')
def oracle(): return pytest.importorskip('sklearn.metrics')

def drawn(n=500, c=4, seed=0, share=(.7, .2, .08, .02)):
    "Logits that know something, and unequal targets."
    r = np.random.RandomState(seed)
    targ = r.choice(c, n, p=share)
    logits = r.randn(n, c) + 1.5 * np.eye(c)[targ]
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(targ)

def over(metric, preds, targs, bs=64):
    "The value over batches."
    metric.reset()
    for k in range(0, len(preds), bs): metric.accumulate(preds[k:k + bs], targs[k:k + bs])
    return metric.value

def probs(logits): return logits.double().softmax(1).numpy()

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('average', ['macro', 'micro', 'weighted'])
@pytest.mark.parametrize('name', COUNTED)
def test_counted_scores_are_those_of_scikit_learn(oracle, name, average, seed):
    preds, targs = drawn(seed=seed)
    theirs = getattr(oracle, name)(targs, preds.argmax(1), average=average)
    assert abs(over(COUNTED[name](average), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('name', COUNTED)
def test_scores_of_each_class_are_those_of_scikit_learn(oracle, name):
    preds, targs = drawn(seed=4)
    metric = COUNTED[name]()
    over(metric, preds, targs)
    theirs = getattr(oracle, name)(targs, preds.argmax(1), average=None)
    assert np.allclose(list(metric.per_class.values()), theirs, atol=1e-6)

@pytest.mark.parametrize('name', COUNTED)
def test_a_class_never_predicted_counts_zero_as_in_scikit_learn(oracle, name):
    preds, targs = drawn(seed=5)
    preds[:, 3] = -9
    theirs = getattr(oracle, name)(targs, preds.argmax(1), average='macro', zero_division=0)
    assert abs(over(COUNTED[name](), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('name', COUNTED)
def test_a_class_that_is_only_predicted_counts_as_in_scikit_learn(oracle, name):
    preds, targs = drawn(seed=5)
    preds, targs = preds[targs != 3], targs[targs != 3]
    assert (preds.argmax(1) == 3).any()
    theirs = getattr(oracle, name)(targs, preds.argmax(1), average='macro', zero_division=0)
    with pytest.warns(UserWarning, match='No target is of class 3: but predictions are'):
        assert abs(over(COUNTED[name](), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('name', COUNTED)
def test_the_binary_score_is_that_of_scikit_learn(oracle, name):
    preds, targs = drawn(c=2, share=(.9, .1))
    for pos in 0, 1:
        theirs = getattr(oracle, name)(targs, preds.argmax(1), pos_label=pos)
        assert abs(over(COUNTED[name]('binary', pos), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('adjusted', [False, True])
def test_balanced_accuracy_is_that_of_scikit_learn(oracle, adjusted):
    preds, targs = drawn(seed=1)
    theirs = oracle.balanced_accuracy_score(targs, preds.argmax(1), adjusted=adjusted)
    assert abs(over(BalancedAccuracy(adjusted), preds, targs) - theirs) < 1e-6

def test_balanced_accuracy_leaves_out_a_class_without_targets(oracle):
    preds, targs = drawn(seed=5)
    preds, targs = preds[targs != 3], targs[targs != 3]
    metric = BalancedAccuracy(vocab=list('abcd'))
    with pytest.warns(UserWarning): theirs = oracle.balanced_accuracy_score(targs, preds.argmax(1))
    with pytest.warns(UserWarning, match="No target is of 'd': balanced_accuracy leaves it out"):
        assert abs(over(metric, preds, targs) - theirs) < 1e-6
    assert metric.per_class['d'] is None and metric.per_class['a'] > .5

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('average', ['macro', 'weighted'])
def test_area_under_the_curve_is_that_of_scikit_learn(oracle, average, seed):
    preds, targs = drawn(seed=seed)
    theirs = oracle.roc_auc_score(targs, probs(preds), multi_class='ovr', average=average)
    assert abs(over(RocAuc(average), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('average', ['macro', 'weighted', 'micro'])
def test_average_precision_is_that_of_scikit_learn(oracle, average):
    preds, targs = drawn(seed=2)
    theirs = oracle.average_precision_score(np.eye(4)[targs], probs(preds), average=average)
    assert abs(over(APScore(average), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('name', RANKED)
def test_equal_scores_count_as_in_scikit_learn(oracle, name):
    r = np.random.RandomState(0)
    score, yes = torch.tensor(r.randint(0, 4, (200, 1)) / 4.), torch.tensor(r.rand(200) < .3)
    theirs = getattr(oracle, name)(yes, score[:, 0])
    assert abs(over(RANKED[name](), score, yes.long()) - theirs) < 1e-6

@pytest.mark.parametrize('average', ['macro', 'micro'])
@pytest.mark.parametrize('name', RANKED)
def test_several_labels_an_item(oracle, name, average):
    r = np.random.RandomState(1)
    yes = torch.tensor(r.rand(300, 3) < [.5, .2, .05]).float()
    logits = torch.tensor(r.randn(300, 3)) + yes
    theirs = getattr(oracle, name)(yes, logits, average=average)
    assert abs(over(RANKED[name](average), logits, yes) - theirs) < 1e-6

@pytest.mark.parametrize('name', RANKED)
def test_of_two_classes_one_may_be_asked_about(oracle, name):
    preds, targs = drawn(c=2, share=(.9, .1))
    theirs = getattr(oracle, name)(targs, probs(preds)[:, 1])
    assert abs(over(RANKED[name]('binary'), preds, targs) - theirs) < 1e-6

@pytest.mark.parametrize('metric', [RocAuc, APScore])
def test_large_logits_do_not_become_equal(metric):
    "In float32 the softmax of both would be 1."
    preds = torch.tensor([[40., 0.], [30., 0.], [0., 30.]])
    assert over(metric('binary', 0), preds, torch.tensor([0, 1, 1])) == 1

@pytest.mark.parametrize('metric', [RocAuc, APScore])
def test_a_class_without_targets_is_named_and_left_out(metric):
    preds, targs = drawn(seed=5)
    keep = targs != 3
    m = metric(vocab=list('abcd'))
    with pytest.warns(UserWarning, match=f"No target is of 'd': {m.name} leaves it out"):
        found = over(m, preds[keep], targs[keep])
    known = [v for v in m.per_class.values() if v is not None]
    assert m.per_class['d'] is None and len(known) == 3 and abs(found - np.mean(known)) < 1e-12

EVERY = [BalancedAccuracy, F1Score, Precision, Recall, RocAuc, APScore]

@pytest.mark.parametrize('metric', EVERY)
@pytest.mark.parametrize('bs', [1, 7, 500])
def test_batches_do_not_matter(metric, bs):
    preds, targs = drawn()
    assert abs(over(metric(), preds, targs, bs) - over(metric(), preds, targs)) < 1e-12

@pytest.mark.parametrize('metric', EVERY)
def test_ignored_targets_do_not_count(metric):
    preds, targs = drawn()
    more = torch.cat([preds, preds[:9] * -3]), torch.cat([targs, torch.full((9,), -100)])
    assert over(metric(), *more) == over(metric(), preds, targs)

@pytest.mark.parametrize('metric', EVERY)
def test_masks(metric):
    preds, targs = drawn(n=480)
    images = preds.reshape(5, 12, 8, 4).permute(0, 3, 1, 2)
    assert abs(over(metric(axis=1), images, targs.reshape(5, 12, 8), 2)
               - over(metric(), preds, targs)) < 1e-12

@pytest.mark.parametrize('metric', EVERY)
def test_nothing_measured_is_none(metric):
    m = metric()
    assert m.value is None and m.per_class == {}
    assert m.lower_is_better is False

def test_all_wrong_is_zero_and_all_right_is_one():
    targs = torch.arange(4)
    for metric in EVERY: assert over(metric(), torch.eye(4)[targs] * 9, targs) == 1
    for metric in EVERY[:4]: assert over(metric(), torch.eye(4)[(targs + 1) % 4], targs) == 0

def test_names_say_what_differs_from_usual():
    names = [m.name for m in (F1Score(), Recall('micro'), Precision('binary', 2), RocAuc(),
                              APScore('weighted'), BalancedAccuracy(), BalancedAccuracy(True))]
    assert names == ['f1_score', 'recall(micro)', 'precision(pos_label=2)', 'roc_auc',
                     'ap_score(weighted)', 'balanced_accuracy', 'balanced_accuracy(adjusted)']

@pytest.mark.parametrize('make, said', [
    (lambda: F1Score('makro'), "average='makro'.*Did you mean 'macro'"),
    (lambda: RocAuc('samples'), "average='samples' is not one of"),
    (lambda: over(Recall('binary', 7), *drawn()), 'pos_label=7 is not one of 4 classes'),
    (lambda: over(APScore(), torch.full((3, 2), torch.nan), torch.tensor([0, 1, 1])), 'not finite'),
    (lambda: over(F1Score(), torch.zeros(3, 1), torch.zeros(3).long()), 'one output'),
    (lambda: over(RocAuc(), torch.zeros(3, 2), torch.tensor([0, 1, 5])), 'Target 5 is not one of'),
])
def test_what_makes_no_sense(make, said):
    with pytest.raises(ValueError, match=said): make()

def test_a_learner_measures_them_over_the_whole_validation_set():
    learn = learner(metrics=EVERY)
    learn.fit(1)
    preds, targs = learn.get_preds()
    loss, *values = learn.validate()
    assert values == pytest.approx([over(m(), preds.log(), targs) for m in EVERY], abs=1e-6)

@pytest.mark.parametrize('metric', (BalancedAccuracy, RocAuc, APScore, F1Score))
def test_a_first_batch_without_a_class_is_no_news(metric, recwarn):
    "Validation in the order of its classes: the look at one batch before the training warns not."
    dls = loaders(bs=2)
    dls.valid_ds.items.sort(key=lambda o: o[1])
    learner(dls=dls, metrics=metric()).fit(1)
    assert not [o for o in recwarn if 'No target' in str(o.message)]
