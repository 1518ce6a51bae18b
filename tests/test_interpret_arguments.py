"""Interpretation with the arguments that readers know, many classes, odd losses, and figures of the
user's own."""
import time
from functools import partial

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learners import (
    block,
    deep,
    items_of,
    learner,
    linear,
    one_thread,  # noqa: F401 (a fixture)
)
from sotavision.data.datablock import CategoryBlock, MaskBlock, RegressionBlock
from sotavision.data.show import show_images
from sotavision.study.gradcam import show_cams
from sotavision.study.interpret import ClassificationInterpretation as Interpretation

matplotlib.use('agg')

@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')

def shown(): return [ax for ax in plt.gcf().axes if ax.images]
def size(): return plt.gcf().get_size_inches().tolist()
def inter(): return Interpretation.from_learner(learner())
def sure(said, c, p=.6):
    return torch.full((len(said), c), (1 - p) / (c - 1)).scatter_(
        1, torch.as_tensor(said)[:, None], p
    )

# Grids

@pytest.mark.parametrize(
    'how, n, rows',
    [(dict(nrows=1, ncols=3), 3, 1), (dict(nrows=2, ncols=2, figsize=(5, 4)), 4, 2),
     (dict(nrows=1, figsize=(9, 2)), 5, 1), (dict(ncols=2), 5, 3), (dict(nrows=2), 5, 2),
     (dict(nrows=9, ncols=9), 5, 9), (dict(figsize=(4, 3)), 5, 1)])
def test_grids(how, n, rows):
    draws = {
        'show_results': lambda: learner().show_results(max_n=5, **how),
        'top losses': lambda: inter().plot_top_losses(5, **how),
        'show_images': lambda: show_images(torch.rand(5, 1, 4, 4), **how),
        'at most': lambda: show_images(torch.rand(8, 1, 4, 4), max_n=5, **how),
    }
    for name, draw in draws.items():
        draw()
        assert len(shown()) == n and plt.gcf().axes[0].get_gridspec().nrows == rows, name
        if 'figsize' in how: assert size() == list(how['figsize']), name

@pytest.mark.parametrize(
    'bad', [dict(nrows=0), dict(ncols=-1), dict(ncols=1.5), dict(nrows=0, ncols=2)])
def test_grids_that_are_none(bad):
    for draw in (
        learner().show_results,
        inter().plot_top_losses,
        partial(show_images, torch.rand(2, 1, 4, 4)),
    ):
        with pytest.raises(ValueError, match='rows|ncols'):
            draw(**bad)
    assert not plt.get_fignums()

def test_titles_go_with_their_pictures():
    o = inter()
    o.plot_top_losses(9, nrows=1, ncols=2)
    losses, idx = o.top_losses(2)
    for ax, l, i in zip(shown(), losses, idx.tolist()):
        assert ax.get_title().endswith(f'loss {l:.2f}')
        assert (ax.title.get_color() == 'crimson') == (not o.right[i])
    # k, largest, as fast.ai orders them
    o.plot_top_losses(3, False, 3)
    assert shown()[0].get_title().endswith(f'loss {o.losses.min():.2f}')

@pytest.mark.parametrize(
    'target, y, n',
    [(CategoryBlock, lambda o: o[1], 3), (lambda: RegressionBlock(2), lambda o: [1., 2.], 2),
     (lambda: MaskBlock(['a', 'b', 'c']), lambda o: o[0] // 100, 3)])
def test_results_of_every_kind(target, y, n):
    mask = target is not CategoryBlock and n == 3
    learn = learner(
        lambda: nn.Conv2d(1, 3, 1) if mask else linear(n),
        dls=block(target, y).dataloaders(items_of(42), bs=8, device='cpu'),
    )
    learn.show_results(nrows=2, ncols=2, figsize=(6, 6), seed=1)
    assert len(shown()) == 4 and all(len(ax.images) == 1 + mask for ax in shown())

def test_void_counts_in_no_title():
    mask = lambda o: (
        np.where(np.arange(64).reshape(8, 8) < 32, 1, 255 if o[1] != 'b' else 1).astype(np.uint8)
        if o[1] != 'c'
        else np.full((8, 8), 255, np.uint8)
    )
    class Ones(nn.Module):
        def forward(self, x): return torch.cat([x * 0, x * 0 + 1], 1)
    learn = learner(
        Ones,
        loss_func=nn.CrossEntropyLoss(ignore_index=255),
        dls=block(lambda: MaskBlock(['a', 'b']), mask).dataloaders(
            items_of(42), bs=8, device='cpu'
        ),
    )
    learn.show_results(max_n=3)
    assert [ax.get_title() for ax in shown()] == [
        '100% of pixels right',
        '100% of pixels right',
        'no pixel has a class',
    ]

def test_arguments_of_the_confusion_matrix():
    o = inter()
    o.plot_confusion_matrix(
        figsize=(6, 5),
        dpi=60,
        cmap='Greens',
        normalize=True,
        norm_dec=3,
        title='Who is who',
        plot_txt=True,
    )
    fig, ax = plt.gcf(), plt.gca()
    assert size() == [6, 5] and fig.dpi == 60 and ax.get_title() == 'Who is who'
    assert ax.images[0].get_cmap().name == 'Greens'
    assert all(len(t.get_text().split('.')[1]) == 3 for t in ax.texts) and ax.texts
    o.plot_confusion_matrix(plot_txt=False)
    assert not plt.gca().texts
    with pytest.raises(TypeError): o.plot_confusion_matrix(colour='red')
    several = Interpretation(torch.tensor([[.9, .1], [.2, .7]]), torch.tensor([[1, 0], [1, 1]]))
    several.plot_confusion_matrix(figsize=(4, 3), dpi=50, title='Each')
    assert size() == [4, 3] and plt.gcf().dpi == 50 and plt.gcf().get_suptitle() == 'Each'

# Many classes

def many(c=1000, each=20):
    y, gen = torch.arange(c * each) % c, torch.Generator().manual_seed(0)
    said = torch.where(
        torch.rand(len(y), generator=gen) < .8, y, torch.randint(c, (len(y),), generator=gen)
    )
    said[y == 7] = c - 10
    return Interpretation(sure(said, c), y, [f'class {i}' for i in range(c)]), y, said

def test_a_thousand_classes():
    began = time.process_time()
    o, y, said = many()
    assert o.most_confused()[0] == ('class 7', 'class 990', 20)
    wrong = torch.stack([y, said], 1)[y != said].unique(dim=0, return_counts=True)
    assert sum(n for _, _, n in o.most_confused()) == (y != said).sum()
    assert len(o.most_confused()) == len(wrong[0])
    o.per_class(); o.worst(3)
    for how in (dict(), dict(figsize=(5, 5), normalize=True), dict(figsize=(3, 30))):
        o.plot_confusion_matrix(**how)
        ax = plt.gca()
        plt.gcf().canvas.draw()
        assert not ax.texts and 5 <= len(ax.get_xticks()) <= 80
        assert len(ax.get_xticks()) == len(ax.get_yticks())
        for t, label in zip(ax.get_xticks(), ax.get_xticklabels()):
            assert label.get_text() == f'class {t}'
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert all(a.y0 > b.y1 - 2 for a, b in zip(boxes, boxes[1:]))      # no name covers another
        assert ax.images[0].get_array()[7 // 4, 990 // 4] > 0 and ax.get_xlim() == (-.5, 999.5)
        shade = ax.images[0].cmap(ax.images[0].norm(ax.images[0].get_array()))
        # a single dot can be seen
        assert np.abs(shade[7 // 4, 990 // 4] - ax.images[0].cmap(0.)).max() > .2
    assert time.process_time() - began < 20

def test_numbers_that_have_no_room():
    o, *_ = many(200, 100)
    with pytest.warns(UserWarning, match='no room'): o.plot_confusion_matrix(plot_txt=True)
    assert not plt.gca().texts
    many(30, 20)[0].plot_confusion_matrix(plot_txt=True)
    assert plt.gca().texts and len(plt.gca().get_xticks()) == 30

def test_a_hundred_labels_an_item():
    gen = torch.Generator().manual_seed(0)
    p = torch.rand(50, 100, generator=gen) * .6
    y = (torch.rand(50, 100, generator=gen) < .05).long()
    p[:, 3], p[:, 97] = .9, y[:, 97] * .9
    o = Interpretation(p, y)
    o.plot_confusion_matrix()
    titles = [ax.get_title() for ax in shown()]
    assert len(titles) == 40 and '3' in titles and '97' not in titles
    assert 'of 100 classes' in plt.gcf().get_suptitle()

def test_classes_without_items():
    o = Interpretation(sure([0, 1, 1], 5), torch.tensor([0, 0, 1]), list('abcde'))
    o.plot_confusion_matrix(normalize=True)
    assert np.isfinite(plt.gca().images[0].get_array()).all()
    assert o.most_confused() == [('a', 'b', 1)]
    o.print_classification_report()

def test_most_confused_by_hand():
    gen = torch.Generator().manual_seed(1)
    y, said = torch.randint(4, (80,), generator=gen), torch.randint(4, (80,), generator=gen)
    want = sorted(
        [(i, j, int(((y == i) & (said == j)).sum())) for i in range(4) for j in range(4) if i != j],
        key=lambda o: -o[2],
    )
    assert Interpretation(sure(said, 4), y).most_confused() == [o for o in want if o[2]]
    assert Interpretation(sure(said, 4), y).most_confused(7) == [o for o in want if o[2] >= 7]

# Losses

def test_own_loss_item_by_item():
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p, t))
    o = Interpretation.from_learner(learn)
    assert o.losses.mean().item() == pytest.approx(learn.validate()[0], abs=1e-5)
    o.plot_top_losses(2)

def test_a_loss_that_cannot_be_told(tmp_path):
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p - p.mean(0), t))
    o = Interpretation.from_learner(learn)
    for got in (o, Interpretation.load(o.save(tmp_path/'o.npz'))):
        got.plot_confusion_matrix()
        got.per_class()
        got.most_confused()
        got.print_classification_report()
        repr(got)
        losses = partial(getattr, got, 'losses')
        for ask in (losses, got.top_losses, got.worst, got.plot_top_losses):
            with pytest.raises(ValueError, match='no `reduction`'): ask()

# Figures

def test_figures_and_backend_of_the_user_stay():
    backend, fig = matplotlib.get_backend(), plt.figure()
    own = fig.subplots()
    learn = learner(deep)
    o = Interpretation.from_learner(learn)
    draws = [
        lambda: learn.show_results(max_n=2),
        lambda: o.plot_confusion_matrix(),
        lambda: o.plot_top_losses(2),
        lambda: show_cams(torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)),
        lambda: show_images(torch.rand(2, 1, 4, 4)),
        lambda: learn.dls.show_batch(max_n=2),
    ]
    for k, draw in enumerate(draws):
        draw()
        assert plt.fignum_exists(fig.number) and len(plt.get_fignums()) == k + 2 and not own.images
        assert fig.axes == [own]
    learn.validate(); learn.get_preds(); learn.predict(items_of(1)[0])
    assert len(plt.get_fignums()) == len(draws) + 1 and matplotlib.get_backend() == backend
