"Pictures of more than 8 bits keep their levels, whatever holds them, and a set has one scale."
import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.images import PictureError, PILImage, PILImageBW, to_pil
from sotavision.data.survey import verify_images

RAMP = np.linspace(100, 4095, 919).astype(np.uint16)[None].repeat(2, 0)


def stored(a, format='TIFF', mode=None):
    im = (
        Image.fromarray(a)
        if mode is None
        else Image.frombytes(mode, a.shape[::-1], a.astype('>u2').tobytes())
    )
    out = io.BytesIO()
    im.save(out, format)
    return out.getvalue()

HOLDERS = {  # who holds values of 16 bits, whatever number of them counts
    'TIFF': lambda a: stored(a),
    'big-endian TIFF': lambda a: stored(a, mode='I;16B'),
    'PNG': lambda a: stored(a, 'PNG'),
    'PGM': lambda a: stored(a, 'PPM'),
    'TIFF of 32 bits': lambda a: stored(a.astype(np.int32)),
    'Pillow I;16': Image.fromarray,
    'Pillow I': lambda a: Image.fromarray(a.astype(np.int32)),
    'array': lambda a: a,
    'array (H, W, 1)': lambda a: a[..., None],
    'array (H, W, 3)': lambda a: np.stack([a] * 3, 2),
    'tensor': lambda a: torch.from_numpy(a)[None],
    'tensor (3, H, W)': lambda a: torch.from_numpy(np.stack([a] * 3)),
}

def levels(im): return len(np.unique(np.asarray(im)[..., 0]))


@pytest.mark.parametrize('holder', HOLDERS)
def test_12_bits_keep_their_levels(holder):
    source = HOLDERS[holder](RAMP)
    with pytest.warns(
        UserWarning, match='none of them above 4095: they are read as 12 bits'
    ) as seen:
        im = PILImage.create(source)
    assert len(seen) == 1 and levels(im) > 240 and im.getpixel((918, 0)) == (255,) * 3
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        asked = PILImage.create(source, bits=12)
        assert (
            asked.tobytes()
            == im.tobytes()
            == np.rint(np.stack([RAMP] * 3, 2) * (255 / 4095)).astype(np.uint8).tobytes()
        )
        assert levels(PILImage.create(source, bits=16)) < 20
        assert PILImage.create(source, mode='L', bits=12).mode == 'L'


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('holder', HOLDERS)
def test_the_fewest_bits_that_hold_the_largest_value(bits, holder):
    for top in (2**bits - 1, 2**(bits - 1) + 1 if bits > 8 else 200):
        a = np.array([[0, top // 2, top]], dtype=np.uint16)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            got = PILImage.create(HOLDERS[holder](a))
        found = next(b for b in (8, 10, 12, 14, 16) if top < 2**b)
        assert [got.getpixel((x, 0))[0] for x in range(3)] == np.rint(
            a[0] / ((2**found - 1) / 255)
        ).tolist()
        assert len(seen) == (found < 16)
        assert got.tobytes() == PILImage.create(HOLDERS[holder](a), bits=found).tobytes()


@pytest.mark.parametrize('holder', HOLDERS)
def test_more_than_was_said_is_refused(holder):
    with pytest.raises(
        ValueError if 'array' in holder or 'tensor' in holder else PictureError,
        match='to 4095, where 0 to 1023 were expected',
    ):
        PILImage.create(HOLDERS[holder](RAMP), bits=10)


def test_black_is_black_and_no_guess():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert PILImage.create(np.zeros((2, 2), np.uint16)).getpixel((0, 0)) == (0, 0, 0)


def test_whole_numbers_of_32_bits_want_to_be_told():
    wide = np.array([[0, 70000]], dtype=np.int32)
    with pytest.raises(PictureError, match='say how many bits'): PILImage.create(stored(wide))
    assert PILImage.create(stored(wide), bits=17).getpixel((1, 0))[0] == round(70000 / 131071 * 255)
    for low in (stored(wide - 5), Image.fromarray(wide - 5)):
        with pytest.raises(PictureError, match='from -5'): PILImage.create(low, bits=17)
    for dtype in (np.int16, np.int64, np.uint32):
        with pytest.raises(ValueError, match=f'{np.dtype(dtype)}.*bits='):
            PILImage.create(np.ones((2, 2), dtype))
        assert (
            PILImage.create(np.full((2, 2), 4095, dtype).astype(dtype), bits=12).getpixel((0, 0))
            == (255,) * 3
        )


def test_floats_are_shares_or_have_bits():
    for a in (RAMP / 4095., (RAMP / 4095).astype(np.float32)):
        assert levels(PILImage.create(a)) > 240
        assert levels(PILImage.create(torch.from_numpy(a)[None])) > 240
    a = RAMP.astype(np.float32)
    for source in (a, Image.fromarray(a), stored(a), torch.from_numpy(a)[None]):
        with pytest.raises(
            ValueError if not isinstance(source, (bytes, Image.Image)) else PictureError,
            match='0 to 1 .*bits=',
        ):
            PILImage.create(source)
        assert levels(PILImage.create(source, bits=12)) > 240
    for source in (torch.full((3, 2, 2), 1.2), torch.full((3, 2, 2), -.5), np.full((2, 2), 1.2)):
        with pytest.raises(ValueError, match='0 to 1'): PILImage.create(source)
    # rounding
    assert PILImage.create(torch.full((3, 2, 2), 1 + 1e-6)).getpixel((0, 0)) == (255,) * 3


def test_8_bits_are_left_alone():
    a = np.arange(0, 120, dtype=np.uint8).reshape(10, 12)
    for source in (a, stored(a), stored(a, 'PNG'), torch.from_numpy(a)[None]):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert (np.asarray(PILImage.create(source, bits=12))[..., 0] == a).all()
            assert (np.asarray(PILImageBW.create(source)) == a).all()


def test_colours_of_16_bits():
    import struct
    import zlib
    def png(top):     # Pillow reads such pictures and writes none
        rows = b''.join(b'\0' + np.linspace(0, top, 30).astype('>u2').tobytes() for _ in range(4))
        chunk = lambda kind, data: (
            struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
        )
        return (
            b'\x89PNG\r\n\x1a\n'
            + chunk(b'IHDR', struct.pack('>IIBBBBB', 10, 4, 16, 2, 0, 0, 0))
            + chunk(b'IDAT', zlib.compress(rows))
            + chunk(b'IEND', b'')
        )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert PILImage.create(png(65535)).getpixel((9, 0))[2] == 255
        PILImage.create(png(4095), bits=16)
    with pytest.warns(UserWarning, match='Colors in 16 bits'): PILImage.create(png(4095))
    with pytest.raises(PictureError, match='needs the lower ones'):
        PILImage.create(png(4095), bits=12)


def test_a_loop_warns_once():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('default')
        for i in range(50): PILImage.create(RAMP - i)
    assert len(seen) == 1


def test_checking_a_folder_does_not_warn(tmp_path):
    (tmp_path / 'a.tif').write_bytes(stored(RAMP))
    (tmp_path / 'b.tif').write_bytes(stored(RAMP.astype(np.int32) * 100))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert verify_images([tmp_path/'a.tif']) == []
    assert verify_images([tmp_path/'b.tif']) == [tmp_path/'b.tif']       # needs bits


def test_bytes_are_not_cut():
    for x in (torch.full((1, 2, 2), 4000, dtype=torch.int32), torch.full((2, 2), -1)):
        with pytest.raises(ValueError, match='bytes go from 0 to 255'): to_pil(x)
    assert to_pil(torch.full((2, 2), 200)).getpixel((0, 0)) == 200


# --- sets

@pytest.fixture
def scans(tmp_path):
    "The first pictures are dark: alone they would be taken for 8 or 10 bits."
    for i, top in enumerate([200, 900, 3000, 4000, 3500, 150, 2000, 3999]):
        a = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
        (tmp_path/f'{i}{"ab"[i % 2]}.tif').write_bytes(stored(a, mode='I;16B' if i % 3 else None))
    return tmp_path

def block(bits=None, **kw):
    return DataBlock(
        (ImageBlock(bits=bits), CategoryBlock),
        get_y=lambda o: o.stem[-1],
        splitter=lambda o: (range(6), [6, 7]),
        **kw,
    )

@pytest.mark.parametrize('cache', [None, 'ram'])
def test_a_set_has_one_scale(scans, cache):
    files = sorted(scans.glob('*.tif'))
    with pytest.warns(UserWarning, match='read as 12 bits') as seen:
        dls = block().dataloaders(files, bs=2, device='cpu', cache=cache)
    assert sum('12 bits' in str(o.message) for o in seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tops = {f: PILImage.create(f, bits=12).getextrema()[0][1] for f in files}
        for dl, these in (
            (dls.valid, files[6:]),
            (dls.train.new(), files[:6]),
            (dls.test_dl(files), files),
        ):
            got = [round(255 * float(x.max())) for b in dl for x in b[0]]
            assert got == [tops[f] for f in these], (
                'the same scale in training, validation and for new images'
            )
    assert dls.train_ds.blocks[0].bits == 12


def test_bits_that_are_said_are_taken(scans):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ds = block(bits=14).datasets(sorted(scans.glob('*.tif')))
        assert [ds.train[i][0].getextrema()[0][1] for i in range(6)] == [
            round(t / 16383 * 255) for t in [200, 900, 3000, 4000, 3500, 150]
        ]
    with pytest.raises(PictureError, match='0 to 1023 were expected'):
        list(block(bits=10).datasets(sorted(scans.glob('*.tif'))).train[2])


def test_a_brighter_picture_than_those_looked_at_is_refused(scans):
    (scans/'9a.tif').write_bytes(stored(RAMP * 16))
    with pytest.warns(UserWarning, match='12 bits'):
        ds = DataBlock(
            (ImageBlock, CategoryBlock),
            get_y=lambda o: o.stem[-1],
            splitter=lambda o: (range(8), [8]),
        ).datasets(sorted(scans.glob('*.tif')))
    with pytest.raises(PictureError, match='9a.tif.*0 to 4095 were expected'): ds.valid[0]


def test_other_sets_are_not_looked_at(tmp_path):
    for i in range(4): Image.new('RGB', (4, 4), (i, i, i)).save(tmp_path/f'{i}{"ab"[i % 2]}.png')
    opened, real = [], Image.open
    files = sorted(tmp_path.glob('*.png'))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(Image, 'open', lambda f, *a, **k: opened.append(f) or real(f, *a, **k))
        DataBlock(
            (ImageBlock, CategoryBlock),
            get_y=lambda o: o.stem[-1],
            splitter=lambda o: ([0, 1], [2, 3]),
        ).datasets(files)
    assert opened == files[:1]
