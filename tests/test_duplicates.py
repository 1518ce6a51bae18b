"""Copies: equal and nearly equal images are found, different ones are not."""
import io
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.duplicates import find_duplicates, same_content
from sotavision.data.files import get_image_files, parent_label
from sotavision.data.splits import GrandparentSplitter
from sotavision.toynette.dataset import toynette

@pytest.fixture(scope='module')
def toys(): return list(get_image_files(toynette()))[::20]

def again(path, quality=90, scale=1.):
    "The image saved again."
    im, f = Image.open(path).convert('RGB'), io.BytesIO()
    im.resize([int(n * scale) for n in im.size]).save(f, 'JPEG', quality=quality)
    return f.getvalue()

def pairs(found): return list(zip(found.a, found.b))

def test_different_images_are_not_named(toys): assert not len(find_duplicates(toys))

@pytest.mark.parametrize('quality, scale', [(95, 1.), (90, 1.), (80, 1.)])
def test_images_saved_again_are_found(toys, quality, scale):
    found = find_duplicates([*toys, *(again(o, quality, scale) for o in toys)])
    assert pairs(found.sort_values('a')) == [(i, i + len(toys)) for i in range(len(toys))]
    assert not found.same.any()

def test_most_smaller_images_are_found(toys):
    found = find_duplicates([*toys, *(again(o, 90, .5) for o in toys)])
    assert len(found) >= .8 * len(toys) and all(b - a == len(toys) for a, b in pairs(found))

def test_equal_bytes_are_called_the_same_and_come_first(toys, tmp_path):
    (tmp_path/'x.jpg').write_bytes(toys[3].read_bytes())
    found = find_duplicates([*toys[:6], again(toys[1]), tmp_path/'x.jpg'])
    assert pairs(found) == [(3, 7), (1, 6)] and found.same.tolist() == [True, False]
    assert found.item_a[0] == toys[3] and found.item_b[0] == tmp_path/'x.jpg'

def test_limits_that_the_docstring_names(toys):
    "A mirrored and a cut image are not found."
    im = Image.open(toys[0]).convert('RGB')
    cut = im.crop((im.width // 3, im.height // 3, im.width, im.height))
    mirrored = im.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert not len(find_duplicates([im, cut, mirrored]))
    assert len(find_duplicates([np.full((9, 9), v, np.uint8) for v in (0, 200)])) == 1

def test_tables_and_images(toys):
    df = pd.DataFrame(dict(file=[toys[0], toys[1], toys[0]]), index=list('xyz'))
    found = find_duplicates(df, 'file')
    assert pairs(found) == [(0, 2)] and found.item_b[0] == "row 'z' of the table"
    im = np.random.RandomState(0).randint(0, 255, (20, 20, 3), np.uint8)
    assert find_duplicates([im, im.copy()]).same.tolist() == [True]

def test_many_images_are_compared_block_by_block():
    r = np.random.RandomState(0)
    many = [r.randint(0, 255, (9, 9), np.uint8) for _ in range(1100)]
    assert pairs(find_duplicates([*many, many[5], many[1090]], show=False)) == [(5, 1100),
                                                                                (1090, 1101)]

@pytest.mark.parametrize('items', [[], ['one']])
def test_nothing_to_compare(items, toys):
    found = find_duplicates(toys[:len(items)])
    assert len(found) == 0 and list(found.columns)[:3] == ['a', 'b', 'distance']

@pytest.mark.parametrize('call, error, said', [
    (lambda: find_duplicates('folder'), TypeError, r"get_image_files\('folder'\)"),
    (lambda: find_duplicates([], distance=200), ValueError, 'distance=200'),
    (lambda: find_duplicates(['no.jpg']), FileNotFoundError, 'no.jpg')])
def test_what_makes_no_sense(call, error, said):
    with pytest.raises(error, match=said): call()

# --- a DataBlock

@pytest.fixture
def folder(toys, tmp_path):
    "Two classes; one training image is in val/ too, under another name."
    for i, (side, c) in enumerate([('train', 'a'), ('train', 'b'), ('train', 'b'), ('val', 'a'),
                                   ('val', 'b')]):
        (tmp_path/side/c).mkdir(parents=True, exist_ok=True)
        (tmp_path/side/c/f'{i}.jpg').write_bytes(toys[1 if i == 4 else i].read_bytes())
    return tmp_path

def block(**kw):
    return DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                     splitter=GrandparentSplitter(), **kw)

def test_a_block_warns_of_copies_where_it_is_asked_to(folder):
    with pytest.warns(UserWarning, match=r'1 validation files are copies.*4\.jpg of .*1\.jpg'):
        block(same_content=True).datasets(folder)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        block().datasets(folder)
        (folder/'val/b/4.jpg').write_bytes(again(folder/'val/b/4.jpg'))
        block(same_content=True).datasets(folder)

def test_files_of_one_size_are_told_apart_by_what_they_hold(tmp_path):
    for name, data in dict(a=b'123', b=b'124', c=b'123', d=b'12').items():
        (tmp_path/name).write_bytes(data)
    a, b, c, d = (tmp_path/o for o in 'abcd')
    assert same_content([a], [b, c, d]) == [(a, c)]
    assert same_content([a, d], [b]) == [] and same_content([1, 'gone'], [a]) == []
