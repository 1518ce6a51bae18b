"""However a file is damaged: it opens, or one `PictureError` names it; nothing hangs, nothing else
is raised."""
import functools
import io
import os
import random
import signal
import socket
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image, features

from sotavision.data.files import get_files, get_image_files
from sotavision.data.images import PictureError, PILImage, PILMask
from sotavision.data.survey import verify_images

pytestmark = [
    pytest.mark.filterwarnings('ignore::UserWarning'),
    pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning'),
]
FORMATS = {
    'PNG': 'png',
    'JPEG': 'jpg',
    'GIF': 'gif',
    'BMP': 'bmp',
    'TIFF': 'tif',
    'PPM': 'ppm',
    'TGA': 'tga',
    'ICO': 'ico',
    'WEBP': 'webp',
    'JPEG2000': 'jp2',
    'AVIF': 'avif',
}
HAVE = {
    k: v
    for k, v in FORMATS.items()
    if k not in ('WEBP', 'JPEG2000', 'AVIF')
    or features.check({'WEBP': 'webp', 'JPEG2000': 'jpg_2000', 'AVIF': 'avif'}[k])
}
MODES = {
    'PNG': ['RGB', 'RGBA', 'L', 'P', 'LA', '1', 'I;16'],
    'TIFF': ['RGB', 'L', 'I;16', 'F', 'CMYK', 'P', '1'],
    'GIF': ['P', 'L'],
    'JPEG': ['RGB', 'L', 'CMYK'],
    'BMP': ['RGB', 'L', 'P', '1'],
    'PPM': ['RGB', 'L', '1', 'I;16'],
    'TGA': ['RGB', 'RGBA', 'L'],
    'WEBP': ['RGB', 'RGBA'],
}
SIZES = [(1, 1), (2, 3), (17, 5), (64, 48)]
SECONDS = 5     # for one picture


@functools.cache
def whole(format, mode, size):
    a = np.random.RandomState(1).randint(0, 256, (size[1], size[0], 3), np.uint8)
    im = Image.fromarray(a)
    if mode == 'I;16': im = Image.fromarray((a[..., 0].astype(np.uint16)) * 9)
    elif mode == 'F': im = Image.fromarray(np.float32(a[..., 0] / 255))
    else: im = im.convert(mode)
    out = io.BytesIO()
    exif = Image.Exif(); exif[0x0112] = 6
    im.save(
        out,
        format,
        **(
            {'exif': exif}
            if format in ('JPEG', 'PNG', 'TIFF', 'WEBP') and mode not in ('F', 'I;16')
            else {}
        ),
    )
    return out.getvalue()


def cut(data, rng): return data[:rng.randint(0, len(data))]
def flip(data, rng):
    b = bytearray(data)
    for _ in range(rng.choice([1, 1, 3, 20])): b[rng.randrange(len(b))] = rng.randrange(256)
    return bytes(b)
def flip_head(data, rng):
    b = bytearray(data)
    for _ in range(rng.choice([1, 2, 8])):
        b[rng.randrange(min(64, len(b)))] = rng.choice([0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)])
    return bytes(b)
def other_head(data, rng):
    other = (
        whole(rng.choice(list(HAVE)), 'L' if rng.random() < .5 else 'RGB', (17, 5))
        if rng.random() < .5
        else rng.randbytes(40)
    )
    k = rng.randrange(1, 40)
    return other[:k] + data[k:]
def middle_gone(data, rng):
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:i] + data[j:]
def doubled(data, rng): return data + flip(data, rng)
def zeroed(data, rng):
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:i] + bytes(j - i) + data[j:]
def huge(data, rng):
    "A size field of a header says more than there is."
    b = bytearray(data)
    at = {b'\x89P': 16, b'BM': 18, b'GI': 6}.get(bytes(b[:2]), rng.randrange(min(40, len(b))))
    b[at:at + 4] = rng.choice([b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff', b'\0\0\0\0', b'\0\1\0\0'])
    return bytes(b)
DAMAGE = [cut, flip, flip, flip_head, other_head, middle_gone, doubled, zeroed, huge]


class Hangs(BaseException): "No `except Exception` swallows it."

def watched(f):
    "What `f` returns; `Hangs` where it takes too long. Only the main thread can be woken up."
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'SIGALRM'):
        return f()
    def ring(*_): raise Hangs(f'more than {SECONDS} s')
    before = signal.signal(signal.SIGALRM, ring); signal.alarm(SECONDS)
    try: return f()
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize('format', HAVE)
def test_damaged_pictures_open_or_are_named(tmp_path, format, often):
    rng = random.Random(format)
    path, seen = tmp_path/f'damaged.{HAVE[format]}', dict(opened=0, named=0)
    for i in range(often(70)):
        data = rng.choice(DAMAGE)(
            whole(format, rng.choice(MODES.get(format, ['RGB'])), rng.choice(SIZES)), rng
        )
        path.write_bytes(data)
        mode = rng.choice(['RGB', 'L', 'RGBA', None])
        try: im = watched(functools.partial(PILImage.create, path, mode))
        except PictureError as e:
            seen['named'] += 1
            assert str(path) in str(e)
        except Exception as e:
            raise AssertionError(
                f'{type(e).__name__}: {e}, from {data[:80]!r} … of {len(data)} bytes') from e
        else:
            seen['opened'] += 1
            assert im.size[0] > 0
            assert (mode is None or im.mode == mode and np.asarray(im).dtype == np.uint8)
        if i % 5 == 0:
            try: watched(lambda: PILMask.create(path))
            except PictureError as e: assert str(path) in str(e)
            assert verify_images([path]) in ([], [path])
    assert seen['named'] >= 20, seen


def test_noise_is_named(tmp_path, often):
    rng = random.Random(0)
    for _ in range(often(60)):
        (tmp_path/'noise.jpg').write_bytes(rng.randbytes(rng.choice([0, 1, 2, 7, 100, 3000])))
        with pytest.raises(PictureError, match='noise.jpg'):
            watched(lambda: PILImage.create(tmp_path / 'noise.jpg'))


# --- what is no file

def pipe(p): os.mkfifo(p)
def plug(p):
    here = os.getcwd()
    os.chdir(p.parent)                                      # names of sockets are short
    try: socket.socket(socket.AF_UNIX).bind(p.name)
    finally: os.chdir(here)
def to_device(p): p.symlink_to('/dev/zero')
def to_pipe(p): os.mkfifo(p.parent/'hidden'); p.symlink_to(p.parent/'hidden')
def folder(p): p.mkdir()

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
@pytest.mark.parametrize('make', [pipe, plug, to_device, to_pipe, folder])
@pytest.mark.parametrize(
    'opener',
    [PILImage.create, PILMask.create, lambda p: PILImage.create(str(p)),
     lambda p: verify_images([p])])
def test_what_is_no_file_is_refused_at_once(tmp_path, make, opener):
    make(tmp_path/'x.jpg')
    Image.new('RGB', (2, 2)).save(tmp_path/'y.jpg')
    assert get_image_files(tmp_path) == [tmp_path/'y.jpg']
    assert tmp_path/'x.jpg' not in get_files(tmp_path)
    start = time.time()
    try: bad = watched(lambda: opener(tmp_path/'x.jpg'))
    except PictureError as e:
        assert 'x.jpg' in str(
            e
        ) and 'is a folder' in str(
            e) if make is folder else 'is no file but a pipe or device' in str(e)
    else: assert bad == [tmp_path/'x.jpg']
    assert time.time() - start < 2


def test_links_to_files_are_files(tmp_path):
    (tmp_path/'a').mkdir(); Image.new('RGB', (2, 2)).save(tmp_path/'real.jpg')
    (tmp_path / 'a' / 'link.jpg').symlink_to(tmp_path / 'real.jpg')
    (tmp_path / 'a' / 'lost.jpg').symlink_to(tmp_path / 'nowhere.jpg')
    assert get_image_files(tmp_path/'a').map(lambda o: o.name) == ['link.jpg', 'lost.jpg']
    PILImage.create(tmp_path/'a'/'link.jpg')
    with pytest.raises(FileNotFoundError, match='lost.jpg'):
        PILImage.create(tmp_path / 'a' / 'lost.jpg')


@pytest.mark.parametrize('name', ['a\0b.jpg', 'x' * 300 + '.jpg'])
def test_impossible_names(name):
    with pytest.raises(OSError): PILImage.create(name)


def test_a_whole_number_that_became_a_float_is_hinted_at(tmp_path):
    with pytest.raises(FileNotFoundError, match='read as floats.*dtype=str'):
        PILImage.create(tmp_path / '100090.0.jpg')
    with pytest.raises(FileNotFoundError) as e: PILImage.create(tmp_path/'100090.jpg')
    assert 'floats' not in str(e.value)


# --- what is only large

@pytest.mark.parametrize('times', [1.5, 3])
def test_large_pictures_say_how_to_allow_them(tmp_path, monkeypatch, times):
    "Pillow warns above its limit, and refuses above twice that."
    Image.new('RGB', (30, 10)).save(tmp_path / 'large.png')
    Image.new('RGB', (3, 3)).save(tmp_path / 'small.png')
    (tmp_path / 'bad.png').write_bytes(b'?')
    paths = [tmp_path/f'{o}.png' for o in ('large', 'small', 'bad')]
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', int(300 / times))
    with warnings.catch_warnings():
        warnings.simplefilter('error', Image.DecompressionBombWarning)
        with pytest.raises(
            PictureError, match='large.png may be fine.*MAX_IMAGE_PIXELS = None'
        ) as e:
            PILImage.create(paths[0])
        assert 'delete' not in str(e.value) and 'damaged' not in str(e.value)
    if times > 2:
        with pytest.warns(
            UserWarning, match='1 of 3 are not listed, but cannot be opened yet: .*large.png'
        ):
            assert verify_images(paths) == [paths[2]]
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    PILImage.create(paths[0])
    assert verify_images(paths) == [paths[2]]


def test_out_of_memory_is_no_bad_picture(tmp_path, monkeypatch):
    Image.new('RGB', (3, 3)).save(tmp_path/'a.png')
    def full(*_): raise MemoryError
    monkeypatch.setattr(Image.Image, 'copy', full)
    with pytest.raises(MemoryError): PILImage.create(tmp_path/'a.png')


def test_out_of_memory_in_a_conversion_is_no_bad_picture(tmp_path, monkeypatch):
    Image.new('RGB', (3, 3)).save(tmp_path/'a.png')
    def full(*_): raise MemoryError
    monkeypatch.setattr('sotavision.data.images.convert', full)
    with pytest.raises(MemoryError): PILImage.create(tmp_path/'a.png')


def test_figures_and_backend_are_left_alone():
    import matplotlib
    import matplotlib.pyplot as plt

    from sotavision.data.show import show_image, show_images
    mine, before = plt.figure(), matplotlib.get_backend()
    ax = mine.subplots(); ax.plot([1, 2])
    open_before = set(plt.get_fignums())
    show_images([np.zeros((4, 4)), np.zeros((4, 4, 3))]); show_image(np.zeros((4, 4)))
    assert matplotlib.get_backend() == before and open_before < set(plt.get_fignums())
    assert len(plt.get_fignums()) == len(open_before) + 2
    assert mine.axes == [ax] and len(ax.lines) == 1 and not ax.images
    show_image(np.zeros((4, 4)), ax=ax)
    assert len(plt.get_fignums()) == len(open_before) + 2 and len(ax.images) == 1
    for n in set(plt.get_fignums()) - open_before | {mine.number}: plt.close(n)
