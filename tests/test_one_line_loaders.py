"`ImageDataLoaders`: every line is the block with the same answers; folders, splits and arguments."
import inspect
import os
import pickle
from pathlib import Path

import pytest
import torch

from drawn import draw, no_figures_left, pictures  # noqa: F401 (a fixture)
from pets import (
    LINES,
    SQUISH,
    all_lines,
    draw_root,  # noqa: F401 (a fixture)
    find_files,  # noqa: F401 (a fixture)
    is_cat,
    read_df,  # noqa: F401 (a fixture)
)
from sotavision.all import (
    CategoryBlock,
    DataBlock,
    FlipItem,
    ImageBlock,
    ImageDataLoaders,
    PILImage,
    PILImageBW,
    RandomSplitter,
    Resize,
    get_image_files,
    parent_label,
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
