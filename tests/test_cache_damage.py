"Damage in a file of the image cache is noticed, mended, and changes no batch."
import numpy as np
import pytest
from PIL import Image

from cached import TFMS, draw_pictures, loaders, passes, same, set_home  # noqa: F401 (fixtures)
from sotavision.augment.resize import Resize
from sotavision.core.rng import set_seed
from sotavision.data import cache_file
from sotavision.data.cache import ImageCache
from sotavision.data.datablock import DataBlock
from sotavision.data.files import parent_label

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
    with pytest.warns(UserWarning, match=f'{path.name} was damaged: all images are decoded anew'):
        if workers: again = passes(dls)
        else:
            with pytest.warns(UserWarning, match=f'{path.name} is damaged: images in it'):
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
        UserWarning, match='damaged, or not a complete cache: the images are decoded anew'
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
