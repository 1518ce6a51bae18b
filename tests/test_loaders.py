"Broken pictures, loaders of every shape, their transforms, new items and unknown keywords."
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from drawn import (
    block,
    draw,
    draw_folder,  # noqa: F401 (a fixture)
    loaders,
    no_figures_left,  # noqa: F401 (a fixture)
    pictures,
)
from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import FlipItem, Resize
from sotavision.core.rng import set_seed
from sotavision.core.transform import Transform
from sotavision.data.collate import TrainOnly, collate
from sotavision.data.datablock import (
    CategoryBlock,
    DataBlock,
    Dataset,
    ImageBlock,
    MaskBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from sotavision.data.files import parent_label
from sotavision.data.images import PictureError, PILImage
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.data.splits import IndexSplitter, RandomSplitter

# --- broken pictures, unequal sizes

@pytest.mark.parametrize('num_workers', [0, 2])
def test_corrupt_picture_is_named_once(tmp_path, num_workers):
    items = [draw(tmp_path/o/f'{i}.png', seed=i) for i, o in enumerate(['cat', 'dog'] * 4)]
    items[5].write_bytes(items[5].read_bytes()[:200])
    dls = DataBlock(
        get_y=parent_label, splitter=IndexSplitter([0, 1]), item_tfms=Resize(16)
    ).dataloaders(items, bs=2, num_workers=num_workers, device='cpu')
    with pytest.raises(PictureError) as e: list(dls.train)
    assert str(items[5]) in str(e.value) and 'Traceback' not in str(e.value)
    list(dls.valid)

@pytest.mark.parametrize('num_workers', [0, 2])
def test_unequal_sizes_cannot_be_collated(folder, num_workers):
    dls = loaders(folder, item_tfms=None, num_workers=num_workers)
    with pytest.raises(ValueError, match='different sizes.*Resize'): list(dls.train)

def test_summary_names_the_step(folder, capsys):
    with pytest.raises(ValueError): block(item_tfms=FlipItem()).summary(folder)
    assert '✗ collate 4 samples: ValueError: Images of different sizes' in capsys.readouterr().out
    block(batch_tfms=Normalize()).summary(folder)
    out = capsys.readouterr().out
    assert [o for o in out.splitlines() if '✗' in o] == [] and out.count('✓') == 10
    assert 'batch transform Normalize' in out
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
    assert [len(b[0]) for b in block().dataloaders(folder, bs=4, val_bs=7, device='cpu').valid] == [
        7,
        1,
    ]
    assert loaders(folder, bs=4).valid.bs == 8
    for bad in dict(bs=0), dict(val_bs=0), dict(bs=-1), dict(bs=1.5):
        with pytest.raises(ValueError, match='bs='):
            block().dataloaders(folder, device='cpu', **bad)

def test_a_training_loader_drops_a_last_batch_of_one(folder):
    norm = torch.nn.BatchNorm1d(3)
    for x, _ in loaders(folder, bs=19).train: norm(x.mean((2, 3)))

@pytest.mark.parametrize('num_workers', [0, 2])
def test_same_seed_same_batches(folder, num_workers):
    def epochs(look=lambda dls: None):
        set_seed(3)
        dls = loaders(
            folder,
            num_workers=num_workers,
            item_tfms=[Resize(16), FlipItem()],
            batch_tfms=[Normalize()],
        )
        look(dls)
        first = pictures(dls.train)
        look(dls)
        return torch.cat([first, pictures(dls.train)])
    def look(dls):
        dls.one_batch()
        dls.show_batch()
        dls.show_batch(unique=True, max_n=2)
        dls.valid.show_batch()
        dls.train.new().one_batch()
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
        dl = DataLoader(
            ds,
            20,
            item_tfms=[Resize(16), FlipItem()],
            split_idx=0,
            num_workers=workers,
            device='cpu',
        )
        assert not torch.equal(pictures(dl), pictures(dl))

def test_same_validation_items_at_every_size(folder):
    small, large = (
        block(splitter=RandomSplitter(), item_tfms=Resize(size)).dataloaders(
            folder, bs=bs, device='cpu'
        )
        for size, bs in ((8, 4), (16, 2))
    )
    assert small.valid_ds.items == large.valid_ds.items
    assert not set(small.valid_ds.items) & set(small.train_ds.items)

def test_validation_is_in_order_complete_and_the_same(folder):
    dls = loaders(folder, bs=3, item_tfms=[Resize(16), FlipItem()])
    assert torch.equal(pictures(dls.valid), pictures(dls.valid)) and len(pictures(dls.valid)) == 8
    assert torch.cat([y for _, y in dls.valid]).tolist() == [
        dls.vocab.index(o.parent.name) for o in dls.valid_ds.items
    ]

def test_moving_loaders(folder):
    dls = loaders(folder)
    assert dls.to('cpu') is dls and dls.cpu().device == torch.device('cpu') == dls.valid.device
    assert dls.to('meta').one_batch()[0].device.type == 'meta'

# --- transforms

def test_validation_shares_the_statistics_of_training(folder):
    dls = loaders(folder, batch_tfms=Normalize())
    assert (
        dls.train.batch_tfms[0].mean
        == dls.valid.batch_tfms[0].mean
        == dls.test_dl(dls.valid_ds.items).batch_tfms[0].mean
    )
    set_seed(9)
    assert (
        loaders(folder, batch_tfms=Normalize()).train.batch_tfms[0].mean
        == dls.train.batch_tfms[0].mean
    )
    assert torch.allclose(
        dls.valid.decode(next(iter(dls.valid)))[0], loaders(folder).valid.one_batch()[0], atol=1e-6
    )

def test_normalize_placed_twice_or_in_the_wrong_place(folder):
    norm = Normalize.from_stats(*imagenet_stats)
    for twice in ([norm, norm], [Normalize(), v2.Normalize([.5] * 3, [.5] * 3)]):
        with pytest.raises(ValueError, match='twice'): loaders(folder, batch_tfms=twice)
    with pytest.raises(ValueError, match='batch_tfms'):
        loaders(folder, item_tfms=[Resize(16), norm])

@pytest.mark.parametrize('target', [CategoryBlock, RegressionBlock, MultiCategoryBlock])
def test_torchvision_transforms_leave_targets_alone(folder, target):
    get_y = {
        CategoryBlock: parent_label,
        RegressionBlock: lambda o: [float(o.stem), 1.],
        MultiCategoryBlock: lambda o: [o.parent.name, 'pet'],
    }[target]
    item_tfms = [
        v2.Resize((16, 16)),
        TrainOnly(v2.RandomHorizontalFlip(1.)),
        TrainOnly(v2.ColorJitter(.2)),
    ]
    dls = loaders(
        folder,
        blocks=(ImageBlock, target),
        get_y=get_y,
        item_tfms=item_tfms,
        batch_tfms=[v2.Resize((8, 8)), TrainOnly(v2.GaussianNoise()), Normalize()],
    )
    x, y = dls.train.new(split_idx=0).one_batch()
    assert type(x) is tv_tensors.Image and x.shape == (4, 3, 8, 8)
    assert torch.equal(y, torch.stack([dls.train_ds[i][1] for i in range(4)]))
    assert torch.equal(pictures(dls.valid), pictures(dls.valid))

def test_torchvision_normalize_and_bare_tensors(folder):
    ours = loaders(folder, batch_tfms=Normalize.from_stats(*imagenet_stats))
    theirs = loaders(
        folder,
        item_tfms=[Resize(16), v2.PILToTensor()],
        batch_tfms=[lambda b: (b[0] * 1., b[1]), v2.Normalize(*imagenet_stats)],
    )
    assert torch.allclose(pictures(ours.valid), pictures(theirs.valid), atol=1e-6)
    with pytest.raises(TypeError, match='takes the whole tuple'):
        loaders(folder, item_tfms=lambda o: o[0]).one_batch()

def test_random_torchvision_transforms_on_validation_pictures_are_announced(folder):
    with pytest.warns(UserWarning, match='RandomHorizontalFlip also changes validation'):
        loaders(folder, batch_tfms=v2.RandomHorizontalFlip(.5))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loaders(folder, item_tfms=[TrainOnly(v2.RandomResizedCrop(16)), Resize(16)])

def test_transforms_in_the_order_given(folder):
    tfms = loaders(
        folder,
        item_tfms=[Resize(16), v2.Grayscale(3), FlipItem()],
        batch_tfms=[Normalize(), Transform()],
    ).train
    assert [type(t).__name__ for t in tfms.item_tfms] == ['Resize', 'Grayscale', 'FlipItem']
    assert [type(t).__name__ for t in tfms.batch_tfms] == ['Transform', 'Normalize']

# --- new items

def test_new_items_of_every_kind(folder):
    dls = loaders(folder, bs=2, batch_tfms=Normalize())
    fns = dls.valid_ds.items[:5]
    want = pictures(dls.test_dl(fns))
    for items in (
        list(map(str, fns)),
        [o.read_bytes() for o in fns],
        [PILImage.create(o) for o in fns],
        [np.array(PILImage.create(o)) for o in fns],
        tuple(fns),
    ):
        assert torch.equal(want, pictures(dls.test_dl(items)))
    assert torch.allclose(want, pictures(dls.valid)[:5], atol=1e-6)
    assert dls.test_dl(fns, bs=5).bs == 5 and dls.test_dl(fns).ds.vocab == dls.vocab
    assert dls.test_dl(fns).ds.c == 2

def test_new_items_with_labels(folder, tmp_path):
    dls = loaders(folder, bs=2)
    _, y = dls.test_dl(dls.valid_ds.items, with_labels=True, bs=8).one_batch()
    assert torch.equal(y, torch.cat([y for _, y in dls.valid]))
    stranger = draw(tmp_path/'owl'/'0.png')
    with pytest.raises(ValueError, match="'owl' is not among"):
        list(dls.test_dl([stranger], with_labels=True))

def test_samples_of_different_parts_are_no_batch():
    x = torch.rand(3, 4, 4)
    with pytest.raises(ValueError, match=r'Samples of \[1, 2\] parts'): collate([(x, 1), (x,)])

def test_new_items_that_are_none(folder):
    dls = loaders(folder)
    with pytest.raises(ValueError, match='No items'): dls.test_dl([])
    for one in (
        dls.valid_ds.items[0],
        str(dls.valid_ds.items[0]),
        b'GIF',
        Image.new('RGB', (3, 3)),
    ):
        with pytest.raises(TypeError, match='put it into a list'):
            dls.test_dl(one)

# --- unknown keywords

@pytest.mark.parametrize(
    'f',
    [ImageBlock, CategoryBlock, MultiCategoryBlock, RegressionBlock, MaskBlock, DataBlock,
     DataLoader, DataLoaders, Resize, FlipItem, TrainOnly, Dataset, collate, DataBlock().datasets,
     DataBlock().dataloaders, DataBlock().summary])
def test_unknown_keywords(f):
    with pytest.raises(TypeError, match='unheard_of'): f(unheard_of=1)

def test_unknown_keywords_of_loaders(folder):
    dls = loaders(folder)
    for f in (
        dls.show_batch,
        dls.test_dl,
        dls.train.show_batch,
        dls.train.new,
        dls.one_batch,
        dls.to,
    ):
        with pytest.raises(TypeError, match='unheard_of'):
            f(unheard_of=1)
