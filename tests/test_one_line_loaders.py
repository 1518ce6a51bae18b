"Loaders made by one line, as first lessons write it."
import inspect
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from drawn import (
    draw,
    no_figures_left,  # noqa: F401 (fixture)
    pictures,
)
from sotavision.all import (
    CategoryBlock,
    DataBlock,
    FlipItem,
    ImageBlock,
    ImageDataLoaders,
    MultiCategoryBlock,
    PictureError,
    PILImage,
    PILImageBW,
    RandomSplitter,
    RegexLabeller,
    RegressionBlock,
    Resize,
    get_image_files,
    parent_label,
    using_attr,
)

SQUISH = dict(item_tfms=Resize(16, 'squish'), bs=4, device='cpu', num_workers=0)
LINES = (
    'from_folder from_path_func from_name_func from_path_re from_name_re from_df from_csv '
    'from_lists'
).split()

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "`train` and `valid`, two classes: names begin with a capital for cats."
    root = tmp_path_factory.mktemp('pets')
    for split, n in (('train', 10), ('valid', 4)):
        for k, label in enumerate(('cat', 'dog')):
            for i in range(n):
                name = f'{"Abby" if label == "cat" else "beagle"}_{split}_{i}.png'
                draw(
                    root / split / label / name,
                    (30 + 2 * i, 40 - i),
                    seed=100 * k + i + (50 if split == 'valid' else 0),
                )
    files = get_image_files(root)
    df = pd.DataFrame(
        dict(
            name=[o.relative_to(root).as_posix() for o in files],
            label=[o.parent.name for o in files],
            tags=[o.parent.name + (' many' if i % 3 else '') for i, o in enumerate(files)],
            held=['valid' in o.parts for o in files],
            size=np.arange(len(files)) / 2,
        )
    )
    df.to_csv(root/'labels.csv', index=False)
    df.to_csv(root/'semi.txt', index=False, sep=';')
    df.to_csv(root/'bare.csv', index=False, header=False)
    return root

@pytest.fixture
def files(root): return get_image_files(root)
@pytest.fixture
def df(root): return pd.read_csv(root/'labels.csv')

def is_cat(name): return name[0].isupper()

def all_lines(root, **kw):
    "Every line on the same pictures, with the same random split."
    files, table, kw = get_image_files(root), pd.read_csv(root/'labels.csv'), {**SQUISH, **kw}
    yield 'from_folder', ImageDataLoaders.from_folder(root, valid_pct=.2, **kw)
    yield 'from_path_func', ImageDataLoaders.from_path_func(root, files, parent_label, **kw)
    yield (
        'from_name_func',
        ImageDataLoaders.from_name_func(root, files, lambda o: 'cat' if is_cat(o) else 'dog', **kw),
    )
    yield 'from_path_re', ImageDataLoaders.from_path_re(root, files, r'/(cat|dog)/[^/]+$', **kw)
    yield 'from_name_re', ImageDataLoaders.from_name_re(root, files, r'^(\w+?)_', **kw)
    yield 'from_df', ImageDataLoaders.from_df(table, root, **kw)
    yield 'from_csv', ImageDataLoaders.from_csv(root, **kw)
    yield (
        'from_lists',
        ImageDataLoaders.from_lists(root, files, [o.parent.name for o in files], **kw),
    )

def test_every_line_is_the_block_with_the_same_answers(root, files):
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=RandomSplitter(.2, 42),
        item_tfms=SQUISH['item_tfms'],
    )
    want = block.dataloaders(root, bs=4, device='cpu')
    x, y = pictures(want.valid), torch.cat([y for _, y in want.valid])
    for name, dls in all_lines(root):
        assert torch.equal(pictures(dls.valid), x) and torch.equal(
            torch.cat([y for _, y in dls.valid]), y
        ), name
        assert dls.vocab == (['Abby', 'beagle'] if name == 'from_name_re' else ['cat', 'dog']), name
        assert len(dls.train_ds) == 22 and dls.train.bs == 4 and dls.valid.bs == 8 and dls.c == 2, (
            name
        )

def test_the_split_is_seeded_and_the_same_at_every_size(root, files):
    held = lambda **kw: [
        [o[0] if isinstance(o, tuple) else o for o in d.valid_ds.items]
        if isinstance(d.valid_ds.items, list)
        else d.valid_ds.items.name.tolist()
        for _, d in all_lines(root, **kw)
    ]
    one, again, other, larger = held(), held(seed=42), held(seed=7), held(item_tfms=Resize(8))
    assert one == again == larger and all(a != b for a, b in zip(one, other))
    halves = ImageDataLoaders.from_path_func(root, files, parent_label, valid_pct=.5, **SQUISH)
    assert len(halves.valid_ds) == 14

def test_nothing_held_back(root, files, df):
    for make in (
        lambda **kw: ImageDataLoaders.from_folder(root, **kw),
        lambda **kw: ImageDataLoaders.from_name_func(root, files, is_cat, **kw),
        lambda **kw: ImageDataLoaders.from_df(df, root, **kw),
        lambda **kw: ImageDataLoaders.from_lists(
            root, files, [is_cat(o.name) for o in files], **kw
        ),
    ):
        with pytest.warns(UserWarning, match='All 28 items train'):
            dls = make(valid_pct=0, **SQUISH)
        assert len(dls) == 1 and len(dls.train_ds) == 28

# --- folders

def test_folders_are_the_split(root):
    dls = ImageDataLoaders.from_folder(root, **SQUISH)
    assert len(dls.train_ds) == 20 and len(dls.valid_ds) == 8
    assert all('valid' in o.parts for o in dls.valid_ds.items)
    assert ImageDataLoaders.from_folder(str(root), vocab=['dog', 'cat'], **SQUISH).vocab == [
        'dog',
        'cat',
    ]
    swapped = ImageDataLoaders.from_folder(root, 'valid', 'train', **SQUISH)
    assert len(swapped.train_ds) == 8 and len(swapped.valid_ds) == 20

def test_folders_of_other_names_are_named(root, tmp_path):
    for label in 'ab': draw(tmp_path/'train'/label/'1.png'); draw(tmp_path/'val'/label/'1.png')
    with pytest.raises(
        FileNotFoundError,
        match=r"no folder 'valid'.*'train', 'val'.*Did you mean 'val'.*valid=….*valid_pct",
    ):
        ImageDataLoaders.from_folder(tmp_path)
    assert len(ImageDataLoaders.from_folder(tmp_path, valid='val', **SQUISH).valid_ds) == 2
    with pytest.raises(FileNotFoundError, match="no folder 'train'.*valid_pct"):
        ImageDataLoaders.from_folder(tmp_path / 'train')
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere'):
        ImageDataLoaders.from_folder(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere'):
        ImageDataLoaders.from_folder(tmp_path / 'nowhere', valid_pct=.2)
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='No items found'):
        ImageDataLoaders.from_folder(tmp_path / 'empty', valid_pct=.2)

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

# --- all of them

@pytest.mark.parametrize('line', LINES)
def test_unknown_keywords(root, files, df, line):
    args = dict(
        from_folder=(root,),
        from_df=(df, root),
        from_csv=(root,),
        from_lists=(root, files, [o.parent.name for o in files]),
    ).get(line) or (root, files, r'^(\w+?)_' if 're' in line else is_cat)
    f = getattr(ImageDataLoaders, line)
    for bad in ('unheard_of', 'batch_size', 'valid_prc'):
        with pytest.raises(TypeError, match=bad): f(*args, **{bad: 1})
    with pytest.raises(ValueError, match='valid_pct'): f(*args, valid_pct=20)

def test_names_and_defaults_that_lessons_rely_on():
    default = lambda line: {
        k: p.default
        for k, p in inspect.signature(getattr(ImageDataLoaders, line)).parameters.items()
    }
    assert list(default('from_folder'))[:6] == 'path train valid valid_pct seed vocab'.split()
    assert default('from_folder')['valid'] == 'valid'
    assert default('from_folder')['valid_pct'] is None
    assert (
        list(default('from_path_func'))[:3]
        == ['path', 'fnames', 'label_func']
        == list(default('from_name_func'))[:3]
    )
    assert (
        list(default('from_path_re'))[:3]
        == ['path', 'fnames', 'pat']
        == list(default('from_name_re'))[:3]
    )
    d = default('from_df')
    assert list(d)[:2] == ['df', 'path']
    assert (
        d['path'],
        d['valid_pct'],
        d['fn_col'],
        d['folder'],
        d['suff'],
        d['label_col'],
        d['label_delim'],
        d['y_block'],
        d['valid_col'],
        d['bs'],
    ) == ('.', .2, 0, None, '', 1, None, None, None, 64)
    assert (default('from_csv')['csv_fname'], default('from_csv')['delimiter']) == (
        'labels.csv',
        None,
    )
    assert list(default('from_lists'))[:3] == ['path', 'fnames', 'labels']

def test_what_goes_on_to_the_loaders(root, files):
    dls = ImageDataLoaders.from_name_func(
        root,
        files,
        is_cat,
        img_cls=PILImageBW,
        val_bs=3,
        shuffle=False,
        cache=None,
        batch_tfms=[],
        **SQUISH,
    )
    assert dls.one_batch()[0].shape == (4, 1, 16, 16) and dls.valid.bs == 3
    assert not dls.train.shuffle and dls.train.cache is None

def test_new_pictures_are_treated_alike(root, files):
    for name, dls in all_lines(root):
        if name in ('from_df', 'from_csv'): continue
        one = dls.test_dl([files[0]]).one_batch()[0]
        assert one.equal(dls.test_dl([str(files[0])]).one_batch()[0]) and one.equal(
            dls.test_dl([files[0].read_bytes()]).one_batch()[0]
        ), name
    assert torch.equal(dls.test_dl([PILImage.create(files[0])]).one_batch()[0], one)

def test_loaders_can_be_sent_to_other_processes(root, files):
    dls = ImageDataLoaders.from_name_re(
        root, files, r'^(\w+?)_', item_tfms=[Resize(16, 'squish'), FlipItem()], bs=4, device='cpu'
    )
    ds = pickle.loads(pickle.dumps(dls.train_ds))
    assert ds.vocab == dls.vocab and ds[0][1] == dls.train_ds[0][1]
    assert os.fspath(Path(root)) in str(ds.files(0)[0])
