"""Memory is claimed as it is needed, a container's limits count, and a lack of memory is no fault
of a picture."""
import multiprocessing
import os
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from sotavision.augment.resize import Resize
from sotavision.data import cache, decode as decoder
from sotavision.data.cache import ImageCache
from sotavision.data.datablock import DataBlock
from sotavision.data.decode import free_memory
from sotavision.data.files import parent_label
from sotavision.data.images import PictureError, PILImage
from sotavision.data.survey import verify_images

GIB = 2**30


@pytest.fixture
def pictures(tmp_path):
    for n in range(40):
        path = tmp_path/'ab'[n % 2]/f'{n:02}.png'
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(
            np.random.default_rng(n).integers(0, 255, (30 + n, 40, 3), dtype=np.uint8)
        ).save(path)
    return sorted(tmp_path.rglob('*.png'))


def data_set(pictures): return DataBlock(get_y=parent_label).datasets(pictures).train

# --- what the cache claims

def address_space():
    return int(Path('/proc/self/statm').read_text().split()[0]) * os.sysconf('SC_PAGE_SIZE')


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('where', ['auto', 'ram', 'device'])
def test_small_pictures_claim_little(pictures, where, monkeypatch):
    monkeypatch.setattr(cache, 'free_memory', lambda: 64 * GIB)
    before, highest = address_space(), [0]
    whole = cache.grow
    def grow(*args): whole(*args); highest[0] = max(highest[0], address_space())
    monkeypatch.setattr(cache, 'grow', grow)
    d = ImageCache(data_set(pictures), Resize(16), where).fill()
    assert d.kept == 32 and highest[0] - before < 64 * 2**20 and d.pixels.nbytes < 2**20


def test_it_holds_what_it_needs_and_no_more(pictures, monkeypatch):
    ds = data_set(pictures)
    d = ImageCache(ds).fill()
    assert d.pixels.nbytes == sum(np.asarray(ds[i][0]).nbytes for i in range(len(ds)))
    assert d.pixels.flags.owndata
    assert all(np.array_equal(np.asarray(d[i][0]), np.asarray(ds[i][0])) for i in range(len(ds)))


@pytest.mark.parametrize('steps', [[1], [5, 5, 5], [100, 1, 1, 300], [0, 7, 0, 9]])
@pytest.mark.parametrize('most', [0, 10, 10**6])
def test_grow(steps, most):
    row, end = np.empty(0, np.uint8), 0
    for k, n in enumerate(steps):
        cache.grow(row, end + n, most)
        row[end:end + n] = k + 1
        end += n
        assert end <= len(row) <= max(end, most)
    assert row[:end].tolist() == [k + 1 for k, n in enumerate(steps) for _ in range(n)]


def test_no_memory_to_keep_them(pictures, monkeypatch):
    "What was kept so far stays, the rest is decoded each time: no error, and no picture is blamed."
    def none(row, least, most):
        if least > 100_000: raise MemoryError
        row.resize(least, refcheck=False)
    monkeypatch.setattr(cache, 'grow', none)
    ds = data_set(pictures * 4)
    with pytest.warns(UserWarning, match=r'\d+ of 128 images fit into'): d = ImageCache(ds).fill()
    assert d.kept < 128
    assert all(np.array_equal(np.asarray(d[i][0]), np.asarray(ds[i][0])) for i in (0, 60, 127))

# --- whose fault

@pytest.mark.parametrize('n', [40, 600], ids=['here', 'in processes'])
def test_a_lack_of_memory_is_no_bad_picture(pictures, monkeypatch, n):
    def none(*args): raise MemoryError
    monkeypatch.setattr('sotavision.data.images.upright', none)
    for call in (
        lambda: PILImage.create(pictures[0]),
        lambda: ImageCache(data_set((pictures * 15)[:n])).fill(),
        lambda: verify_images(pictures[:3]),
    ):
        with pytest.raises(MemoryError) as e:
            call()
        assert (
            'delete' not in str(e.value)
            and 'verify_images' not in str(e.value)
            and not isinstance(e.value, PictureError)
        )


def limited(pictures, results):
    "With little address space left: what happens to a picture that does not fit?"
    import resource
    big = Image.new('RGB', (9000, 9000)); big.save(Path(pictures[0]).with_name('big.bmp'))
    resource.setrlimit(resource.RLIMIT_AS, (address_space() + 60 * 2**20,) * 2)
    try: PILImage.create(Path(pictures[0]).with_name('big.bmp')); results.put('opened')
    except BaseException as e: results.put((type(e).__name__, str(e), free_memory()))


@pytest.mark.skipif(sys.platform != 'linux', reason='limits the address space')
def test_a_picture_larger_than_the_memory(pictures):
    ctx = multiprocessing.get_context('spawn')   # a fork has what others gave back to reuse
    results = ctx.Queue()
    p = ctx.Process(target=limited, args=(pictures, results)); p.start()
    kind, told, free = results.get(timeout=60); p.join(10)
    assert kind == 'MemoryError' and 'delete' not in told and free < 200 * 2**20

# --- what is free

MEMINFO = 'MemTotal: 33554432 kB\nMemFree: 99 kB\nMemAvailable:   16777216 kB\n'

@pytest.fixture
def free_in(monkeypatch):
    "What is free in a made-up system."
    def free(root):
        monkeypatch.setattr(psutil, 'PROCFS_PATH', str(root/'proc'))
        return free_memory(root)
    return free

def system(root, meminfo=MEMINFO, cgroup=None, **files):
    "A made-up system: 16 GiB available, and the files given, with `__` for a slash."
    for name, text in {'proc/meminfo': meminfo, 'proc/self/cgroup': cgroup, **files}.items():
        if text is None: continue
        path = root/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(text))
    return root


V2 = 'sys/fs/cgroup'
V1 = 'sys/fs/cgroup/memory'

def v2(at='', limit=4 * GIB, used=GIB, stat='anon 5\ninactive_file 0\nactive_file 7\n', **more):
    at = f'{V2}/{at}'.rstrip('/')
    return {
        f'{at}/memory.max': limit,
        f'{at}/memory.current': used,
        f'{at}/memory.stat': stat,
        **{f'{at}/memory.{k}': v for k, v in more.items()},
    }


def v1(at='', limit=4 * GIB, used=GIB, stat='cache 5\ntotal_inactive_file 0\n'):
    at = f'{V1}/{at}'.rstrip('/')
    return {
        f'{at}/memory.limit_in_bytes': limit,
        f'{at}/memory.usage_in_bytes': used,
        f'{at}/memory.stat': stat,
    }


FREE = {
    'no container': (None, {}, 16 * GIB), 'version 2, at the top': ('0::/\n', v2(), 3 * GIB),
    'version 2, a group of its own': ('0::/user/job\n', v2('user/job'), 3 * GIB),
    'version 2, the group above is tighter': (
        '0::/user/job\n', v2('user/job') | v2('user', 2 * GIB, 2 * GIB - 5), 5),
    'version 2, no limit': ('0::/job\n', v2('job', 'max'), 16 * GIB),
    'version 2, only the soft limit': ('0::/job\n', v2('job', 'max', high=2 * GIB), GIB),
    'version 2, files count as free': (
        '0::/job\n', v2('job', stat=f'inactive_file {GIB // 2}\n'), 7 * GIB // 2),
    'version 2, over the limit': ('0::/job\n', v2('job', GIB, 2 * GIB), 0),
    'version 2, a path of the outside': ('0::/docker/abc\n', v2(), 3 * GIB),
    'version 2, no file of use': ('0::/job\n', {f'{V2}/job/memory.max': GIB}, 16 * GIB),
    'version 1': ('5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n', v1('job'), 3 * GIB),
    'version 1, named together': ('4:cpu,memory:/job\n', v1('job'), 3 * GIB),
    'version 1, nested': (
        '4:memory:/a/b/c\n', v1('a/b/c', 9223372036854771712) | v1('a', 3 * GIB), 2 * GIB),
    'version 1, no limit': ('4:memory:/job\n', v1('job', 9223372036854771712), 16 * GIB),
    'version 1, a path of the outside': ('4:memory:/docker/abc\n', v1(), 3 * GIB),
    'version 1, files count as free': (
        '4:memory:/job\n', v1('job', stat=f'total_inactive_file {GIB // 4}\n'), 13 * GIB // 4),
    'both': ('4:memory:/job\n0::/\n', v1('job') | v2('', 2 * GIB), GIB),
    'more than there is': ('0::/job\n', v2('job', 99 * GIB), 16 * GIB),
    'nonsense': (
        'hello\n::\n0:\n', {f'{V2}/memory.max': 'much', f'{V2}/memory.current': ''}, 16 * GIB),
    'a path with colons': ('0::/a:b\n', v2('a:b'), 3 * GIB),
    'a path that climbs': ('0::/../../other\n', v2(), 3 * GIB),
    'no line of its own': ('', v1(), 3 * GIB)}

@pytest.mark.parametrize('case', FREE)
def test_limits_of_containers(tmp_path, free_in, case):
    cgroup, files, free = FREE[case]
    assert free_in(system(tmp_path, cgroup=cgroup, **files)) == free


def test_systems_that_do_not_tell(tmp_path, free_in):
    assert free_in(tmp_path) == 2 * GIB
    assert free_in(system(tmp_path, meminfo='MemTotal: 5 kB\n')) == 2 * GIB
    (tmp_path/'proc/meminfo').write_bytes(b'\xff\xfe')
    assert free_in(tmp_path) == 2 * GIB

def test_this_system_tells(): assert 0 < free_memory() <= psutil.virtual_memory().total


def test_no_memory_free_means_no_cache(pictures, monkeypatch):
    monkeypatch.setattr(cache, 'free_memory', lambda: 0)
    ds = data_set(pictures)
    assert ImageCache(ds, Resize(16), 'auto').fill().kept == 0
    with pytest.warns(UserWarning, match='0 of 32 images fit into 0 MiB'):
        assert ImageCache(ds, Resize(16), 'ram').fill().kept == 0
    assert decoder.number('/nowhere') is None
