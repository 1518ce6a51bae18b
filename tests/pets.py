"One folder of pictures with a table, and every line that loads it."
import numpy as np
import pandas as pd
import pytest

from drawn import draw
from sotavision.all import ImageDataLoaders, Resize, get_image_files, parent_label

SQUISH = dict(item_tfms=Resize(16, 'squish'), bs=4, device='cpu', num_workers=0)
LINES = (
    'from_folder from_path_func from_name_func from_path_re from_name_re from_df from_csv '
    'from_lists'
).split()

@pytest.fixture(scope='module', name='root')
def draw_root(tmp_path_factory):
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

@pytest.fixture(name='files')
def find_files(root): return get_image_files(root)
@pytest.fixture(name='df')
def read_df(root): return pd.read_csv(root/'labels.csv')

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
