"Losses against torch, against hand-made cases, and with what people get wrong."
import copy
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torchvision import tv_tensors

from batches import (
    classified,
    generator,  # noqa: F401 (a fixture)
    masked,
    softly,
    tagged,
)
from sotavision.objectives.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    L1LossFlat,
    MSELossFlat,
)

LOSSES = CrossEntropyLossFlat, BCEWithLogitsLossFlat, MSELossFlat, L1LossFlat

def value_and_grad(loss, pred, targ):
    pred = pred.clone().requires_grad_()
    out = loss(pred, targ)
    return out.detach(), torch.autograd.grad(out.sum(), pred)[0]

def same(a, b, **kwargs): return all(torch.allclose(o, p, atol=1e-6, **kwargs) for o,p in zip(a, b))

@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize('weight', [None, [.5, 1., 2.]])
@pytest.mark.parametrize('smoothing', [0., .1])
@pytest.mark.parametrize('n', [1, 2, 7])
def test_cross_entropy_equals_torch(gen, reduction, weight, smoothing, n):
    pred, idx = torch.randn(n, 3, generator=gen) * 3, torch.randint(3, (n,), generator=gen)
    soft = torch.rand(n, 3, generator=gen).softmax(1)
    ours = CrossEntropyLossFlat(weight=weight, reduction=reduction, label_smoothing=smoothing)
    w = None if weight is None else torch.tensor(weight)
    theirs = partial(F.cross_entropy, weight=w, reduction=reduction, label_smoothing=smoothing)
    for targ in idx, soft:
        assert same(value_and_grad(ours, pred, targ), value_and_grad(theirs, pred, targ))

def test_gradient_is_softmax_minus_target(gen):
    pred, soft = torch.randn(5, 4, generator=gen), torch.rand(5, 4, generator=gen).softmax(1)
    _, grad = value_and_grad(CrossEntropyLossFlat(reduction='sum'), pred, soft)
    assert torch.allclose(grad, pred.softmax(1) - soft, atol=1e-6)

@pytest.mark.parametrize(
    'cls, targ',
    [(CrossEntropyLossFlat, torch.tensor([1, 0])), (BCEWithLogitsLossFlat, torch.eye(2))])
def test_extreme_logits_stay_finite(cls, targ):
    pred = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    value, grad = value_and_grad(cls(), pred, targ)
    assert value.isfinite() and grad.isfinite().all() and grad.abs().max() <= 1

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('cls', LOSSES)
def test_half_precision_is_computed_in_float32(gen, cls, dtype):
    pred, targ = torch.randn(6, 3, generator=gen).to(dtype), torch.rand(6, 3, generator=gen)
    assert cls()(pred, targ).dtype == torch.float32
    assert torch.equal(cls()(pred, targ), cls()(pred.float(), targ))
    assert cls().activation(pred).dtype == torch.float32

@pytest.mark.parametrize('cls', LOSSES)
def test_autocast_does_not_reach_inside(gen, cls):
    pred, targ = torch.randn(6, 3, generator=gen), torch.rand(6, 3, generator=gen)
    with torch.autocast('cpu', torch.bfloat16): inside = cls()(pred, targ)
    assert inside.dtype == torch.float32 and torch.equal(inside, cls()(pred, targ))

@pytest.mark.parametrize('cls', LOSSES)
def test_double_stays_double(cls):
    assert cls()(torch.ones(2, 3).double(), torch.ones(2, 3)).dtype == torch.float64

def test_half_soft_targets(gen):
    pred = torch.randn(4, 3, generator=gen)
    soft = torch.rand(4, 3, generator=gen).softmax(1).bfloat16()
    assert torch.equal(CrossEntropyLossFlat()(pred, soft), F.cross_entropy(pred, soft.float()))

def test_classes_on_any_axis(gen):
    pred, targ = torch.randn(2, 4, 3, 5, generator=gen), torch.randint(4, (2, 3, 5), generator=gen)
    expected = F.cross_entropy(pred, targ)
    assert CrossEntropyLossFlat(axis=1)(pred, targ).isclose(expected)
    assert CrossEntropyLossFlat(axis=-1)(pred.movedim(1, -1), targ).isclose(expected)
    soft = F.one_hot(targ, 4).float()
    assert CrossEntropyLossFlat(axis=-1)(pred.movedim(1, -1), soft).isclose(expected)
    assert CrossEntropyLossFlat(axis=1)(pred, soft.movedim(-1, 1)).isclose(expected)
    assert CrossEntropyLossFlat(axis=1, reduction='none')(pred, targ).shape == targ.shape
    assert CrossEntropyLossFlat(axis=1).decodes(pred).shape == targ.shape

def test_masks_of_torchvision_give_plain_tensors(gen):
    pred = torch.randn(2, 3, 4, 4, generator=gen)
    mask = torch.randint(3, (2, 1, 4, 4), generator=gen).to(torch.uint8)
    out = CrossEntropyLossFlat(axis=1)(tv_tensors.Image(pred), tv_tensors.Mask(mask))
    assert type(out) is torch.Tensor and out.isclose(F.cross_entropy(pred, mask[:, 0].long()))
    assert type(CrossEntropyLossFlat(axis=1).activation(tv_tensors.Image(pred))) is torch.Tensor

def test_ignored_targets_count_for_nothing(gen):
    pred = torch.randn(4, 3, generator=gen)
    assert CrossEntropyLossFlat()(pred, torch.tensor([0, -100, 2, -100])).isclose(
        F.cross_entropy(pred[::2], torch.tensor([0, 2]))
    )
    assert CrossEntropyLossFlat(ignore_index=255)(pred, torch.tensor([0, 255, 2, 255])).isclose(
        F.cross_entropy(pred[::2], torch.tensor([0, 2]))
    )

@pytest.mark.parametrize('targ, says', [
    (torch.tensor([0, 3]), r'Target 3 is not one of 3 classes \(0 to 2\)'),
    (torch.tensor([0, -1]), 'Target -1 is not one of 3'),
    (torch.tensor([0., 1.]), r'use `\.long\(\)`'),
    (torch.rand(2, 4), r'targets torch.float32 \(2, 4\): probabilities need one number for each '
                       r'of the 3 classes'),
    (torch.rand(3, 3), 'one number for each of the 3 classes'),
    (torch.tensor([0, 1, 2]), r'indices need the shape \(2,\)'),
    (torch.tensor(1), r'indices need the shape \(2,\)'),
])
def test_targets_that_do_not_fit(targ, says):
    with pytest.raises(ValueError, match=says): CrossEntropyLossFlat()(torch.zeros(2, 3), targ)

@pytest.mark.parametrize('pred, axis', [(torch.zeros(3), -1), (torch.zeros(2, 3), 2)])
def test_predictions_without_the_axis(pred, axis):
    with pytest.raises(ValueError, match='predictions need an axis for items'):
        CrossEntropyLossFlat(axis=axis)(pred, torch.zeros(2).long())

@pytest.mark.parametrize('cls', LOSSES[1:])
@pytest.mark.parametrize('shapes', [((4, 1), (4,)), ((4,), (4, 1)), ((4, 6), (4, 3, 2))])
def test_targets_are_flattened_item_by_item(gen, cls, shapes):
    pred, targ = (torch.rand(s, generator=gen) for s in shapes)
    assert torch.equal(cls()(pred, targ), cls()(pred, targ.reshape(pred.shape)))
    assert cls(reduction='none')(pred, targ).shape == pred.shape

@pytest.mark.parametrize('cls', LOSSES[1:])
@pytest.mark.parametrize('shape', [(3, 4), (4,), (4, 1), (4, 2)])
def test_targets_never_broadcast(cls, shape):
    with pytest.raises(
        ValueError, match=r'Targets of shape .* do not fit predictions of shape \(4, 3\)'
    ):
        cls()(torch.zeros(4, 3), torch.zeros(shape))

def test_bce_equals_torch(gen):
    pred, targ = torch.randn(5, 3, generator=gen), torch.randint(2, (5, 3), generator=gen)
    w, pw = torch.tensor([1., 2, 3]), torch.tensor([3., 1, 2])
    ours = BCEWithLogitsLossFlat(weight=[1, 2, 3], pos_weight=pw)
    theirs = partial(F.binary_cross_entropy_with_logits, weight=w, pos_weight=pw)
    assert same(value_and_grad(ours, pred, targ), value_and_grad(theirs, pred, targ.float()))
    assert torch.equal(
        BCEWithLogitsLossFlat(thresh=.8).decodes(torch.tensor([.7, .8, .9])),
        torch.tensor([False, False, True]),
    )

@pytest.mark.parametrize('cls', LOSSES)
def test_with_reduction_leaves_the_loss_alone(gen, cls):
    loss, pred = cls(), torch.randn(4, 3, generator=gen)
    targ = torch.rand(4, 3, generator=gen).softmax(1)
    each = loss.with_reduction('none')
    assert loss.reduction == 'mean' and each.reduction == 'none' and type(each) is cls
    assert each(pred, targ).mean().isclose(loss(pred, targ))
    with pytest.raises(ValueError, match="reduction='avg'"): loss.with_reduction('avg')

@pytest.mark.parametrize('cls', LOSSES)
def test_losses_copy_pickle_and_refuse_unknown_words(cls):
    pred, targ = torch.ones(2, 3), torch.ones(2, 3)
    for other in copy.deepcopy(cls()), pickle.loads(pickle.dumps(cls())):
        assert torch.equal(other(pred, targ), cls()(pred, targ))
    assert repr(cls()).startswith(f'{cls.__name__}(reduction=')
    with pytest.raises(TypeError): cls(reductoin='mean')

@pytest.mark.parametrize(
    'loss, data',
    [(CrossEntropyLossFlat(), classified), (CrossEntropyLossFlat(), softly),
     (CrossEntropyLossFlat(axis=1), masked), (BCEWithLogitsLossFlat(), tagged),
     (MSELossFlat(), tagged), (L1LossFlat(), tagged)])
def test_losses_never_read_a_number(gen, loss, data):
    preds, targs = data(gen, 5)
    assert loss(preds.to('meta'), targs.to('meta')).shape == ()
