"Soft targets in a block, wrong labels seen, and a table of noisy labels read as it is."
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from learners import one_thread  # noqa: F401 (a fixture)
from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import ColReader
from sotavision.data.splits import ColSplitter, IndexSplitter
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.techniques.noisy_labels import (
    SoftCategoryBlock,
    add_label_noise,
    find_label_issues,
    plot_label_issues,
    soft_labels,
)
from sotavision.training import Learner

CLASSES = ['a', 'b', 'c']

def images(n=36):
    "Images of 8 × 8 pixels whose brightness tells the class."
    gen = torch.Generator().manual_seed(0)
    pixels = (torch.rand(n, 8, 8, generator=gen) * 60).byte()
    return [Image.fromarray((pixels[k] + 70 * (k % 3)).numpy()) for k in range(n)]

def soft_loaders(rows, n=36, vocab=CLASSES):
    "The first six items validate with names, the others train with `rows`."
    items = [(im, CLASSES[k % 3] if k < 6 else rows[k - 6]) for k, im in enumerate(images(n))]
    b = DataBlock((ImageBlock('L'), SoftCategoryBlock(vocab)), get_x=lambda o: o[0],
                  get_y=lambda o: o[1], splitter=IndexSplitter(range(6)))
    return b.dataloaders(items, bs=6, device='cpu')

def network(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def test_shares_train_and_names_validate():
    right = [CLASSES[k % 3] for k in range(30)]
    p = np.full((30, 3), .2) + .4 * np.eye(3)[[k % 3 for k in range(30)]]
    dls = soft_loaders(soft_labels(right, p, .5, 'all'))
    x, y = dls.one_batch()
    assert y.shape == (6, 3) and y.dtype == torch.float32
    assert torch.allclose(y.max(1).values, torch.tensor(.8))
    assert dls.valid.one_batch()[1].tolist() == [0, 1, 2, 0, 1, 2]
    assert dls.vocab == CLASSES and dls.c == 3
    set_seed(0)
    learn = Learner(dls, network(), metrics=accuracy, default_cbs=True)
    with learn.no_bar(): learn.fit(12, 3e-2)
    assert isinstance(learn.loss_func, CrossEntropyLossFlat)
    assert learn.recorder.values[-1][2] > .9
    preds, targets = learn.get_preds()
    assert targets.tolist() == [0, 1, 2, 0, 1, 2] and learn.predict(images(1)[0])[0] in CLASSES
    dls.show_batch(max_n=2); plt.close('all')

def test_one_hot_rows_train_as_names_do():
    told = [k % 3 for k in range(30)]
    def trained(rows):
        set_seed(0)
        learn = Learner(soft_loaders(rows), network(), default_cbs=False, precision='fp32')
        return learn.fit(2, 1e-2).model[1].weight
    names = trained([CLASSES[k] for k in told])
    assert torch.allclose(trained(list(np.eye(3)[told])), names, atol=1e-6)
    assert not torch.allclose(trained(list(np.eye(3)[told] * .7 + .1)), names, atol=1e-3)

@pytest.mark.parametrize('row, word', [
    ([.5, .5], '3 shares'), ([.4, .4, .4], '3 shares'), ([-.1, .6, .5], '3 shares'),
    ([float('nan'), .5, .5], '3 shares'), ('d', "the label 'd'"),
])
def test_rows_that_are_no_shares(row, word):
    with pytest.raises(ValueError, match=word): soft_loaders([row] * 30)

def test_issues_are_drawn_with_both_labels(tmp_path):
    p = [[.9, .05, .05], [.2, .7, .1], [.1, .1, .8]] * 2
    labels = ['a', 'b', 'c', 'c', 'b', 'c']
    found = find_label_issues(labels, p, 'disagree', CLASSES)
    assert found.item.tolist() == [3]
    files = []
    for k, im in enumerate(images(6)):
        files.append(tmp_path/f'{k}.png'); im.save(files[-1])
    for items in (files, images(6), dict(enumerate(images(6)))):
        plot_label_issues(found, items, names={'a': 'ant', 'c': 'cow'})
        title, = [ax.get_title() for ax in plt.gcf().axes if ax.get_title()]
        assert title == 'cow 5%?\nant 90%'
        shown = plt.gcf().axes[0].images[0].get_array()
        assert (np.asarray(shown).squeeze()[..., :1].ravel()[0] == np.asarray(images(6)[3])[0, 0])
        plt.close('all')
    with pytest.raises(ValueError, match='no issues'): plot_label_issues(found.head(0), files)
    with pytest.raises(ValueError, match='max_n=0'): plot_label_issues(found, files, 0)
    with pytest.raises(ValueError, match='names item 3'): plot_label_issues(found, files[:3])

def test_a_table_with_a_column_for_each_noise_is_read(tmp_path):
    rows = []
    for k, im in enumerate(images(24)):
        part, name = ('val' if k < 6 else 'train'), CLASSES[k % 3]
        file = tmp_path/part/name/f'{k}.png'
        file.parent.mkdir(parents=True, exist_ok=True); im.save(file)
        rows.append(dict(path=f'{part}/{name}/{k}.png', noisy_labels_0=name, is_valid=k < 6))
    df = pd.DataFrame(rows)
    df['noisy_labels_50'] = df.noisy_labels_0
    train = ~df.is_valid
    df.loc[train, 'noisy_labels_50'] = add_label_noise(df.noisy_labels_0[train].tolist(), .5)
    df.to_csv(tmp_path/'noisy.csv', index=False)
    df = pd.read_csv(tmp_path/'noisy.csv')
    for column in 'noisy_labels_0', 'noisy_labels_50':
        b = DataBlock((ImageBlock, CategoryBlock), get_x=ColReader('path', pref=tmp_path),
                      get_y=ColReader(column), splitter=ColSplitter('is_valid'))
        ds = b.datasets(df)
        told = df.loc[train, column].tolist()
        assert ds.train.labels() == told and len(ds.valid) == 6
        assert ds.valid.labels() == df.noisy_labels_0[:6].tolist()
        assert [CLASSES[ds.train[k][1]] for k in range(18)] == told
    assert sum(a != b for a, b in zip(told, df.loc[train, 'noisy_labels_0'])) == 9
