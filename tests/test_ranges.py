"""Values that a transform cannot mean are refused, by every door: cut to 0…1 or normalized twice
they would be wrong in silence."""
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from sotavision.augment.affine import Flip, Rotate
from sotavision.augment.color import Brightness, Contrast, Hue, Saturation
from sotavision.augment.erasing import RandomErasing
from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import Resize, aug_transforms
from sotavision.core.transform import Transform, join
from sotavision.data.collate import TrainOnly
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.loaders import DataLoader

LIGHT = [
    Brightness(p=1, draw=.5),
    Contrast(p=1, draw=1.),
    Saturation(p=1, draw=1.),
    Hue(p=1, draw=0.),
    Brightness(p=1, draw=.5, space='linear'),
    *join([Brightness(p=1, draw=.5), Contrast(p=1, draw=1.)]),
]
UNIT = torch.rand(4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
NORMALIZED = (UNIT - .45) / .225
WRONG = {
    'normalized': NORMALIZED,
    'up to 255': UNIT * 255,
    '-1 to 1': UNIT * 2 - 1,
    'up to 4095': UNIT * 4095,
    'nan': UNIT.clone().fill_(float('nan')),
}

def stats(n=None): return n or Normalize.from_stats(*imagenet_stats)


class Floats:
    "A data set whose pictures are floats already."
    vocab, c = None, 2
    def __init__(self, x): self.x = x
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return tv_tensors.Image(self.x[i]), i % 2

def loader(x, batch_tfms=None, item_tfms=None, split_idx=0, **kw):
    return DataLoader(
        Floats(x),
        bs=2,
        batch_tfms=batch_tfms,
        item_tfms=item_tfms,
        split_idx=split_idx,
        device='cpu',
        **kw,
    )


# --- bare calls

@pytest.mark.parametrize('t', LIGHT, ids=str)
@pytest.mark.parametrize('what', WRONG)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_light_refuses_what_it_would_cut(t, what, dtype):
    for x in (WRONG[what].to(dtype), tv_tensors.Image(WRONG[what][0].to(dtype))):
        for split_idx, part in itertools.product((0, 1), (x, (tv_tensors.Image(x), 3))):
            with pytest.raises(ValueError, match='from 0 to 1, and got floats'):
                t(part, split_idx=split_idx)


@pytest.mark.parametrize('t', LIGHT, ids=str)
def test_light_that_changes_nothing_changes_nothing(t):
    for x in (UNIT, UNIT.double(), (UNIT * 255).to(torch.uint8), UNIT * 0, UNIT * 0 + 1):
        assert t(x, split_idx=0).double().allclose(x.double(), atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.int16, torch.int32, torch.int64, torch.uint16])
def test_whole_numbers_that_are_no_bytes_are_refused(dtype):
    for top in (1, 255, 4095):
        with pytest.raises(ValueError, match='whole numbers from'):
            LIGHT[0]((UNIT * top).to(dtype), split_idx=0)
        if top > 1:
            with pytest.raises(ValueError, match='divide them by 255'):
                stats()((UNIT * top).to(dtype))


def test_pillow_pictures_of_more_than_8_bits_are_refused():
    for im in (
        Image.fromarray(np.full((4, 4), 3000, np.uint16)),
        Image.fromarray(np.full((4, 4), 70, np.int32)),
        Image.fromarray(np.full((4, 4), 70, np.float32)),
    ):
        with pytest.raises(ValueError, match='from 0 to 1, and got'):
            LIGHT[0](im, split_idx=0)


def test_mend_fits_the_values():
    with pytest.raises(ValueError, match='let that come after'): LIGHT[0](NORMALIZED, split_idx=0)
    with pytest.raises(ValueError, match='divide them by'): LIGHT[0](UNIT * 255, split_idx=0)


def test_what_sharp_interpolation_adds_is_no_reason():
    x = torch.rand(2, 3, 32, 32).round()                    # the hardest edges there are
    for t in aug_transforms(mode='bicubic', max_zoom=2., p_affine=1., p_lighting=1.):
        x = t(x, split_idx=0)
    assert x.min() >= 0 and x.max() <= 1


@pytest.mark.parametrize('what', ['normalized', 'up to 255', '-1 to 1', 'up to 4095', 'nan'])
def test_normalize_refuses_what_was_normalized_and_what_is_no_share(what):
    for n in (stats(), Normalize([.5] * 3, [.5] * 3)):
        with pytest.raises(ValueError, match='is about values from 0 to 1'): n(WRONG[what])


def test_normalize_takes_what_its_statistics_are_about():
    m, s = ([o * 255 for o in v] for v in imagenet_stats)
    want = stats()(UNIT)
    assert Normalize(m, s)(UNIT * 255).allclose(want, atol=1e-4)
    assert stats()((UNIT * 255).to(torch.uint8)).allclose(want, atol=.02)
    with pytest.raises(ValueError, match='divide mean and std by 255'): Normalize(m, s)(UNIT)
    with pytest.raises(ValueError, match='divide mean and std by 255'):
        Normalize(m, s)((UNIT * 255).to(torch.uint8))
    # statistics of the data themselves are about the data
    for x in (NORMALIZED, UNIT * 4095 - 1000):
        own = Normalize(); own.setup((x,))
        assert own(x).mean().abs() < 1e-3 and (own(x).std() - 1).abs() < .01
    assert Normalize([0] * 3, [1] * 3)(NORMALIZED).equal(NORMALIZED)
    y = torch.tensor([0., 1.])
    assert Normalize(m, s)((tv_tensors.Image(UNIT * 255), y))[1] is y


def test_erasing_refuses_where_its_noise_is_none():
    for x in (UNIT, NORMALIZED, (UNIT * 255).to(torch.uint8)): RandomErasing(p=1)(x, split_idx=0)
    for x in (UNIT * 255, UNIT * 4095 - 2000, (UNIT * 255).to(torch.int32)):
        with pytest.raises(ValueError, match='covers with noise'):
            RandomErasing(p=1)(x, split_idx=0)


# --- loaders: every way in

class Twice(torch.nn.Module):
    "As a library of somebody else does it: no name gives it away."
    def forward(self, x): return tv_tensors.Image((x[0] - .45) / .225), *x[1:]

def sequence():
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*imagenet_stats)])

FIRST = {
    'torchvision': lambda: v2.Normalize(*imagenet_stats),
    'composed': sequence,
    'a function': lambda: lambda b: Twice()(b),
    'a module': Twice,
    'in training only': lambda: TrainOnly(v2.Normalize(*imagenet_stats)),
}
THEN = {
    'light': lambda: LIGHT[0],
    'joined light': lambda: aug_transforms(),
    'in training only': lambda: TrainOnly(Brightness()),
    'hue': lambda: Hue(),
}

@pytest.mark.parametrize('first', FIRST)
@pytest.mark.parametrize('then', THEN)
@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
def test_colour_after_a_normalization_is_refused(first, then, dtype):
    x = UNIT if dtype == torch.float32 else (UNIT * 255).to(torch.uint8)
    tfms = [FIRST[first](), *(o if isinstance(o := THEN[then](), list) else [o])]
    for door in (
        lambda dl: next(iter(dl)),
        lambda dl: dl.one_batch(),
        lambda dl: dl.repeated(2),
        lambda dl: dl.new(split_idx=0).one_batch(),
    ):
        with pytest.raises(ValueError, match='let that come after'):
            door(loader(x, tfms))


@pytest.mark.parametrize('first', FIRST)
@pytest.mark.parametrize('dtype', [torch.float32, torch.uint8])
def test_two_normalizations_are_refused(first, dtype):
    x = UNIT if dtype == torch.float32 else (UNIT * 255).to(torch.uint8)
    with pytest.raises(ValueError, match='normalized before|normalize twice'):
        next(iter(loader(x, [FIRST[first](), stats()])))


@pytest.mark.parametrize('then', THEN)
def test_floats_of_the_data_set_are_looked_at(then):
    tfms = THEN[then]()
    next(iter(loader(UNIT, tfms)))
    for what in ('normalized', 'up to 255', '-1 to 1'):
        with pytest.raises(ValueError, match='and got floats'):
            next(iter(loader(WRONG[what], tfms)))
        with pytest.raises(ValueError, match='values from 0 to 1'):
            next(iter(loader(WRONG[what], [Flip(), stats()])))
    with pytest.raises(ValueError, match='covers with noise'):
        next(iter(loader(UNIT * 255, RandomErasing(p=1))))


@pytest.mark.parametrize('door', ['item', 'item, composed', 'batch'])
def test_a_block_refuses_it_too(tmp_path, door):
    for i in range(8):
        Image.fromarray(np.random.RandomState(i).randint(0, 256, (20, 20, 3), np.uint8)).save(
            tmp_path / f'{i}.png'
        )
    scale = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    tfms = {
        'item': [Resize(16), scale, v2.Normalize(*imagenet_stats)],
        'item, composed': [Resize(16), v2.Compose([scale, v2.Normalize(*imagenet_stats)])],
        'batch': [Resize(16)],
    }[door]
    before = [v2.Normalize(*imagenet_stats)] if door == 'batch' else []
    make = lambda *batch_tfms: DataBlock(
        (ImageBlock, CategoryBlock),
        get_y=lambda o: int(o.stem) % 2,
        splitter=lambda o: (range(4), range(4, 8)),
        item_tfms=tfms,
        batch_tfms=[*before, *batch_tfms],
    ).dataloaders(sorted(tmp_path.glob('*.png')), bs=4, device='cpu')
    with pytest.raises(ValueError, match='let that come after'):
        next(iter(make(*aug_transforms()).train))
    with pytest.raises(ValueError, match='let that come after'):
        next(iter(make(*aug_transforms()).valid))
    if door != 'batch':
        with pytest.raises(ValueError, match='normalized before'): next(iter(make(stats()).train))
    make(Flip(), Rotate(), RandomErasing(p=1)).one_batch()      # what does not mind
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_y=lambda o: int(o.stem) % 2,
        splitter=lambda o: (range(4), range(4, 8)),
        item_tfms=tfms,
        batch_tfms=[*before, Brightness()],
    )
    with pytest.raises(ValueError, match='let that come after'):
        block.summary(sorted(tmp_path.glob('*.png')))


def test_normalization_after_colour_is_fine():
    dl = loader(
        (UNIT * 255).to(torch.uint8),
        [*aug_transforms(), v2.Normalize(*imagenet_stats), RandomErasing(p=1)],
    )
    assert next(iter(dl))[0].min() < -1
    dl = loader(UNIT, [v2.GaussianBlur(3), *aug_transforms(), stats(), RandomErasing(p=1)])
    assert next(iter(dl))[0].min() < -1


# --- how often

class Watched(Transform):
    "Counts how often a loader asks, and with what."
    order, fresh = 40, True
    def __init__(self): self.asked = []
    def accepts(self, x): self.asked.append(x.dtype)

@pytest.mark.parametrize(
    'first, looks',
    [(None, [torch.uint8]), (Flip(), [torch.uint8]), (v2.GaussianBlur(3), [torch.float32])], ids=str
)
def test_a_loader_asks_once_and_looks_only_where_it_does_not_know(first, looks):
    dl = loader((UNIT * 255).to(torch.uint8), [o for o in (first, Watched()) if o])
    for _ in range(3): list(dl)
    dl.one_batch()
    assert next(t for t in dl.batch_tfms if isinstance(t, Watched)).asked == looks


def test_a_new_list_of_transforms_is_asked_again():
    dl = loader(UNIT, [Flip()])
    list(dl)
    w = Watched(); w.in_loader = True
    dl.batch_tfms = [w]; list(dl); list(dl)
    assert dl.batch_tfms[0].asked == [torch.float32]


def test_in_training_only_asks_no_more_often():
    inner = Watched()
    dl = loader(UNIT, TrainOnly(inner))
    for _ in range(3): list(dl)
    assert inner.asked == [torch.float32]
