"Folders of all kinds, and the ways to split them."
import random
import shutil
from pathlib import Path

import pytest

from server import set_home  # noqa: F401 (a fixture)
from sotavision.data.archives import untar_data
from sotavision.data.files import get_image_files, parent_label
from sotavision.data.splits import GrandparentSplitter, RandomSplitter

SHARED = Path(__file__).parents[2]/'shared/data/imagenette2-160sq.tgz'


def test_order_does_not_depend_on_creation(tmp_path):
    names = [f'{c}/{i:02}.jpg' for c in 'ba' for i in range(20)]
    for k, seed in enumerate((1, 2)):
        random.Random(seed).shuffle(names)
        for n in names:
            (tmp_path / str(k) / n).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / str(k) / n).touch()
    one, two = (
        [o.relative_to(tmp_path / k).as_posix() for o in get_image_files(tmp_path / k)]
        for k in '01'
    )
    assert one == two == sorted(names)


def test_same_validation_items_at_any_call():
    items = [f'{i}.jpg' for i in range(777)]
    assert RandomSplitter()(items) == RandomSplitter()(items)
    assert len(RandomSplitter()(items)[1]) == 155


@pytest.mark.parametrize('n', [2, 3, 10, 101])
@pytest.mark.parametrize('pct', [.01, .2, .5, .99])
def test_random_split_is_a_partition_or_an_error(n, pct):
    try: train, valid = RandomSplitter(pct)(range(n))
    except ValueError as e: assert 'is empty' in str(e) and round(pct * n) in (0, n)
    else: assert sorted(train + valid) == list(range(n)) and len(valid) == round(pct * n)


def test_stratified_split_gives_each_label_its_share():
    labels = ['a'] * 100 + ['b'] * 50 + ['c'] * 5
    _, valid = RandomSplitter(.2, by=lambda o: o)(labels)
    assert {c: sum(labels[i] == c for i in valid) for c in 'abc'} == {'a': 20, 'b': 10, 'c': 1}


@pytest.mark.skipif(not SHARED.exists(), reason=f'real images are not here: {SHARED}')
def test_imagenette(tmp_path):
    "All of Imagenette, from the archive that lies beside the repository."
    items = get_image_files(folder := untar_data(SHARED))
    train, valid = GrandparentSplitter()(items)
    assert (len(train), len(valid)) == (9469, 3925) and len(set(items.map(parent_label))) == 10
    shutil.rmtree(folder)
