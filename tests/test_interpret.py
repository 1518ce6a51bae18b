"Interpretation and Grad-CAM at their edges."
import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18, vgg11

from sotavision.core.rng import set_seed
from sotavision.data.datablock import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    MaskBlock,
    MultiCategoryBlock,
    RegressionBlock,
)
from sotavision.data.files import ColReader
from sotavision.data.splits import IndexSplitter
from sotavision.models.layers import ConvLayer
from sotavision.models.xresnet import xresnet18
from sotavision.study.gradcam import grad_cam, last_maps, places, show_cams
from sotavision.study.interpret import ClassificationInterpretation as Interpretation
from sotavision.techniques.mixup import MixUp
from sotavision.training.predict import Learner

matplotlib.use('agg')

@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')

def one_hot(indices, c, sure=1.):
    return torch.full((len(indices), c), (1 - sure) / (c - 1) if c > 1 else 0.).scatter(
        1, torch.tensor(indices)[:, None], sure
    )

# --- from predictions, by hand

def test_a_class_never_predicted_and_one_without_items():
    o = Interpretation(one_hot([0, 0, 0], 3, .8), torch.tensor([0, 0, 1]), ['a', 'b', 'c'])
    t = o.per_class()
    assert t.precision.iloc[0] == 2/3 and t.precision.iloc[1:].isna().all()
    assert t.recall.tolist()[:2] == [1, 0] and math.isnan(t.recall.iloc[2])
    assert t.f1.tolist()[:2] == [.8, 0] and math.isnan(t.f1.iloc[2])
    assert t.support.tolist() == [2, 1, 0] and t.predicted.tolist() == [3, 0, 0]
    assert o.most_confused() == [('b', 'a', 1)]
    # a row of zeros must not become NaN
    o.plot_confusion_matrix(); o.plot_confusion_matrix(normalize=True)
    values = plt.gcf().axes[0].images[0].get_array()
    assert np.isfinite(values).all() and values[2].sum() == 0
    o.print_classification_report()

def test_one_item():
    o = Interpretation(torch.tensor([[.3, .7]]), torch.tensor([0]))
    assert o.confusion_matrix().tolist() == [[0, 1], [0, 0]] and o.top_losses(5)[1].tolist() == [0]
    assert o.worst(5).probability.round(2).tolist() == [.7]
    assert o.most_confused() == [(0, 1, 1)] and len(o) == 1

def test_nothing_wrong():
    o = Interpretation(one_hot([0, 1, 2], 3), torch.tensor([0, 1, 2]))
    assert o.most_confused() == [] and o.right.all() and o.losses.eq(0).all()
    assert o.worst(2).index.tolist() == [0, 1]

def test_k_beyond_the_items_and_below_one():
    o = Interpretation(torch.rand(4, 3).softmax(1), torch.tensor([0, 1, 2, 0]))
    assert len(o.top_losses()[0]) == len(o.top_losses(99)[0]) == len(o.worst(99)) == 4
    for k in (0, -1):
        with pytest.raises(ValueError, match=f'k={k}'): o.worst(k)

def test_ties_keep_the_order_of_the_items():
    o = Interpretation(torch.full((50, 2), .5), torch.arange(50) % 2)
    assert (
        o.top_losses(50)[1].tolist()
        == o.top_losses(50, largest=False)[1].tolist()
        == list(range(50))
    )
    # equal probabilities: the first class
    assert o.decoded.eq(0).all()

def test_sure_and_wrong_is_finite():
    o = Interpretation(one_hot([1], 2), torch.tensor([0]))
    assert o.losses.isfinite().all() and o.losses[0] > 80

def test_the_probability_is_that_of_the_answer():
    p = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    y = torch.arange(40) % 5
    o = Interpretation(p, y)
    for r in o.worst(40).itertuples():
        assert r.probability == pytest.approx(p[r.Index].max().item())
        assert r.loss == pytest.approx(-p[r.Index, y[r.Index]].log().item(), abs=1e-5)

@pytest.mark.parametrize(
    'preds, targs, kw, text',
    [(torch.rand(4, 3).softmax(1), [0, 1, 2], {}, '4 predictions'),
     (torch.rand(4, 3).softmax(1), [0, 1, 2, 3], {}, '3 is not one of the classes 0 to 2'),
     (torch.rand(4, 3).softmax(1), [0, 1, 2, -1], {}, '-1 is not one'),
     (torch.rand(4, 3).softmax(1), [0., 1., 2., 0.], {}, 'targs.long'),
     (torch.rand(4, 3).softmax(1), torch.rand(4, 3), {}, r'targs.argmax\(1\)'),
     (torch.rand(4, 3).softmax(1), torch.zeros(4, 2), {}, 'zeros and ones'),
     (torch.rand(4, 3).softmax(1), [0, 1, 2, 0], dict(vocab=['a', 'b']),
      '3 probabilities for each item and 2 classes'),
     (torch.rand(4, 3).softmax(1), [0, 1, 2, 0], dict(items=['x']), '1 items for 4 predictions'),
     (torch.rand(4, 3).softmax(1), [0, 1, 2, 0], dict(losses=[1., 2.]), 'Losses of shape'),
     (torch.randn(4, 3) * 5, [0, 1, 2, 0], {}, 'no probabilities'),
     (torch.full((4, 3), math.nan), [0, 1, 2, 0], {}, 'Item 0 has the prediction .nan'),
     (torch.full((4, 3), .9), [0, 1, 2, 0], {}, 'do not add up to 1'),
     (torch.rand(4), [0, 1, 2, 0], {}, r'shape \(4,\)'),
     (torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4), {}, 'Masks have a class for each pixel'),
     (torch.rand(0, 3), torch.zeros(0), {}, r'shape \(0, 3\)')])
def test_bad_predictions(preds, targs, kw, text):
    with pytest.raises(ValueError, match=text):
        Interpretation.from_predictions(preds, torch.as_tensor(targs), **kw)

def test_targets_in_a_column():
    assert Interpretation(one_hot([0, 2], 3), torch.tensor([[0], [2]])).right.all()

def test_arrays_and_lists_are_welcome():
    o = Interpretation.from_predictions(np.array([[.2, .8], [.9, .1]]), [1, 1], ('no', 'yes'))
    assert o.right.tolist() == [True, False] and o.most_confused() == [('yes', 'no', 1)]

# --- several labels

def test_several_labels_by_hand():
    p = torch.tensor([[.9, .1, .6], [.2, .2, .2], [.4, .8, .5]])
    o = Interpretation(p, torch.tensor([[1, 0, 0], [0, 0, 1], [0, 1, 1]]), ['x', 'y', 'z'])
    # .5 is not above .5
    assert o.said.tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    assert o.confusion_matrix().tolist() == [[[2, 0], [0, 1]], [[2, 0], [0, 1]], [[0, 1], [2, 0]]]
    assert o.per_class().recall.tolist() == [1, 1, 0] and o.right.tolist() == [False] * 3
    assert o.worst(3).loc[0, 'probability'] == '0.90 0.60'
    assert o.worst(3).loc[1, 'prediction'] == 'nothing'
    # a missed label and no wrong one, or the other way round
    assert o.most_confused() == []
    o.plot_confusion_matrix(normalize=True)
    o.print_classification_report()

def test_threshold_of_the_answers():
    o = Interpretation(torch.tensor([[.4, .1]]), torch.tensor([[1, 0]]), thresh=.3)
    assert o.right.all()

def test_one_class_of_several_labels():
    o = Interpretation(torch.tensor([[.9], [.1]]), torch.tensor([[1], [1]]))
    assert o.several and o.confusion_matrix().tolist() == [[[0, 0], [1, 1]]]

def test_against_sklearn():
    metrics = pytest.importorskip('sklearn.metrics')
    p, y = torch.randn(200, 6).softmax(1), torch.randint(6, (200,))
    o = Interpretation(p, y)
    assert (o.confusion_matrix() == metrics.confusion_matrix(y, p.argmax(1), labels=range(6))).all()
    theirs = metrics.precision_recall_fscore_support(
        y, p.argmax(1), labels=range(6), zero_division=np.nan
    )
    assert np.allclose(o.per_class()[['precision', 'recall', 'f1']].T, theirs[:3], equal_nan=True)

# --- from a learner

GREY = [(np.full((8, 8), v, np.uint8), 'dark' if v < 128 else 'light') for v in range(0, 256, 8)]

def learner(block, items, n_out, loss=None, **kw):
    set_seed(0)
    dls = block.dataloaders(items, bs=8, device='cpu')
    return Learner(
        dls,
        nn.Sequential(nn.Flatten(), nn.Linear(64, n_out)),
        loss_func=loss,
        precision='fp32',
        **kw,
    )

def greys(**kw):
    return learner(
        DataBlock((ImageBlock('L'), CategoryBlock), get_x=lambda o: o[0], get_y=lambda o: o[1]),
        GREY,
        2,
        **kw,
    )

def test_training_items_come_in_order_and_complete():
    learn = greys()
    o = Interpretation.from_learner(learn, 0)
    assert len(o) == 26 > len(learn.dls.train) * 8
    assert [o.vocab[i] for i in o.targs] == learn.dls.train_ds.labels()
    assert o.items == list(range(26))                                  # arrays have no path

def test_mixup_does_not_leak_in():
    plain, mixed = greys(), greys(cbs=MixUp(1.))
    a, b = Interpretation.from_learner(plain, 0), Interpretation.from_learner(mixed, 0)
    assert a.losses.equal(b.losses) and a.targs.equal(b.targs)
    assert [type(c) for c in mixed.cbs][-1] is MixUp

def test_later_training_changes_nothing():
    learn = greys()
    o = Interpretation.from_learner(learn)
    before = o.preds.clone()
    with learn.no_bar(): learn.fit(1, 1e-1)
    assert o.preds.equal(before) and not Interpretation.from_learner(learn).preds.equal(before)

def test_labelled_test_loader_and_unlabelled_one():
    learn = greys()
    o = Interpretation.from_learner(learn, dl=learn.dls.test_dl(GREY[::-1], with_labels=True))
    assert [o.vocab[i] for i in o.targs] == [name for _, name in GREY[::-1]]
    with pytest.raises(ValueError, match='with_labels=True'):
        Interpretation.from_learner(learn, dl=learn.dls.test_dl([GREY[0][0]]))
    with pytest.raises(ValueError, match='ds_idx=3'): Interpretation.from_learner(learn, 3)

def test_a_plain_list_of_batches():
    learn = greys()
    o = Interpretation.from_learner(learn, dl=list(learn.dls.valid))
    assert o.preds.equal(Interpretation.from_learner(learn).preds)
    with pytest.raises(ValueError, match='know no images'): o.plot_top_losses(1)

def test_paths_and_pictures_of_a_table(tmp_path):
    for i, (a, _) in enumerate(GREY): Image.fromarray(a).save(tmp_path/f'{i}.png')
    table = pd.DataFrame(
        dict(name=[f'{i}.png' for i in range(len(GREY))], label=[o for _, o in GREY])
    )
    block = DataBlock(
        (ImageBlock('L'), CategoryBlock),
        get_x=ColReader('name', pref=tmp_path),
        get_y=ColReader('label'),
        splitter=IndexSplitter([3, 20]),
    )
    o = Interpretation.from_learner(learner(block, table, 2))
    assert sorted(str(i).rsplit('/', 1)[1] for i in o.items) == ['20.png', '3.png']
    grey = {
        str(o.items[i]).rsplit('/', 1)[1]: round(o.pictures([i])[0].mean().item() * 255)
        for i in (0, 1)
    }
    assert grey == {'3.png': 24, '20.png': 160}
    back = Interpretation.load(o.save(tmp_path/'o.npz'))
    # opened from the paths that the file knows
    back.plot_top_losses(2)
    assert len(plt.gcf().axes) == 2

def test_several_labels_from_a_learner():
    items = [(a, [name, 'even'] if i % 2 else [name]) for i, (a, name) in enumerate(GREY)]
    learn = learner(
        DataBlock(
            (ImageBlock('L'), MultiCategoryBlock), get_x=lambda o: o[0], get_y=lambda o: o[1]
        ),
        items,
        3,
    )
    o = Interpretation.from_learner(learn)
    assert o.several and o.vocab == ['dark', 'even', 'light']
    assert o.losses.mean().item() == pytest.approx(learn.validate()[0], abs=1e-5)
    o.plot_top_losses(3)

@pytest.mark.parametrize(
    'block, y, kind, n',
    [(MaskBlock(['a', 'b']), np.zeros((8, 8), np.uint8), 'mask', 2),
     (RegressionBlock(), 1., 'regression', 1)])
def test_what_cannot_be_confused(block, y, kind, n):
    learn = learner(
        DataBlock((ImageBlock('L'), block), get_x=lambda o: o[0], get_y=lambda o: y), GREY, n
    )
    with pytest.raises(ValueError, match=f"kind '{kind}'"): Interpretation.from_learner(learn)

def test_a_loss_function_that_is_torchs():
    learn = greys(loss=nn.functional.cross_entropy)
    o = Interpretation.from_learner(learn)
    assert o.losses.allclose(Interpretation.from_predictions(o.preds, o.targs).losses, atol=1e-5)

# --- on disk

def test_file_refuses_code(tmp_path):
    np.savez(
        tmp_path / 'evil.npz', preds=np.array([print], dtype=object), targs=0, losses=0, about='{}'
    )
    with pytest.raises(ValueError, match='no file of predictions'):
        Interpretation.load(tmp_path / 'evil.npz')

def test_numbers_as_classes_survive(tmp_path):
    o = Interpretation(one_hot([0, 1], 2), torch.tensor([0, 1]), [np.int64(3), 7])
    back = Interpretation.load(o.save(tmp_path/'o.npz'))
    assert back.vocab == [3, 7] and not list(tmp_path.glob('*.part'))

# --- Grad-CAM

def test_torchvision_resnet_with_in_place_activations():
    net = resnet18(num_classes=4).train()
    x = torch.rand(2, 3, 64, 96)
    assert last_maps(net, x) is net.layer4
    cams = grad_cam(net, x, [1, 3])
    assert cams.shape == (2, 64, 96) and net.training
    assert all(p.grad is None for p in net.parameters())
    for layer in (net.conv1, net.bn1, net.relu, net.layer2[0].conv1):
        assert grad_cam(net, x, 0, layer).shape == (2, 64, 96)

@pytest.mark.parametrize(
    'make, start, step',
    [(resnet18, 0, 32), (mobilenet_v3_small, 0, 32), (xresnet18, 0, 32), (vgg11, 7.5, 16)])
def test_where_the_last_maps_look(make, start, step):
    "Padded convolutions of stride 2 begin at the edge, pooling of 2 by 2 half a pixel inside."
    net, x = make().eval(), torch.rand(1, 3, 96, 64)
    # before the last pooling; VGG ends with an adaptive one
    layer = net.features[-2] if make is vgg11 else last_maps(net, x)
    assert places(net, layer, x) == [(start, step), (start, step)]

def test_batch_statistics_stay():
    net = nn.Sequential(
        ConvLayer(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    grad_cam(net, torch.rand(4, 3, 8, 8))
    assert all(v.equal(before[k]) for k, v in net.state_dict().items())

def test_a_layer_that_the_scores_do_not_depend_on():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aside = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 1)
        def forward(self, x): return self.aside(x), self.used(x).mean((2, 3))
    net = Aside()
    whole = nn.Sequential(net, Second())
    assert grad_cam(whole, torch.rand(1, 3, 8, 8), 0, net.used).shape == (1, 8, 8)
    with pytest.raises(ValueError, match='do not depend on Conv2d'):
        grad_cam(whole, torch.rand(1, 3, 8, 8), 0, net.aside)

class Second(nn.Module):
    def forward(self, pair): return pair[1]

def test_learner_names_and_its_loader():
    set_seed(0)
    learn = greys()
    learn.model = nn.Sequential(
        ConvLayer(1, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    x, y = learn.dls.valid.one_batch()
    assert grad_cam(learn, x, 'light').equal(grad_cam(learn.model, x, 1))
    assert grad_cam(learn, x).shape == (len(x), 8, 8)
    with pytest.raises(ValueError, match="'lihgt'.*'light'"): grad_cam(learn, x, 'lihgt')

def test_maps_are_shares_of_their_own_maximum():
    net = nn.Sequential(ConvLayer(3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    x = torch.rand(6, 3, 12, 12)
    top = torch.cat([grad_cam(net, x, c) for c in range(3)]).amax((1, 2))
    assert ((top == 0) | (top - 1).abs().lt(1e-6)).all() and top.max() > 0

def test_overlay_lies_on_the_picture():
    cams = torch.zeros(1, 10, 20); cams[0, :, 15:] = 1.
    show_cams(torch.rand(1, 3, 10, 20), cams)
    picture, heat = plt.gcf().axes[0].images
    assert picture.get_extent() == list(heat.get_extent()) or tuple(picture.get_extent()) == tuple(
        heat.get_extent()
    )
    assert heat.get_array().shape == (10, 20) and heat.get_alpha()[0, 19] == pytest.approx(.6)
    assert heat.get_alpha()[0, 0] == 0
