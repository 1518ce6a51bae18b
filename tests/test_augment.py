"""The augmentation engine as a whole: through a DataBlock, with masks and points, against
torchvision, on bad input.

The chapters test each transform by itself; here they meet.
"""
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from sotavision.all import (
    Brightness,
    CategoryBlock,
    ComposedAffine,
    Contrast,
    DataBlock,
    DataLoader,
    Flip,
    ImageBlock,
    KeyPoints,
    Normalize,
    RandomErasing,
    RandomResizedCrop,
    Resize,
    Rotate,
    TrainOnly,
    Transform,
    Warp,
    Zoom,
    aug_transforms,
    imagenet_stats,
    set_seed,
)
from sotavision.augment.affine import tilt

H, W = 90, 120

# torchvision has them from 0.23 on
def points(xy, canvas_size): return KeyPoints(xy, canvas_size=canvas_size) if KeyPoints else xy

def dot(x:float, y:float):
    "A picture with one bright dot, its mask and its place."
    rows, cols = torch.arange(H)[:, None], torch.arange(W)
    near = (-((cols - x)**2 + (rows - y)**2) / 12).exp()
    return (
        tv_tensors.Image((near * 255).to(torch.uint8).expand(3, -1, -1).contiguous()),
        tv_tensors.Mask((near > .5).to(torch.uint8)),
        points(torch.tensor([[x, y]]), canvas_size=(H, W)),
    )

class Dots:
    "A data set of dots in the middle part of the picture."
    vocab, c = None, 2
    def __init__(self, n=32):
        g = torch.Generator().manual_seed(0)
        self.places = (torch.rand(n, 2, generator=g) * .4 + .3) * torch.tensor([W, H])
    def __len__(self): return len(self.places)
    def __getitem__(self, i): return dot(*self.places[i].tolist())

def loader(batch_tfms, item_tfms=None, split_idx=0, bs=16):
    return DataLoader(
        Dots(), bs=bs, item_tfms=item_tfms, batch_tfms=batch_tfms, split_idx=split_idx, device='cpu'
    )

def centre(im):
    "Where the brightness of a picture lies, x and y."
    g = (im.as_subclass(torch.Tensor).mean(0) - .2).clamp(min=0)
    return (
        torch.stack(
            [
                (g.sum(0) * torch.arange(g.shape[1])).sum(),
                (g.sum(1) * torch.arange(g.shape[0])).sum(),
            ]
        )
        / g.sum()
    )

needs_points = pytest.mark.skipif(not KeyPoints, reason='this torchvision has no KeyPoints')

# --- pictures, masks and points stay together

@needs_points
@pytest.mark.parametrize(
    'item',
    [None, Resize(80), Resize((80, 100), 'squish'), Resize(90, 'pad', 'zeros'),
     RandomResizedCrop(80, .5)], ids=str)
@pytest.mark.parametrize('size', [None, 64])
def test_the_dot_is_found_where_its_point_says(item, size):
    set_seed(0)
    tfms = aug_transforms(mult=1.5, max_zoom=1.3, size=size, pad_mode='zeros', max_lighting=0)
    seen, far = 0, 0.
    for x, m, p in loader(tfms, item):
        assert x.dtype == torch.float32 and m.dtype == torch.int64
        assert set(m.unique().tolist()) <= {0, 1, 255}   # void beyond the edge
        assert tuple(p.canvas_size) == tuple(x.shape[-2:]) == tuple(m.shape[-2:])
        for im, mask, xy in zip(x, m, p.as_subclass(torch.Tensor)[:, 0]):
            h, w = im.shape[-2:]
            if xy.isnan().any() or not (9 < xy[0] < w - 9 and 9 < xy[1] < h - 9): continue
            seen, far = seen + 1, max(far, (centre(im) - xy).abs().max().item())
            assert mask[round(xy[1].item()), round(xy[0].item())] == 1
    assert seen >= 16 and far < 1

@needs_points
def test_a_point_that_leaves_is_nan_and_one_that_stays_is_not():
    im, _, p = dot(30., 45.)
    assert Zoom(draw=1., p=1)((im, p), split_idx=0)[1].allclose(p, atol=1e-3)
    set_seed(0)
    left = torch.stack(
        [Zoom(draw=3., p=1)((im, p), split_idx=0)[1].isnan().any() for _ in range(40)]
    )
    assert left.any() and not left.all()

def test_a_batch_of_masks_keeps_its_codes_and_its_type():
    x = tv_tensors.Image(torch.rand(6, 3, 40, 56))
    m = tv_tensors.Mask(torch.randint(0, 3, (6, 40, 56)) * 7)
    set_seed(0)
    for t in aug_transforms(mult=3, size=32): x, m = t((x, m), split_idx=0)
    assert m.shape == (6, 32, 32) and m.dtype == torch.int64
    assert set(m.unique().tolist()) <= {0, 7, 14}

# --- in a block

@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        for name in ('a', 'b'):
            (tmp_path/split/name).mkdir(parents=True)
            for k in range(6):
                Image.fromarray(rng.integers(0, 256, (50 + 5 * k, 70, 3), dtype=np.uint8)).save(
                    tmp_path / split / name / f'{k}.png'
                )
    return tmp_path

def toy_loaders(folder, **kw):
    from sotavision.all import GrandparentSplitter, get_image_files, parent_label
    return DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=get_image_files,
        get_y=parent_label,
        splitter=GrandparentSplitter(),
        **kw,
    ).dataloaders(folder, bs=4, device='cpu')

def test_neighbours_in_a_block_become_one(folder):
    dls = toy_loaders(
        folder,
        item_tfms=Resize(40),
        batch_tfms=[
            Normalize.from_stats(*imagenet_stats),
            Rotate(),
            Flip(),
            Brightness(),
            Warp(),
            Contrast(),
        ],
    )
    assert [type(t).__name__ for t in dls.train.batch_tfms] == [
        'ComposedAffine',
        'ComposedColor',
        'Normalize',
    ]
    assert [type(t).__name__ for t in dls.train.batch_tfms[0].parts] == ['Rotate', 'Flip', 'Warp']

def test_one_seed_one_batch_and_validation_is_still(folder):
    dls = toy_loaders(
        folder,
        item_tfms=Resize(40),
        batch_tfms=[*aug_transforms(size=32, min_scale=.5), RandomErasing(), Normalize()],
    )
    set_seed(7); a = next(iter(dls.train))[0]
    set_seed(7); b = next(iter(dls.train))[0]
    c = next(iter(dls.train))[0]
    assert a.equal(b) and not a.equal(c) and a.shape == (4, 3, 32, 32)
    v = [next(iter(dls.valid))[0] for _ in range(2)]
    assert v[0].equal(v[1])

def test_validation_equals_resize_and_normalize_alone(folder):
    plain = toy_loaders(
        folder, item_tfms=Resize(32), batch_tfms=Normalize.from_stats(*imagenet_stats)
    ).valid.one_batch()[0]
    augmented = toy_loaders(
        folder,
        item_tfms=Resize(32),
        batch_tfms=[*aug_transforms(), RandomErasing(p=1), Normalize.from_stats(*imagenet_stats)],
    ).valid.one_batch()[0]
    assert plain.equal(augmented)

def test_bytes_and_floats_give_the_same_batch():
    x = torch.randint(0, 256, (20, 3, 40, 48), dtype=torch.uint8)
    dl = loader([*aug_transforms(size=32), Normalize.from_stats(*imagenet_stats)])
    set_seed(1); a = dl.prepare((tv_tensors.Image(x),))[0]
    set_seed(1); b = dl.prepare((tv_tensors.Image(x / 255),))[0]
    assert a.dtype == torch.float32 and a.allclose(b, atol=1e-4)

@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32])
def test_a_loader_overwrites_no_batch_that_it_was_given(dtype):
    x = (torch.rand(3, 3, 20, 20) * (255 if dtype == torch.uint8 else 1)).to(dtype)
    for tfms in (
        [Brightness(p=1), Normalize.from_stats(*imagenet_stats)],
        [Normalize.from_stats(*imagenet_stats)],
        aug_transforms(),
    ):
        before = x.clone()
        loader(tfms).prepare((tv_tensors.Image(x),))
        assert x.equal(before)

class Kept(Transform):
    "Somebody's transform, which keeps what it returns."
    order = 50
    def __call__(self, x, split_idx=1):
        self.last = x[0].clone()
        self.held = tv_tensors.Image(self.last.clone())
        return (self.held, *x[1:])

def test_what_somebody_else_holds_is_not_overwritten():
    dl = loader([Flip(), Kept(), Normalize.from_stats(*imagenet_stats)])
    dl.one_batch()
    kept = dl.batch_tfms[1]
    assert kept.held.equal(kept.last)

@pytest.mark.parametrize(
    'after', [Normalize.from_stats(*imagenet_stats), Contrast(p=1, draw=1.5)], ids=str)
def test_a_transform_may_return_memory_that_cannot_be_written(after):
    dl = loader([v2.Grayscale(3), after])                   # three channels that are one in memory
    assert dl.one_batch()[0].shape == (16, 3, H, W)

def test_transforms_of_the_user_are_not_marked_by_a_loader():
    mine = [Flip(p=1), Contrast(p=1, draw=2.)]
    loader(mine)
    x = torch.rand(2, 3, 8, 8); before = x.clone()
    mine[1](x, split_idx=0)
    assert x.equal(before) and not mine[0].in_loader and not mine[1].overwrites

def test_torchvision_transforms_stand_in_the_list(folder):
    dls = toy_loaders(
        folder,
        item_tfms=Resize(40),
        batch_tfms=[Flip(), TrainOnly(v2.GaussianBlur(3)), Rotate(), Normalize()],
    )
    assert [type(t).__name__ for t in dls.train.batch_tfms] == [
        'ComposedAffine',
        'TrainOnly',
        'Normalize',
    ] or len(dls.train.batch_tfms) >= 3
    assert dls.one_batch()[0].shape == (4, 3, 40, 40)

# --- against torchvision

@pytest.mark.parametrize('angle', [-30., 17., 90.])
def test_a_turn_is_torchvisions_turn(angle):
    x = F.gaussian_blur(torch.rand(2, 3, 41, 57), 5)
    ours = Rotate(180, p=1, draw=angle, pad_mode='zeros')(x, split_idx=0)
    theirs = F.rotate(x, angle, interpolation=v2.InterpolationMode.BILINEAR)
    assert (
        (ours - theirs)[..., 3:-3, 3:-3].abs().max() < .02
        if angle != 90
        else (ours - theirs)[..., 12:-12, 20:-20].abs().max() < .02
    )

class Sideways(Warp):
    def maps(self, n, size): return tilt(torch.full((n,), .2), 0)

def test_a_tilt_is_torchvisions_perspective():
    x = F.gaussian_blur(torch.rand(1, 3, 64, 64), 5)
    # the left edge comes from a shorter one, the right edge from a longer one
    half, k = 32, (1.2 / .8)**.5
    old = [[0, 32 - half / k], [64, 32 - half * k], [64, 32 + half * k], [0, 32 + half / k]]
    theirs = F.perspective(x, old, [[0, 0], [64, 0], [64, 64], [0, 64]])
    assert (Sideways(p=1, pad_mode='zeros')(x, split_idx=0) - theirs)[
        ..., 10:-10, 10:-10
    ].abs().max() < .05

@pytest.mark.parametrize('size', [20, (16, 24), 40, (50, 30)])
def test_validation_of_a_batch_crop_is_torchvisions_centre(size):
    x = F.gaussian_blur(torch.rand(2, 3, 48, 60), 5)
    h, w = (size, size) if isinstance(size, int) else size
    scale = min(48 / h, 60 / w)
    box = F.center_crop(x, [round(h * scale), round(w * scale)])
    theirs = F.resize(box, [h, w], antialias=True)
    assert -10 * ((RandomResizedCrop(size)(x) - theirs)**2).mean().log10() > 33

def test_joined_moves_act_in_the_order_of_the_list():
    x = F.gaussian_blur(torch.rand(1, 3, 64, 64), 9)
    moves = [Sideways(p=1), Rotate(180, p=1, draw=90.)]
    joined = ComposedAffine(moves)(x, split_idx=0)
    steps = moves[1](moves[0](x, split_idx=0), split_idx=0)
    other = ComposedAffine(moves[::-1])(x, split_idx=0)
    assert (joined - steps).abs().max() < .03 < (joined - other).abs().max()

# --- bad input

class Halved(Transform):
    def apply(self, x, params): return x[:2]
    def __call__(self, x, split_idx=1): return (tv_tensors.Image(x[0][:2]), *x[1:])

def test_a_transform_that_returns_another_shape_is_named():
    dl = loader(Halved())
    with pytest.raises(ValueError, match=r'Halved.*Image \(2, 3, 90, 120\), Mask \(16, 90, 120\)'):
        dl.one_batch()

@needs_points
def test_a_point_outside_and_a_mask_of_another_size_are_named():
    im, mask, _ = dot(10., 10.)
    with pytest.raises(ValueError, match=r'Rotate\(.*\[130.0, 3.0\].*90 × 120'):
        Rotate()((im, KeyPoints(torch.tensor([[130., 3.]]), canvas_size=(H, W))), split_idx=0)
    with pytest.raises(ValueError, match=r'Resize\(.*Image 90×120, Mask 40×50'):
        Resize(30)((im, tv_tensors.Mask(mask[:40, :50])))
    with pytest.raises(ValueError, match=r'ComposedAffine.*different heights'):
        aug_transforms()[0]((im, tv_tensors.Mask(mask[:40, :50])), split_idx=0)

@pytest.mark.parametrize(
    'bad',
    [dict(size=0), dict(size=-4), dict(size=10**7), dict(max_rotate=400), dict(min_zoom=2.),
     dict(max_lighting=1.), dict(p_affine=1.2), dict(mode='cubic'), dict(min_scale=.2)], ids=str)
def test_arguments_out_of_range_are_refused_by_name(bad):
    name = (
        {'max_rotate': 'max_deg', 'p_affine': 'p='}.get(*bad)
        if list(bad)[0] in ('max_rotate', 'p_affine')
        else list(bad)[0]
    )
    with pytest.raises(ValueError, match=name): aug_transforms(**bad)
