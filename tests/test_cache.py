"""ImageCache once: the same batches as without, whatever happens to the files, the disk and the
processes."""
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

from sotavision.augment.resize import FlipItem, RandomResizedCrop, Resize, aug_transforms
from sotavision.core.rng import set_seed
from sotavision.data import cache as cache_module, cache_file
from sotavision.data.cache import ImageCache
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock, MaskBlock
from sotavision.data.dataloader import DataLoader
from sotavision.data.files import parent_label
from sotavision.data.workers import loading
from sotavision.training.callback import Callback
from sotavision.training.predict import Learner

MODES = None, 'auto', 'ram', 'disk', 'device'

@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))

@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    for n in range(24):
        w, h = rng.integers(20, 60, 2)
        path = tmp_path/'pictures'/'ab'[n % 2]/f'{n:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(path)
        Image.fromarray(rng.integers(0, 3, (h, w), dtype=np.uint8)).save(path.with_suffix('.bmp'))
    return sorted((tmp_path/'pictures').rglob('*.png'))

def loaders(pictures, tfms=None, blocks=(ImageBlock, CategoryBlock), get_y=parent_label, **kw):
    block = DataBlock(
        blocks,
        get_y=get_y,
        item_tfms=tfms or Resize(16),
        batch_tfms=aug_transforms(size=12, min_scale=.5),
    )
    return block.dataloaders(pictures, bs=5, device='cpu', **kw)

def passes(dls, n=2):
    set_seed(7)
    return [tuple(o.clone() for o in b) for _ in range(n) for dl in dls for b in dl]

def same(a, b):
    return len(a) == len(b) and all(
        x.equal(y) and x.stride() == y.stride()
        for p, q in zip(a, b, strict=True)
        for x, y in zip(p, q, strict=True)
    )

TFMS = dict(
    crop=lambda: Resize(16),
    wide=lambda: Resize((14, 20)),
    squish=lambda: Resize(16, 'squish'),
    pad=lambda: Resize(16, 'pad'),
    flip=lambda: [Resize(16), FlipItem()],
    rrc=lambda: RandomResizedCrop(16, min_scale=.3),
    two=lambda: [Resize(20), RandomResizedCrop(16)],
)

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
    with pytest.warns(UserWarning, match=f'1 picture .*{path.name}.* changed on the disk'):
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
    with pytest.warns(UserWarning, match=r'\d+ of 384 pictures fit into'):
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

# --- damage

def damaged(path, at, size=1):
    "Turn bits of a cache's file around, while others may have it open."
    with open(path, 'r+b') as f:
        f.seek(at); data = f.read(size)
        f.seek(at); f.write(bytes(o ^ 64 for o in data))

@pytest.fixture
def small_blocks(monkeypatch): monkeypatch.setattr(cache_file, 'BLOCK', 1000)

@pytest.mark.parametrize('tfms', ['crop', 'rrc', 'two'])
@pytest.mark.parametrize('workers', [0, 2])
def test_damage_is_noticed_and_changes_no_batch(pictures, small_blocks, tfms, workers):
    first = passes(loaders(pictures, TFMS[tfms](), cache=None, num_workers=workers))
    dls = loaders(pictures, TFMS[tfms](), cache='disk', num_workers=workers)
    list(dls.train)
    path = dls.train.decoded.file
    whole = path.read_bytes()
    for at in (0, 5003, 12_000): damaged(path, at)
    dls = loaders(pictures, TFMS[tfms](), cache='disk', num_workers=workers)
    set_seed(7)
    with pytest.warns(UserWarning, match=f'{path.name} was damaged: all pictures are decoded anew'):
        if workers: again = passes(dls)
        else:
            with pytest.warns(UserWarning, match=f'{path.name} is damaged: pictures in it'):
                again = passes(dls)
    assert same(first, again) and path.read_bytes() == whole
    assert not cache_file.aside(path).exists()

def test_damage_where_nothing_is_read_again(pictures, small_blocks):
    "Each block is looked at once: what happens to it later is not seen, and costs nothing."
    ds = DataBlock(get_y=parent_label).datasets(pictures).train
    d = ImageCache(ds, Resize(16), 'disk').fill()
    for i in range(len(d)): d[i]
    assert len(d.sums.seen) == len(d.sums.sums) == -(-d.pixels.nbytes // 1000) and not d.sums.bad

@pytest.mark.parametrize('n', range(12))
def test_a_flipped_bit_anywhere(pictures, small_blocks, n):
    ds = DataBlock(get_y=parent_label).datasets(pictures).train
    first = ImageCache(ds, Resize(16), 'disk').fill()
    size = first.file.stat().st_size
    damaged(first.file, min(size - 1, n * size // 11))
    with pytest.warns(UserWarning, match='damaged'):
        again = ImageCache(ds, Resize(16), 'disk').fill()
        assert all(
            again[i][0].tobytes() == Resize(16).deterministic_part((ds[i][0],))[0].tobytes()
            for i in range(len(ds))
        )
        again.fill()
    assert again.kept == 19 and not again.mended and ImageCache(ds, Resize(16), 'disk').load()

@pytest.mark.parametrize(
    'change',
    [lambda b: b[:-1], lambda b: b + b'x', lambda b: b[1:], lambda b: b[:2000] + b[2001:],
     lambda b: b'', lambda b: b'\0' * len(b)], ids=range(6))
def test_another_size(pictures, change):
    ds = DataBlock(get_y=parent_label).datasets(pictures).train
    path = ImageCache(ds, Resize(16), 'disk').fill().file
    path.write_bytes(change(path.read_bytes()))
    with pytest.warns(
        UserWarning, match='damaged, or not a complete cache: the pictures are decoded anew'
    ):
        assert ImageCache(ds, Resize(16), 'disk').fill().kept == 19

def test_a_damaged_block_whose_picture_has_changed(pictures):
    ds = DataBlock(get_y=parent_label).datasets(pictures).train
    ImageCache(ds, Resize(16), 'disk').fill()
    d = ImageCache(ds, Resize(16), 'disk').fill()
    damaged(d.file, 0)
    Image.new('RGB', (99, 77)).save(ds.items[0])
    with (
        pytest.warns(UserWarning, match='is damaged'),
        pytest.raises(RuntimeError, match='has changed since it was made: begin this pass again'),
    ):
        d[0]
    with pytest.warns(UserWarning, match='was damaged'): assert d.fill()[0][0].height == 16

def test_sums_as_they_grow():
    rng, first = np.random.default_rng(0), None
    data = rng.integers(0, 255, 3 * cache_file.BLOCK + 5, dtype=np.uint8)
    for cuts in (
        [],
        [1],
        [cache_file.BLOCK],
        [7, cache_file.BLOCK + 1, 3 * cache_file.BLOCK],
    ):
        sums = cache_file.Sums()
        for o in np.split(data, cuts):
            sums.add(o)
        assert (
            sums.end == len(data)
            and len(sums.sums) == 4
            and sums.sums == (first := sums.sums if not cuts else first)
        )
        assert not sums.wrong(data, 0, len(data))
    assert cache_file.Sums(first, len(data)).wrong(data[::-1].copy(), len(data) - 2, len(data))

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
        RuntimeError, match='^A process that loads pictures died.*num_workers=0'
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
