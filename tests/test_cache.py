"With the image cache the same batches as without, whatever happens to files, disk and processes."
import cProfile
import errno
import multiprocessing
import os
import pstats
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cached import TFMS, draw_pictures, loaders, passes, same, set_home  # noqa: F401 (fixtures)
from sotavision.augment.resize import Resize
from sotavision.core.rng import set_seed
from sotavision.data import cache as cache_module, cache_file
from sotavision.data.cache import ImageCache
from sotavision.data.datablock import DataBlock, ImageBlock, MaskBlock
from sotavision.data.dataloader import DataLoader
from sotavision.data.files import parent_label
from sotavision.data.workers import loading
from sotavision.training.callback import Callback
from sotavision.training.predict import Learner

MODES = None, 'auto', 'ram', 'disk', 'device'

@pytest.mark.parametrize('tfms', TFMS)
def test_cache_on_or_off_gives_the_same_batches(pictures, tfms):
    first, *others = (passes(loaders(pictures, TFMS[tfms](), cache=mode)) for mode in MODES)
    assert len(first) == 2 * (3 + 1) and all(same(first, o) for o in others)

def test_masks_come_with_their_pictures(pictures):
    masked = dict(
        blocks=(ImageBlock, MaskBlock(list('xyz'))), get_y=lambda f: f.with_suffix('.bmp')
    )
    first, *others = (passes(loaders(pictures, **masked, cache=mode)) for mode in MODES)
    assert all(same(first, o) for o in others)

def test_workers_hand_out_the_same_batches(pictures):
    first, *others = (
        passes(loaders(pictures, num_workers=n, cache=mode)) for mode in MODES for n in (2, 1)
    )
    assert all(same(first, o) for o in others)

def test_training_is_the_same_bit_for_bit(pictures):
    def weights(mode):
        set_seed(0)
        dls = loaders(pictures, cache=mode)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, 2),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(4, 2),
        )
        learn = Learner(dls, model, default_cbs=False).fit(3, 1e-2)
        return torch.cat([p.flatten() for p in learn.model.parameters()])
    first, *others = map(weights, MODES)
    assert all(first.equal(o) for o in others)

def test_a_warm_batch_needs_no_loader_of_torch(pictures):
    dl = loaders(pictures, cache='ram').train
    for _ in dl: pass
    it = iter(dl)
    next(it)
    with cProfile.Profile() as profile: next(it)
    files = {file for file, *_ in pstats.Stats(profile).stats}
    assert any(o.endswith('crops.py') for o in files)
    assert not any('utils/data' in o or o.endswith('workers.py') for o in files)

def test_looking_does_not_fill_the_cache(pictures):
    dls = loaders(pictures)
    dls.one_batch(); dls.show_batch(max_n=2); dls.train.repeated(2)
    assert dls.train.decoded.kept == 0 and dls.valid.decoded.kept == 0
    list(dls.valid)
    assert dls.valid.decoded.kept == len(dls.valid_ds) and dls.train.decoded.kept == 0

def test_loaders_of_the_same_items_share_what_is_kept(pictures):
    dls = loaders(pictures)
    assert dls.train.new().decoded is dls.train.decoded
    assert dls.test_dl(pictures[:3]).decoded is None
    assert loaders(pictures, cache=None).train.decoded is None
    assert DataLoader(dls.train_ds, 4).decoded is None

def test_items_without_files_are_left_alone():
    arrays = [np.full((20, 20, 3), 10 * n, np.uint8) for n in range(8)]
    dls = DataBlock(get_y=lambda a: int(a[0, 0, 0] > 30), item_tfms=Resize(16)).dataloaders(
        arrays, bs=2, device='cpu', cache='ram'
    )
    assert len(list(dls.train)) and dls.train.decoded.kept == 0

@pytest.mark.parametrize('mode', [o for o in MODES if o])
def test_other_items_in_the_same_data_set(pictures, mode):
    dls = loaders(pictures, cache=mode)
    list(dls.valid)
    def plain(): return next(iter(loaders(pictures, cache=None).valid.new(dls.valid_ds)))
    dls.valid_ds.items = dls.valid_ds.items[::-1]
    assert same([next(iter(dls.valid))], [plain()])
    dls.valid_ds.items.reverse()                                               # in place
    assert same([next(iter(dls.valid))], [plain()])

@pytest.mark.parametrize('mode', [o for o in MODES if o])
def test_a_changed_picture_is_noticed(pictures, mode):
    dls = loaders(pictures, cache=mode)
    list(dls.valid)
    path = Path(dls.valid_ds.items[0])
    Image.new('RGB', (33, 44), 'red').save(path)
    with pytest.warns(UserWarning, match=f'1 image .*{path.name}.* changed on the disk'):
        x, _ = next(iter(dls.valid))
    assert x[0, 0].mean() > .9 and x[0, 1:].mean() < .1

def test_a_picture_that_vanishes(pictures):
    dls = loaders(pictures)
    before = list(dls.valid)
    path = Path(dls.valid_ds.items[0]); path.unlink()
    with pytest.warns(UserWarning, match=f'{path.name}.* gone from the disk'):
        after = list(dls.valid)
    assert same(before, after)
    with pytest.raises(FileNotFoundError, match=path.name):
        list(loaders(pictures, cache=None).valid)
    for mode in MODES[1:]:
        with pytest.raises(FileNotFoundError, match=f'deleted.*{path.name}'):
            list(loaders(pictures, cache=mode).valid)

def test_vanishing_in_the_middle_of_an_epoch(pictures):
    for mode in ('ram', None):
        dl = loaders(pictures, cache=mode, val_bs=1).valid
        it, path = iter(dl), Path(dl.ds.items[-1]); next(it)
        data = path.read_bytes(); path.unlink()
        if mode: assert len(list(it)) == len(dl) - 1
        else:
            with pytest.raises(FileNotFoundError, match=f'deleted.*{path.name}'): list(it)
        path.write_bytes(data)

def test_the_disk_is_read_the_second_time(pictures, monkeypatch):
    first = passes(loaders(pictures, cache='disk'))
    monkeypatch.setattr(cache_module, 'decoded', lambda *a: pytest.fail('decoded again'))
    assert same(first, passes(loaders(pictures, cache='disk')))
    # training and validation, nothing half done
    assert len(list((cache_file.cache_folder()).iterdir())) == 2

def build(pictures, barrier, out):
    barrier.wait()
    out.put(
        ImageCache(DataBlock(get_y=parent_label).datasets(pictures).train, Resize(16), 'disk')
        .fill()
        .kept
    )

def test_two_processes_may_build_it_at_once(pictures):
    ctx = multiprocessing.get_context('fork')
    barrier, out = ctx.Barrier(4), ctx.Queue()
    several = [ctx.Process(target=build, args=(pictures, barrier, out)) for _ in range(4)]
    for p in several: p.start()
    assert [out.get(timeout=60) for _ in several] == [19] * 4
    for p in several: p.join()
    assert len(list(cache_file.cache_folder().iterdir())) == 1
    ds = DataBlock(get_y=parent_label).datasets(pictures).train
    found = ImageCache(ds, Resize(16), 'disk')
    assert found.load()
    assert all(
        found[i][0].tobytes() == Resize(16).deterministic_part((ds[i][0],))[0].tobytes()
        for i in range(19)
    )

def killed(pictures):
    def dies(*a): os.kill(os.getpid(), signal.SIGKILL)
    cache_module.os.replace = dies
    ImageCache(DataBlock(get_y=parent_label).datasets(pictures).train, Resize(16), 'disk').fill()

def test_a_builder_that_is_killed_leaves_nothing_that_counts(pictures):
    p = multiprocessing.get_context('fork').Process(target=killed, args=(pictures,))
    p.start()
    p.join()
    assert p.exitcode == -signal.SIGKILL and not list(cache_file.cache_folder().glob('*.pixels'))
    assert len(list(cache_file.cache_folder().glob('*.part'))) == 1
    part, = cache_file.cache_folder().glob('*.part'); os.utime(part, (0, 0))
    assert (
        ImageCache(DataBlock(get_y=parent_label).datasets(pictures).train, Resize(16), 'disk')
        .fill()
        .kept
        == 19
    )
    # old ones are swept up
    assert not list(cache_file.cache_folder().glob('*.part'))

@pytest.mark.parametrize(
    'fault',
    [OSError(errno.ENOSPC, 'No space left on device'),
     PermissionError(errno.EACCES, 'Permission denied')])
def test_no_room_and_no_right_to_write(pictures, monkeypatch, fault):
    def fails(*a): raise fault
    monkeypatch.setattr(cache_module.os, 'replace', fails)
    with pytest.warns(UserWarning, match=f'{fault.strerror}.*in memory instead'):
        d = ImageCache(
            DataBlock(get_y=parent_label).datasets(pictures).train, Resize(16), 'disk'
        ).fill()
    assert d.kept == 19 and d.where == 'ram' and not list(cache_file.cache_folder().iterdir())

def test_it_takes_no_more_than_its_share(pictures, monkeypatch):
    ds = DataBlock(get_y=parent_label).datasets(pictures * 20).train
    size = ImageCache(ds, Resize(16)).fill().pixels.nbytes
    monkeypatch.setattr('sotavision.data.cache.free_memory', lambda: size)
    with pytest.warns(UserWarning, match=r'\d+ of 384 images fit into'):
        half = ImageCache(ds, Resize(16), 'ram', .5).fill()
    assert 0 < half.kept < 250 and half.pixels.nbytes <= size / 2
    assert all(half[i][0].size[0] >= 16 for i in range(384))                   # the rest as ever
    # all or nothing, without a word
    assert ImageCache(ds, Resize(16), 'auto', .5).fill().kept == 0

def test_old_caches_make_room(pictures, monkeypatch):
    ds = DataBlock(get_y=parent_label).datasets(pictures).train
    for n, size in enumerate((16, 17, 18)):
        path = ImageCache(ds, Resize(size), 'disk').fill().path()
        os.utime(path, (n, n))
    ImageCache(ds, Resize(16), 'disk').fill()                                     # used just now
    total = sum(o.stat().st_size for o in path.parent.iterdir())
    cache_file.prune(ImageCache(ds, Resize(16)).path(), total - 1)
    assert {ImageCache(ds, Resize(s)).path().exists() for s in (16, 18)} == {True}
    assert not ImageCache(ds, Resize(17)).path().exists()

class KillsLoading(Callback):
    "What loads is killed while a step runs."
    def after_pred(self):
        for p in multiprocessing.active_children(): p.kill()
        # here the signal comes home
        time.sleep(1)

def test_a_worker_that_dies_in_the_midst_of_a_step(pictures):
    learn = Learner(
        loaders(pictures * 4, num_workers=1),
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 12 * 12, 2)),
    )
    with pytest.raises(
        RuntimeError, match='^A process that loads images died.*num_workers=0'
    ) as e:
        learn.fit(1, cbs=KillsLoading())
    assert (
        str(e.value).count(
            'killed from outside: by somebody, or by the system because memory ran out'
        )
        == 1
    )
    assert 'DataLoader worker' in str(e.value.__cause__)

@pytest.mark.parametrize(
    'sign',
    [RuntimeError('DataLoader worker (pid 3) is killed by signal: Killed. '),
     ConnectionResetError('reset by peer'), EOFError()])
def test_a_worker_that_dies(sign):
    with (
        pytest.raises(RuntimeError, match='died.*num_workers=0 loads in this process'),
        loading(2, (RuntimeError, ConnectionError, EOFError)),
    ):
        raise sign
    # nobody there to die: some other trouble
    with pytest.raises(type(sign)) as e, loading(0, (RuntimeError, ConnectionError, EOFError)):
        raise sign
    assert e.value is sign
    with pytest.raises(RuntimeError, match='^other$'), loading(): raise RuntimeError('other')
    # around a training: a callback's own connection, say
    with pytest.raises(ConnectionResetError), loading(): raise ConnectionResetError

@pytest.mark.parametrize('bad', ['RAM', 'memory', 'disc', 1])
def test_unknown_places(pictures, bad):
    with pytest.raises(ValueError, match=f"cache={bad!r}: choose"): loaders(pictures, cache=bad)

def test_shares_that_are_none(pictures):
    for share in (0, -1, 2):
        with pytest.raises(ValueError, match='cache_share'): loaders(pictures, cache_share=share)
