"""A row of a table keeps the type of each column, whoever reads it, and an empty cell is never the
text nan."""
import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sotavision.data.datablock import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from sotavision.data.files import ColReader
from sotavision.data.splits import ColSplitter, FuncSplitter, RandomSplitter
from sotavision.data.tables import at, each, is_missing

IDS = np.arange(100090, 100098)
MISSING = [None, math.nan, np.float32('nan'), pd.NA, pd.NaT, '', ' ']


@pytest.fixture
def folder(tmp_path):
    for i in IDS: Image.new('RGB', (4, 4), (int(i) % 256, 0, 0)).save(tmp_path/f'{i}.jpg')
    return tmp_path


def table(**more): return pd.DataFrame(dict(id=IDS, share=np.linspace(0, 1, 8), **more))


NEIGHBOURS = {  # a column that turned the id into another type
    'float': np.linspace(0, 1, 8),
    'float32': np.float32(np.linspace(0, 1, 8)),
    'nullable': pd.array([1, None] * 4, dtype='Int64'),
    'unsigned': np.arange(8, dtype='uint64'),
    'complex': np.arange(8) * 1j,
    'nullable float': pd.array([.5, None] * 4, dtype='Float64'),
}

@pytest.mark.parametrize('beside', NEIGHBOURS)
def test_an_id_stays_a_whole_number_beside(beside):
    df = pd.DataFrame(dict(id=IDS, other=NEIGHBOURS[beside]), index=list('stuvwxyz'))
    for rows in (each(df), [at(df, i) for i in range(8)]):
        assert [f'{r["id"]} {r.id} {r.iloc[0]}' for r in rows] == [f'{i} {i} {i}' for i in IDS]
        assert [r.name for r in rows] == list('stuvwxyz')
        assert (
            [ColReader('id', suff='.jpg')(r) for r in rows]
            == [ColReader(0, suff='.jpg')(r) for r in rows]
            == [f'{i}.jpg' for i in IDS]
        )


def test_other_cells_keep_their_type_too():
    df = pd.DataFrame(
        dict(
            yes=[True, False],
            n=np.int8([1, 2]),
            x=[.1, .2],
            day=pd.to_datetime(['2020-01-01', '2021-01-01']),
        )
    )
    for cols in (['yes', 'x'], ['n', 'x'], ['yes', 'n'], ['n', 'day'], ['x', 'day'], list(df)):
        row = at(df[cols], 0)
        assert {c: row[c] for c in cols} == {c: df[c].iloc[0] for c in cols}
        assert all(type(row[c]) is type(df[c].iloc[0]) for c in cols)


DOORS = {
    'ColReader': dict(get_x=lambda f: ColReader('id', pref=f, suff='.jpg')),
    'lambda': dict(get_x=lambda f: lambda r: f / f'{r.id}.jpg'),
    'brackets': dict(get_x=lambda f: lambda r: f / f"{r['id']}.jpg"),
    'iloc': dict(get_x=lambda f: lambda r: f / f'{r.iloc[0]}.jpg'),
}

@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('cache', [None, 'ram'])
def test_pictures_of_a_table_of_numbers_open(folder, door, cache):
    block = DataBlock(
        (ImageBlock, RegressionBlock), get_x=DOORS[door]['get_x'](folder), get_y=ColReader('share')
    )
    dls = block.dataloaders(table(), bs=4, device='cpu', cache=cache)
    for dl in (dls.train, dls.valid, dls.test_dl(table())):
        for x, *_ in dl: assert x.shape[1:] == (3, 4, 4)
    assert dls.train_ds.labels() == [table().share[i] for i in dls.train_ds.items.index]
    block.summary(table())


def test_splitters_read_cells_by_column():
    df = table(is_valid=[False, True] * 4)
    assert (
        ColSplitter()(df)
        == FuncSplitter(lambda r: f'{r.id}'[-1] in '1357')(df)
        == ([0, 2, 4, 6], [1, 3, 5, 7])
    )
    assert ColSplitter('id', on=[100091])(df)[1] == [1]
    assert RandomSplitter(.25, groups=lambda r: f'{r.id}')(df) == RandomSplitter(
        .25, groups='id'
    )(df)
    seen = []
    RandomSplitter(.5, by=lambda r: seen.append(f'{r.id}') or 0)(df)
    assert seen == [f'{i}' for i in IDS]


# --- what is missing

@pytest.mark.parametrize('o', MISSING, ids=repr)
def test_missing_is_one_thing(o):
    assert is_missing(o)
    assert ColReader('t', label_delim=' ')({'t': o}) == []
    for reader in (ColReader('t', pref='a/'), ColReader('t', suff='.jpg')):
        with pytest.raises(ValueError, match="column 't' is empty"): reader({'t': o})


@pytest.mark.parametrize(
    'o', [0, 0., False, 'nan', 'None', 'NA', [], np.zeros(0), np.array([math.nan, 1])], ids=repr)
def test_what_is_there_is_not_missing(o): assert not is_missing(o)


@pytest.mark.parametrize('dtype', [object, 'string', 'float64', 'Int64'])
def test_a_missing_file_name_names_its_row(dtype):
    df = pd.DataFrame(
        dict(id=pd.array([1, 2, None, 4], dtype='Int64').astype(dtype), y=list('abab')),
        index=[10, 20, 30, 40],
    )
    with pytest.raises(ValueError, match="'id' is empty .* in row 30 of the table"):
        for r in each(df): ColReader('id', suff='.jpg')(r)
    ds = DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=ColReader('id'),
        get_y=ColReader('y'),
        splitter=lambda o: ([1, 2, 3], [0]),
    ).datasets(df)
    with pytest.raises(ValueError, match='no file name in row 30 of the table'): ds.train[1]
    with pytest.raises(ValueError, match='no file name in row 30 of the table'): ds.train.new(df)[2]


@pytest.mark.filterwarnings('ignore:No validation item')
@pytest.mark.parametrize('o', MISSING, ids=repr)
def test_a_missing_label_is_told_and_missing_tags_are_none(o):
    df = pd.DataFrame(
        dict(f=[f'{i}.jpg' for i in range(5)], y=pd.Series(['a', 'b', 'a', o, 'b'], dtype=object))
    )
    with pytest.raises(ValueError, match='1 of 4 items have no label, number 2'):
        DataBlock(
            (ImageBlock, CategoryBlock),
            get_x=ColReader('f'),
            get_y=ColReader('y'),
            splitter=lambda _: ([1, 2, 3, 4], [0]),
        ).datasets(df)
    tags = DataBlock(
        (ImageBlock, MultiCategoryBlock),
        get_x=ColReader('f'),
        get_y=ColReader('y', label_delim=' '),
        splitter=lambda _: ([1, 2, 3, 4], [0]),
    ).datasets(df)
    assert tags.train.labels() == [['b'], ['a'], [], ['b']] and tags.vocab == ['a', 'b']


def test_a_missing_truth_is_told():
    for empty in (None, math.nan, pd.NA):
        df = pd.DataFrame(dict(is_valid=pd.Series([True, False, empty], dtype=object)))
        with pytest.raises(ValueError, match="'is_valid' is empty in 1 of 3 items .row 2 of"):
            ColSplitter()(df)
