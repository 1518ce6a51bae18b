"Masks end to end: U-Nets over many bodies, void that says nothing, answers at any size, any order."
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score
from torch import nn

from learners import one_thread  # noqa: F401 (a fixture)
from sotavision.augment.resize import Resize, aug_transforms
from sotavision.core.display import quiet
from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock, MaskBlock
from sotavision.data.splits import IndexSplitter
from sotavision.models.unet import Encoder, UnetDecoder
from sotavision.models.xresnet import xresnet18
from sotavision.objectives.losses import CrossEntropyLossFlat, FocalLoss
from sotavision.objectives.segmentation import (
    CombinedLoss,
    DiceLoss,
    DiceMulti,
    IoU,
    PixelAccuracy,
    mIoU,
)
from sotavision.study.masks import SegmentationInterpretation
from sotavision.tasks.segmentation import create_unet, pixel_counts, pixel_weights, unet_learner
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.training.callback import Callback
from sotavision.training.learner import Learner

NAMES = ['ground', 'sky', 'toy']

def scene(folder, i, size=(40, 52)):
    "A picture of blocks whose gray is their class; a stripe of it is void."
    g = np.random.default_rng(i)
    mask = g.integers(0, 3, (-(-size[0] // 8), -(-size[1] // 8))).repeat(8, 0).repeat(8, 1)
    mask = mask[:size[0], :size[1]].astype(np.uint8)
    noise = g.integers(0, 40, (*size, 3))
    Image.fromarray((mask[..., None] * 80 + noise).astype(np.uint8)).save(folder/f'{i}.png')
    mask[10:14] = 255
    Image.fromarray(mask).save(folder/f'{i}_mask.png')
    return folder/f'{i}.png'

def mask_of(o): return o.with_name(f'{o.stem}_mask.png')

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    return [scene(folder, i) for i in range(12)]

def loaders(files, tfms=(), bs=4, size=32):
    block = DataBlock((ImageBlock, MaskBlock(NAMES)), get_y=mask_of,
                      splitter=IndexSplitter(range(4)), item_tfms=Resize(size, 'squish'),
                      batch_tfms=list(tfms))
    return block.dataloaders(files, bs=bs, device='cpu')

def net(body=16):
    "A U-Net of a few thousand weights."
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                           nn.Conv2d(8, body, 3, 2, 1), nn.ReLU())
    encoder = Encoder(layers, (3, 32, 32))
    return nn.Sequential(encoder, UnetDecoder(encoder.channels, 3, (16, 8)))

def learner(files, seed=0, tfms=(), **kw):
    set_seed(seed)
    given = dict(metrics=[PixelAccuracy(), mIoU(NAMES)]) | kw
    return Learner(loaders(files, tfms), net(), lr=5e-3, **given)

# --- networks

BODIES = ['xresnet18', 'efficientnet_lite0', 'resnet18', 'mobilenet_v3_small', 'densenet121',
          'convnext_tiny', 'vgg11_bn', 'shufflenet_v2_x0_5']

@pytest.mark.parametrize('arch', BODIES)
def test_any_body_of_maps_makes_a_u_net(arch):
    unet = create_unet(arch, 5, pretrained=False).eval()
    with torch.no_grad(): out = unet(torch.randn(1, 3, 75, 101))   # no side is even
    assert out.shape == (1, 5, 75, 101)

@pytest.mark.parametrize('arch', ['vit_b_16', 'swin_t'])
def test_bodies_without_maps_are_refused(arch):
    with pytest.raises(ValueError, match='U-Net|no chain of layers'):
        create_unet(arch, 5, pretrained=False, size=224)

def test_skips_carry_what_is_small():
    "Without skips an answer cannot follow single pixels; with them it can."
    set_seed(0)
    x = torch.randint(0, 2, (8, 1, 16, 16)).float().expand(-1, 3, -1, -1).contiguous()
    y = x[:, 0].long()
    def trained(cut):
        set_seed(0)
        unet = net(2)
        encoder, decoder = unet
        opt = torch.optim.Adam(unet.parameters(), .01)
        for _ in range(60):
            maps = encoder(x)
            if cut: maps = [*(torch.zeros_like(m) for m in maps[:-1]), maps[-1]]
            loss = nn.functional.cross_entropy(decoder(maps), y)
            opt.zero_grad(); loss.backward(); opt.step()
        return loss.item()
    assert 10 * trained(cut=False) < trained(cut=True)

def test_the_body_of_a_trained_classifier_fits(files):
    body = nn.Sequential(*list(xresnet18().children())[:-1])
    unet = create_unet(xresnet18, 3, pretrained=False)
    unet[0].load_state_dict(dict(zip(unet[0].state_dict(), body.state_dict().values())))

def test_parts_and_freezing(files):
    learn = unet_learner(loaders(files), 'efficientnet_lite0')
    body = list(learn.model[0].parameters())
    assert not any(p.requires_grad for p in body)
    assert all(p.requires_grad for p in learn.model[1].parameters())
    learn.unfreeze()
    assert any(p.requires_grad for p in body)
    assert len(learn.splitter(learn.model)) == 3
    assert learn.loss_func.ignore_index == 255 and learn.loss_func.axis == 1
    with quiet(): learn.fit(1, slice(1e-4, 1e-3))
    assert learn.model[1].out.out_channels == 3

def test_without_a_number_of_classes():
    block = DataBlock((ImageBlock, CategoryBlock), get_x=lambda o: np.zeros((8, 8, 3), np.uint8),
                      get_y=lambda o: 'ab'[o % 2], splitter=IndexSplitter([0, 1]))
    dls = block.dataloaders(range(8), bs=2, device='cpu')
    dls.train.ds.blocks[-1].encoder.vocab = []
    with pytest.raises(ValueError, match='n_out='): unet_learner(dls, xresnet18, pretrained=False)

# --- void says nothing

def noised(y, seed):
    "A batch's masks with other classes where they are void."
    g = torch.Generator().manual_seed(seed)
    return torch.where(y == 255, torch.randint(0, 3, y.shape, generator=g), y)

LOSSES = dict(
    cross_entropy=CrossEntropyLossFlat(axis=1, ignore_index=255),
    weighted=CrossEntropyLossFlat(axis=1, ignore_index=255, weight=[1, 2, 3.]),
    focal=FocalLoss(axis=1, ignore_index=255),
    dice=DiceLoss(),
    both=CombinedLoss([CrossEntropyLossFlat(axis=1, ignore_index=255), DiceLoss()]),
)

@pytest.mark.parametrize('mix', [None, MixUp, CutMix])
@pytest.mark.parametrize('loss', LOSSES)
def test_pixels_of_void_change_nothing_in_training(loss, mix, files):
    "What is answered where the mask is void reaches no loss, no score and no weight."
    tfms = aug_transforms(max_rotate=30, max_zoom=1.5, pad_mode='zeros')
    class Point(nn.Module):
        "Every pixel for itself, so that the image's void pixels can only act through the loss."
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
        def forward(self, x):
            out = self.conv(x)
            return out + self.nudge * torch.randn(out.shape, generator=self.g) * self.void
    class Look(Callback):
        order = 90   # after the mixing
        def before_batch(self):
            y = self.yb[0]
            void = (y.sum(1) == 0) if y.is_floating_point() else (y == 255)
            self.learn.model.void = void[:, None].float()
    def trained(nudge):
        set_seed(1)
        model = Point()
        model.nudge, model.g = nudge, torch.Generator().manual_seed(5)
        learn = Learner(loaders(files, tfms), model, LOSSES[loss], lr=.05,
                        metrics=[PixelAccuracy(), mIoU(), DiceMulti(), IoU(2)], cbs=[Look()])
        with quiet(): learn.fit(2, cbs=[mix(1.)] if mix else [])
        return learn.recorder.values, model.conv.weight
    (plain, w), (other, v) = trained(0.), trained(50.)
    assert plain == other and w.equal(v)

@pytest.mark.parametrize('loss', LOSSES)
def test_what_void_pixels_are_called_is_never_asked(loss):
    g = torch.Generator().manual_seed(0)
    pred = torch.randn(2, 3, 6, 5, generator=g, requires_grad=True)
    targ = torch.randint(0, 3, (2, 6, 5), generator=g)
    targ[:, 2:4] = 255
    LOSSES[loss](pred, targ).backward()
    assert pred.grad[:, :, 2:4].eq(0).all() and pred.grad[:, :, :2].ne(0).any()

# --- the same for every batch size

def test_scores_do_not_depend_on_batches(files):
    learn = learner(files)
    with quiet(): learn.fit(1)
    got = [learn.validate(dl=learn.dls.valid.new(bs=bs)) for bs in (1, 2, 3, 4)]
    for o in got[1:]: assert o[1:] == got[0][1:] and abs(o[0] - got[0][0]) < 1e-5
    codes, targs = learn.get_preds(act=lambda o: o.argmax(1))
    seen = targs != 255
    assert abs(got[0][2] - jaccard_score(targs[seen], codes[seen], average='macro')) < 1e-12
    interp = SegmentationInterpretation.from_learner(learn)
    assert abs(interp.per_class().iou.mean() - got[0][2]) < 1e-12
    assert abs(interp.matrix.trace() / interp.matrix.sum() - got[0][1]) < 1e-12
    assert interp.losses.allclose(learn.get_preds(with_loss=True)[-1])

# --- any order

ASK = {
    'get_preds': lambda l, f: l.get_preds()[0],
    'validate': lambda l, f: torch.tensor(l.validate()),
    'flips': lambda l, f: l.tta(views='flip')[0],
    'predict': lambda l, f: l.predict(f[5])[2],
    'whole': lambda l, f: l.predict_mask(f[5])[1],
    'windows': lambda l, f: l.predict_mask(f[5], window=24, flip=True)[1],
    'lr_find': lambda l, f: torch.tensor(
        l.lr_find(num_it=10, show_plot=False, suggest_funcs=None) is None),
    'interpretation': lambda l, f: SegmentationInterpretation.from_learner(l).losses,
    'results': lambda l, f: torch.tensor(l.show_results(max_n=2) is None),
}

@pytest.fixture(scope='module')
def trained(files):
    learn = learner(files, tfms=aug_transforms())
    with quiet(): learn.fit(1)
    return learn.model.state_dict()

@pytest.fixture(scope='module')
def expected(files, trained):
    return {k: asked(k, files, trained)[1] for k in ASK}

def asked(k, files, weights, learn=None):
    if learn is None:
        learn = learner(files, tfms=aug_transforms())
        learn.model.load_state_dict(weights)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return learn, ASK[k](learn, files)

@pytest.mark.parametrize('order', range(4))
def test_any_order_of_questions(order, files, trained, expected):
    learn, names = None, list(ASK)
    np.random.RandomState(order).shuffle(names)
    for k in names:
        learn, answer = asked(k, files, trained, learn)
        assert torch.allclose(answer, expected[k], atol=1e-6), (k, names)
    with quiet(): learn.fit(1)
    again = learner(files, tfms=aug_transforms())
    again.model.load_state_dict(trained)
    assert len(learn.recorder.values) == 1 and again.validate()[0] > 0

# --- answers at the image's own size

def test_an_answer_of_the_files_size(files, tmp_path):
    learn = learner(files)
    with quiet(): learn.fit(20)
    large = scene(tmp_path, 50, size=(150, 96))
    truth = np.asarray(Image.open(mask_of(large)))
    seen = truth != 255
    for kw in (dict(window=32), dict(window=(64, 96)), dict(size=(150, 96)), {}):
        codes, probs = learn.predict_mask(large, **kw)
        assert codes.shape == truth.shape and probs.shape == (3, *truth.shape)
        assert probs.sum(0).allclose(torch.ones(truth.shape), atol=1e-5)
        if kw: assert (codes.numpy() == truth)[seen].mean() > .8, kw

def test_flips_are_undone(files):
    "A network that knows only where it is: mirrored and put back, both halves meet."
    class Left(nn.Module):
        def __init__(self): super().__init__(); self.w = nn.Parameter(torch.ones(()))
        def forward(self, x):
            ramp = torch.linspace(-2, 2, x.shape[-1]).expand(len(x), 1, *x.shape[-2:])
            return torch.cat([ramp, -ramp, torch.zeros_like(ramp)], 1) * self.w
    learn = Learner(loaders(files), Left())
    probs = learn.predict_mask(files[0], flip=True)[1]
    assert probs.allclose(probs.flip(-1), atol=1e-5)
    one = learn.predict_mask(files[0])[1]
    assert probs.allclose((one + one.flip(-1)) / 2, atol=1e-3)

def test_predict_mask_is_for_masks():
    block = DataBlock((ImageBlock, CategoryBlock), get_x=lambda o: np.zeros((8, 8, 3), np.uint8),
                      get_y=lambda o: 'ab'[o % 2], splitter=IndexSplitter([0, 1]))
    dls = block.dataloaders(range(8), bs=2, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 2)))
    with pytest.raises(ValueError, match='for masks'): learn.predict_mask(np.zeros((8, 8, 3)))
    with pytest.raises(ValueError, match='not masks'):
        SegmentationInterpretation.from_learner(learn)
    with pytest.raises(ValueError, match='no MaskBlock'): pixel_counts(dls)

# --- weights for rare classes

def test_pixels_are_counted_in_training_only(files):
    dls = loaders(files)
    masks = [np.asarray(Image.open(mask_of(o))) for o in dls.train_ds.items]
    want = np.bincount(np.concatenate([m[m != 255] for m in masks]), minlength=3)
    assert len(masks) == 8 and pixel_counts(dls).tolist() == want.tolist()
    w = pixel_weights(dls, 1)
    assert (w * torch.tensor(want)).std() < 1 and abs(w.mean() - 1) < 1e-6

# --- drawing

def test_pages_of_masks(files):
    import matplotlib.pyplot as plt
    learn = learner(files)
    learn.dls.show_batch(max_n=3)
    legend = [o.get_text() for o in plt.gcf().legends[0].get_texts()]
    assert legend == NAMES and len(plt.gcf().axes) == 3
    learn.show_results(max_n=2)
    assert set(o.get_text() for o in plt.gcf().legends[0].get_texts()) <= set(NAMES)
    interp = SegmentationInterpretation.from_learner(learn)
    interp.plot_top_losses(2)
    assert [a.get_title().split('\n')[0] for a in plt.gcf().axes] == ['truth'] * 2 + ['answer'] * 2
    plt.close('all')
