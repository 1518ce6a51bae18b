"Blocks and getters, odd tables, masks, wrong labels and splits."
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
from sotavision.data.collate import collate
from sotavision.data.datablock import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    MaskBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from sotavision.data.files import ColReader, get_image_files, parent_label
from sotavision.data.images import PILImage
from sotavision.data.splits import ColSplitter, IndexSplitter

# --- blocks and getters

@pytest.mark.parametrize(
    'blocks',
    [(ImageBlock, CategoryBlock), (ImageBlock(), CategoryBlock()),
     [ImageBlock, CategoryBlock(['dog', 'cat'])]])
def test_blocks_with_and_without_parentheses(folder, blocks):
    dls = loaders(folder, blocks=blocks)
    x, y = dls.one_batch()
    assert x.shape == (4, 3, 16, 16) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert sorted(dls.vocab) == ['cat', 'dog'] and dls.c == 2
    assert (dls.vocab == ['dog', 'cat']) == isinstance(blocks, list)

def test_a_block_used_twice_keeps_two_vocabularies(folder, tmp_path):
    for i, o in enumerate(['owl', 'fox'] * 10):
        draw(tmp_path / 'train' / o / f'{i}.png', seed=i)
        draw(tmp_path / 'val' / o / f'{i}.png', seed=i)
    once = block(blocks=(ImageBlock(), CategoryBlock()), batch_tfms=Normalize())
    first = once.dataloaders(folder, bs=4, device='cpu')
    stats = first.train.batch_tfms[0].mean
    second = once.dataloaders(tmp_path, bs=4, device='cpu')
    assert first.vocab == ['cat', 'dog'] and second.vocab == ['fox', 'owl']
    assert first.train.batch_tfms[0].mean == stats != second.train.batch_tfms[0].mean

def test_getters_in_place_of_get_x_and_get_y(folder):
    items = [(o, o.parent.name) for o in get_image_files(folder)]
    dls = DataBlock(getters=[lambda o: o[0], lambda o: o[1]], item_tfms=Resize(16)).dataloaders(
        items, bs=4, device='cpu'
    )
    assert dls.vocab == ['cat', 'dog'] and dls.one_batch()[0].shape == (4, 3, 16, 16)
    with pytest.raises(ValueError, match='not both'):
        DataBlock(getters=[None, None], get_y=parent_label)
    with pytest.raises(ValueError, match='2 blocks need as many getters, got 1'):
        DataBlock(getters=[None])
    with pytest.raises(ValueError, match='3 blocks need getters'):
        DataBlock(blocks=(ImageBlock, ImageBlock, CategoryBlock))
    with pytest.raises(ValueError, match='no block for the target'):
        DataBlock(blocks=ImageBlock, get_y=parent_label)
    with pytest.raises(TypeError, match='parent_label.*not a block'):
        DataBlock(blocks=(ImageBlock, parent_label)).datasets(['a', 'b', 'c'])

def test_pictures_alone(folder):
    dls = DataBlock(blocks=ImageBlock, get_items=get_image_files, item_tfms=Resize(16)).dataloaders(
        folder, bs=3, device='cpu'
    )
    (x,) = dls.one_batch()
    assert x.shape == (3, 3, 16, 16) and dls.vocab is None and dls.c is None
    dls.show_batch()

def test_one_channel(folder):
    dls = loaders(folder, blocks=(ImageBlock('L'), CategoryBlock), batch_tfms=Normalize())
    x, _ = dls.one_batch()
    assert x.shape == (4, 1, 16, 16) and abs(x.mean()) < .5
    dls.show_batch()
    with pytest.raises(ValueError, match='1 channels, the statistics are for 3'):
        loaders(
            folder,
            blocks=(ImageBlock('L'), CategoryBlock),
            batch_tfms=Normalize.from_stats(*imagenet_stats),
        ).one_batch()
    with pytest.raises(ValueError, match="mode='grey'"): ImageBlock('grey')

# --- tables

@pytest.fixture
def table(folder):
    files = get_image_files(folder)
    return pd.DataFrame(
        {
            'file': [o.relative_to(folder).as_posix() for o in files],
            'label': [o.parent.name for o in files],
            'tags': [o.parent.name + (' big' if int(o.stem) > 4 else '') for o in files],
            'x': np.arange(len(files)) / 2,
            'y': 3,
            'is_valid': ['val' in o.parts for o in files],
        },
        index=np.arange(len(files)) * 7,
    )

def test_table_rows_with_columns(folder, table):
    dls = DataBlock(
        get_x=ColReader('file', pref=folder),
        get_y=ColReader('label'),
        splitter=ColSplitter(),
        item_tfms=Resize(16),
    ).dataloaders(table, bs=4, device='cpu')
    assert len(dls.train_ds) == 20 and len(dls.valid_ds) == 8 and dls.vocab == ['cat', 'dog']
    assert dls.valid_ds.items.is_valid.all() and isinstance(dls.valid_ds.items, pd.DataFrame)
    want = collate(
        [
            (v2.functional.pil_to_tensor(Resize(16)(PILImage.create(folder / f))),)
            for f in dls.valid_ds.items.file
        ]
    )[0]
    assert torch.equal(pictures(dls.valid), want / 255)
    assert len(dls.test_dl(table.iloc[:3]).one_batch()) == 1

def test_table_block_takes_new_pictures_as_they_are(folder, table):
    dls = DataBlock(
        get_x=ColReader('file', pref=folder), get_y=ColReader('label'), item_tfms=Resize(16)
    ).dataloaders(table, bs=4, device='cpu')
    fn = get_image_files(folder)[0]
    x, = dls.test_dl([fn, str(fn), fn.read_bytes(), PILImage.create(fn)]).one_batch()
    assert all(torch.equal(x[0], o) for o in x)

def test_multicategory_from_a_table(folder, table):
    dls = DataBlock(
        (ImageBlock, MultiCategoryBlock),
        get_x=ColReader('file', pref=folder),
        get_y=ColReader('tags', label_delim=' '),
        item_tfms=Resize(16),
    ).dataloaders(table, bs=4, device='cpu')
    _, y = dls.one_batch()
    assert dls.vocab == ['big', 'cat', 'dog'] and y.shape == (4, 3) and y.dtype == torch.float32
    assert y[:, 1:].sum(1).eq(1).all()
    assert dls.train_ds.describe(y[0]) == ' '.join(dls.train_ds.target.decode(y[0]))
    dls.show_batch()
    with pytest.raises(ValueError, match='label_delim'):
        DataBlock(
            (ImageBlock, MultiCategoryBlock),
            get_x=ColReader('file', pref=folder),
            get_y=ColReader('tags'),
        ).datasets(table)

def test_regression_from_a_table(folder, table):
    make = lambda table, **kw: DataBlock(
        (ImageBlock, RegressionBlock(**kw)),
        get_x=ColReader('file', pref=folder),
        get_y=ColReader(['x', 'y']),
        item_tfms=Resize(16),
    ).dataloaders(table, bs=4, device='cpu')
    dls = make(table)
    y = dls.one_batch()[1]
    assert y.shape == (4, 2) and y.dtype == torch.float32 and dls.c == 2 and y[:, 1].eq(3).all()
    dls.show_batch()
    with pytest.raises(ValueError, match='2 numbers where 3'): make(table, n_out=3)
    table.loc[7, 'x'] = np.nan
    with pytest.raises(ValueError, match='not finite'): make(table)

def test_missing_column_and_missing_label(folder, table):
    with pytest.raises(ValueError, match="'labels'.*Did you mean 'label'"):
        DataBlock(get_y=ColReader('labels')).datasets(table)
    table['label'] = table['label'].astype(object)
    table.loc[[0, 7], 'label'] = np.nan
    with pytest.raises(ValueError, match='items have no label'):
        DataBlock(get_y=ColReader('label'), splitter=IndexSplitter([20, 21, 22])).datasets(table)

# --- masks

def half(fn):
    "A mask: 1 where the red of the picture is above 127."
    return (np.array(PILImage.create(fn))[..., 0] > 127).astype(np.uint8)

def test_masks_go_where_their_pictures_go(tmp_path):
    for i in range(10):
        a = np.zeros((60, 90, 3), np.uint8); a[10:40, 5 * i:5 * i + 40] = 255
        Image.fromarray(a).save(tmp_path/f'{i}.png')
    for method in ('crop', 'pad', 'squish'):
        dls = DataBlock(
            (ImageBlock, MaskBlock(['no', 'yes'])),
            get_items=get_image_files,
            get_y=half,
            item_tfms=[Resize(24, method), FlipItem()],
        ).dataloaders(tmp_path, bs=4, device='cpu')
        x, y = dls.one_batch()
        assert type(y) is tv_tensors.Mask and y.shape == (4, 24, 24) and y.dtype == torch.int64
        assert dls.c == 2
        assert ((x[:, 0] > .5) == (y == 1)).float().mean() > .97, method
    dls.show_batch()
    assert [len(ax.images) for ax in plt.gcf().axes] == [2] * 4

def test_masks_of_unknown_codes_and_unequal_sizes(tmp_path):
    fns = [draw(tmp_path/f'{i}.png', seed=i) for i in range(5)]
    b = lambda mask, **kw: DataBlock(
        (ImageBlock, MaskBlock(['a', 'b'])), get_y=mask, splitter=IndexSplitter([0]), **kw
    ).dataloaders(fns, bs=4, device='cpu')
    with pytest.raises(ValueError, match='the code [2-4], but only 2'):
        b(lambda o: np.full((30, 40), int(o.stem), np.uint8)).one_batch()
    with pytest.raises(ValueError, match='has [1-5] × 30 pixels, its image 40 × 30'):
        b(lambda o: np.zeros((30, int(o.stem) + 1), np.uint8)).one_batch()

# --- wrong labels and splits

def test_label_only_in_validation(folder, tmp_path):
    items = [
        draw(tmp_path / o / f'{i}.png')
        for i, o in enumerate(['cat', 'dog', 'cat', 'dog', 'cats', 'cats', 'cat'])
    ]
    with pytest.raises(
        ValueError,
        match="2 of 3 validation items: the label 'cats' is not among.*Did you mean "
              "'cat'.*RandomSplitter\\(by=",
    ):
        DataBlock(get_y=parent_label, splitter=IndexSplitter([4, 5, 6])).datasets(items)

def test_label_only_in_training_warns(tmp_path):
    items = [draw(tmp_path/o/f'{i}.png') for i, o in enumerate(['cat', 'dog', 'owl', 'cat', 'dog'])]
    with pytest.warns(UserWarning, match="No validation item has the label 'owl'"):
        DataBlock(get_y=parent_label, splitter=IndexSplitter([3, 4])).datasets(items)
    with (
        pytest.warns(UserWarning, match="No training item has the label 'fox'"),
        pytest.warns(UserWarning, match="'owl' \\(nor 1 more\\)"),
    ):
        DataBlock(
            (ImageBlock, CategoryBlock(['cat', 'dog', 'owl', 'fox'])),
            get_y=parent_label,
            splitter=IndexSplitter([3, 4]),
        ).datasets(items)

def test_one_class(folder):
    with pytest.raises(ValueError, match="Only 1 class.*'pet'"):
        block(get_y=lambda o: 'pet').datasets(folder)

def test_empty_training_side(folder):
    with pytest.raises(ValueError, match='The training set is empty'):
        block(splitter=lambda o: ([], range(len(o)))).datasets(folder)

def test_splitter_with_three_parts(folder):
    with pytest.raises(ValueError, match='returned 3'):
        block(splitter=lambda o: ([0], [1], [2])).datasets(folder)

def test_empty_sources(tmp_path):
    with pytest.raises(ValueError, match='No items found: the list is empty'):
        DataBlock(get_y=parent_label).datasets([])
    with pytest.raises(ValueError, match='No items found'):
        block(get_items=lambda o: []).datasets(tmp_path)
    (tmp_path/'notes.txt').write_text('hello')
    with pytest.raises(ValueError, match='No items found in .*Its files end in: .txt'):
        block().datasets(tmp_path)
    with pytest.raises(FileNotFoundError, match='no folder'): block().datasets(tmp_path/'nowhere')
    with pytest.raises(ValueError, match='get_items=get_image_files'):
        DataBlock(get_y=parent_label).datasets(str(tmp_path))
