"Odd and broken pictures: each opens as it should, or fails with one clear error."
import io
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from sotavision.data.images import PictureError, PILImage, PILMask, to_image, to_pil
from sotavision.data.show import show_image
from sotavision.data.survey import verify_images

W, H = 13, 7   # odd, and not square
# Pillow grumbles about broken TIFF data
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.fixture
def photo():
    x = np.linspace(0, 255, W).astype(np.uint8)[None].repeat(H, 0)
    y = np.linspace(255, 0, H).astype(np.uint8)[:, None].repeat(W, 1)
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], 2))


def encoded(im, format, **options):
    out = io.BytesIO()
    im.save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
def test_every_mode_of_png_opens_as_rgb(photo, tmp_path, mode):
    photo.convert('L').convert(mode).save(tmp_path / 'a.png') if mode == 'I;16' else photo.convert(
        mode
    ).save(tmp_path / 'a.png')
    im = PILImage.create(tmp_path/'a.png')
    assert (im.mode, im.size, type(im)) == ('RGB', (W, H), Image.Image)
    assert PILImage.create(tmp_path/'a.png', mode='L').mode == 'L'


@pytest.mark.parametrize(
    'format, suffix',
    [('JPEG', 'jpg'), ('PNG', 'png'), ('BMP', 'bmp'), ('TIFF', 'tif'), ('WEBP', 'webp'),
     ('GIF', 'gif'), ('PPM', 'ppm')])
def test_every_format_shows_the_same_picture(photo, tmp_path, format, suffix):
    photo.save(
        tmp_path / f'a.{suffix}', format, **({'quality': 100} if format in ('JPEG', 'WEBP') else {})
    )
    got = np.asarray(PILImage.create(tmp_path/f'a.{suffix}')).astype(int)
    assert np.abs(got - np.asarray(photo)).mean() < 12


def test_grey_has_equal_channels(photo):
    a = np.asarray(PILImage.create(encoded(photo.convert('L'), 'JPEG')))
    assert (a[..., 0] == a[..., 1]).all() and (a[..., 0] == a[..., 2]).all()


def test_cmyk_jpeg_keeps_its_colours(photo):
    red = Image.new('RGB', (16, 16), (220, 20, 20))
    r, g, b = PILImage.create(encoded(red.convert('CMYK'), 'JPEG')).getpixel((8, 8))
    assert r > 180 and g < 60 and b < 60


def test_transparent_palette_goes_on_white():
    im = Image.new('P', (2, 1)); im.putpalette([0, 0, 0, 10, 20, 30]); im.putpixel((1, 0), 1)
    data = encoded(im, 'PNG', transparency=0)
    assert [PILImage.create(data).getpixel((x, 0)) for x in (0, 1)] == [
        (255, 255, 255),
        (10, 20, 30),
    ]
    assert [
        PILImage.create(data, mode='L').getpixel((0, 0)),
        PILImage.create(data, mode='RGBA').getpixel((0, 0))[3],
    ] == [255, 0]


def test_half_transparent_pixels_blend_with_white():
    assert PILImage.create(encoded(Image.new('LA', (1, 1), (0, 51)), 'PNG')).getpixel((0, 0)) == (
        204,
        204,
        204,
    )


def test_rgb_with_a_transparent_colour_goes_on_white():
    data = encoded(Image.new('RGB', (1, 1), (1, 2, 3)), 'PNG', transparency=(1, 2, 3))
    assert PILImage.create(data).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_orientation(photo, format, orientation):
    exif = Image.Exif(); exif[0x0112] = orientation
    data = encoded(photo, format, exif=exif)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert('RGB')
    got = PILImage.create(data)
    assert got.size == ((W, H) if orientation < 5 else (H, W)) and got.tobytes() == want.tobytes()
    assert PILImage.create(got).tobytes() == got.tobytes(), 'turned twice'


def test_callers_image_is_left_alone(photo):
    exif = Image.Exif(); exif[0x0112] = 6
    im = Image.open(io.BytesIO(encoded(photo, 'PNG', exif=exif)))
    assert PILImage.create(im).size == (H, W) and im.size == (W, H)


def test_broken_exif_does_not_spoil_the_picture(photo):
    for junk in (
        b'Exif\x00\x00II*\x00\xff\xff\xff\xff',
        b'Exif\x00\x00junk',
        b'Exif\x00\x00' + bytes(30),
        b'Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff' + b'\x01\x12' * 9,
    ):
        assert PILImage.create(encoded(photo, 'JPEG', exif=junk)).size == (W, H)


@pytest.mark.parametrize('format', ['PNG', 'TIFF', 'PPM'])
def test_16_bit_grey_is_scaled_not_clipped(format):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None]
    got = np.asarray(PILImage.create(encoded(Image.fromarray(ramp), format)))
    assert got.shape == (1, 256, 3) and np.abs(got[0, :, 0].astype(int) - np.arange(256)).max() == 0


def test_big_endian_16_bit_tiff():
    ramp = np.array([[0, 257, 65535]], dtype='>u2')
    im = Image.frombytes('I;16B', (3, 1), ramp.tobytes())
    assert [PILImage.create(encoded(im, 'TIFF')).getpixel((x, 0))[0] for x in range(3)] == [
        0,
        1,
        255,
    ]


def test_dark_16_bit_picture_stays_dark():
    """With the bits said, scaling does not depend on what is in the picture; without, there is a
    warning."""
    assert PILImage.create(np.full((2, 2), 257, dtype=np.uint16), bits=16).getpixel((0, 0)) == (
        1,
        1,
        1,
    )
    with pytest.warns(UserWarning, match='read as 10 bits'):
        PILImage.create(np.full((2, 2), 257, dtype=np.uint16))


def test_float_tiff():
    assert (
        PILImage.create(
            encoded(Image.fromarray(np.array([[0, .5, 1]], dtype=np.float32)), 'TIFF')
        ).getpixel((1, 0))
        == (128,) * 3
    )
    for bad in (7., -1., float('nan')):
        with pytest.raises(PictureError, match='0 to 1'):
            PILImage.create(
                encoded(Image.fromarray(np.array([[0, bad]], dtype=np.float32)), 'TIFF')
            )


@pytest.mark.parametrize('format', ['GIF', 'PNG', 'WEBP', 'TIFF'])
def test_first_frame_of_a_film(format):
    frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'blue', 'green')]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    r, g, b = PILImage.create(data).getpixel((4, 4))
    assert r > 240 and g < 20 and b < 20


def test_sources(photo, tmp_path):
    photo.save(tmp_path/'ä b.png')
    data, want = (tmp_path/'ä b.png').read_bytes(), photo.tobytes()
    for source in (
        tmp_path / 'ä b.png',
        str(tmp_path / 'ä b.png'),
        data,
        bytearray(data),
        memoryview(data),
        io.BytesIO(data),
        photo,
        np.asarray(photo),
        to_image(photo),
        to_image(photo) / 255,
    ):
        assert PILImage.create(source).tobytes() == want, type(source)
    with open(tmp_path/'ä b.png', 'rb') as f: assert PILImage.create(f).tobytes() == want


def test_arrays():
    assert PILImage.create(np.array([[True, False]])).getpixel((0, 0)) == (255,) * 3
    assert PILImage.create(np.array([[[0., .5, 1.]]])).getpixel((0, 0)) == (0, 128, 255)
    assert PILImage.create(np.zeros((3, 2, 1), dtype=np.uint8)).size == (2, 3)
    assert PILImage.create(np.zeros((1, 1, 4), dtype=np.uint8)).getpixel((0, 0)) == (255,) * 3
    for bad, why in [
        (np.zeros(3), 'shape'),
        (np.zeros((3, 4, 5)), 'shape'),
        (np.zeros((0, 3)), 'shape'),
        (np.full((2, 2), 2.), '0 to 1'),
        (np.full((2, 2), np.nan), '0 to 1'),
        (np.zeros((2, 2), dtype=np.int64), 'int64'),
    ]:
        with pytest.raises(ValueError, match=why):
            PILImage.create(bad)


@pytest.mark.parametrize(
    'data, why',
    [(b'', 'is empty'), (b'hello', 'not an image'), (b'  <html>', 'web page'),
     (b'<svg xmlns="x"/>', 'SVG'), (b'%PDF-1.7', 'PDF'),
     (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
     (b'PK\x03\x04' + bytes(40), 'zip'), (b'\0\0\0\x18ftypheic' + bytes(40), 'HEIC'),
     (b'\xff\xd8\xff', 'a.jpg'), (bytes(1000), 'not an image')])
def test_what_is_no_picture(tmp_path, data, why):
    (tmp_path/'a.jpg').write_bytes(data)
    with pytest.raises(PictureError, match=f'(?s){why}.*verify_images') as e:
        PILImage.create(tmp_path / 'a.jpg')
    assert str(tmp_path/'a.jpg') in str(e.value)
    with pytest.raises(PictureError): PILImage.create(data)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere.jpg'):
        PILImage.create(tmp_path / 'nowhere.jpg')
    with pytest.raises(PictureError, match='is a folder'): PILImage.create(tmp_path)


def test_huge_picture_is_refused_by_name(tmp_path, monkeypatch, photo):
    photo.save(tmp_path/'bomb.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 20)
    with pytest.raises(PictureError, match='bomb.png.*exceeds limit'):
        PILImage.create(tmp_path / 'bomb.png')


@pytest.mark.parametrize('format', ['JPEG', 'PNG', 'GIF', 'WEBP', 'TIFF', 'BMP', 'PPM'])
def test_damage_gives_a_picture_or_a_picture_error(photo, format):
    data, rng = encoded(photo.resize((40, 30)), format), random.Random(0)
    cuts = [data[:n] for n in range(0, len(data), max(1, len(data) // 40))]
    flips = []
    for _ in range(80):
        a = bytearray(data)
        for _ in range(3): a[rng.randrange(len(a))] = rng.randrange(256)
        flips.append(bytes(a))
    failed = 0
    for broken in cuts + flips:
        try: assert PILImage.create(broken).mode == 'RGB'
        except PictureError: failed += 1
    assert failed > 20


class Broken(torch.utils.data.Dataset):
    def __init__(self, fn): self.fn = fn
    def __len__(self): return 1
    def __getitem__(self, i): return to_image(PILImage.create(self.fn))


def test_error_survives_a_worker_process(tmp_path):
    (tmp_path/'broken.jpg').write_bytes(b'junk')
    with pytest.raises(PictureError, match='(?s)worker.*broken.jpg is not an image'):
        next(iter(torch.utils.data.DataLoader(Broken(tmp_path / 'broken.jpg'), num_workers=1)))
    assert str(pickle.loads(pickle.dumps(PictureError('x')))) == 'x'


def test_verify_images_keeps_order_and_types(photo, tmp_path):
    names = [str(tmp_path/f'{i}.png') for i in range(30)]
    for i, n in enumerate(names): photo.save(n) if i % 7 else open(n, 'wb').close()
    assert verify_images(names) == verify_images(iter(names), max_workers=1) == names[::7]


def test_masks_keep_their_indices(tmp_path):
    a = np.array([[0, 1, 2], [11, 255, 7]], dtype=np.uint8)
    p = Image.fromarray(a).convert('P'); p.putpalette([5, 6, 7] * 256)
    for im in (Image.fromarray(a), p):
        im.save(tmp_path/'m.png')
        assert (np.asarray(PILMask.create(tmp_path/'m.png')) == a).all()
    assert (
        np.asarray(PILMask.create(encoded(Image.fromarray(a.astype(np.uint16)), 'PNG'))) == a
    ).all()
    for bad in (Image.new('RGB', (2, 2)), Image.new('LA', (2, 2))):
        with pytest.raises(PictureError, match='one number per pixel'): PILMask.create(bad)


@pytest.mark.parametrize('shape', [(5, 4), (1, 5, 4), (3, 5, 4), (4, 5, 4)])
@pytest.mark.parametrize(
    'dtype', [torch.uint8, torch.float32, torch.float16, torch.bfloat16, torch.bool])
def test_show_and_to_pil_take_any_tensor(shape, dtype):
    import matplotlib.pyplot as plt
    x = torch.ones(shape).to(dtype).requires_grad_(dtype.is_floating_point)
    assert to_pil(x).size == (4, 5)
    show_image(x); plt.close('all')


def test_round_trip(photo):
    for im in (photo, photo.convert('L'), photo.convert('RGBA')):
        assert to_pil(to_image(im)).tobytes() == im.tobytes()
