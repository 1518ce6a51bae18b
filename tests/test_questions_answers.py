"What a learner answers: the parts in their order, losses item by item, and what is no answer."
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import tv_tensors

from learners import (
    block,
    deep,
    items_of,
    learner,
    linear,
    loaders,
    one_thread,  # noqa: F401 (a fixture)
)
from questions import ASK, Inputs, augmented
from sotavision.data.datablock import CategoryBlock
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.study.interpret import ClassificationInterpretation as Interpretation
from sotavision.training.callback import (
    Callback,
    CancelBatchException,
    CancelValidException,
    DivergedError,
)

def broken(where):
    learn = augmented()
    if where == 'weights': learn.model[2].bias.data[1] = float('nan')
    if where == 'inputs':
        learn.add_cbs(
            type(
                'Spoils',
                (Callback,),
                {
                    'before_batch': lambda self: (
                        self.xb[0].as_subclass(torch.Tensor)[-1:].fill_(float('inf'))
                    )
                },
            )
        )
    if where == 'model':
        class Bad(nn.Module):
            def forward(self, x):
                return x.flatten(1)[:, :3].where(x.flatten(1)[:, :1] < 2, x.new_tensor(0)) / 0
        learn.model = Bad()
    return learn

@pytest.mark.parametrize('ask', ['get_preds', 'predict', 'tta', 'flips', 'interpret', 'losses'])
@pytest.mark.parametrize(
    'where, text',
    [('weights', r'weights are not finite \(2.bias; 1 of'), ('inputs', 'inputs are not finite'),
     ('model', 'does the model divide')])
def test_a_prediction_that_is_no_number(ask, where, text):
    with pytest.raises(
        DivergedError, match=f'(?s)prediction for item \\d+ is not finite .*{text}'
    ) as e:
        ASK[ask](broken(where))
    assert '\n' not in str(e.value)

def test_the_item_is_named():
    data = [(torch.randn(4), i % 2) for i in range(11)]
    data[9][0][2] = float('nan')
    learn = learner(
        lambda: nn.Linear(4, 2),
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2),
        loss_func=nn.CrossEntropyLoss(),
    )
    with pytest.raises(DivergedError, match='item 9 .*inputs'): learn.get_preds()

def test_half_precision_that_overflows():
    class Large(nn.Module):
        def forward(self, x):
            return (
                x.flatten(1)[:, :3]
                * 6e4
                * 6e4
                * (float('inf') if torch.is_autocast_enabled('cpu') else 1)
            )
    learn = learner(Large, precision='bf16')
    with pytest.raises(DivergedError, match="precision='bf16'.*to_fp32"): learn.get_preds()
    learn.to_fp32().get_preds()

def test_infinity_that_was_asked_for():
    class Masked(nn.Module):
        "Never the last class."
        def forward(self, x): return x.flatten(1)[:, :3] + torch.tensor([0., 0., -torch.inf])
    learn = learner(Masked)
    assert learn.get_preds()[0][:, 2].eq(0).all()                         # probabilities are finite
    assert learn.get_preds(act=lambda o: o)[0][:, 2].isneginf().all()
    assert learn.get_preds(act=lambda o: o.log_softmax(1))[0].isneginf().any()
    class Overflows(nn.Module):
        value = torch.inf
        def forward(self, x): return torch.full_like(x.flatten(1)[:, :3], self.value)
    class Divides(Overflows): value = torch.nan
    for model in (Overflows, Divides):
        for act in (None, lambda o: o):
            with pytest.raises(DivergedError): learner(model).get_preds(act=act)

def test_batches_without_pictures_are_not_shown():
    learn = learner()
    with pytest.raises(ValueError, match='know no images: learn.dls.test_dl'):
        learn.show_results(dl=[learn.dls.valid.one_batch()])

@pytest.mark.parametrize(
    'where, text',
    [('weights', 'weights are not finite'), ('inputs', 'loss is nan'), ('model', 'loss is nan')])
def test_validate_tells_of_nan(where, text):
    with pytest.warns(UserWarning, match=text): broken(where).validate()

@pytest.mark.parametrize(
    'error, event',
    [(CancelBatchException, 'before_batch'), (CancelValidException, 'before_validate')])
def test_a_callback_that_ends_the_pass(error, event):
    def stop(self): raise error
    learn = learner(cbs=type('Stop', (Callback,), {event: stop})())
    with pytest.raises(ValueError, match='callback ended'): learn.get_preds()

# What comes back

def test_parts_come_in_fastais_order():
    learn = learner(deep, metrics=accuracy)
    x, preds, targs, answers, losses = learn.get_preds(
        with_input=True, with_decoded=True, with_loss=True
    )
    assert x.equal(torch.cat([b[0] for b in learn.dls.valid]).as_subclass(torch.Tensor))
    assert type(x) is torch.Tensor
    assert preds.equal(learn.get_preds()[0])
    assert targs.shape == answers.shape == losses.shape == (10,)
    x, preds, targs, losses = learn.get_preds(with_input=True, with_loss=True)
    assert x.shape == (10, 1, 8, 8) and losses.shape == (10,)
    # the place that it has in fast.ai
    assert learn.get_preds(1, None, True)[0].shape == (10, 1, 8, 8)

def test_inputs_are_what_the_model_saw():
    learn = learner(cbs=Inputs())
    x = torch.cat([b[0] for b in learn.dls.valid]).as_subclass(torch.Tensor)
    assert learn.get_preds(with_input=True)[0].equal(x * 3 - 1)
    class Spoils(nn.Module):
        def forward(self, x): return x.zero_().flatten(1)[:, :3]
    assert learner(Spoils).get_preds(with_input=True)[0].equal(x)

def test_several_inputs():
    data = [(torch.randn(4), torch.randn(2), i % 2) for i in range(10)]
    class Two(nn.Module):
        def forward(self, a, b): return a[:, :2] + b
    learn = learner(
        Two,
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2),
        loss_func=nn.CrossEntropyLoss(),
    )
    (a, b), preds, _ = learn.get_preds(with_input=True)
    assert a.shape == (10, 4) and b.shape == (10, 2) and preds.shape == (10, 2)

def test_several_targets():
    class Pairs(list): n_inp = 1
    data = Pairs((torch.randn(4), i % 2, torch.tensor([float(i)])) for i in range(10))
    loss = lambda p, y, z: F.cross_entropy(p[:, :2], y) + F.mse_loss(p[:, 2:], z)
    learn = learner(
        lambda: nn.Linear(4, 3),
        dls=DataLoaders(*[DataLoader(data, 4, device='cpu')] * 2),
        loss_func=loss,
    )
    x, preds, (y, z), losses = learn.get_preds(with_input=True, with_loss=True)
    assert x.shape == (10, 4) and preds.shape == (10, 3) and y.tolist() == [o[1] for o in data]
    assert z.flatten().tolist() == list(range(10))
    assert losses.mean().item() == pytest.approx(learn.validate()[0], rel=1e-5)
    with pytest.raises(ValueError, match='2 targets'): Interpretation.from_learner(learn)
    assert learn.tta(views='flip', n=0)[1][0].equal(y)

# Losses of plain functions

@pytest.mark.parametrize(
    'loss',
    [lambda p, t: F.cross_entropy(p, t), lambda p, t: F.cross_entropy(p, t, reduction='sum'),
     lambda p, t: F.nll_loss(p.log_softmax(1), t) + 1])
def test_losses_item_by_item(loss):
    learn = learner(loss_func=loss)
    got = learn.get_preds(with_loss=True)[2]
    probs, targs = learn.get_preds()
    want = -probs[range(10), targs].log()
    assert got.allclose(want, atol=1e-4) or got.allclose(want + 1, atol=1e-4)

@pytest.mark.parametrize(
    'loss',
    [lambda p, t: F.cross_entropy(p - p.mean(0), t),
     lambda p, t: F.cross_entropy(p, t) if len(p) > 1 else 1 / 0,
     lambda p, t: F.cross_entropy(p, t, weight=torch.tensor([1., 2., 9.]))])
def test_a_loss_of_whole_batches_only(loss):
    learn = learner(loss_func=loss)
    with pytest.raises(ValueError, match='no `reduction`'): learn.get_preds(with_loss=True)
    o = Interpretation.from_learner(learn)                                 # all but losses works
    o.confusion_matrix(); o.most_confused(); o.per_class(); repr(o)
    with pytest.raises(ValueError, match='no `reduction`'): o.top_losses(3)

@pytest.mark.parametrize(
    'loss',
    [nn.CrossEntropyLoss(ignore_index=255), partial(F.cross_entropy, ignore_index=255),
     CrossEntropyLossFlat(axis=1, ignore_index=255)])
def test_places_without_a_class_count_for_no_item(loss):
    masks = torch.randint(3, (6, 8, 8))
    masks[:, 4:] = 255; masks[5] = 255
    data = [(tv_tensors.Image(torch.rand(3, 8, 8)), tv_tensors.Mask(m)) for m in masks]
    learn = learner(
        lambda: nn.Conv2d(3, 3, 1),
        dls=DataLoaders(*[DataLoader(data, 2, device='cpu')] * 2),
        loss_func=loss,
    )
    losses, logits = learn.get_preds(with_loss=True)[2], learn.get_preds(act=lambda o: o)[0]
    want = F.cross_entropy(logits[:, :, :4], masks[:, :4].clamp(max=2), reduction='none').mean(
        (1, 2)
    )
    assert losses[:5].allclose(want[:5], atol=1e-5) and losses[5] == 0

# Other classes

def other(names, target=CategoryBlock):
    b = block(lambda: CategoryBlock(vocab=names), lambda o: names['abc'.index(o[1])])
    return b.dataloaders(items_of(42), bs=8, device='cpu')

@pytest.mark.parametrize(
    'ask',
    [lambda l, dl: l.validate(dl=dl), lambda l, dl: l.get_preds(dl=dl), lambda l, dl: l.tta(dl=dl),
     lambda l, dl: Interpretation.from_learner(l, dl=dl), lambda l, dl: l.show_results(dl=dl)])
def test_items_of_other_classes_are_refused(ask):
    learn = learner()
    for names in (['c', 'b', 'a'], ['x', 'y', 'z'], ['a', 'b', 'd'], ['a', 'b', 'c', 'd']):
        with pytest.raises(ValueError, match=r'other classes than the learner: number \d'):
            ask(learn, other(names).valid)
    ask(learn, other(['a', 'b', 'c']).valid)

def test_a_model_with_more_answers_than_classes():
    learn = learner(partial(linear, 7))
    learn.model[1].bias.data[5] = 99
    for ask in (
        lambda: learn.predict(items_of(1)[0]),
        lambda: learn.get_preds(with_decoded=True),
        lambda: learn.show_results(),
    ):
        with (
            pytest.warns(UserWarning, match='7 outputs'),
            pytest.raises(ValueError, match='answers with class 5.*n_out=3'),
        ):
            ask()
    for ask in (
        lambda: learner(partial(linear, 2)).predict(items_of(1)[0]),
        lambda: learner(partial(linear, 2)).validate(),
    ):
        with pytest.raises(ValueError, match='2 outputs and the data 3 classes'):
            ask()

# Processes

def test_one_picture_starts_no_process(monkeypatch):
    learn = learner(dls=loaders(num_workers=2))
    learn.dls.train.num_workers = 0
    monkeypatch.setattr(
        'torch.utils.data.dataloader._MultiProcessingDataLoaderIter', lambda *a: 1 / 0
    )
    assert learn.predict(items_of(1)[0])[0] in 'abc'
    with pytest.raises(ZeroDivisionError): learn.get_preds()
