"Wrong labels found, ranked, softened and left out; cleanlab is asked about the same inputs."
import numpy as np
import pandas as pd
import pytest
import torch
from cleanlab import count, filter

from sotavision.techniques.noisy_labels import (
    METHODS,
    add_label_noise,
    confident_joint,
    find_label_issues,
    plot_label_issues,
    prune,
    relabel,
    soft_labels,
)

THEIRS = dict(confident='confident_learning', self_confidence='low_self_confidence',
              disagree='predicted_neq_given')

def drawn(seed, n=400, c=5, noise=.3, sure=2., weights=None):
    "Labels of which a share is wrong, and a model's probabilities that know the right ones."
    rng = np.random.default_rng(seed)
    right = rng.choice(c, n, p=weights)
    logits = rng.normal(size=(n, c)) + sure * np.eye(c)[right]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return add_label_noise(right, noise, seed=seed), p, right

def theirs(labels, p, method):
    return filter.find_label_issues(
        labels, p, filter_by=THEIRS[method], return_indices_ranked_by='self_confidence', n_jobs=1
    ).tolist()

CASES = [
    dict(seed=0),
    dict(seed=1, c=2),
    dict(seed=2, n=60, c=10),
    dict(seed=3, noise=.0),
    dict(seed=4, noise=.6),
    dict(seed=5, sure=.0),
    dict(seed=6, sure=8.),
    dict(seed=7, c=3, weights=[.9, .08, .02]),
]

@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_finds_what_cleanlab_finds_in_the_same_order(method, case):
    labels, p, _ = drawn(**case)
    assert find_label_issues(labels, p, method).item.tolist() == theirs(labels, p, method)

@pytest.mark.parametrize('case', CASES, ids=str)
def test_counts_what_cleanlab_counts(case):
    labels, p, _ = drawn(**case)
    ours = confident_joint(labels, p).values.copy()
    np.fill_diagonal(ours, ours.diagonal().clip(min=1))   # they count one right item a class
    assert (ours == count.compute_confident_joint(labels, p, calibrate=False)).all()

@pytest.mark.parametrize('method', METHODS)
def test_a_class_that_nobody_is_labelled_with(method):
    labels, p, _ = drawn(8, c=4)
    labels = np.where(labels == 2, 1, labels)
    assert find_label_issues(labels, p, method).item.tolist() == theirs(labels, p, method)
    assert confident_joint(labels, p)[2].sum() == 0

def test_ties_are_no_disagreement():
    p = [[.5, .5], [.5, .5], [.2, .8], [.9, .1]]
    for method in METHODS: assert find_label_issues([0, 1, 1, 0], p, method).empty
    assert find_label_issues([0, 1, 0, 0], p, 'disagree').item.tolist() == [2]

def test_names_numbers_arrays_and_tensors_are_one_thing():
    labels, p, _ = drawn(9, c=3)
    names = ['fox', 'ant', 'cow']
    told = [names[k] for k in labels]
    base = find_label_issues(labels, p)
    for y, q, vocab in (
        (labels.tolist(), p.tolist(), None), (torch.tensor(labels), torch.tensor(p), None),
        (told, p, names), (np.array(told), p, names), (pd.Series(told), p, names),
    ):
        found = find_label_issues(y, q, vocab=vocab)
        assert found.item.tolist() == base.item.tolist()
    assert found.given.tolist() == [names[k] for k in base.given]
    assert found.suggested.tolist() == [names[k] for k in base.suggested]
    # without a vocabulary names are sorted
    order = [1, 2, 0]   # ant, cow, fox
    assert find_label_issues(told, p[:, order]).item.tolist() == base.item.tolist()

def test_the_table_tells_what_is_there():
    labels, p, _ = drawn(10)
    items = [f'{k}.png' for k in range(len(labels))]
    found = find_label_issues(labels, p, items=items)
    at = found.item.values
    assert list(found.columns) == ['item', 'given', 'suggested', 'p_given', 'p_suggested', 'path']
    assert np.allclose(found.p_given, p[at, labels[at]])
    assert np.allclose(found.p_suggested, p[at].max(1))
    assert (found.suggested == p[at].argmax(1)).all() and (found.given == labels[at]).all()
    assert found.path.tolist() == [items[k] for k in at]
    assert (np.diff(found.p_given) >= 0).all() and len(found) > 50

def test_most_of_what_is_wrong_is_found():
    labels, p, right = drawn(11, n=3000, c=10, noise=.2, sure=6.)
    found = np.isin(np.arange(3000), find_label_issues(labels, p).item)
    wrong = labels != right
    assert found[wrong].mean() > .9 and wrong[found].mean() > .9

# noise

@pytest.mark.parametrize('kind', ['symmetric', 'pair'])
@pytest.mark.parametrize('share', [0, .01, .25, .5, 1])
@pytest.mark.parametrize('c', [2, 10])
def test_exactly_the_share_is_changed(kind, share, c):
    y = np.arange(999) % c
    noisy = add_label_noise(y, share, kind)
    assert (noisy != y).sum() == round(share * 999) and noisy.dtype == y.dtype
    assert set(noisy) <= set(y) and (y == np.arange(999) % c).all()
    if kind == 'pair': assert set((noisy - y) % c) <= {0, 1}

def test_symmetric_noise_has_no_favorite():
    y = np.zeros(9000, dtype=int)
    noisy = add_label_noise(y, 1, vocab=range(10))
    assert np.bincount(noisy, minlength=10)[0] == 0
    assert (abs(np.bincount(noisy)[1:] - 1000) < 150).all()

def test_the_seed_decides():
    y = list('abc') * 50
    assert add_label_noise(y, .3, seed=1) == add_label_noise(y, .3, seed=1)
    assert add_label_noise(y, .3, seed=1) != add_label_noise(y, .3, seed=2)
    assert isinstance(add_label_noise(y, .3), list)

@pytest.mark.parametrize('kwargs, word', [
    (dict(share=-.1), 'share'), (dict(share=1.1), 'share'), (dict(share=float('nan')), 'share'),
    (dict(share='all'), 'share'), (dict(kind='pairs'), "Did you mean 'pair'"),
    (dict(labels=[1, 1]), 'one class'), (dict(vocab=[0]), 'one class'),
    (dict(vocab=[0, 2]), 'label 1'),
])
def test_noise_that_makes_no_sense(kwargs, word):
    with pytest.raises(ValueError, match=word):
        add_label_noise(**dict(labels=[0, 1, 0], share=.3) | kwargs)

# what to do about it

def test_soft_labels_are_the_mean_of_both():
    labels, p, _ = drawn(12)
    hard, differ = np.eye(5)[labels], p.argmax(1) != labels
    everywhere = soft_labels(labels, p, .3, 'all')
    assert np.allclose(everywhere, .3 * hard + .7 * p) and everywhere.dtype == np.float32
    some = soft_labels(labels, p, .3)
    assert np.allclose(some[differ], everywhere[differ]) and (some[~differ] == hard[~differ]).all()
    assert np.allclose(some.sum(1), 1) and (soft_labels(labels, p, 0, 'all').argmax(1) ==
                                            p.argmax(1)).all()

def test_prune_and_relabel_touch_what_was_found_and_nothing_else():
    labels, p, _ = drawn(13)
    issues = find_label_issues(labels, p)
    at, rest = issues.item.values, np.setdiff1d(np.arange(400), issues.item)
    assert (prune(np.arange(400), issues) == rest).all()
    assert prune(list(range(400)), issues) == rest.tolist()
    table = pd.DataFrame(dict(x=range(400)), index=[f'r{k}' for k in range(400)])
    assert prune(table, issues).x.tolist() == rest.tolist()
    assert prune(labels, issues.head(0)).tolist() == labels.tolist()
    new = np.array(relabel(labels, issues))
    assert (new[at] == p[at].argmax(1)).all() and (new[rest] == labels[rest]).all()

BAD = [
    (dict(method='best'), 'one of'),
    (dict(labels=[]), 'no labels'),
    (dict(labels=[0, 1]), r'\(3, 2\)'),
    (dict(labels=[0, 1, 2]), 'label 2'),
    (dict(labels=[0, 1, -1]), 'label -1'),
    (dict(labels=['a', 'b', 'c']), 'vocab='),
    (dict(labels=['a', 'b', 'a'], vocab=['a', 'bee']), "label 'b'"),
    (dict(vocab=['a', 'a']), 'vocab='),
    (dict(oof=[.1, .9, .5]), r'\(3,\)'),
    (dict(oof=[[1.], [1.], [1.]]), 'classes'),
    (dict(oof=[[.5, .6]] * 3), 'sum to 1'),
    (dict(oof=[[1.5, -.5]] * 3), 'softmax'),
    (dict(oof=[[.5, .5], [.5, .5], [float('nan')] * 2]), 'item 2'),
    (dict(items=['a']), '1 items'),
]

@pytest.mark.parametrize('kwargs, word', BAD, ids=str)
def test_what_does_not_fit_is_told(kwargs, word):
    with pytest.raises(ValueError, match=word):
        find_label_issues(**dict(labels=[0, 1, 0], oof=[[.5, .5]] * 3) | kwargs)

def test_the_other_functions_look_too():
    p = [[.5, .5]] * 3
    for kwargs, word in ((dict(a=-1), 'a=-1'), (dict(where='agree'), 'where'),
                         (dict(labels=[0, 5, 0]), 'label 5')):
        with pytest.raises(ValueError, match=word):
            soft_labels(**dict(labels=[0, 1, 0], oof=p) | kwargs)
    everything = pd.DataFrame(dict(item=range(3), suggested=0))
    with pytest.raises(ValueError, match='would go'): prune([1, 2, 3], everything)
    for f in prune, relabel:
        with pytest.raises(ValueError, match='item 2'): f([1, 2], everything)

@pytest.mark.parametrize('rows, max_n, said', [(0, 12, 'no issues to show'), (3, 0, 'max_n=0')])
def test_nothing_to_plot_is_said(rows, max_n, said):
    with pytest.raises(ValueError, match=said):
        plot_label_issues(pd.DataFrame(dict(item=range(rows))), range(9), max_n)
