"Toynette: the same bytes for the same seed, complete or absent, and errors that help."
import hashlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sotavision.toynette import dataset as module
from sotavision.toynette.dataset import toynette
from sotavision.toynette.scenes import CODES, Dials, render_scene, toynette_names

def make(path, seed=1, n_train=2, n_valid=1, n_workers=1, **kw):
    return toynette(seed, n_train, n_valid, path=path, n_workers=n_workers, show=False, **kw)

def digests(path):
    return {
        p.relative_to(path).as_posix(): hashlib.md5(p.read_bytes()).hexdigest()
        for p in path.rglob('*.*g')
    }


def test_one_seed_gives_the_same_bytes_and_two_seeds_two_sets(tmp_path):
    a, b, c = (digests(make(tmp_path/k, seed)) for k, seed in (('a', 1), ('b', 1), ('c', 2)))
    assert a == b and a.keys() == c.keys() and not set(a.values()) & set(c.values())

def test_number_of_processes_changes_nothing(tmp_path):
    assert digests(make(tmp_path/'a')) == digests(make(tmp_path/'b', n_workers=2))

def test_number_of_threads_changes_nothing():
    import torch
    before, images = torch.get_num_threads(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        images.append(render_scene('French horn', 3).image.tobytes())
    torch.set_num_threads(before)
    assert images[0] == images[1]

def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    small, large = digests(make(tmp_path/'a')), digests(make(tmp_path/'b', n_train=4))
    assert small.items() < large.items()

def test_training_and_validation_share_no_picture(tmp_path):
    d = digests(make(tmp_path/'a', n_train=2, n_valid=2))
    assert len(set(d.values())) == len(d) == 4

def test_layout_is_imagenettes(tmp_path):
    p = make(tmp_path/'a', n_train=10, n_valid=1, n_workers=2)
    assert sorted(d.name for d in (p/'train').iterdir()) == sorted(toynette_names)
    assert len(toynette_names) == 10
    assert len(list((p/'val').rglob('*.jpg'))) == 1 and not list(p.rglob('*.png'))

def test_tables_describe_every_picture(tmp_path):
    p = make(tmp_path/'a')
    tags, points = pd.read_csv(p/'tags.csv'), pd.read_csv(p/'points.csv')
    assert set(tags.file) == set(points.file) == set(digests(p))
    assert (tags.is_valid == tags.file.str.startswith('val/')).all()
    for row, xy in zip(tags.itertuples(), points.itertuples()):
        assert row.labels.split()[0] == toynette_names[row.file.split('/')[1]].replace(' ', '_')
        w, h = Image.open(p/row.file).size
        assert 0 <= xy.x <= w and 0 <= xy.y <= h

def test_extras_belong_to_the_same_pictures(tmp_path):
    plain, full = make(tmp_path/'a'), make(tmp_path/'a', extras=True)
    assert full != plain and digests(plain).items() < digests(full).items()
    assert (full/'codes.txt').read_text().split() == list(CODES)
    for p in (full/'train').rglob('*.jpg'):
        mask = Image.open(full/'masks'/p.relative_to(full).with_suffix('.png'))
        assert mask.mode == 'L' and mask.size == Image.open(p).size
        assert np.array(mask).max() < len(CODES)
    assert make(tmp_path/'a', extras=True) == full

def test_a_set_is_made_once(tmp_path):
    stamp = make(tmp_path/'a').joinpath('toynette.json').stat().st_mtime_ns
    assert make(tmp_path/'a').joinpath('toynette.json').stat().st_mtime_ns == stamp

def test_default_place_is_named_after_the_arguments(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path))
    p = toynette(5, 2, 1, n_workers=1, show=False)
    assert p.parent == tmp_path and p.name == f'toynette-{module.VERSION}-5-2-1'

def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr(module, 'write_truth', stop)
    with pytest.raises(KeyboardInterrupt): make(tmp_path/'a')
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]

def test_two_programs_at_once(tmp_path):
    code = (
        'from sotavision.toynette.dataset import toynette; toynette(1, 4, 2, '
        f'path={str(tmp_path / "a")!r}, n_workers=1, show=False)'
    )
    both = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(2)]
    assert [p.wait(120) for p in both] == [0, 0]
    assert len(digests(tmp_path/'a')) == 6
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ['a']

def test_what_a_killed_builder_left_is_removed(tmp_path):
    (tmp_path/'.a-0123456789ab.making'/'train').mkdir(parents=True)
    assert len(digests(make(tmp_path/'a'))) == 3
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ['a']

def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path/'thesis.txt').write_text('do not touch')
    with pytest.raises(FileExistsError, match='holds something else'): make(tmp_path)
    make(tmp_path/'a')
    with pytest.raises(FileExistsError, match='made with .*Choose another path'):
        make(tmp_path / 'a', seed=9)

@pytest.mark.parametrize(
    'kw, error, says',
    [(dict(n_train=0), ValueError, 'n_train is 0'), (dict(n_valid=0), ValueError, 'n_valid is 0'),
     (dict(seed=-1), ValueError, 'seed is -1'), (dict(n_train=1.5), TypeError, 'n_train is 1.5'),
     (dict(seed='42'), TypeError, "seed is '42'"),
     (dict(n_workers=0), ValueError, 'n_workers is 0'),
     (dict(n_train=True), TypeError, 'n_train is True'),
     (dict(n_classes=3), TypeError, 'n_classes')])
def test_bad_arguments(kw, error, says):
    with pytest.raises(error, match=says): toynette(**kw)

@pytest.mark.parametrize(
    'cls, hint',
    [('curch', "Did you mean 'church'"), ('n0302807', "Did you mean 'n03028079'"),
     ('zzz', 'There are: tench')])
def test_unknown_class_names_the_right_one(cls, hint):
    with pytest.raises(ValueError, match=hint): render_scene(cls)

def test_size_too_small():
    with pytest.raises(ValueError, match='at least 16'): render_scene('church', size=(8, 200))

@pytest.mark.parametrize('wnid, name', list(toynette_names.items()))
def test_the_toy_is_where_the_truth_says(wnid, name):
    dials = Dials(scale=(.8, .8), off_centre=.1, occluder=0., clutter=0.)
    shot = render_scene(name, 5, (64, 80), dials)
    toy = np.argwhere(shot.mask == CODES.index('toy'))
    (top, left), (bottom, right) = toy.min(0), toy.max(0)
    assert shot.wnid == wnid and shot.image.size == (80, 64) and left <= shot.centre[0] <= right
    assert top <= shot.centre[1] <= bottom

def test_odd_sizes_and_one_seed_of_many_numbers():
    assert render_scene('church', (1, 2, 3), (17, 33)).image.size == (33, 17)
