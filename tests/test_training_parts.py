"Losses, metrics and optimizers against torch, against hand-made cases, and with what people get wrong."
import copy, pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import tv_tensors

from sotavision.training.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, L1LossFlat, MSELossFlat
from sotavision.training.metrics import (AvgMetric, Dice, FBeta, FBetaMulti, JaccardCoeff, Metric, accuracy, accuracy_multi, as_metric, error_rate,
                                         foreground_acc, mae, mse, top_k_accuracy)
from sotavision.training.optimizers import SGD, Adam, get_hypers, param_groups, set_hypers

LOSSES = CrossEntropyLossFlat, BCEWithLogitsLossFlat, MSELossFlat, L1LossFlat

@pytest.fixture
def gen(): return torch.Generator().manual_seed(0)

def value_and_grad(loss, pred, targ):
    pred = pred.clone().requires_grad_()
    out = loss(pred, targ)
    return out.detach(), torch.autograd.grad(out.sum(), pred)[0]

def same(a, b, **kwargs): return all(torch.allclose(o, p, atol=1e-6, **kwargs) for o,p in zip(a, b))

# Losses

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
    for targ in idx, soft: assert same(value_and_grad(ours, pred, targ), value_and_grad(theirs, pred, targ))

def test_gradient_is_softmax_minus_target(gen):
    pred, soft = torch.randn(5, 4, generator=gen), torch.rand(5, 4, generator=gen).softmax(1)
    _, grad = value_and_grad(CrossEntropyLossFlat(reduction='sum'), pred, soft)
    assert torch.allclose(grad, pred.softmax(1) - soft, atol=1e-6)

@pytest.mark.parametrize('cls, targ', [(CrossEntropyLossFlat, torch.tensor([1, 0])), (BCEWithLogitsLossFlat, torch.eye(2))])
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
def test_double_stays_double(cls): assert cls()(torch.ones(2, 3).double(), torch.ones(2, 3)).dtype == torch.float64

def test_half_soft_targets(gen):
    pred, soft = torch.randn(4, 3, generator=gen), torch.rand(4, 3, generator=gen).softmax(1).bfloat16()
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
    pred, mask = torch.randn(2, 3, 4, 4, generator=gen), torch.randint(3, (2, 1, 4, 4), generator=gen).to(torch.uint8)
    out = CrossEntropyLossFlat(axis=1)(tv_tensors.Image(pred), tv_tensors.Mask(mask))
    assert type(out) is torch.Tensor and out.isclose(F.cross_entropy(pred, mask[:, 0].long()))
    assert type(CrossEntropyLossFlat(axis=1).activation(tv_tensors.Image(pred))) is torch.Tensor

def test_ignored_targets_count_for_nothing(gen):
    pred = torch.randn(4, 3, generator=gen)
    assert CrossEntropyLossFlat()(pred, torch.tensor([0, -100, 2, -100])).isclose(F.cross_entropy(pred[::2], torch.tensor([0, 2])))
    assert CrossEntropyLossFlat(ignore_index=255)(pred, torch.tensor([0, 255, 2, 255])).isclose(F.cross_entropy(pred[::2], torch.tensor([0, 2])))

@pytest.mark.parametrize('targ, says', [
    (torch.tensor([0, 3]), r'Target 3 is not one of 3 classes \(0 to 2\)'),
    (torch.tensor([0, -1]), 'Target -1 is not one of 3'),
    (torch.tensor([0., 1.]), r'use `\.long\(\)`'),
    (torch.rand(2, 4), r'targets torch.float32 \(2, 4\): probabilities need one number for each of the 3 classes'),
    (torch.rand(3, 3), 'one number for each of the 3 classes'),
    (torch.tensor([0, 1, 2]), r'indices need the shape \(2,\)'),
    (torch.tensor(1), r'indices need the shape \(2,\)'),
])
def test_targets_that_do_not_fit(targ, says):
    with pytest.raises(ValueError, match=says): CrossEntropyLossFlat()(torch.zeros(2, 3), targ)

@pytest.mark.parametrize('pred, axis', [(torch.zeros(3), -1), (torch.zeros(2, 3), 2)])
def test_predictions_without_the_axis(pred, axis):
    with pytest.raises(ValueError, match='predictions need an axis for items'): CrossEntropyLossFlat(axis=axis)(pred, torch.zeros(2).long())

@pytest.mark.parametrize('cls', LOSSES[1:])
@pytest.mark.parametrize('shapes', [((4, 1), (4,)), ((4,), (4, 1)), ((4, 6), (4, 3, 2))])
def test_targets_are_flattened_item_by_item(gen, cls, shapes):
    pred, targ = (torch.rand(s, generator=gen) for s in shapes)
    assert torch.equal(cls()(pred, targ), cls()(pred, targ.reshape(pred.shape)))
    assert cls(reduction='none')(pred, targ).shape == pred.shape

@pytest.mark.parametrize('cls', LOSSES[1:])
@pytest.mark.parametrize('shape', [(3, 4), (4,), (4, 1), (4, 2)])
def test_targets_never_broadcast(cls, shape):
    with pytest.raises(ValueError, match=r'Targets of shape .* do not fit predictions of shape \(4, 3\)'): cls()(torch.zeros(4, 3), torch.zeros(shape))

def test_bce_equals_torch(gen):
    pred, targ = torch.randn(5, 3, generator=gen), torch.randint(2, (5, 3), generator=gen)
    w, pw = torch.tensor([1., 2, 3]), torch.tensor([3., 1, 2])
    ours = BCEWithLogitsLossFlat(weight=[1, 2, 3], pos_weight=pw)
    theirs = partial(F.binary_cross_entropy_with_logits, weight=w, pos_weight=pw)
    assert same(value_and_grad(ours, pred, targ), value_and_grad(theirs, pred, targ.float()))
    assert torch.equal(BCEWithLogitsLossFlat(thresh=.8).decodes(torch.tensor([.7, .8, .9])), torch.tensor([False, False, True]))

@pytest.mark.parametrize('cls', LOSSES)
def test_with_reduction_leaves_the_loss_alone(gen, cls):
    loss, pred, targ = cls(), torch.randn(4, 3, generator=gen), torch.rand(4, 3, generator=gen).softmax(1)
    each = loss.with_reduction('none')
    assert loss.reduction == 'mean' and each.reduction == 'none' and type(each) is cls
    assert each(pred, targ).mean().isclose(loss(pred, targ))
    with pytest.raises(ValueError, match="reduction='avg'"): loss.with_reduction('avg')

@pytest.mark.parametrize('cls', LOSSES)
def test_losses_copy_pickle_and_refuse_unknown_words(cls):
    pred, targ = torch.ones(2, 3), torch.ones(2, 3)
    for other in copy.deepcopy(cls()), pickle.loads(pickle.dumps(cls())): assert torch.equal(other(pred, targ), cls()(pred, targ))
    assert repr(cls()).startswith(f'{cls.__name__}(reduction=')
    with pytest.raises(TypeError): cls(reductoin='mean')

# Metrics

def classified(gen, n): return torch.randn(n, 6, generator=gen), torch.randint(6, (n,), generator=gen)
def tagged(gen, n): return torch.randn(n, 4, generator=gen), torch.randint(2, (n, 4), generator=gen)
def masked(gen, n): return torch.randn(n, 3, 4, 5, generator=gen), torch.randint(3, (n, 4, 5), generator=gen)
def softly(gen, n): return torch.randn(n, 6, generator=gen), torch.rand(n, 6, generator=gen).softmax(1)

METRICS = [(classified, f) for f in (accuracy, error_rate, top_k_accuracy, partial(top_k_accuracy, k=2), FBeta(2), FBeta(average='macro'), FBeta(average='micro'))] + \
          [(tagged, f) for f in (accuracy_multi, partial(accuracy_multi, thresh=.2), mse, mae, FBetaMulti(2), FBetaMulti(average='micro'))] + \
          [(masked, f) for f in (partial(accuracy, axis=1), foreground_acc, partial(foreground_acc, bkg_idx=2), Dice(), Dice(average='macro'), JaccardCoeff())] + \
          [(softly, f) for f in (accuracy, top_k_accuracy)]
named = pytest.mark.parametrize('data, func', METRICS, ids=lambda o: getattr(o, '__name__', None) or as_metric(o).name)

def over(metric, batches):
    metric.reset()
    for b in batches: metric.accumulate(*b)
    return metric.value

@named
@pytest.mark.parametrize('sizes', [[17], [16, 1], [1] * 17, [5, 5, 5, 2], [1, 16]], ids=str)
def test_the_value_does_not_depend_on_the_batches(gen, data, func, sizes):
    preds, targs = data(gen, 17)
    metric = as_metric(func)
    value = over(metric, zip(preds.split(sizes), targs.split(sizes)))
    assert value == pytest.approx(over(metric, [(preds, targs)]), abs=1e-6) and 0 < value
    if not isinstance(func, Metric): assert value == pytest.approx(func(preds, targs).item(), abs=1e-6)

@named
def test_metrics_watch_and_change_nothing(gen, data, func):
    preds, targs = data(gen, 5)
    before = preds.clone(), targs.clone()
    metric = as_metric(func)
    metric.reset(); assert metric.value is None
    metric.accumulate(preds.requires_grad_(), targs)
    assert torch.equal(preds, before[0]) and torch.equal(targs, before[1]) and preds.grad is None
    assert not metric.total.requires_grad and isinstance(metric.value, float)
    metric.reset(); assert metric.value is None

@named
def test_accumulating_never_reads_a_number(gen, data, func):
    "A tensor on the meta device has no numbers: whatever would make a GPU wait fails on it."
    preds, targs = data(gen, 5)
    metric = as_metric(func)
    for n in 5, 1: metric.accumulate(preds[:n].to('meta'), targs[:n].to('meta'))
    assert metric.total.device.type == 'meta'
    metric.reset()

@pytest.mark.parametrize('loss, data', [(CrossEntropyLossFlat(), classified), (CrossEntropyLossFlat(), softly), (CrossEntropyLossFlat(axis=1), masked),
                                        (BCEWithLogitsLossFlat(), tagged), (MSELossFlat(), tagged), (L1LossFlat(), tagged)])
def test_losses_never_read_a_number(gen, loss, data):
    preds, targs = data(gen, 5)
    assert loss(preds.to('meta'), targs.to('meta')).shape == ()

def test_top_k_against_sorting_by_hand(gen):
    preds, targs = classified(gen, 40)
    for k in range(1, 7):
        hits = [t in sorted(range(6), key=lambda i: -p[i])[:k] for p,t in zip(preds.tolist(), targs.tolist())]
        assert top_k_accuracy(preds, targs, k=k).item() == pytest.approx(sum(hits) / 40)
    assert top_k_accuracy(preds, targs, k=1) == accuracy(preds, targs)
    for k in 0, 7:
        with pytest.raises(ValueError, match=f'k={k} with 6 classes: choose k from 1 to 6'): top_k_accuracy(preds, targs, k=k)

def test_counted_scores_against_loops(gen):
    preds, targs = classified(gen, 60)
    guess = preds.argmax(1).tolist()
    def f(c, b=2):
        tp, fp, fn = (sum(h(g, t) for g,t in zip(guess, targs.tolist())) for h in
                      (lambda g, t: g == c == t, lambda g, t: g == c != t, lambda g, t: g != c == t))
        return (1 + b*b) * tp / ((1 + b*b) * tp + b*b*fn + fp)
    assert over(FBeta(2, pos_label=4), [(preds, targs)]) == pytest.approx(f(4))
    assert over(FBeta(2, average='macro'), [(preds, targs)]) == pytest.approx(sum(map(f, range(6))) / 6)
    assert over(FBeta(2, average='micro'), [(preds, targs)]) == pytest.approx(accuracy(preds, targs).item())

def test_scores_leave_out_void_pixels():
    preds = F.one_hot(torch.tensor([[[0, 1, 1, 1]]]), 2).permute(0, 3, 1, 2).float()
    assert over(Dice(), [(preds, torch.tensor([[[0, 1, 1, 255]]]))]) == 1
    assert over(Dice(), [(preds, torch.tensor([[[0, 1, 1, -100]]]))]) == 1
    assert over(Dice(), [(preds, torch.tensor([[[0, 1, 1, 0]]]))]) == pytest.approx(.8)

def test_macro_leaves_out_classes_that_never_occur():
    preds, targs = F.one_hot(torch.tensor([0, 1, 1]), 5).float(), torch.tensor([0, 1, 0])
    assert over(FBeta(average='macro'), [(preds, targs)]) == pytest.approx(2/3)

@pytest.mark.parametrize('f, says', [(FBeta(pos_label=9), 'pos_label=9 is not one of 6 classes'), (FBeta(pos_label=-1), 'pos_label=-1')])
def test_a_positive_label_that_is_no_class(gen, f, says):
    with pytest.raises(ValueError, match=says): over(f, [classified(gen, 3)])

def test_as_metric_takes_what_people_give():
    class Mine:
        def __call__(self, preds, targs): return 1.
    def own(preds, targs): return (preds.argmax(1) == targs).float().mean().item()
    assert [as_metric(o).name for o in (own, Mine(), lambda p, t: 0, FBeta, Dice(), partial(own))] == ['own', 'Mine', 'lambda', 'f1_score', 'dice', 'own']
    assert over(as_metric(own), [(torch.eye(2), torch.tensor([0, 1])), (torch.eye(2)[:1], torch.tensor([1]))]) == pytest.approx(2/3)
    for bad in None, 3, 'accuracy':
        with pytest.raises(TypeError, match='not a metric'): as_metric(bad)
    with pytest.raises(TypeError): AvgMetric(own, nmae='x')
    with pytest.raises(TypeError): accuracy(torch.eye(2), torch.tensor([0, 1]), tresh=1)

def test_half_precision_metrics_add_up_in_float32():
    metric = as_metric(lambda p, t: p.mean())
    assert over(metric, [(torch.ones(64, dtype=torch.float16), torch.zeros(64))] * 2000) == 1   # 128,000 is beyond float16

def test_wrong_shapes_reach_the_reader_as_words(gen):
    preds, targs = classified(gen, 4)
    with pytest.raises(ValueError, match=r'indices need the shape \(4,\)'): accuracy(preds, targs[:3])
    with pytest.raises(ValueError, match='do not fit predictions'): accuracy_multi(preds, targs)

# Optimizers

def trained(make, steps=25, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 2))
    opt = make(model)
    for i in range(steps):
        set_hypers(opt, lr=.1 / (i + 1), mom=.95 - .002 * i)
        model(torch.randn(8, 3)).square().mean().backward()
        opt.step(); opt.zero_grad()
    return torch.cat([p.detach().flatten() for p in model.parameters()])

def test_adam_equals_torchs_adamw_under_a_schedule():
    ours = trained(lambda m: Adam(m.parameters()))
    plain = trained(lambda m: Adam(m.parameters(), fused=False))
    theirs = trained(lambda m: torch.optim.AdamW(m.parameters(), betas=(.9, .99), eps=1e-5, weight_decay=.01, foreach=False))
    assert torch.equal(plain, theirs) and torch.allclose(ours, theirs, atol=1e-6)
    assert torch.equal(ours, trained(lambda m: Adam(m.parameters())))

def test_sgd_equals_torchs():
    ours = trained(lambda m: SGD(m.parameters(), wd=.1))
    assert torch.equal(ours, trained(lambda m: torch.optim.SGD(m.parameters(), lr=1., weight_decay=.1)))

@pytest.mark.parametrize('make', [Adam, SGD])
def test_groups_keep_what_they_set(make):
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = make([dict(params=a, lr=.5), dict(params=iter([b]), weight_decay=.2, part=1)], lr=.1, wd=.3)
    assert get_hypers(opt)['lr'] == [.5, .1] and get_hypers(opt)['wd'] == [.3, .2] and opt.param_groups[0]['params'][0] is a
    with pytest.raises(TypeError): make([a], betas=(.9, .99))

def test_only_what_should_decays():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    for p in model.parameters(): p.data.fill_(1.); p.grad = torch.zeros_like(p)
    Adam(param_groups(model, wd=.5), lr=.1).step()
    assert [round(p.mean().item(), 4) for p in model.parameters()] == [.95, 1, 1, 1]

class Odd(nn.Module):
    "Tied weights, a norm with two axes, attention, a gain without axes, and a frozen layer."
    def __init__(self):
        super().__init__()
        self.emb, self.norm, self.att = nn.Embedding(7, 4), nn.LayerNorm((2, 4)), nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.group, self.frozen, self.head = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1), nn.Linear(4, 7, bias=False)
        self.gamma, self.head.weight = nn.Parameter(torch.zeros(())), self.emb.weight
        self.frozen.requires_grad_(False)

@pytest.mark.parametrize('splitter', [None, lambda m: [m.emb, [m.norm, m.att, [m.group, m.gamma]], nn.ModuleList([m.frozen])], lambda m: [list(m.parameters())]])
@pytest.mark.parametrize('wd_bn_bias', [True, False])
def test_every_parameter_is_in_one_group(splitter, wd_bn_bias):
    model = Odd()
    groups = param_groups(model, .1, wd_bn_bias, splitter)
    ids = [id(p) for g in groups for p in g['params']]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    names = {id(p): n for n,p in model.named_parameters()}
    spared = {names[id(p)] for g in groups for p in g['params'] if g['weight_decay'] == 0}
    assert spared == (set() if wd_bn_bias else {n for n in names.values() if n.split('.')[0] in ('norm', 'group', 'gamma') or 'bias' in n} - {'att.bias_k', 'att.bias_v'})
    assert [g['part'] for g in groups] == sorted(g['part'] for g in groups) and all(g['decay'] or g['weight_decay'] == 0 for g in groups)
    Adam(groups).step()

def test_splitters_that_are_wrong():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for splitter, says in ((lambda m: [m[0]], '2 parameters are in no part of the splitter: 2.weight, 2.bias'), (lambda m: [m, m[2].bias], "'2.bias' is in parts 0 and 1"),
                           (lambda m: [m, nn.Linear(1, 1)], r'Part 1 of the splitter holds a parameter of shape \(1, 1\)'), (lambda m: [], '4 parameters are in no part')):
        with pytest.raises(ValueError, match=says): param_groups(model, splitter=splitter)
    assert [g['part'] for g in param_groups(model, splitter=lambda m: [m[1], m[0], m[2]])] == [1, 1, 2, 2]
    with pytest.raises(TypeError): param_groups(model, weight_decay=.1)

def test_hypers_survive_saving():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    def make(): return Adam(param_groups(model, .1, splitter=list))
    opt, other = make(), make()
    set_hypers(opt, lr=[.1, .2], mom=.7, wd=[.3, .4])
    other.load_state_dict(opt.state_dict())
    assert get_hypers(other) == get_hypers(opt) == dict(lr=[.1, .1, .2, .2], mom=[.7] * 4, wd=[.3, 0, .4, 0])
    assert [g['part'] for g in other.param_groups] == [0, 0, 1, 1]

def test_set_hypers_touches_only_what_it_is_told():
    p = nn.Parameter(torch.ones(2))
    opt = Adam([p], lr=.1, mom=.8, sqr_mom=.95, wd=.2)
    before = get_hypers(opt)
    set_hypers(opt); assert get_hypers(opt) == before
    set_hypers(opt, mom=.5); assert get_hypers(opt) == before | dict(mom=[.5]) and opt.param_groups[0]['betas'] == (.5, .95)
    set_hypers(opt, lr=0); assert get_hypers(opt)['lr'] == [0]
    for bad in dict(lr=[1, 2]), dict(lr=-1.), dict(mom=float('nan')), dict(wd=[-.1]):
        with pytest.raises(ValueError, match=next(iter(bad))): set_hypers(opt, **bad)
    with pytest.raises(TypeError): set_hypers(opt, momentum=.9)

def test_a_rate_that_is_a_tensor_is_changed_in_place():
    lr = torch.tensor(.1)
    opt = torch.optim.AdamW([nn.Parameter(torch.ones(2))], lr=lr)
    set_hypers(opt, lr=.5)
    assert opt.param_groups[0]['lr'] is lr and lr == .5

def test_optimizers_without_momentum():
    opt = torch.optim.Adagrad([nn.Parameter(torch.ones(2))])
    set_hypers(opt, lr=.3); assert get_hypers(opt) == dict(lr=[.3], wd=[0])
    with pytest.raises(ValueError, match='no momentum'): set_hypers(opt, mom=.9)
    rms = torch.optim.RMSprop([nn.Parameter(torch.ones(2))])
    set_hypers(rms, mom=.6); assert get_hypers(rms)['mom'] == [.6]
