"""The data room under bad luck: odd tables, wrong labels, broken pictures, loaders of every shape.

Pictures are drawn on the spot. Nothing here trains and nothing is downloaded.
"""
import random, warnings

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.presize import FlipItem, Resize
from sotavision.core import Transform, set_seed
from sotavision.data.batches import TrainOnly, collate
from sotavision.data.block import (CategoryBlock, DataBlock, Dataset, ImageBlock, MaskBlock, MultiCategoryBlock, RegressionBlock)
from sotavision.data.files import (ColReader, ColSplitter, GrandparentSplitter, IndexSplitter, RandomSplitter, get_image_files, parent_label)
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.data.pictures import PILImage, PictureError


def draw(path, size=(40, 30), seed=0, mode='RGB'):
    "Write a noisy picture, every one different."
    path.parent.mkdir(parents=True, exist_ok=True)
    g = np.random.default_rng(seed)
    Image.fromarray(g.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)
    return path

@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close('all')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Two classes, ten training and four validation pictures each, of different sizes."
    root = tmp_path_factory.mktemp('pets')
    for split, n in (('train', 10), ('val', 4)):
        for k, label in enumerate(('cat', 'dog')):
            for i in range(n): draw(root/split/label/f'{i}.png', (30 + 2 * i, 40 - i), seed=100 * k + i + (50 if split == 'val' else 0))
    return root

def block(**kwargs):
    "The usual block, with changes."
    return DataBlock(**{**dict(blocks=(ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                               splitter=GrandparentSplitter(), item_tfms=Resize(16)), **kwargs})

def loaders(folder, bs=4, num_workers=0, **kwargs): return block(**kwargs).dataloaders(folder, bs=bs, num_workers=num_workers, device='cpu')

def pictures(dl): return torch.cat([b[0] for b in dl])

# --- blocks and getters

@pytest.mark.parametrize('blocks', [(ImageBlock, CategoryBlock), (ImageBlock(), CategoryBlock()), [ImageBlock, CategoryBlock(['dog', 'cat'])]])
def test_blocks_with_and_without_parentheses(folder, blocks):
    dls = loaders(folder, blocks=blocks)
    x, y = dls.one_batch()
    assert x.shape == (4, 3, 16, 16) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert sorted(dls.vocab) == ['cat', 'dog'] and dls.c == 2
    assert (dls.vocab == ['dog', 'cat']) == isinstance(blocks, list)

def test_a_block_used_twice_keeps_two_vocabularies(folder, tmp_path):
    for i, o in enumerate(['owl', 'fox'] * 10): draw(tmp_path/'train'/o/f'{i}.png', seed=i); draw(tmp_path/'val'/o/f'{i}.png', seed=i)
    once = block(blocks=(ImageBlock(), CategoryBlock()), batch_tfms=Normalize())
    first = once.dataloaders(folder, bs=4, device='cpu')
    stats = first.train.batch_tfms[0].mean
    second = once.dataloaders(tmp_path, bs=4, device='cpu')
    assert first.vocab == ['cat', 'dog'] and second.vocab == ['fox', 'owl']
    assert first.train.batch_tfms[0].mean == stats != second.train.batch_tfms[0].mean

def test_getters_in_place_of_get_x_and_get_y(folder):
    items = [(o, o.parent.name) for o in get_image_files(folder)]
    dls = DataBlock(getters=[lambda o: o[0], lambda o: o[1]], item_tfms=Resize(16)).dataloaders(items, bs=4, device='cpu')
    assert dls.vocab == ['cat', 'dog'] and dls.one_batch()[0].shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match='not both'): DataBlock(getters=[None, None], get_y=parent_label)
    with pytest.raises(ValueError, match='2 blocks need as many getters, got 1'): DataBlock(getters=[None])
    with pytest.raises(ValueError, match='3 blocks need getters'): DataBlock(blocks=(ImageBlock, ImageBlock, CategoryBlock))
    with pytest.raises(ValueError, match='no block for the target'): DataBlock(blocks=ImageBlock, get_y=parent_label)
    with pytest.raises(TypeError, match='parent_label.*not a block'): DataBlock(blocks=(ImageBlock, parent_label)).datasets(['a', 'b', 'c'])

def test_pictures_alone(folder):
    dls = DataBlock(blocks=ImageBlock, get_items=get_image_files, item_tfms=Resize(16)).dataloaders(folder, bs=3, device='cpu')
    (x,) = dls.one_batch()
    assert x.shape == (3, 3, 16, 16) and dls.vocab is None and dls.c is None
    dls.show_batch()

def test_one_channel(folder):
    dls = loaders(folder, blocks=(ImageBlock('L'), CategoryBlock), batch_tfms=Normalize())
    x, _ = dls.one_batch()
    assert x.shape == (4, 1, 16, 16) and abs(x.mean()) < .5
    dls.show_batch()
    with pytest.raises(ValueError, match='1 channels, the statistics are for 3'):
        loaders(folder, blocks=(ImageBlock('L'), CategoryBlock), batch_tfms=Normalize.from_stats(*imagenet_stats)).one_batch()
    with pytest.raises(ValueError, match="mode='grey'"): ImageBlock('grey')

# --- tables

@pytest.fixture
def table(folder):
    files = get_image_files(folder)
    return pd.DataFrame({'file': [o.relative_to(folder).as_posix() for o in files], 'label': [o.parent.name for o in files],
                         'tags': [o.parent.name + (' big' if int(o.stem) > 4 else '') for o in files], 'x': np.arange(len(files)) / 2, 'y': 3,
                         'is_valid': ['val' in o.parts for o in files]}, index=np.arange(len(files)) * 7)

def test_table_rows_with_columns(folder, table):
    dls = DataBlock(get_x=ColReader('file', pref=folder), get_y=ColReader('label'), splitter=ColSplitter(), item_tfms=Resize(16)).dataloaders(table, bs=4, device='cpu')
    assert len(dls.train_ds) == 20 and len(dls.valid_ds) == 8 and dls.vocab == ['cat', 'dog']
    assert dls.valid_ds.items.is_valid.all() and isinstance(dls.valid_ds.items, pd.DataFrame)
    want = collate([(v2.functional.pil_to_tensor(Resize(16)(PILImage.create(folder/f))),) for f in dls.valid_ds.items.file])[0]
    assert torch.equal(pictures(dls.valid), want / 255)
    assert len(dls.test_dl(table.iloc[:3]).one_batch()) == 1

def test_table_block_takes_new_pictures_as_they_are(folder, table):
    dls = DataBlock(get_x=ColReader('file', pref=folder), get_y=ColReader('label'), item_tfms=Resize(16)).dataloaders(table, bs=4, device='cpu')
    fn = get_image_files(folder)[0]
    x, = dls.test_dl([fn, str(fn), fn.read_bytes(), PILImage.create(fn)]).one_batch()
    assert all(torch.equal(x[0], o) for o in x)

def test_multicategory_from_a_table(folder, table):
    dls = DataBlock((ImageBlock, MultiCategoryBlock), get_x=ColReader('file', pref=folder), get_y=ColReader('tags', label_delim=' '), item_tfms=Resize(16)).dataloaders(table, bs=4, device='cpu')
    _, y = dls.one_batch()
    assert dls.vocab == ['big', 'cat', 'dog'] and y.shape == (4, 3) and y.dtype == torch.float32
    assert y[:, 1:].sum(1).eq(1).all() and dls.train_ds.describe(y[0]) == ' '.join(dls.train_ds.target.decode(y[0]))
    dls.show_batch()
    with pytest.raises(ValueError, match='label_delim'):
        DataBlock((ImageBlock, MultiCategoryBlock), get_x=ColReader('file', pref=folder), get_y=ColReader('tags')).datasets(table)

def test_regression_from_a_table(folder, table):
    make = lambda table, **kw: DataBlock((ImageBlock, RegressionBlock(**kw)), get_x=ColReader('file', pref=folder), get_y=ColReader(['x', 'y']), item_tfms=Resize(16)).dataloaders(table, bs=4, device='cpu')
    dls = make(table)
    y = dls.one_batch()[1]
    assert y.shape == (4, 2) and y.dtype == torch.float32 and dls.c == 2 and y[:, 1].eq(3).all()
    dls.show_batch()
    with pytest.raises(ValueError, match='2 numbers where 3'): make(table, n_out=3)
    table.loc[7, 'x'] = np.nan
    with pytest.raises(ValueError, match='not finite'): make(table)

def test_missing_column_and_missing_label(folder, table):
    with pytest.raises(ValueError, match="'labels'.*Did you mean 'label'"): DataBlock(get_y=ColReader('labels')).datasets(table)
    table['label'] = table['label'].astype(object)
    table.loc[[0, 7], 'label'] = np.nan
    with pytest.raises(ValueError, match='items have no label'): DataBlock(get_y=ColReader('label'), splitter=IndexSplitter([20, 21, 22])).datasets(table)

# --- masks

def half(fn):
    "A mask: 1 where the red of the picture is above 127."
    return (np.array(PILImage.create(fn))[..., 0] > 127).astype(np.uint8)

def test_masks_go_where_their_pictures_go(tmp_path):
    for i in range(10):
        a = np.zeros((60, 90, 3), np.uint8); a[10:40, 5 * i:5 * i + 40] = 255
        Image.fromarray(a).save(tmp_path/f'{i}.png')
    for method in ('crop', 'pad', 'squish'):
        dls = DataBlock((ImageBlock, MaskBlock(['no', 'yes'])), get_items=get_image_files, get_y=half, item_tfms=[Resize(24, method), FlipItem()]).dataloaders(tmp_path, bs=4, device='cpu')
        x, y = dls.one_batch()
        assert type(y) is tv_tensors.Mask and y.shape == (4, 24, 24) and y.dtype == torch.int64 and dls.c == 2
        assert ((x[:, 0] > .5) == (y == 1)).float().mean() > .97, method
    dls.show_batch()
    assert [len(ax.images) for ax in plt.gcf().axes] == [2] * 4

def test_masks_of_unknown_codes_and_unequal_sizes(tmp_path):
    fns = [draw(tmp_path/f'{i}.png', seed=i) for i in range(5)]
    b = lambda mask, **kw: DataBlock((ImageBlock, MaskBlock(['a', 'b'])), get_y=mask, splitter=IndexSplitter([0]), **kw).dataloaders(fns, bs=4, device='cpu')
    with pytest.raises(ValueError, match='the code [2-4], but only 2'): b(lambda o: np.full((30, 40), int(o.stem), np.uint8)).one_batch()
    with pytest.raises(ValueError, match='different sizes'): b(lambda o: np.zeros((30, int(o.stem) + 1), np.uint8)).one_batch()

# --- wrong labels and splits

def test_label_only_in_validation(folder, tmp_path):
    items = [draw(tmp_path/o/f'{i}.png') for i, o in enumerate(['cat', 'dog', 'cat', 'dog', 'cats', 'cats', 'cat'])]
    with pytest.raises(ValueError, match="2 of 3 validation items: the label 'cats' is not among.*Did you mean 'cat'.*RandomSplitter\\(by="):
        DataBlock(get_y=parent_label, splitter=IndexSplitter([4, 5, 6])).datasets(items)

def test_label_only_in_training_warns(tmp_path):
    items = [draw(tmp_path/o/f'{i}.png') for i, o in enumerate(['cat', 'dog', 'owl', 'cat', 'dog'])]
    with pytest.warns(UserWarning, match="No validation item has the label 'owl'"): DataBlock(get_y=parent_label, splitter=IndexSplitter([3, 4])).datasets(items)
    with pytest.warns(UserWarning, match="No training item has the label 'fox'"), pytest.warns(UserWarning, match="'owl' \\(nor 1 more\\)"):
        DataBlock((ImageBlock, CategoryBlock(['cat', 'dog', 'owl', 'fox'])), get_y=parent_label, splitter=IndexSplitter([3, 4])).datasets(items)

def test_one_class(folder):
    with pytest.raises(ValueError, match="Only 1 class.*'pet'"): block(get_y=lambda o: 'pet').datasets(folder)

@pytest.mark.parametrize('split,name', [(lambda o: (range(len(o)), []), 'validation'), (lambda o: ([], range(len(o))), 'training')])
def test_empty_split(folder, split, name):
    with pytest.raises(ValueError, match=f'The {name} set is empty'): block(splitter=split).datasets(folder)

def test_splitter_with_three_parts(folder):
    with pytest.raises(ValueError, match='returned 3'): block(splitter=lambda o: ([0], [1], [2])).datasets(folder)

def test_empty_sources(tmp_path):
    with pytest.raises(ValueError, match='No items found'): DataBlock(get_y=parent_label).datasets([])
    with pytest.raises(ValueError, match='No items found'): block(get_items=lambda o: []).datasets(tmp_path)
    (tmp_path/'notes.txt').write_text('hello')
    with pytest.raises(ValueError, match='no pictures.*txt'): block().datasets(tmp_path)
    with pytest.raises(FileNotFoundError, match='no folder'): block().datasets(tmp_path/'nowhere')
    with pytest.raises(ValueError, match='get_items=get_image_files'): DataBlock(get_y=parent_label).datasets(str(tmp_path))

# --- broken pictures, unequal sizes

@pytest.mark.parametrize('num_workers', [0, 2])
def test_corrupt_picture_is_named_once(tmp_path, num_workers):
    items = [draw(tmp_path/o/f'{i}.png', seed=i) for i, o in enumerate(['cat', 'dog'] * 4)]
    items[5].write_bytes(items[5].read_bytes()[:200])
    dls = DataBlock(get_y=parent_label, splitter=IndexSplitter([0, 1]), item_tfms=Resize(16)).dataloaders(items, bs=2, num_workers=num_workers, device='cpu')
    with pytest.raises(PictureError) as e: list(dls.train)
    assert str(items[5]) in str(e.value) and 'Traceback' not in str(e.value)
    list(dls.valid)

@pytest.mark.parametrize('num_workers', [0, 2])
def test_unequal_sizes_cannot_be_collated(folder, num_workers):
    dls = loaders(folder, item_tfms=None, num_workers=num_workers)
    with pytest.raises(ValueError, match='different sizes.*Resize'): list(dls.train)

def test_summary_names_the_step(folder, capsys):
    with pytest.raises(ValueError): block(item_tfms=FlipItem()).summary(folder)
    assert '✗ collate 4 samples: ValueError: Pictures of different sizes' in capsys.readouterr().out
    block(batch_tfms=Normalize()).summary(folder)
    out = capsys.readouterr().out
    assert [o for o in out.splitlines() if '✗' in o] == [] and out.count('✓') == 10 and 'batch transform Normalize' in out
    with pytest.raises(ZeroDivisionError): block(get_y=lambda o: 1 / 0).summary(folder)
    assert '✗ split and classes: ZeroDivisionError' in capsys.readouterr().out
    with pytest.raises(TypeError): block().summary(folder, batch_size=3)

# --- loaders: sizes, seeds, looking

def test_batch_sizes(folder):
    dls = loaders(folder, bs=64)
    assert len(dls.train) == 1 and len(dls.one_batch()[0]) == 20
    assert [len(b[0]) for b in loaders(folder, bs=3).train] == [3] * 6
    assert [len(b[0]) for b in loaders(folder, bs=19).train] == [19]
    assert [len(b[0]) for b in loaders(folder, bs=1).train] == [1] * 20
    assert [len(b[0]) for b in block().dataloaders(folder, bs=4, val_bs=7, device='cpu').valid] == [7, 1]
    assert loaders(folder, bs=4).valid.bs == 8
    for bad in dict(bs=0), dict(val_bs=0), dict(bs=-1), dict(bs=1.5):
        with pytest.raises(ValueError, match='bs='): block().dataloaders(folder, device='cpu', **bad)

def test_a_training_loader_drops_a_last_batch_of_one(folder):
    norm = torch.nn.BatchNorm1d(3)
    for x, _ in loaders(folder, bs=19).train: norm(x.mean((2, 3)))

@pytest.mark.parametrize('num_workers', [0, 2])
def test_same_seed_same_batches(folder, num_workers):
    def epochs(look=lambda dls: None):
        set_seed(3)
        dls = loaders(folder, num_workers=num_workers, item_tfms=[Resize(16), FlipItem()], batch_tfms=[Normalize()])
        look(dls)
        first = pictures(dls.train)
        look(dls)
        return torch.cat([first, pictures(dls.train)])
    def look(dls):
        dls.one_batch(); dls.show_batch(); dls.show_batch(unique=True, max_n=2); dls.valid.show_batch(); dls.train.new().one_batch()
        list(dls.valid); list(dls.test_dl(dls.valid_ds.items)); block().summary(folder)
    plain = epochs()
    assert torch.equal(plain, epochs())
    if num_workers == 0: assert torch.equal(plain, epochs(look))
    else: assert torch.equal(plain, epochs(lambda dls: list(dls.valid)))
    n = len(plain) // 2
    assert not torch.equal(plain[:n], plain[n:])

def test_looking_leaves_numpy_and_python_alone(folder):
    class Draws(Transform):
        def apply(self, x, params): np.random.rand(); random.random(); torch.rand(1); return x
    dls = loaders(folder, item_tfms=[Resize(16), Draws()])
    def state(): return random.random(), np.random.rand(), torch.rand(1).item()
    set_seed(1); want = state()
    set_seed(1); dls.one_batch(); dls.show_batch(unique=True)
    assert state() == want

def test_random_transforms_differ_between_epochs_without_shuffling(folder):
    ds = block().datasets(folder).train
    for workers in (0, 1):
        dl = DataLoader(ds, 20, item_tfms=[Resize(16), FlipItem()], split_idx=0, num_workers=workers, device='cpu')
        assert not torch.equal(pictures(dl), pictures(dl))

def test_same_validation_items_at_every_size(folder):
    small, large = (block(splitter=RandomSplitter(), item_tfms=Resize(size)).dataloaders(folder, bs=bs, device='cpu') for size, bs in ((8, 4), (16, 2)))
    assert small.valid_ds.items == large.valid_ds.items and not set(small.valid_ds.items) & set(small.train_ds.items)

def test_validation_is_in_order_complete_and_the_same(folder):
    dls = loaders(folder, bs=3, item_tfms=[Resize(16), FlipItem()])
    assert torch.equal(pictures(dls.valid), pictures(dls.valid)) and len(pictures(dls.valid)) == 8
    assert torch.cat([y for _, y in dls.valid]).tolist() == [dls.vocab.index(o.parent.name) for o in dls.valid_ds.items]

def test_moving_loaders(folder):
    dls = loaders(folder)
    assert dls.to('cpu') is dls and dls.cpu().device == torch.device('cpu') == dls.valid.device
    assert dls.to('meta').one_batch()[0].device.type == 'meta'

# --- transforms

def test_validation_shares_the_statistics_of_training(folder):
    dls = loaders(folder, batch_tfms=Normalize())
    assert dls.train.batch_tfms[0].mean == dls.valid.batch_tfms[0].mean == dls.test_dl(dls.valid_ds.items).batch_tfms[0].mean
    set_seed(9)
    assert loaders(folder, batch_tfms=Normalize()).train.batch_tfms[0].mean == dls.train.batch_tfms[0].mean
    assert torch.allclose(dls.valid.decode(next(iter(dls.valid)))[0], loaders(folder).valid.one_batch()[0], atol=1e-6)

def test_normalize_placed_twice_or_in_the_wrong_place(folder):
    norm = Normalize.from_stats(*imagenet_stats)
    for twice in ([norm, norm], [Normalize(), v2.Normalize([.5] * 3, [.5] * 3)]):
        with pytest.raises(ValueError, match='twice'): loaders(folder, batch_tfms=twice)
    with pytest.raises(ValueError, match='batch_tfms'): loaders(folder, item_tfms=[Resize(16), norm])

@pytest.mark.parametrize('target', [CategoryBlock, RegressionBlock, MultiCategoryBlock])
def test_torchvision_transforms_leave_targets_alone(folder, target):
    get_y = {CategoryBlock: parent_label, RegressionBlock: lambda o: [float(o.stem), 1.], MultiCategoryBlock: lambda o: [o.parent.name, 'pet']}[target]
    item_tfms = [v2.Resize((16, 16)), TrainOnly(v2.RandomHorizontalFlip(1.)), TrainOnly(v2.ColorJitter(.2))]
    dls = loaders(folder, blocks=(ImageBlock, target), get_y=get_y, item_tfms=item_tfms, batch_tfms=[v2.Resize((8, 8)), TrainOnly(v2.GaussianNoise()), Normalize()])
    x, y = dls.train.new(split_idx=0).one_batch()
    assert type(x) is tv_tensors.Image and x.shape == (4, 3, 8, 8)
    assert torch.equal(y, torch.stack([dls.train_ds[i][1] for i in range(4)]))
    assert torch.equal(pictures(dls.valid), pictures(dls.valid))

def test_torchvision_normalize_and_bare_tensors(folder):
    ours = loaders(folder, batch_tfms=Normalize.from_stats(*imagenet_stats))
    theirs = loaders(folder, item_tfms=[Resize(16), v2.PILToTensor()], batch_tfms=[lambda b: (b[0] * 1., b[1]), v2.Normalize(*imagenet_stats)])
    assert torch.allclose(pictures(ours.valid), pictures(theirs.valid), atol=1e-6)
    with pytest.raises(TypeError, match='takes the whole tuple'): loaders(folder, item_tfms=lambda o: o[0]).one_batch()

def test_random_torchvision_transforms_on_validation_pictures_are_announced(folder):
    with pytest.warns(UserWarning, match='RandomHorizontalFlip also changes validation'): loaders(folder, batch_tfms=v2.RandomHorizontalFlip(.5))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loaders(folder, item_tfms=[TrainOnly(v2.RandomResizedCrop(16)), Resize(16)])

def test_transforms_in_the_order_given(folder):
    tfms = loaders(folder, item_tfms=[Resize(16), v2.Grayscale(3), FlipItem()], batch_tfms=[Normalize(), Transform()]).train
    assert [type(t).__name__ for t in tfms.item_tfms] == ['Resize', 'Grayscale', 'FlipItem']
    assert [type(t).__name__ for t in tfms.batch_tfms] == ['Transform', 'Normalize']

# --- new items

def test_new_items_of_every_kind(folder):
    dls = loaders(folder, bs=2, batch_tfms=Normalize())
    fns = dls.valid_ds.items[:5]
    want = pictures(dls.test_dl(fns))
    for items in (list(map(str, fns)), [o.read_bytes() for o in fns], [PILImage.create(o) for o in fns], [np.array(PILImage.create(o)) for o in fns], tuple(fns)):
        assert torch.equal(want, pictures(dls.test_dl(items)))
    assert torch.allclose(want, pictures(dls.valid)[:5], atol=1e-6)
    assert dls.test_dl(fns, bs=5).bs == 5 and dls.test_dl(fns).ds.vocab == dls.vocab and dls.test_dl(fns).ds.c == 2

def test_new_items_with_labels(folder, tmp_path):
    dls = loaders(folder, bs=2)
    _, y = dls.test_dl(dls.valid_ds.items, with_labels=True, bs=8).one_batch()
    assert torch.equal(y, torch.cat([y for _, y in dls.valid]))
    stranger = draw(tmp_path/'owl'/'0.png')
    with pytest.raises(ValueError, match="'owl' is not among"): list(dls.test_dl([stranger], with_labels=True))

def test_new_items_that_are_none(folder):
    dls = loaders(folder)
    with pytest.raises(ValueError, match='No items'): dls.test_dl([])
    for one in (dls.valid_ds.items[0], str(dls.valid_ds.items[0]), b'GIF', Image.new('RGB', (3, 3))):
        with pytest.raises(TypeError, match='put it into a list'): dls.test_dl(one)

# --- unknown keywords

@pytest.mark.parametrize('f', [ImageBlock, CategoryBlock, MultiCategoryBlock, RegressionBlock, MaskBlock, DataBlock, DataLoader, DataLoaders, Resize, FlipItem, TrainOnly,
                               Dataset, collate, DataBlock().datasets, DataBlock().dataloaders, DataBlock().summary])
def test_unknown_keywords(f):
    with pytest.raises(TypeError, match='unheard_of'): f(unheard_of=1)

def test_unknown_keywords_of_loaders(folder):
    dls = loaders(folder)
    for f in (dls.show_batch, dls.test_dl, dls.train.show_batch, dls.train.new, dls.one_batch, dls.to):
        with pytest.raises(TypeError, match='unheard_of'): f(unheard_of=1)
