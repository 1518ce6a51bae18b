"""Thresholds: chosen by an F-score, against brute force, and kept wherever answers are given."""
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from learners import one_thread  # noqa: F401 (a fixture)
from sotavision.core.display import quiet
from sotavision.core.rng import set_seed
from sotavision.data.datablock import DataBlock, ImageBlock, MultiCategoryBlock
from sotavision.data.splits import IndexSplitter
from sotavision.objectives.losses import BCEWithLogitsLossFlat
from sotavision.objectives.multilabel import FBetaMulti
from sotavision.study.interpret import ClassificationInterpretation
from sotavision.tasks.multilabel import best_thresholds
from sotavision.training.learner import Learner

SHARE = [.5, .3, .15, .02]

def drawn(seed=0, n=300, empty=False):
    "Probabilities that are too timid, and the truth."
    r = np.random.RandomState(seed)
    yes = r.rand(n, 4) < SHARE
    if empty: yes[::3] = False
    return (torch.tensor(r.randn(n, 4)).float() + 2.5 * torch.tensor(yes) - 3).sigmoid(), yes

def score(probs, yes, thresh, beta, average):
    m = FBetaMulti(beta, thresh, sigmoid=False, average=average, empty=1.)
    m.accumulate(probs, torch.tensor(yes))
    return m.value

GRID = [round(k / 100, 2) for k in range(1, 100)]

@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('empty', [False, True])
@pytest.mark.parametrize('average', ['macro', 'micro', 'samples'])
@pytest.mark.parametrize('beta', [.5, 2.])
def test_one_threshold_is_the_best_of_all(beta, average, empty, seed):
    probs, yes = drawn(seed, empty=empty)
    found = best_thresholds(probs, yes, beta, average)
    tried = [score(probs, yes, t, beta, average) for t in GRID]
    assert np.allclose(found.curve, tried, atol=1e-9)
    assert found.score == pytest.approx(max(tried), abs=1e-9)
    assert tried[GRID.index(found.thresh)] == pytest.approx(max(tried), abs=1e-9)
    assert found.at_half == pytest.approx(tried[49], abs=1e-9)

@pytest.mark.parametrize('seed', range(3))
def test_each_label_gets_the_best_of_its_own(seed):
    probs, yes = drawn(seed)
    found = best_thresholds(probs, yes, 2., per_label=True, vocab=list('abcd'))
    for k in range(3):
        tried = [score(probs[:, [k]], yes[:, [k]], t, 2., 'macro') for t in GRID]
        assert np.allclose(found.curves[:, k], tried, atol=1e-9)
        assert tried[GRID.index(found.thresh[k])] == pytest.approx(max(tried), abs=1e-9)
    assert found.score == pytest.approx(score(probs, yes, found.thresh, 2., 'macro'), abs=1e-9)

def test_a_label_with_few_items_shares_what_is_best_for_all():
    probs, yes = drawn()
    assert yes.sum(0)[3] < 10 <= yes.sum(0)[2]
    own = best_thresholds(probs, yes, per_label=True, vocab=list('abcd'))
    one = best_thresholds(probs, yes)
    assert own.shared == ['d'] and own.thresh[3] == one.thresh != own.thresh[0]
    assert best_thresholds(probs, yes, per_label=True, fewest=1).shared == []
    assert 'share' in repr(own) and 'share' not in repr(one)

def test_a_label_with_just_enough_items_has_its_own():
    probs, yes = drawn()
    one, n = best_thresholds(probs, yes).thresh, int(yes.sum(0)[0])
    just, over = (best_thresholds(probs, yes, per_label=True, fewest=k) for k in (n, n + 1))
    assert 0 not in just.shared and just.thresh[0] != one
    assert 0 in over.shared and over.thresh[0] == one

def test_of_equally_good_thresholds_the_middle_one():
    probs = torch.tensor([[.2], [.8]] * 5)
    assert best_thresholds(probs, probs > .5).thresh == .5

def test_a_label_that_nobody_has_is_left_out():
    probs, yes = drawn()
    more = torch.cat([probs, torch.zeros(300, 1)], 1), np.c_[yes, np.zeros((300, 1), bool)]
    assert best_thresholds(*more).score == best_thresholds(probs, yes).score

def test_noise_flatters_the_items_that_chose_and_not_those_held_out():
    "Many labels of pure chance: own thresholds look better than one, and are not."
    r = np.random.RandomState(0)
    probs, yes = torch.tensor(r.rand(120, 40)).float(), r.rand(120, 40) < .15
    own, one = (best_thresholds(probs, yes, per_label=o) for o in (True, False))
    assert own.score > one.score + .02 and own.held_out < one.held_out

def test_drawings():
    probs, yes = drawn()
    for own in False, True:
        best_thresholds(probs, yes, per_label=own).plot()
        assert len(plt.gca().lines) == 6
    plt.close('all')

@pytest.mark.parametrize('kw, told', [
    (dict(preds=torch.randn(20, 4)), 'no probabilities'),
    (dict(preds=torch.full((20, 4), torch.nan)), 'no probabilities'),
    (dict(targs=torch.zeros(20).long()), r'\(20, 4\) and targets \(20,\)'),
    (dict(targs=torch.full((20, 4), .5)), 'zeros and ones'),
    (dict(targs=torch.zeros(20, 4)), 'no item has any label|No item has any label'),
    (dict(average='makro'), "Did you mean 'macro'"),
    (dict(average='samples', per_label=True), "whose mean is average='macro'"),
    (dict(preds=torch.rand(4, 4), targs=torch.ones(4, 4)), '4 items: too few'),
])
def test_what_makes_no_sense(kw, told):
    with pytest.raises(ValueError, match=told):
        best_thresholds(**(dict(preds=torch.rand(20, 4), targs=torch.ones(20, 4)) | kw))

# --- in a learner

TAGS = ['dark', 'even', 'light']
ITEMS = [(np.full((8, 8), v, np.uint8),
          ['dark' if v < 128 else 'light'] + ['even'] * (i % 2)) for i, v in
         enumerate(range(0, 256, 8))]

def learner(tmp_path='.', loss=None):
    set_seed(0)
    block = DataBlock((ImageBlock('L'), MultiCategoryBlock), get_x=lambda o: o[0],
                      get_y=lambda o: o[1], splitter=IndexSplitter(range(0, 32, 3)))
    return Learner(block.dataloaders(ITEMS, bs=8, device='cpu'),
                   nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), loss, precision='fp32',
                   path=tmp_path)

THRESH = [.2, .9, .6]

def test_chosen_by_validation_items_and_kept():
    learn = learner()
    found = learn.find_thresholds(beta=2, per_label=True, fewest=3)
    assert learn.loss_func.thresh == found.thresh and found.vocab == TAGS
    preds, targs, answers = learn.get_preds(with_decoded=True)
    assert answers.equal(preds > torch.tensor(found.thresh))
    again = best_thresholds(preds, targs, 2, per_label=True, fewest=3)
    assert again.thresh == found.thresh and again.score == found.score

def test_every_answer_is_given_by_them():
    learn = learner().set_thresholds(THRESH)
    preds, _, answers = learn.get_preds(with_decoded=True)
    assert answers.equal(preds > torch.tensor(THRESH)) and not answers.equal(preds > .5)
    item = learn.dls.valid_ds.items[2]
    words, y, probs = learn.predict(item[0])
    assert y.equal(answers[2]) and words == [t for t, o in zip(TAGS, answers[2]) if o]
    o = ClassificationInterpretation.from_learner(learn)
    assert o.said.equal(answers)
    learn.show_results(max_n=4)
    heads = [ax.get_title().split('\n')[0] for ax in plt.gcf().axes[:4]]
    assert heads == [' '.join(t for t, on in zip(TAGS, a) if on) or 'nothing'
                     for a in answers[:4]]
    plt.close('all')

@pytest.mark.parametrize('name', ['tags', 'tags.pth'])
@pytest.mark.parametrize('thresh', [.3, THRESH])
def test_they_lie_in_the_file_of_the_weights(tmp_path, name, thresh):
    learner(tmp_path).set_thresholds(thresh).save(name)
    learn = learner(tmp_path)
    assert learn.loss_func.thresh == .5
    learn.load(name)
    assert learn.loss_func.thresh == thresh
    item = learn.dls.valid_ds.items[0][0]
    assert learn.predict(item)[1].equal(learn.predict(item)[2] > torch.tensor(thresh))

def test_a_file_without_thresholds_leaves_those_of_the_learner(tmp_path):
    torch.save(learner().model.state_dict(), tmp_path/'bare.pth')
    learn = learner(tmp_path).set_thresholds(.3)
    learn.load((tmp_path/'bare.pth').resolve())
    assert learn.loss_func.thresh == .3

def test_an_interpretation_keeps_them_on_disk(tmp_path):
    learn = learner().set_thresholds(THRESH)
    o = ClassificationInterpretation.from_learner(learn)
    back = ClassificationInterpretation.load(o.save(tmp_path/'o.npz'))
    assert back.said.equal(o.said) and back.thresh == THRESH

def test_training_goes_on_with_them():
    learn = learner().set_thresholds(.3)
    with quiet(): learn.fit(1)
    assert learn.loss_func.thresh == .3

@pytest.mark.parametrize('thresh', [torch.tensor(THRESH), np.float32(.25), np.array(THRESH)])
def test_tensors_and_arrays_become_numbers(thresh):
    kept = learner().set_thresholds(thresh).loss_func.thresh
    assert kept == pytest.approx(np.asarray(thresh).tolist()) and type(kept) in (float, list)

@pytest.mark.parametrize('loss, thresh, told', [
    (nn.BCEWithLogitsLoss(), .3, 'keeps no thresholds.*BCEWithLogitsLossFlat'),
    (None, [.3, .4], 'one for each label'),
    (None, 30, '0 to 1'),
    (BCEWithLogitsLossFlat(), [.1, .2, torch.nan], '0 to 1'),
])
def test_what_a_learner_cannot_keep(loss, thresh, told):
    with pytest.raises(ValueError, match=told): learner(loss=loss).set_thresholds(thresh)

def test_items_without_labels():
    learn = learner()
    with pytest.raises(ValueError, match='no labels'):
        learn.find_thresholds(dl=learn.dls.test_dl([ITEMS[0][0]] * 6))
