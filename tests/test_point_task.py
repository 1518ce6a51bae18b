"""Points end to end: read in any form, moved, missing, trained, asked in any order, and told in
pixels of the image itself."""
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors

from sotavision.all import (
    PCK,
    ColReader,
    CutMix,
    DataBlock,
    FlipItem,
    GradientClip,
    HeatmapHead,
    ImageBlock,
    IndexSplitter,
    Learner,
    MixUp,
    MSELossFlat,
    PointBlock,
    PointError,
    PointInterpretation,
    RandomResizedCrop,
    RandomSplitter,
    Resize,
    aug_transforms,
    set_seed,
    soft_argmax,
    vision_learner,
    xresnet18,
)
from sotavision.data.points import to_images

pytestmark = pytest.mark.skipif(
    not hasattr(tv_tensors, 'KeyPoints'), reason='torchvision has key points from 0.23 on')
NAN = math.nan

def blob(path, x, y, size=(60, 40)):
    "A white spot at a place of a black image."
    w, h = size
    far = (np.arange(w) - x)**2 + (np.arange(h)[:, None] - y)**2
    gray = np.rint(255 * np.exp(-far / 8)).astype(np.uint8)
    Image.fromarray(np.dstack([gray] * 3)).save(path)

@pytest.fixture(scope='module')
def table(tmp_path_factory):
    folder, rng, rows = tmp_path_factory.mktemp('blobs'), np.random.default_rng(0), []
    for i in range(48):
        w, h = [(60, 40), (40, 50)][i % 2]
        x, y = rng.uniform(5, w - 6), rng.uniform(5, h - 6)
        blob(folder/f'{i:02}.png', x, y, (w, h))
        rows.append(dict(file=str(folder/f'{i:02}.png'), x=x, y=y, who=i // 4))
    return pd.DataFrame(rows)

def loaders(table, item_tfms=None, batch_tfms=None, cols=('x', 'y'), splitter=None, bs=8, **kw):
    block = DataBlock((ImageBlock, PointBlock), get_x=ColReader('file'),
                      get_y=ColReader(list(cols)), splitter=splitter or RandomSplitter(.25),
                      item_tfms=item_tfms or Resize(32, 'squish'), batch_tfms=batch_tfms)
    return block.dataloaders(table, bs=bs, device='cpu', num_workers=0, **kw)

def net(n_out=2): return nn.Sequential(nn.AdaptiveAvgPool2d(8), nn.Flatten(),
                                       nn.Linear(192, n_out), nn.Tanh())

@pytest.fixture(scope='module')
def trained(table):
    set_seed(0)
    learn = Learner(loaders(table), net(), lr=3e-3, metrics=[PointError(), PCK(.2)])
    learn.fit(30)
    return learn

# --- what may be given

@pytest.mark.parametrize('value', [
    (3, 4), [3., 4.], [[3, 4]], np.array([3, 4]), np.array([[3, 4]]), torch.tensor([[3., 4]]),
    ['3', '4'], pd.Series([3, 4]).tolist()])
def test_a_point_in_any_form(table, value):
    block = DataBlock((ImageBlock, PointBlock), get_x=ColReader('file'), get_y=lambda o: value)
    ds = block.datasets(table).train
    assert ds[0][1].tolist() == [[3, 4]] and tuple(ds[0][1].canvas_size) in ((40, 60), (50, 40))
    assert ds.c == 2 and ds.vocab is None

@pytest.mark.parametrize('cells', [(NAN, 3.), (3., None), (None, None), (pd.NA, 3.), ('', '3')])
def test_a_point_with_an_empty_cell_is_not_there(table, cells):
    t = table.assign(x=[cells[0], *table.x[1:]], y=[cells[1], *table.y[1:]])
    dls = loaders(t, splitter=IndexSplitter([0, 1]))
    y = dls.valid.one_batch()[1]
    assert y[0].isnan().all() and y[1].isfinite().all()

@pytest.mark.parametrize('value,said', [
    (['a', 4], 'not made of numbers'), ([1, 2, 3], '3 numbers'), ([1, math.inf], 'not finite'),
    ([[1, 2], [3, 4]], '2 point.s. where 1 were expected')])
def test_rows_that_make_no_sense_are_named(table, value, said):
    block = DataBlock((ImageBlock, PointBlock), get_x=ColReader('file'), splitter=RandomSplitter(0),
                      get_y=lambda o: value if o.name == 5 else [1, 2])
    with pytest.raises(ValueError, match=said) as e: block.datasets(table)
    assert '05.png' in str(e.value) or 'row 5' in str(e.value)

def test_no_point_anywhere(table):
    with pytest.raises(ValueError, match='nothing to learn'): loaders(table.assign(x=NAN))
    with pytest.raises(ValueError, match='whole number'): PointBlock(n=0)

@pytest.mark.parametrize('x,y,said', [
    (70., 10., 'another size'), (10., 55., 'y in front of x'), (-3., 10., 'another size')])
def test_a_point_outside_its_image_names_the_file(table, x, y, said):
    t = table.assign(x=x, y=y)[::2]
    with pytest.raises(ValueError, match=said) as e: loaders(t).one_batch()
    assert '.png' in str(e.value) or 'row' in str(e.value)
    assert '60 × 40' in str(e.value)

def test_edges_are_inside(table):
    t = table[::2].assign(x=59.5, y=-.5)
    assert loaders(t).valid.one_batch()[1].tolist()[0] == [[1, -1]]

@pytest.mark.parametrize('kw', [dict(cache=None), dict(cache='ram'), dict(cache='disk')])
def test_caches_change_nothing(table, kw, tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path))
    ys = torch.cat([y for _, y in loaders(table, **kw).valid])
    assert ys.equal(torch.cat([y for _, y in loaders(table, cache=None).valid]))

def test_groups_stay_on_one_side(table):
    dls = loaders(table, splitter=RandomSplitter(.25, groups='who'))
    assert not set(dls.train_ds.items.who) & set(dls.valid_ds.items.who)

# --- where they go

@pytest.mark.parametrize('item,batch', [
    (Resize(32), None), (Resize(48, 'squish'), aug_transforms(max_warp=.2, max_rotate=40, size=32)),
    (RandomResizedCrop(32, min_scale=.4), None), ([Resize(32, 'pad'), FlipItem(1.)], None)])
def test_the_spot_and_its_point_agree(table, item, batch):
    set_seed(0)
    x, y = loaders(table, item, batch, bs=36).one_batch()
    points = y.as_subclass(torch.Tensor).flatten(0, 1)
    seen = points.isfinite().all(-1) & (points.abs() < .8).all(-1)
    assert seen.sum() > 8
    gray = x.as_subclass(torch.Tensor).mean(1).clamp(0, 1)[seen]
    pixels = ((points + 1) * 32 - 1)[seen] / 2
    side = torch.arange(32.)
    dx, dy = side - pixels[:, :1], side - pixels[:, 1:]
    near = (dx[:, None]**2 + dy[:, :, None]**2) < 36           # mirrored spots lie further off
    spot = gray * near
    total = spot.sum((1, 2))
    assert (total / gray.sum((1, 2))).median() > .5
    off = torch.stack([(spot.sum(1) * dx).sum(1), (spot.sum(2) * dy).sum(1)], 1) / total[:, None]
    assert off.norm(dim=1).median() < .2 and off.norm(dim=1).quantile(.75) < .6

@pytest.mark.parametrize('tfm', [Resize(32), Resize((24, 40), 'squish'), Resize(32, 'pad'),
                                 Resize(64), [Resize(48), FlipItem(1.)]])
def test_back_to_each_image(table, tfm):
    dl = loaders(table, tfm).valid
    ys = torch.cat([y for _, y in dl]).as_subclass(torch.Tensor)
    true = torch.tensor(dl.ds.items[['x', 'y']].to_numpy(), dtype=torch.float32)[:, None]
    got, seen = to_images(ys, dl), ys.isfinite()
    assert seen.any() and (got - true)[seen].abs().max() < 1e-3

def test_back_wants_one_answer_an_item(table):
    dl = loaders(table).valid
    with pytest.raises(ValueError, match='one for each'): to_images(torch.zeros(3, 2), dl)

# --- learning

def test_loss_and_defaults(table):
    learn = vision_learner(loaders(table), xresnet18, pretrained=False)
    assert isinstance(learn.loss_func, MSELossFlat)
    out = learn.model(torch.randn(2, 3, 32, 32) * 100)
    assert out.shape == (2, 2) and out.abs().max() <= 1
    wide = vision_learner(loaders(table), xresnet18, pretrained=False, y_range=(-3, 3))
    assert wide.model[1][1].high == 3
    heat = vision_learner(loaders(table), xresnet18, pretrained=False, custom_head=HeatmapHead)
    assert isinstance(heat.model[1], HeatmapHead)
    heat.fit(1)
    assert heat.recorder.values[-1][0] < 1

def test_missing_points_are_no_reason_to_diverge(table):
    t = table.assign(x2=table.y.where(table.index % 3 > 0) / 2, y2=table.x / 2)
    learn = Learner(loaders(t, cols=('x', 'y', 'x2', 'y2')), net(4), metrics=PointError())
    learn.fit(2, cbs=GradientClip(1.))
    assert all(math.isfinite(o) for row in learn.recorder.values for o in row)
    preds, targs, losses = learn.get_preds(with_loss=True)
    assert targs.isnan().any() and losses.isfinite().all()
    off = (preds.view(targs.shape) - targs).square().as_subclass(torch.Tensor)
    torch.testing.assert_close(losses, off.flatten(1).nanmean(1))

def test_batch_sizes_tell_the_same(table, trained):
    one = trained.validate()
    other = trained.validate(dl=trained.dls.valid.new(bs=5))
    np.testing.assert_allclose(one, other, rtol=1e-5)

def test_metrics_by_hand(trained):
    preds, targs = trained.get_preds()
    off = ((preds[:, None] - targs) * 16).as_subclass(torch.Tensor).norm(dim=-1)
    _, mean, near = trained.validate()
    assert mean == pytest.approx(off.mean().item(), rel=1e-5)
    assert near == pytest.approx((off <= .2 * 32).float().mean().item())

@pytest.mark.parametrize('cb', [MixUp(.4), CutMix(1.)])
def test_mixing_is_refused(table, cb):
    with pytest.raises(ValueError, match='points'): Learner(loaders(table), net()).fit(1, cbs=cb)

# --- asking

def test_predict_in_pixels_of_the_file(trained, tmp_path):
    small, large = tmp_path/'a.png', tmp_path/'b.png'
    blob(small, 40, 12)
    Image.open(small).resize((600, 200), Image.BILINEAR).save(large)
    (a,), y, same = trained.predict(small)
    (b,), *_ = trained.predict(large)
    assert y.equal(same) and y.shape == (2,)
    assert a[0] == pytest.approx((y[0].item() + 1) * 30 - .5, abs=1e-3)
    assert b[0] / 600 == pytest.approx(a[0] / 60, abs=.05)
    assert b[1] / 200 == pytest.approx(a[1] / 40, abs=.05)
    assert abs(a[0] - 40) < 15 and abs(a[1] - 12) < 10

def test_mirrored_views_are_mirrored_back(table):
    class Left(nn.Module):
        "Answers with the brightest place: its mirror image gives the mirrored place."
        def forward(self, x):
            x = x.as_subclass(torch.Tensor)
            return soft_argmax(x.mean(1, keepdim=True) * 50).flatten(1)
    learn = Learner(loaders(table), Left())
    preds, targs = learn.get_preds()
    both, _ = learn.tta(views='flip')
    torch.testing.assert_close(preds, both, atol=1e-3, rtol=0)
    five, _ = learn.tta(views='five_crop')
    assert (five - preds).abs().max() < .1
    assert ((preds[:, None] - targs).norm(dim=-1) * 16).max() < 1

def test_random_views_are_refused(trained):
    with pytest.raises(ValueError, match="views='flip'"): trained.tta()

@pytest.mark.parametrize('order', [
    ('predict', 'tta', 'lr_find', 'look'), ('look', 'lr_find', 'tta', 'predict'),
    ('lr_find', 'predict', 'look', 'tta')])
def test_the_order_of_questions_does_not_matter(trained, table, order):
    asks = dict(predict=lambda: trained.predict(table.file[0])[1],
                tta=lambda: trained.tta(views='flip')[0],
                lr_find=lambda: torch.tensor(
                    [trained.lr_find(num_it=10, show_plot=False, suggest_funcs=()) is None]),
                look=lambda: PointInterpretation.from_learner(trained).answers)
    before = {k: asks[k]() for k in asks}
    after = {k: asks[k]() for k in order}
    assert all(before[k].equal(after[k]) for k in asks)

def test_interpretation_against_hand(trained):
    interp = PointInterpretation.from_learner(trained)
    true = torch.tensor(trained.dls.valid_ds.items[['x', 'y']].to_numpy(), dtype=torch.float32)
    torch.testing.assert_close(interp.targs[:, 0], true, atol=1e-3, rtol=0)
    off = (interp.answers[:, 0] - true).norm(dim=1)
    torch.testing.assert_close(interp.errors[:, 0], off, atol=1e-3, rtol=0)
    losses, idx = interp.top_losses(3)
    assert losses.tolist() == sorted(interp.losses.tolist())[::-1][:3]
    assert interp.worst(1).index[0] == idx[0]

def test_pictures_show_points(trained):
    import matplotlib.pyplot as plt
    trained.dls.show_batch(max_n=4)
    assert all(len(ax.collections) == 1 for ax in plt.gcf().axes[:4])
    trained.show_results(max_n=4)
    assert all(len(ax.collections) == 2 for ax in plt.gcf().axes[:4])
    PointInterpretation.from_learner(trained).plot_top_losses(4)
    rings, crosses = plt.gcf().axes[0].collections
    assert 0 <= rings.get_offsets()[0, 0] < 32
    plt.close('all')

def test_summary_walks_through(table, capsys):
    block = DataBlock((ImageBlock, PointBlock), get_x=ColReader('file'),
                      get_y=ColReader(['x', 'y']), item_tfms=Resize(16))
    block.summary(table)
    assert '✗' not in capsys.readouterr().out
