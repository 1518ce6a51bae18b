"""Blocks of other shapes: none, several inputs or targets, nothing held back, other transforms; and
what summary says of them."""
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import sotavision.all  # noqa: F401 (all that a Learner can do)
from drawn import (
    block,
    draw,
    draw_folder,  # noqa: F401 (a fixture)
    loaders,
    no_figures_left,  # noqa: F401 (a fixture)
    pictures,
)
from sotavision.augment.normalize import Normalize
from sotavision.augment.resize import FlipItem, RandomCrop, Resize
from sotavision.data.datablock import (
    Block,
    CategoryBlock,
    DataBlock,
    ImageBlock,
    MaskBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from sotavision.data.files import ColReader, get_image_files, parent_label
from sotavision.data.images import PILImage
from sotavision.data.splits import FuncSplitter, IndexSplitter, RandomSplitter
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.training.learner import Learner

# --- no blocks

TABLE = pd.DataFrame(
    dict(fname=[f'{i}.jpg' for i in range(10)], labels=['a b', 'b'] * 5), index=range(100, 110)
)

def test_a_bare_block_gives_items_twice():
    ds = DataBlock().datasets(TABLE)
    assert len(ds.train) == 8 and len(ds.valid) == 2 and ds.vocab is None and ds.c is None
    x, y = ds.train[0]
    assert x['fname'] == y['fname'] == ds.train.items.iloc[0].fname
    assert DataBlock().datasets(list('abcde')).train[0] in [(o, o) for o in 'abcde']

def test_getters_without_blocks_are_shown_as_they_are():
    ds = DataBlock(get_x=lambda r: r['fname'], get_y=lambda r: r['labels'].split(' ')).datasets(
        TABLE
    )
    row = ds.train.items.iloc[3]
    assert ds.train[3] == (row.fname, row.labels.split(' '))
    ds = DataBlock(get_items=lambda p: list(p), get_x=str.upper).datasets('abcde')
    assert all(x == y.upper() for x, y in (ds.train[i] for i in range(4)))

def test_a_block_with_transforms_or_a_label_alone_means_pictures(folder):
    fns = get_image_files(folder)
    assert DataBlock(get_y=parent_label).datasets(fns).vocab == ['cat', 'dog']
    named = DataBlock(get_x=str, get_y=parent_label, item_tfms=Resize(8))
    assert named.datasets(fns).vocab == ['cat', 'dog']
    assert isinstance(named.datasets(fns).train[0][0], Image.Image)
    bare = DataBlock(get_x=str, get_y=parent_label)
    assert bare.datasets(fns).vocab is None and bare.new(item_tfms=Resize(8)).datasets(fns).c == 2
    assert bare.new(item_tfms=Resize(8)).dataloaders(fns, bs=4, device='cpu').one_batch()[
        0
    ].shape == (4, 3, 8, 8)

def test_loaders_of_a_block_without_blocks_open_pictures(tmp_path):
    fns = [draw(tmp_path/o/f'{i}.png', seed=i) for i, o in enumerate(['cat', 'dog'] * 4)]
    dls = DataBlock(get_x=str, get_y=parent_label).dataloaders(fns, bs=4, device='cpu')
    assert dls.vocab == ['cat', 'dog'] and dls.one_batch()[0].shape == (4, 3, 30, 40)

# --- other transforms

def test_the_same_block_with_other_transforms(folder):
    one = block(item_tfms=[Resize(16), FlipItem()], batch_tfms=Normalize())
    other = one.new(item_tfms=Resize(8))
    small = other.dataloaders(folder, bs=4, device='cpu')
    assert small.one_batch()[0].shape[-2:] == (8, 8)
    assert [type(t) for t in small.train.batch_tfms] == [Normalize]
    assert one.dataloaders(folder, bs=4, device='cpu').one_batch()[0].shape[-2:] == (16, 16)
    assert small.valid_ds.items == one.datasets(folder).valid.items
    assert one.new(batch_tfms=[]).dataloaders(folder, bs=4).train.batch_tfms == []
    assert one.batch_tfms is not None
    assert one.new().item_tfms == one.item_tfms
    with pytest.raises(TypeError, match='unheard_of'): one.new(unheard_of=1)

# --- several inputs, several targets

def two_pictures(folder, **kw):
    return block(
        **{
            **dict(
                blocks=(ImageBlock, ImageBlock('L'), CategoryBlock),
                get_x=[None, lambda o: o],
                get_y=parent_label,
            ),
            **kw,
        }
    )

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 2)
    def forward(self, a, b):
        assert a.shape[1] == 3 and b.shape[1] == 1
        return self.lin(torch.cat([a.mean((2, 3)), b.mean((2, 3))], 1))

@pytest.mark.parametrize(
    'how',
    [dict(), dict(get_y=[parent_label]), dict(n_inp=2), dict(get_x=(None, None)),
     dict(get_x=None, get_y=None, getters=[None, None, parent_label])])
def test_two_inputs(folder, how):
    dls = two_pictures(folder, **how).dataloaders(folder, bs=4, device='cpu')
    a, b, y = dls.one_batch()
    assert a.shape == (4, 3, 16, 16) and b.shape == (4, 1, 16, 16) and y.shape == (4,)
    assert dls.vocab == ['cat', 'dog'] and dls.c == 2
    learn = Learner(dls, Both(), default_cbs=False)
    learn.fit(1)
    preds, targs = learn.get_preds()
    assert len(preds) == len(targs) == 8
    dls.show_batch(); dls.valid.show_batch(unique=True, max_n=2)

def test_two_inputs_without_labels_are_inputs(folder):
    dls = two_pictures(folder).dataloaders(folder, bs=4, device='cpu')
    new = dls.test_dl(dls.valid_ds.items)
    assert [len(b) for b in new] == [2, 2] or [len(b) for b in new] == [2]
    learn = Learner(dls, Both(), default_cbs=False)
    assert torch.allclose(learn.get_preds(dl=new)[0], learn.get_preds()[0], atol=1e-5)

def test_opened_pictures_go_through_both_getters(folder):
    turned = lambda o: PILImage.create(o).rotate(180)
    dls = two_pictures(
        folder,
        blocks=(ImageBlock, ImageBlock, CategoryBlock),
        get_x=[None, turned],
        item_tfms=Resize(16, 'squish'),
    ).dataloaders(folder, bs=4, device='cpu')
    a, b = dls.test_dl([PILImage.create(dls.valid_ds.items[0])]).one_batch()
    want, other, _ = dls.valid.one_batch()
    assert torch.equal(a[0], want[0]) and torch.equal(b[0], other[0]) and not torch.equal(a, b)

def test_one_input_and_two_targets(folder):
    b = block(
        blocks=(ImageBlock, CategoryBlock, RegressionBlock),
        n_inp=1,
        get_y=[parent_label, lambda o: float(o.stem)],
    )
    dls = b.dataloaders(folder, bs=4, device='cpu')
    x, y, z = dls.one_batch()
    assert y.dtype == torch.int64 and z.dtype == torch.float32
    assert dls.vocab == [['cat', 'dog'], None] and dls.c == [2, 1]
    seen = []
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(3, 3)
        def forward(self, x): return self.lin(x.mean((2, 3)))
    def loss(pred, y, z):
        seen.append((y.dtype, z.dtype))
        return CrossEntropyLossFlat()(pred[:, :2], y) + (pred[:, 2] - z).pow(2).mean()
    learn = Learner(dls, Head(), loss, default_cbs=False, lr=1e-3)
    learn.fit(1)
    assert set(seen) == {(torch.int64, torch.float32)}
    assert dls.train.title(y[0], z[0]) == f'{dls.vocab[0][int(y[0])]}, {z[0]:.2f}'
    dls.show_batch()
    with pytest.raises(ValueError, match='give loss_func'): Learner(dls, Head())
    assert len(dls.test_dl(dls.valid_ds.items).one_batch()) == 1

@pytest.mark.parametrize(
    'kw,why',
    [(dict(n_inp=0), 'n_inp=0'), (dict(n_inp=4), 'n_inp=4'),
     (dict(get_x=[None]), 'get_x has 1 functions for 2'),
     (dict(get_x=str), 'list of 2 functions as get_x'),
     (dict(get_x=None), 'list of 2 functions as get_x'),
     (dict(get_y=[None, None]), 'get_y has 2 functions for 1'),
     (dict(n_inp=1, get_x=None), 'list of 2 functions as get_y'),
     (dict(n_inp=3, get_x=[None] * 3), 'no block for the target'),
     (dict(getters=[None] * 3), 'not both'),
     (dict(n_inp=3, get_x=[None] * 2, get_y=None), '2 functions for 3')])
def test_getters_that_do_not_fit(folder, kw, why):
    with pytest.raises(ValueError, match=why): two_pictures(folder, **kw)

# --- nothing held back

EVERYTHING = [
    RandomSplitter(0),
    IndexSplitter([]),
    lambda o: (range(len(o)), []),
    lambda o: (list(range(len(o))), np.array([], dtype=int)),
]

@pytest.mark.parametrize('splitter', EVERYTHING)
def test_training_on_everything_is_allowed_and_said(folder, splitter):
    with pytest.warns(UserWarning, match='All 28 items train.*nothing will be validated') as said:
        dls = loaders(folder, splitter=splitter, batch_tfms=Normalize())
    # and nothing about classes that are never validated
    assert len([o for o in said if 'validat' in str(o.message)]) == 1
    assert len(dls.train_ds) == 28 and len(dls) == 1 and dls.vocab == ['cat', 'dog'] and dls.c == 2
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 2)), default_cbs=False)
    learn.fit(1)
    for f in (lambda: dls.valid, lambda: dls.valid_ds, learn.validate, learn.get_preds):
        with pytest.raises(ValueError, match='no validation set.*RandomSplitter.*test_dl'): f()
    fns = get_image_files(folder)[:5]
    assert len(learn.get_preds(dl=dls.test_dl(fns))[0]) == 5
    assert learn.predict(fns[0])[0] in dls.vocab
    assert len(learn.validate(dl=dls.test_dl(fns, with_labels=True))) >= 1
    dls.show_batch()

def test_data_sets_with_nothing_held_back(folder):
    with pytest.warns(UserWarning, match='All 28 items train'):
        ds = block(splitter=RandomSplitter(0)).datasets(folder)
    assert len(ds.valid) == 0 and len(ds.train) == 28
    with pytest.warns(UserWarning, match='All 28 items train'):
        block(splitter=RandomSplitter(0)).summary(folder)

def test_a_split_that_nobody_meant_is_still_refused(folder):
    with pytest.raises(ValueError, match='empty'):
        block(splitter=FuncSplitter(lambda o: False)).datasets(folder)
    with pytest.raises(ValueError, match='training set is empty'):
        block(splitter=IndexSplitter(range(28))).datasets(folder)

# --- tables by position

def test_filtered_tables_work_by_position(folder):
    fns = get_image_files(folder)
    df = pd.DataFrame(
        dict(name=[str(o) for o in fns], label=[o.parent.name for o in fns]),
        index=np.arange(len(fns)) * 3,
    )
    some = df[df.index % 2 == 0].sort_values('label', ascending=False)
    make = lambda t: DataBlock(
        (ImageBlock, CategoryBlock),
        get_x=ColReader('name'),
        get_y=ColReader('label'),
        item_tfms=Resize(16, 'squish'),
        splitter=IndexSplitter([0, 3]),
    ).dataloaders(t, bs=4, device='cpu')
    a, b = make(some), make(some.reset_index(drop=True))
    assert a.valid_ds.items.name.tolist() == some.name.iloc[[0, 3]].tolist()
    assert torch.equal(pictures(a.valid), pictures(b.valid))
    assert torch.cat([y for _, y in a.valid]).tolist() == [
        a.vocab.o2i[o] for o in some.label.iloc[[0, 3]]
    ]
    series = DataBlock(
        (ImageBlock, CategoryBlock), get_y=lambda o: parent_label(o), item_tfms=Resize(16)
    ).datasets(some.name)
    assert len(series.train) + len(series.valid) == len(some) and series.vocab == ['cat', 'dog']

# --- summary

def test_summary_shows_the_shapes_and_tells_the_mend(tmp_path, capsys):
    for i, size in enumerate([(400, 500), (500, 334), (400, 500), (300, 200), (400, 500)]):
        draw(tmp_path / 'ab'[i % 2] / f'{i}.png', size, i)
    b = DataBlock(get_items=get_image_files, get_y=parent_label, splitter=IndexSplitter([0]))
    with pytest.raises(ValueError, match='different sizes'): b.summary(tmp_path)
    out = capsys.readouterr().out
    assert '✗ collate 4 samples' in out
    assert 'Could not collate part 0 of the samples, Image: ' in out
    shapes = out[out.index('Could not collate'):]
    assert all(o in shapes for o in ('[3, 500, 400]', '[3, 334, 500]', '[3, 200, 300]'))
    assert 'item_tfms=Resize' in shapes
    assert 'part 1' not in shapes
    b.new(item_tfms=Resize(8)).summary(tmp_path)
    assert '✗' not in capsys.readouterr().out

@pytest.mark.parametrize(
    'get_y,target,told',
    [(lambda o: np.zeros((30, int(o.stem) + 1), np.uint8), MaskBlock(['a', 'b']),
      'has . × 30 pixels, its image 40 × 30.*NEAREST'),
     (lambda o: torch.zeros(int(o.stem) + 1), Block,
      'part 1 of the samples, Tensor: .*MultiCategoryBlock'),
     (lambda o: o, Block, 'part 1 of the samples, .*Path: .*CategoryBlock')])
def test_summary_of_targets_that_do_not_fit(tmp_path, capsys, get_y, target, told):
    fns = [draw(tmp_path/f'{i}.png', seed=i) for i in range(5)]
    with pytest.raises((ValueError, TypeError)):
        DataBlock((ImageBlock, target), get_y=get_y, splitter=IndexSplitter([0])).summary(fns)
    import re
    assert re.search(told, capsys.readouterr().out, re.S)

def test_summary_names_steps_of_several_inputs(folder, capsys):
    two_pictures(folder).summary(folder)
    out = capsys.readouterr().out
    assert out.count('✓ get_x') == 2 and out.count('✓ get_y') == 1 and '✗' not in out

# --- show_batch

@pytest.mark.parametrize(
    'kw,shown,grid',
    [(dict(), 4, 4), (dict(nrows=1, ncols=3), 3, 3), (dict(max_n=2), 2, 2), (dict(nrows=2), 4, 4),
     (dict(ncols=2), 4, 4), (dict(nrows=2, ncols=4), 4, 8), (dict(max_n=3, nrows=2), 3, 4),
     (dict(unique=True, nrows=2, ncols=3), 6, 6), (dict(max_n=4, nrows=1, ncols=2), 2, 2)])
def test_grids_of_batches(folder, kw, shown, grid):
    import matplotlib.pyplot as plt
    dls = loaders(folder, bs=4, item_tfms=RandomCrop(16))
    for f in (dls.show_batch, dls.train.show_batch):
        f(**kw, figsize=(5, 2))
        axs = plt.gcf().axes
        assert sum(bool(ax.images) for ax in axs) == shown and len(axs) == grid
        assert plt.gcf().get_size_inches().tolist() == [5, 2]
        assert all(ax.get_title() in dls.vocab for ax in axs if ax.images)
    with pytest.raises(TypeError, match='unheard_of'): dls.show_batch(unheard_of=1)

def test_masks_lie_over_pictures_in_every_grid(tmp_path):
    import matplotlib.pyplot as plt
    fns = [draw(tmp_path/f'{i}.png', seed=i) for i in range(8)]
    dls = DataBlock(
        (ImageBlock, MaskBlock(['a', 'b'])),
        get_y=lambda o: np.eye(30, 40, dtype=np.uint8),
        item_tfms=Resize(16),
        splitter=IndexSplitter([0, 1]),
    ).dataloaders(fns, bs=6, device='cpu')
    other = plt.figure()
    dls.show_batch(nrows=2, ncols=3)
    plt.figure(other.number)
    assert [len(ax.images) for ax in plt.figure(plt.get_fignums()[-1]).axes] == [2] * 6

def test_encoded_labels_need_no_picture():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = DataBlock(
            (MultiCategoryBlock,),
            get_x=lambda i: ['a', 'b'][: i % 2 + 1],
            splitter=IndexSplitter([0, 1]),
        ).datasets(range(6))
    assert ds.vocab == ['a', 'b'] and ds.train.target is not None
