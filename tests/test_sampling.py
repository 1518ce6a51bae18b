"""Resampling, weights and priors: training alone sees them, and the numbers are the known ones."""
import re
from collections import Counter
from operator import itemgetter

import numpy as np
import pytest
import torch
from torch.utils.data import WeightedRandomSampler

from learners import items_of, learner, linear, one_thread, same, weights  # noqa: F401
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock, MultiCategoryBlock
from sotavision.data.splits import IndexSplitter
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.study.interpret import ClassificationInterpretation
from sotavision.techniques.sampling import (
    PriorShift,
    class_weights,
    correct_prior,
    oversample,
    undersample,
)
from sotavision.training.callback import Callback

LABELS = ['a'] * 60 + ['b'] * 25 + ['c'] * 7
TRAIN = [i for i in range(92) if i % 3]      # 40 a, 16 b, 5 c
FEW = Counter(LABELS[i] for i in TRAIN)

def counts(idxs): return Counter(LABELS[i] for i in idxs)

# --- positions

def test_oversampling_balances_and_repeats_evenly():
    found = oversample(TRAIN, LABELS)
    assert counts(found) == dict(a=40, b=40, c=40)
    assert found[:len(TRAIN)] == TRAIN
    for c in 'abc':
        times = {n for i, n in Counter(found).items() if LABELS[i] == c}
        assert max(times) - min(times) <= 1

def test_undersampling_balances_and_repeats_nothing():
    found = undersample(TRAIN, LABELS)
    assert counts(found) == dict(a=5, b=5, c=5)
    assert len(set(found)) == len(found) and found == sorted(found)

@pytest.mark.parametrize('resample', [oversample, undersample])
@pytest.mark.parametrize('how', [{}, dict(count=10), dict(factor=1)])
def test_only_training_positions_come(resample, how):
    assert set(resample(TRAIN, LABELS, **how)) <= set(TRAIN)

@pytest.mark.parametrize('how, expected', [
    (dict(factor={'c': 3}), dict(a=40, b=16, c=15)), (dict(factor=1.5), dict(a=60, b=24, c=8)),
    (dict(factor={'c': 2.5}), dict(a=40, b=16, c=12)), (dict(count=20), dict(a=40, b=20, c=20)),
    (dict(count={'c': 11}), dict(a=40, b=16, c=11)), (dict(factor=1), dict(a=40, b=16, c=5))])
def test_oversampling_by_factor_and_count(how, expected):
    assert counts(oversample(TRAIN, LABELS, **how)) == expected

@pytest.mark.parametrize('how, expected', [
    (dict(factor={'a': .5}), dict(a=20, b=16, c=5)), (dict(count=10), dict(a=10, b=10, c=5)),
    (dict(factor=.4), dict(a=16, b=6, c=2)), (dict(count={'a': 16}), dict(a=16, b=16, c=5))])
def test_undersampling_by_factor_and_count(how, expected):
    assert counts(undersample(TRAIN, LABELS, **how)) == expected

@pytest.mark.parametrize('resample', [oversample, undersample])
def test_the_seed_says_which(resample):
    assert resample(TRAIN, LABELS) == resample(np.array(TRAIN), np.array(LABELS), seed=42)
    assert resample(TRAIN, LABELS) != resample(TRAIN, LABELS, seed=1)

BAD = [
    (oversample, (TRAIN, LABELS, {'c': .5}), "'c' has 5 items and 2 are wanted: undersample"),
    (oversample, (TRAIN, LABELS, None, {'a': 3}), 'undersample leaves items out'),
    (undersample, (TRAIN, LABELS, {'c': 2}), "'c' has 5 items and 10 are wanted: oversample"),
    (undersample, (TRAIN, LABELS, .05), "'c' would be left without any"),
    (undersample, (TRAIN, LABELS, None, 0), "would be left without any"),
    (oversample, (TRAIN, LABELS, {'d': 2}), "No training item is of class 'd'"),
    (oversample, (TRAIN, LABELS, 2, 3), 'Give a factor or a count'),
    (oversample, (TRAIN, [LABELS[i] for i in TRAIN]), 'Position 61 has no label among 61'),
    (oversample, ([-1], LABELS), 'Position -1'),
    (undersample, ([], LABELS), 'No training positions'),
]

@pytest.mark.parametrize('resample, args, said', BAD)
def test_positions_that_make_no_sense(resample, args, said):
    with pytest.raises(ValueError, match=said): resample(*args)

# --- weights

@pytest.mark.parametrize('labels', [LABELS, ['x', 'y'], list('aab') * 9])
def test_inverse_weights_are_those_of_scikit_learn(labels):
    oracle = pytest.importorskip('sklearn.utils.class_weight')
    theirs = oracle.compute_class_weight('balanced', classes=np.unique(labels), y=labels)
    assert np.allclose(class_weights(labels), theirs, rtol=1e-6)

def test_effective_weights_are_those_of_the_formula():
    n, beta = np.array([60, 25, 7]), .99
    w = (1 - beta) / (1 - beta**n)
    assert np.allclose(class_weights(LABELS, 'effective', beta), w * 3 / w.sum(), rtol=1e-6)

def test_effective_weights_lie_between_equal_and_inverse_ones():
    inverse = class_weights(LABELS)
    near = class_weights(LABELS, 'effective', 1 - 1e-9)
    assert torch.allclose(near / near[0], inverse / inverse[0], rtol=1e-3)
    assert torch.allclose(class_weights(LABELS, 'effective', 0.), torch.ones(3))

def test_weights_follow_the_vocabulary():
    w = class_weights(LABELS)
    assert torch.equal(class_weights(LABELS, vocab='cba'), w.flip(0))
    assert class_weights(LABELS, vocab='abcd')[3] == 0
    assert torch.equal(class_weights(LABELS, vocab='abcd')[:3], w)

@pytest.mark.parametrize('args, said', [
    ((LABELS, 'inverted'), "'inverted' is not one of.*Did you mean 'inverse'"),
    ((LABELS, 'effective', 1), 'beta=1: a number from 0 to below 1'),
    (([],), 'No labels'), ((LABELS, 'inverse', .9, 'ab'), "label 'c' is not in the vocabulary")])
def test_weights_that_make_no_sense(args, said):
    with pytest.raises(ValueError, match=said): class_weights(*args)

# --- loaders

def unequal(n=60):
    "One item in ten is an a."
    gen = torch.Generator().manual_seed(0)
    return [((torch.rand(8, 8, generator=gen) * 255).byte().numpy(), 'abb'[min(i % 10, 1)])
            for i in range(n)]

def block(target=CategoryBlock, get_y=itemgetter(1)):
    return DataBlock((ImageBlock('L'), target), get_x=itemgetter(0), get_y=get_y,
                     splitter=IndexSplitter(range(20)))

def loaders(**kw): return block().dataloaders(unequal(), bs=8, device='cpu', **kw)

def drawn(dl, passes=30): return torch.cat([y for _ in range(passes) for _, y in dl]).tolist()

EQUAL = [dict(weights={'a': 9, 'b': 1}), dict(weights=[9., 1.]), dict(weights=class_weights),
         dict(weights=lambda ds: {'a': .9, 'b': .1}),
         dict(weights=[9 if i % 10 == 0 else 1 for i in range(40)]),
         dict(sampler=lambda ds: WeightedRandomSampler(([9] + [1] * 9) * 4, 40))]

@pytest.mark.parametrize('kw', EQUAL, ids=range(len(EQUAL)))
def test_weighted_loaders_show_classes_equally_often(kw):
    torch.manual_seed(0)
    found = drawn(loaders(**kw).train)
    assert abs(np.mean(found) - .5) < .05
    assert abs(np.mean(drawn(loaders().train)) - .9) < .02

def test_every_pass_is_drawn_anew_and_the_seed_says_how():
    dl = loaders(weights=[9, 1]).train
    def order(seed):
        torch.manual_seed(seed)
        return [x.sum().item() for _ in range(2) for x, _ in dl]
    first = order(0)
    assert order(0) == first != order(1) and first[:5] != first[5:]

@pytest.mark.parametrize('workers', [0, 2])
def test_batches_are_the_same_with_processes_that_load(workers):
    torch.manual_seed(3)
    dl = loaders(weights=[9, 1], num_workers=workers).train
    found = drawn(dl, 2)
    torch.manual_seed(3)
    assert sorted(found) == sorted(drawn(loaders(weights=[9, 1], num_workers=workers).train, 2))
    assert len(dl) == 5 and len(found) == 80

def test_a_sampler_says_how_many_items_a_pass_has():
    dl = loaders(sampler=[0, 1, 2, 0, 1, 2, 3, 3, 3, 3]).train
    assert len(dl) == 1 and len(list(dl)) == 1
    assert [len(y) for _, y in loaders(sampler=[5, 5, 5]).train] == [3]

@pytest.mark.parametrize('kw, error, said', [
    (dict(weights=[1., 2., 3.]), ValueError, '3 weights: give one for each of the 40.*2 classes'),
    (dict(weights={'a': 1}), ValueError, "nothing of the class 'b'"),
    (dict(weights=[1., -1.]), ValueError, 'numbers from 0 on'),
    (dict(weights=[0., 0.]), ValueError, 'numbers from 0 on'),
    (dict(weights=[1., float('nan')]), ValueError, 'numbers from 0 on'),
    (dict(weights=[[1., 2.]]), ValueError, 'shape'),
    (dict(weights=[1, 2], sampler=[0]), ValueError, 'a sampler or weights, not both'),
    (dict(sampler=lambda ds: iter([0])), TypeError, 'is no sampler')])
def test_what_cannot_draw(kw, error, said):
    with pytest.raises(error, match=said): loaders(**kw)

def test_a_sampler_that_asks_for_an_item_that_is_not_there():
    with pytest.raises(ValueError, match='asks for item 40; the 40 training items'):
        list(loaders(sampler=[0, 40]).train)

def test_several_labels_need_a_weight_for_each_item():
    many = block(MultiCategoryBlock, lambda o: [o[1]])
    with pytest.raises(ValueError, match=r'one for each of the 40 training items\.$'):
        many.dataloaders(unequal(), weights=[1, 2])
    assert len(many.dataloaders(unequal(), bs=8, weights=[1] * 40).train) == 5

# --- nothing but training sees it

def trained(**kw): return learner(lambda: linear(2), dls=loaders(**kw))

QUESTIONS = dict(
    valid=lambda o: o.get_preds(), train=lambda o: o.get_preds(ds_idx=0),
    test=lambda o: o.get_preds(dl=o.dls.test_dl(unequal(9), with_labels=True)),
    validate=lambda o: o.validate(), tta=lambda o: o.tta(n=0), tta_train=lambda o: o.tta(0, n=0),
    interpretation=lambda o: torch.tensor(
        ClassificationInterpretation.from_learner(o).confusion_matrix()))

@pytest.mark.parametrize('kw', [dict(weights=[9, 1]), dict(sampler=[0, 0, 0])], ids=str)
@pytest.mark.parametrize('question', QUESTIONS)
def test_questions_go_through_every_item_once(question, kw):
    plain, sampled = trained(), trained(**kw)
    assert same(weights(plain), weights(sampled))
    assert same(QUESTIONS[question](plain), QUESTIONS[question](sampled))

@pytest.mark.parametrize('kw', [dict(weights=[9, 1]), dict(sampler=[0, 0, 0])], ids=str)
def test_other_loaders_have_no_sampler(kw):
    dls = loaders(**kw)
    for dl in dls.valid, dls.test_dl(unequal(9)), dls.train.new(), dls.valid.new(shuffle=True):
        assert dl.sampler is None and len(dl) == -(-dl.n // dl.bs)

def test_a_weighted_training_goes_on_after_a_stop_bit_for_bit(tmp_path):
    class Stop(Exception): pass
    def train(cbs=None, **kw):
        learn = learner(lambda: linear(2), dls=loaders(weights=[9, 1]))
        learn.fit(4, cbs=cbs, **kw)
        return learn
    class Killed(Callback):
        in_lr_find = False
        def after_batch(self):
            if self.training and self.epoch == 2 and self.iter == 2: raise Stop
    with pytest.raises(Stop): train(Killed(), checkpoint=tmp_path/'c')
    assert same(weights(train(checkpoint=tmp_path/'c', resume=True)), weights(train()))

def test_class_weights_in_a_loss_are_torchs():
    w = class_weights(LABELS)
    x, y = torch.randn(9, 3), torch.tensor([0, 1, 2] * 3)
    theirs = torch.nn.functional.cross_entropy(x, y, weight=w)
    assert torch.allclose(CrossEntropyLossFlat(weight=w)(x, y), theirs)
    assert torch.equal(class_weights(learner().dls.train_ds), class_weights(
        [o[1] for o in items_of(42)[10:]]))

# --- priors

def test_the_corrected_probability_is_bayes_rule():
    probs, then, now = torch.tensor([[.2, .5, .3]]), [.5, .25, .25], [.1, .1, .8]
    raw = probs * torch.tensor(now) / torch.tensor(then)
    assert torch.allclose(correct_prior(probs, then, now), raw / raw.sum())

def test_the_same_prior_changes_nothing():
    logits = torch.randn(50, 3)
    assert torch.allclose(PriorShift([5, 3, 2], [.5, .3, .2])(logits), logits.softmax(1), atol=1e-6)
    there = PriorShift([5, 3, 2], [1, 1, 8])(logits)
    assert torch.allclose(correct_prior(there, [1, 1, 8], [5, 3, 2]), logits.softmax(1), atol=1e-5)

def test_a_corrected_model_is_the_one_that_saw_the_other_prior():
    "Two normal classes, whose true probabilities are known at any prior."
    x = torch.linspace(-3, 3, 101)
    def truth(pi):
        p = torch.stack([pi[k] * torch.exp(-(x - m)**2 / 2) for k, m in enumerate((-1, 1))], 1)
        return p / p.sum(1, keepdim=True)
    assert torch.allclose(correct_prior(truth([.5, .5]), [1, 1], [.95, .05]), truth([.95, .05]),
                          atol=1e-6)

def test_a_class_that_cannot_be_gets_nothing():
    assert correct_prior(torch.tensor([[.5, .5]]), [1, 1], [1, 0]).tolist() == [[1., 0.]]

def test_the_correction_is_an_option_of_predictions():
    learn = trained()
    probs, _ = learn.get_preds()
    mended, _ = learn.get_preds(act=PriorShift([.1, .9]))
    assert torch.allclose(mended, correct_prior(probs, [.1, .9]), atol=1e-6)
    assert mended[:, 0].mean() > probs[:, 0].mean()

@pytest.mark.parametrize('then, now, said', [
    ([0, 1], None, 'learned nothing'), ([1, 1], [1, 1, 1], '2 classes then, 3 now'),
    ([3, -1], None, 'then='), ([1, 1], [0, 0], 'now='), ([1, float('nan')], None, 'then='),
    ([1, 1], [1, float('inf')], 'now='), ([[1, 1]], None, 'then=')])
def test_priors_that_make_no_sense(then, now, said):
    with pytest.raises(ValueError, match=said): PriorShift(then, now)

def test_predictions_of_other_classes_are_refused():
    for shape in ((4, 3), (2,)):
        with pytest.raises(ValueError, match=f'{re.escape(str(shape))}, the priors 2'):
            PriorShift([1, 1])(torch.zeros(shape))
