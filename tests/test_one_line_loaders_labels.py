"Labels for `ImageDataLoaders` from names, paths, tables and lists."
import numpy as np
import pandas as pd
import pytest
import torch

from drawn import draw, no_figures_left, pictures  # noqa: F401 (a fixture)
from pets import SQUISH, draw_root, find_files, is_cat, read_df  # noqa: F401 (fixtures)
from sotavision.all import (
    ImageDataLoaders,
    MultiCategoryBlock,
    PictureError,
    PILImage,
    RegexLabeller,
    RegressionBlock,
    Resize,
    get_image_files,
    parent_label,
    using_attr,
)

# --- names and paths

def test_the_first_line_of_all(root):
    dls = ImageDataLoaders.from_name_func(
        root, get_image_files(root), valid_pct=.2, seed=42, label_func=is_cat, item_tfms=Resize(24)
    )
    assert dls.vocab == [False, True] and dls.train.bs == 64
    assert dls.one_batch()[0].shape == (22, 3, 24, 24)
    dls.show_batch(nrows=1, ncols=2)

@pytest.mark.parametrize('form', [list, tuple, lambda o: [str(i) for i in o], lambda o: o])
def test_lists_of_names_of_any_kind(root, files, form):
    dls = ImageDataLoaders.from_name_func(root, form(files), is_cat, **SQUISH)
    assert len(dls.train_ds) == 22 and len(pictures(dls.valid)) == 6

def test_names_that_start_from_the_folder(root, files, monkeypatch):
    names = [o.relative_to(root) for o in files]
    want = pictures(ImageDataLoaders.from_path_func(root, files, parent_label, **SQUISH).valid)
    for form in (names, [str(o) for o in names]):
        assert pictures(
            ImageDataLoaders.from_path_func(root, form, parent_label, **SQUISH).valid
        ).equal(want)
        assert pictures(
            ImageDataLoaders.from_lists(root, form, [o.parent.name for o in files], **SQUISH).valid
        ).equal(want)
    monkeypatch.chdir(root.parent)
    # `pets0/train/…`, from where we stand
    here = get_image_files(root.name)
    assert pictures(
        ImageDataLoaders.from_path_func(root.name, here, parent_label, **SQUISH).valid
    ).equal(want)
    monkeypatch.chdir(root)
    assert pictures(
        ImageDataLoaders.from_path_func('.', names, parent_label, **SQUISH).valid
    ).equal(want)

def test_names_that_lead_nowhere_are_named(root):
    dls = ImageDataLoaders.from_name_func(
        root,
        ['a.png', 'B.png', 'c.png', 'D.png', 'e.png', 'F.png'],
        is_cat,
        valid_pct=.5,
        **{**SQUISH, 'cache': None},
    )
    with pytest.raises((FileNotFoundError, PictureError), match=r'[a-fB-F]\.png'): dls.one_batch()

@pytest.mark.parametrize(
    'line', ['from_path_func', 'from_name_func', 'from_path_re', 'from_name_re', 'from_lists'])
def test_one_path_is_no_list_of_names(root, line):
    for one in (root, str(root)):
        with pytest.raises(TypeError, match='A list of files is wanted.*get_image_files'):
            getattr(ImageDataLoaders, line)(root, one, 'x(y)' if 're' in line else is_cat)

def test_expressions_and_functions_are_told_apart(root, files):
    for line in (ImageDataLoaders.from_name_func, ImageDataLoaders.from_path_func):
        with pytest.raises(TypeError, match='from_name_re'): line(root, files, r'(.+)_\d+')
    with pytest.raises(ValueError, match='finds no label'):
        ImageDataLoaders.from_name_re(root, files, r'(.+)\.jpg')
    with pytest.raises(ValueError, match='no group'):
        ImageDataLoaders.from_name_re(root, files, r'.+')
    dls = ImageDataLoaders.from_name_func(root, files, RegexLabeller(r'^(\w+?)_'), **SQUISH)
    assert (
        dls.vocab
        == ['Abby', 'beagle']
        == ImageDataLoaders.from_path_func(
            root, files, using_attr(RegexLabeller(r'^(\w+?)_'), 'name'), **SQUISH
        ).vocab
    )

# --- tables

@pytest.mark.parametrize(
    'kw',
    [dict(fn_col='name', label_col='label'), dict(fn_col=0, label_col=1),
     dict(fn_col=-5, label_col=-4), dict(label_col=['label'])])
def test_columns_by_name_and_number(root, df, kw):
    dls = ImageDataLoaders.from_df(df, root, **kw, **SQUISH)
    assert dls.vocab == ['cat', 'dog'] and len(pictures(dls.valid)) == 6

def test_a_column_is_the_split(root, df):
    dls = ImageDataLoaders.from_df(df, root, valid_col='held', **SQUISH)
    assert dls.valid_ds.items.held.all() and not dls.train_ds.items.held.any()
    assert len(dls.valid_ds) == 8
    shuffled = df.sample(frac=1, random_state=0)[lambda t: t.index % 5 > 0]
    dls = ImageDataLoaders.from_df(shuffled, root, valid_col='held', **SQUISH)
    assert dls.valid_ds.items.index.tolist() == [i for i in shuffled.index if shuffled.held[i]]

def test_several_labels(root, df):
    for kw in (dict(label_col='tags', label_delim=' '), dict(label_col=2, label_delim=' ')):
        dls = ImageDataLoaders.from_df(df, root, **kw, **SQUISH)
        assert dls.vocab == ['cat', 'dog', 'many'] and dls.one_batch()[1].shape == (4, 3)
    pair = ImageDataLoaders.from_df(
        df.assign(extra='x'), root, label_col=['label', 'extra'], **SQUISH
    )
    assert pair.vocab == ['cat', 'dog', 'x']
    bits = pd.get_dummies(df.label).astype(int).assign(name=df.name)
    with pytest.raises(ValueError, match='encoded=True'):
        ImageDataLoaders.from_df(bits, root, fn_col='name', label_col=['cat', 'dog'])
    dls = ImageDataLoaders.from_df(
        bits,
        root,
        fn_col='name',
        label_col=['cat', 'dog'],
        y_block=MultiCategoryBlock(encoded=True, vocab=['cat', 'dog']),
        **SQUISH,
    )
    assert dls.vocab == ['cat', 'dog'] and dls.one_batch()[1].sum(1).eq(1).all()

def test_another_kind_of_target(root, df):
    dls = ImageDataLoaders.from_df(df, root, label_col='size', y_block=RegressionBlock, **SQUISH)
    assert dls.one_batch()[1].dtype == torch.float32 and dls.c == 1

def test_folders_and_endings_that_names_lack(root, df):
    short = df.assign(name=[o.split('/', 1)[1].removesuffix('.png') for o in df.name])[
        df.name.str.startswith('train/')
    ]
    dls = ImageDataLoaders.from_df(short, root, folder='train', suff='.png', **SQUISH)
    assert len(pictures(dls.valid)) == 4
    whole = df.assign(name=[str(root/o) for o in df.name])
    assert pictures(ImageDataLoaders.from_df(whole, **SQUISH).valid).equal(
        pictures(ImageDataLoaders.from_df(df, root, **SQUISH).valid)
    )

def test_text_files_of_every_make(root, df):
    want = pictures(ImageDataLoaders.from_df(df, root, **SQUISH).valid)
    for kw in (
        dict(),
        dict(csv_fname='semi.txt', delimiter=';'),
        dict(csv_fname='bare.csv', header=None),
        dict(csv_fname='bare.csv', header=None, fn_col=0, label_col=1),
    ):
        assert pictures(ImageDataLoaders.from_csv(root, **kw, **SQUISH).valid).equal(want), kw
    dls = ImageDataLoaders.from_csv(
        root, valid_col='held', label_col='tags', label_delim=' ', **SQUISH
    )
    assert dls.c == 3 and len(dls.valid_ds) == 8
    with pytest.raises(FileNotFoundError, match="no table .*label.csv.*Did you mean 'labels.csv'"):
        ImageDataLoaders.from_csv(root, 'label.csv')
    with pytest.raises(ValueError, match="no column 'nmae'"):
        ImageDataLoaders.from_csv(root, fn_col='nmae')

def test_names_of_figures_keep_their_zeros(tmp_path):
    for i in range(8): draw(tmp_path/f'{i:03}.png', seed=i)
    (tmp_path / 'labels.csv').write_text(
        'label,id\n' + ''.join(f'{"ab"[i % 2]},{i:03}\n' for i in range(8))
    )
    for col in ('id', 1, -1):
        dls = ImageDataLoaders.from_csv(
            tmp_path, fn_col=col, label_col='label', suff='.png', **SQUISH
        )
        assert len(pictures(dls.valid)) == 2 and dls.vocab == ['a', 'b']

# --- lists

@pytest.mark.parametrize(
    'labels,kind,vocab',
    [(lambda i: 'ab'[i % 2], 'category', ['a', 'b']), (lambda i: i % 3, 'category', [0, 1, 2]),
     (lambda i: i > 7, 'category', [False, True]), (lambda i: i / 2, 'regression', None),
     (lambda i: np.float32(i), 'regression', None), (lambda i: (i / 2, 1.), 'regression', None),
     (lambda i: ['a', 'b'][:1 + i % 2], 'multicategory', ['a', 'b']),
     (lambda i: ['a', 'b'][:i % 3], 'multicategory', ['a', 'b']),
     (lambda i: np.array([i, 1.5]), 'regression', None),
     (lambda i: {'a', 'b'} if i % 2 else {'a'}, 'multicategory', ['a', 'b'])])
def test_the_kind_of_a_list(root, files, labels, kind, vocab):
    dls = ImageDataLoaders.from_lists(root, files, [labels(i) for i in range(len(files))], **SQUISH)
    assert dls.train_ds.target.kind == kind and dls.vocab == vocab

def test_lists_that_do_not_fit(root, files):
    with pytest.raises(ValueError, match='28 files and 27 labels'):
        ImageDataLoaders.from_lists(root, files, ['a'] * 27)
    with pytest.raises(ValueError, match='encoded=True'):
        ImageDataLoaders.from_lists(root, files, [[i % 2, 1] for i in range(28)])
    with pytest.raises(ValueError, match='No items'): ImageDataLoaders.from_lists(root, [], [])

def test_pictures_in_place_of_files(root, files):
    labels = [o.parent.name for o in files]
    dls = ImageDataLoaders.from_lists(root, [PILImage.create(o) for o in files], labels, **SQUISH)
    assert pictures(dls.valid).equal(
        pictures(ImageDataLoaders.from_lists(root, files, labels, **SQUISH).valid)
    )
