"""Folds: even class by class, groups whole, and errors that say what to do."""
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from sotavision.data.datablock import DataBlock
from sotavision.techniques.folds import fold_numbers, fold_splitters, stratified_kfold

RARE = ['a'] * 60 + ['b'] * 23 + ['c'] * 7
TAGS = [[c for c, p in zip('abcd', (.5, .3, .1, .04)) if u < p]
        for u in np.random.RandomState(0).rand(400)]

def shuffled(labels, seed=0): return np.random.RandomState(seed).permutation(labels).tolist()

def counts(labels, splits) -> list:
    "The counts of each class, by fold."
    return [Counter(labels[i] for i in valid) for _, valid in splits]

def spread(labels, splits) -> int:
    "The largest difference between two folds' counts of one class."
    found = counts(labels, splits)
    return max(max(o[c] for o in found) - min(o[c] for o in found) for c in set(labels))

def parted(splits, n):
    "Each item is judged once, and trains in all other folds."
    assert sorted(i for _, valid in splits for i in valid) == list(range(n))
    for train, valid in splits: assert sorted(train + valid) == list(range(n))

@pytest.mark.parametrize('k', [2, 3, 5, 7])
def test_counts_of_a_class_differ_by_one_at_most(k):
    labels = shuffled(RARE)
    splits = stratified_kfold(range(90), labels, k)
    parted(splits, 90)
    assert len(splits) == k and spread(labels, splits) <= 1
    sizes = [len(valid) for _, valid in splits]
    assert max(sizes) - min(sizes) <= 1

@pytest.mark.parametrize('k', [2, 3, 5, 7])
@pytest.mark.parametrize('labels', [RARE, shuffled(RARE), shuffled(RARE, 1), shuffled(RARE * 3, 2)])
def test_class_counts_are_those_of_scikit_learn(labels, k):
    selection = pytest.importorskip('sklearn.model_selection')
    theirs = selection.StratifiedKFold(k, shuffle=True, random_state=0)
    theirs = list(theirs.split(np.zeros(len(labels)), labels))
    assert counts(labels, stratified_kfold(labels, labels, k)) == counts(labels, theirs)

def test_the_seed_says_which_folds():
    labels = shuffled(RARE)
    assert stratified_kfold(labels, labels) == stratified_kfold(labels, labels, seed=42)
    assert stratified_kfold(labels, labels) != stratified_kfold(labels, labels, seed=1)
    draws = [str(stratified_kfold(labels, labels, seed=None)) for _ in range(3)]
    assert len(set(draws)) == 3

def test_the_random_generators_stay_as_they_were():
    before = np.random.get_state()[1].copy()
    stratified_kfold(RARE, RARE)
    assert (np.random.get_state()[1] == before).all()

def test_items_of_a_class_are_shuffled_not_cut_in_blocks():
    (_, valid), *_ = stratified_kfold(range(100), ['a'] * 50 + ['b'] * 50)
    assert valid != list(range(10)) + list(range(50, 60))
    assert len({i // 10 for i in valid}) > 5

def test_labels_as_function_column_array_and_table():
    df = pd.DataFrame(dict(file=range(90), kind=RARE))
    expected = stratified_kfold(RARE, RARE)
    for items, labels in ((df, 'kind'), (df, lambda row: row['kind']), (df, df['kind']),
                          (RARE, np.array(RARE)), (range(90), lambda i: RARE[i])):
        assert stratified_kfold(items, labels) == expected

# --- groups

def grouped(n_groups=40, seed=0):
    r = np.random.RandomState(seed)
    of = np.repeat(np.arange(n_groups), r.randint(1, 6, n_groups))
    kind = ['aaabbc'[g % 6] for g in r.permutation(n_groups)]
    return of.tolist(), [kind[g] for g in of]

@pytest.mark.parametrize('seed', range(5))
def test_groups_are_never_divided(seed):
    of, labels = grouped(seed=seed)
    splits = stratified_kfold(of, labels, 4, groups=of)
    parted(splits, len(of))
    for train, valid in splits: assert not {of[i] for i in train} & {of[i] for i in valid}
    assert spread(labels, splits) <= 5     # no more than the largest group

def test_groups_of_one_size_and_class_are_shared_out_evenly():
    of = np.repeat(np.arange(30), 4).tolist()
    labels = ['abc'[g % 3] for g in of]
    assert counts(labels, stratified_kfold(of, labels, 5, groups=of)) == [dict(a=8, b=8, c=8)] * 5

def test_groups_of_one_item_are_no_groups():
    labels = shuffled(RARE)
    alone = stratified_kfold(range(90), labels, groups=list(range(90)))
    assert alone == stratified_kfold(range(90), labels)

def test_groups_do_better_than_dealing_them_out_blindly():
    of, labels = grouped(60)
    even = spread(labels, stratified_kfold(of, labels, 4, groups=of))
    def blind(seed):
        fold = np.random.RandomState(seed).randint(0, 4, 60)[of]
        return spread(labels, [(None, np.flatnonzero(fold == f)) for f in range(4)])
    assert even < min(blind(s) for s in range(20))

def test_groups_change_places_where_dealing_them_out_in_turn_left_folds_uneven():
    of = np.repeat(range(5), [3, 3, 2, 2, 2]).tolist()      # in turn: 3 + 2 + 2 against 3 + 2
    assert [len(v) for _, v in stratified_kfold(of, ['a'] * 12, 2, groups=of)] == [6, 6]

def test_a_class_that_a_fold_lacks_is_named():
    "Two folds of near to equal size leave both groups with a b in the same one."
    of, labels = [0, 0, 1, 1, 2, 2, 2], list('abbaaaa')
    with pytest.warns(UserWarning, match="not every fold has an item of 'b'"):
        stratified_kfold(of, labels, 2, groups=of)

# --- several labels

def tag_counts(tags, splits): return [Counter(c for i in v for c in tags[i]) for _, v in splits]

def test_several_labels_an_item_are_shared_out_evenly():
    splits = stratified_kfold(range(400), TAGS)
    parted(splits, 400)
    found = tag_counts(TAGS, splits)
    for c in 'abcd': assert max(o[c] for o in found) - min(o[c] for o in found) <= 2
    assert {len(v) for _, v in splits} <= {79, 80, 81}

def test_zeros_and_ones_say_the_same_as_lists():
    has = np.array([[c in o for c in 'abcd'] for o in TAGS])
    as_numbers = [[j for j in range(4) if row[j]] for row in has]
    assert stratified_kfold(has, has) == stratified_kfold(range(400), as_numbers)

def test_the_rarest_label_reaches_every_fold():
    tags = [['x']] * 95 + [['x', 'rare']] * 5
    found = tag_counts(tags, stratified_kfold(tags, tags, 5))
    assert [o['rare'] for o in found] == [1] * 5 and [o['x'] for o in found] == [20] * 5

def test_items_without_any_label_are_shared_out_too():
    tags = [[]] * 50 + [['x']] * 50
    assert [len(v) for _, v in stratified_kfold(tags, tags, 5)] == [20] * 5

def test_several_labels_and_groups():
    of = [i // 2 for i in range(400)]
    splits = stratified_kfold(range(400), TAGS, groups=of)
    for train, valid in splits: assert not {of[i] for i in train} & {of[i] for i in valid}
    found = tag_counts(TAGS, splits)
    for c in 'abcd': assert max(o[c] for o in found) - min(o[c] for o in found) <= 2

# --- errors

BAD = [
    (RARE, dict(k=1), 'k=1: one fold is judged while the others train.*at least two'),
    (RARE, dict(k=2.5), 'k=2.5'),
    (['a', 'a', 'b', 'b'], dict(k=5), 'k=5 folds of 4 items: give k=4 or fewer'),
    (RARE, dict(k=8), "Class 'c' has 7 items, too few for k=8 folds: take k=7"),
    (['a'] * 9 + ['b'], dict(k=2), "Class 'b' has 1 items.*find more, or leave"),
    (['a'] * 9 + ['b', 'c', 'c'], dict(k=3), r"nor have 1 other classes"),
    (['a', 'b', None, 'b'], dict(k=2), '1 of 4 items have no label, number 2'),
    (RARE, dict(groups=[0] * 30 + list(range(1, 61))),
     'Group 0 has 30 of 90 items, and a fold of k=5 holds 18: take k=3'),
    (RARE, dict(groups=[0] * 80 + list(range(1, 11))), 'holds 18: divide the group'),
    (RARE, dict(groups=[i % 3 for i in range(90)]), '3 groups do not make k=5 folds'),
    (RARE, dict(groups=[None, *range(88), 3]), '1 of 90 items have no group, number 0'),
    (RARE, dict(groups=[i // 6 for i in range(90)]), "Class 'c' has 2 groups, too few for k=5"),
    (RARE, dict(groups=[1, 2]), 'groups has 2 values for 90 items'),
    ([['x', 'y']] * 3 + [['x']] * 9, dict(k=4), "Class 'y' has 3 items.*take k=3"),
]

@pytest.mark.parametrize('labels, kwargs, said', BAD)
def test_what_cannot_be_dealt_out(labels, kwargs, said):
    with pytest.raises(ValueError, match=said): stratified_kfold(labels, labels, **kwargs)

@pytest.mark.parametrize('labels, said', [(None, 'labels=None'), (['a'], 'labels has 1 values')])
def test_labels_that_are_none(labels, said):
    with pytest.raises(ValueError, match=said): stratified_kfold(RARE, labels)

# --- a DataBlock

def test_a_fold_makes_a_splitter():
    fold, block = fold_numbers(RARE, RARE), DataBlock((), get_x=lambda o: o)
    splits = stratified_kfold(RARE, RARE)
    assert [s(RARE) for s in fold_splitters(fold)] == splits
    block.splitter = fold_splitters(fold)[2]
    train, valid = block.split([f'{i}.png' for i in range(90)])
    assert valid == [f'{i}.png' for i in splits[2][1]] and len(train) == 90 - len(valid)
