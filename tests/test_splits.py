"What is in validation is not in training, and what was meant to be in validation is there."
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import ColReader, parent_label
from sotavision.data.splits import FileSplitter, GrandparentSplitter, IndexSplitter, RandomSplitter

PATHS = [
    Path(f'{side}/{c}/{i:03}.jpg')
    for side in ('train', 'val')
    for c in ('cat', 'dög')
    for i in range(4)
]
NFD = 'do\u0308g'


# --- lists in files

@pytest.mark.parametrize(
    'code', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'], ids=repr)
@pytest.mark.parametrize('last', [True, False])
def test_whoever_wrote_the_list_its_names_are_found(tmp_path, code, end, last):
    names = [
        'val/cat/000.jpg',
        r'val\cat\001.jpg',
        f'./val/{NFD}/002.jpg',
        '  val/dög/003.jpg ',
        '',
    ]
    (tmp_path/'valid.txt').write_bytes((end.join(names) + end * last).encode(code))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for items in (
            PATHS,
            list(map(str, PATHS)),
            [p.absolute() for p in PATHS],
            pd.Series(list(map(str, PATHS))),
        ):
            assert FileSplitter(tmp_path / 'valid.txt')(items)[1] == [8, 9, 14, 15]


def test_a_whole_path_may_stand_in_the_list(tmp_path):
    (tmp_path / 'v.txt').write_text(
        f'{Path("val/cat/000.jpg").absolute()}\n/elsewhere/val/cat/001.jpg'
    )
    with pytest.warns(UserWarning, match='1 of 2 names'):
        assert FileSplitter(tmp_path / 'v.txt')(PATHS)[1] == [8]


def test_names_that_match_nothing_are_told(tmp_path):
    lost = [f'{i}.png' for i in range(9)]
    (tmp_path/'v.txt').write_text('\n'.join(['val/cat/000.jpg', *lost]))
    with pytest.warns(
        UserWarning,
        match='lists 9 of 10 names .0.png, 1.png, 2.png, 3.png, 4.png …. that no item has',
    ):
        FileSplitter(tmp_path / 'v.txt')(PATHS)
    (tmp_path/'v.txt').write_text('\n'.join(lost))
    with pytest.raises(ValueError, match='validation set is empty.*lists 9 names'):
        FileSplitter(tmp_path / 'v.txt')(PATHS)


def test_names_that_match_several_are_told(tmp_path):
    (tmp_path/'v.txt').write_text('001.jpg\n')
    with pytest.warns(UserWarning, match='1 of 1 names .001.jpg. that several items have'):
        assert FileSplitter(tmp_path/'v.txt')(PATHS)[1] == [1, 5, 9, 13]


# --- tables

def frame(index=None):
    return pd.DataFrame(dict(path=list(map(str, PATHS)), x=range(len(PATHS))), index=index)

@pytest.mark.parametrize('get_path', ['path', ColReader('path'), lambda r: r.path])
def test_splitters_of_paths_read_rows(tmp_path, get_path):
    (tmp_path/'v.txt').write_text('val/cat/000.jpg')
    assert GrandparentSplitter(get_path=get_path)(frame()) == GrandparentSplitter()(PATHS)
    assert FileSplitter(tmp_path/'v.txt', get_path)(frame())[1] == [8]
    records = frame().to_dict('records')
    if callable(get_path) and isinstance(get_path, ColReader):
        assert GrandparentSplitter(get_path=get_path)(records) == GrandparentSplitter()(PATHS)
    for s in (GrandparentSplitter(), FileSplitter(tmp_path/'v.txt')):
        for rows in (frame(), records):
            with pytest.raises(ValueError, match='say where its path is'): s(rows)


@pytest.mark.parametrize(
    'index', [list(range(100, 116)), list(range(15, -1, -1)), [f'r{i}' for i in range(16)]],
    ids=['moved', 'backward', 'text'])
def test_an_index_names_rows_by_label(index):
    df = frame(index)
    kept = df[df.x % 2 == 0]                                # a filtered table
    valid = kept[kept.x > 9].index
    assert IndexSplitter(valid)(df)[1] == [10, 12, 14]
    assert IndexSplitter(valid)(kept)[1] == [5, 6, 7]
    assert IndexSplitter(valid)(df.x)[1] == [10, 12, 14] and IndexSplitter([1, 2])(df)[1] == [1, 2]
    with pytest.raises(ValueError, match='index is of another table'):
        IndexSplitter(df.index[1:3])(kept)
    with pytest.raises(ValueError, match='reset_index'): IndexSplitter(valid)(pd.concat([df, df]))


# --- the same on both sides

def block(**kw):
    return DataBlock((ImageBlock, CategoryBlock), get_y=kw.pop('get_y', parent_label), **kw)

REPEATED = {
    'paths': (PATHS * 3, {}),
    'texts': ([str(p) for p in PATHS * 3], {}),
    'two spellings': (PATHS + [f'./{p}' for p in PATHS], {}),
    'pairs': (
        [(p, p.parent.name) for p in PATHS * 3],
        dict(get_x=lambda o: o[0], get_y=lambda o: o[1]),
    ),
    'records': (
        [dict(p=str(p), c=p.parent.name) for p in PATHS * 3],
        dict(get_x=ColReader('p'), get_y=ColReader('c')),
    ),
    'rows': (
        pd.concat([frame()] * 3),
        dict(get_x=lambda r: r.path, get_y=lambda r: parent_label(r.path)),
    ),
    'rows of one file': (
        pd.DataFrame(dict(path=list(map(str, PATHS)) * 3, box=range(48))),
        dict(get_x=ColReader('path'), get_y=lambda r: parent_label(r.path)),
    ),
}

@pytest.mark.parametrize('case', REPEATED)
def test_what_is_on_both_sides_is_noticed(case):
    items, how = REPEATED[case]
    with pytest.warns(UserWarning, match='on both sides of the split'): block(**how).datasets(items)
    which = (lambda o: str(how['get_x'](o))) if how else lambda o: str(Path(o))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = block(**how, splitter=RandomSplitter(groups=which)).datasets(items)
    seen = [
        set(
            map(
                which,
                o.items.itertuples()
                if hasattr(o.items, 'itertuples') and case != 'rows of one file'
                else [r for _, r in o.items.iterrows()]
                if hasattr(o.items, 'iterrows')
                else o.items,
            )
        )
        for o in (ds.train, ds.valid)
    ]
    assert not seen[0] & seen[1]


def test_what_is_there_once_is_not_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        block().datasets(PATHS)
        block(get_x=ColReader('path'), get_y=lambda r: parent_label(r.path)).datasets(frame())
        block(get_y=lambda o: o % 2).datasets(list(range(10)) * 3)      # numbers name no file


# --- at random

def test_plain_split_is_what_it_was():
    "Same seed, same validation items, from version to version."
    rng = np.random.RandomState(42).permutation(1000).tolist()
    assert RandomSplitter(.2)(range(1000)) == (rng[200:], rng[:200])
    assert RandomSplitter(.33, seed=7)(range(50)) == (
        (p := np.random.RandomState(7).permutation(50).tolist())[16:],
        p[:16],
    )


@pytest.mark.parametrize('pct', [.01, .1, .2, .5, .9, .99])
def test_every_class_of_two_gives_and_keeps_one(pct):
    labels = [c for k, c in enumerate('abcdefgh') for _ in range([1, 2, 2, 3, 5, 9, 40, 1][k])]
    train, valid = RandomSplitter(pct, by=lambda o: o)(labels)
    sides = [Counter(labels[i] for i in o) for o in (train, valid)]
    for c, n in Counter(labels).items():
        assert sides[0][c] >= 1 and (sides[1][c] >= 1) == (n > 1)
        assert sides[1][c] == (min(max(round(pct * n), 1), n - 1) if n > 1 else 0)


def test_a_class_of_one_item_is_told():
    items = [Path(f'{c}/{i}.jpg') for c, n in dict(a=9, b=9, c=1).items() for i in range(n)]
    with pytest.warns(UserWarning, match="No validation item has the label 'c'"):
        block(splitter=RandomSplitter(by=parent_label)).datasets(items)


def best(sizes, target):
    "The nearest sum that some, not all, of `sizes` have, by trying every one."
    sums = {0}
    for s in sizes: sums |= {o + s for o in sums}
    return min((o for o in sums if 0 < o < sum(sizes)), key=lambda o: abs(o - target))

def test_groups_stay_whole_and_near_the_share(often):
    rng = np.random.RandomState(0)
    for k in range(often(60)):
        sizes = rng.randint(1, [4, 10, 60][k % 3], rng.randint(2, 40))
        groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).tolist()
        pct = rng.choice([.05, .2, .33, .5, .8])
        train, valid = RandomSplitter(pct, seed=k, groups=groups)(range(len(groups)))
        assert sorted(train + valid) == list(range(len(groups)))
        assert not {groups[i] for i in train} & {groups[i] for i in valid}
        off = abs(len(valid) - pct * len(groups))
        least = abs(best(sizes.tolist(), pct * len(groups)) - pct * len(groups))
        assert off <= least + max(1, .02 * len(groups)), (sizes, pct, len(valid))
        assert RandomSplitter(pct, seed=k, groups=groups)(range(len(groups))) == (train, valid)


def test_other_seeds_choose_other_groups():
    groups = [i // 10 for i in range(500)]
    chosen = [
        frozenset(groups[i] for i in RandomSplitter(seed=s, groups=groups)(groups)[1])
        for s in range(10)
    ]
    assert len(set(chosen)) == 10 and all(len(o) == 10 for o in chosen)


def test_patients_and_classes_together():
    rng = np.random.RandomState(1)
    df = pd.DataFrame(dict(patient=rng.randint(0, 60, 900)))
    df['sick'] = np.where(
        df.patient % 10 == 0, 'rare', np.where(df.patient % 3 == 0, 'ill', 'well')
    )
    for by, groups in (
        ('sick', 'patient'),
        (lambda r: r.sick, lambda r: r.patient),
        (df.sick, df.patient.to_numpy()),
    ):
        train, valid = RandomSplitter(.25, by=by, groups=groups)(df)
        assert not set(df.patient[train]) & set(df.patient[valid])
        share = df.iloc[valid].sick.value_counts() / df.sick.value_counts()
        assert (share - .25).abs().max() < .12, share


def test_a_class_in_two_groups_is_validated():
    groups, by = ['a'] * 50 + ['b'] * 50 + ['c', 'd'], ['x'] * 100 + ['y'] * 2
    train, valid = RandomSplitter(.4, by=by, groups=groups)(range(102))
    assert {by[i] for i in valid} == {by[i] for i in train} == {'x', 'y'}


def test_many_groups_are_quick():
    groups = np.random.RandomState(0).randint(0, 20000, 100000)
    train, valid = RandomSplitter(groups=groups)(range(100000))
    assert len(valid) == 20000 and not set(groups[train]) & set(groups[valid])


# --- nothing to judge by

@pytest.mark.parametrize(
    'splitter',
    [RandomSplitter(0), RandomSplitter(0, by=parent_label), RandomSplitter(0, groups=parent_label),
     IndexSplitter([]), IndexSplitter(pd.Index([]))], ids=str)
def test_all_items_may_be_for_training(splitter):
    train, valid = splitter(PATHS)
    assert sorted(train) == list(range(16)) and valid == []
