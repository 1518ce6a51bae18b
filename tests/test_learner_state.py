"What must not change a learner or its training, and the answers to questions of every kind."
import random
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learners import (
    Dice,
    block,
    deep,
    items_of,
    learner,
    linear,
    loaders,
    one_thread,  # noqa: F401 (a fixture)
    same,
    weights,
)
from sotavision.data.datablock import MaskBlock, MultiCategoryBlock, RegressionBlock
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, MSELossFlat
from sotavision.objectives.metrics import accuracy, accuracy_multi
from sotavision.training.callback import Callback
from sotavision.training.learner import Learner

# What must not change anything

def test_metrics_and_validation_never_change_training():
    runs = [learner(deep, metrics=m).fit(2) for m in (None, accuracy, [accuracy, Dice()])]
    # no validation at all
    runs.append(learner(deep, dls=DataLoaders(loaders().train, device='cpu')).fit(2))
    assert all(same(weights(runs[0]), weights(o)) for o in runs[1:])
    assert runs[-1].recorder.values[0][1] is None and runs[-1].recorder.values[0][0] is not None

def test_same_seed_same_run_and_showing_does_not_matter(capsys):
    kinds = dict(), dict(default_cbs=True, cbs=None), dict(seed=1)
    a, b, c = (learner(deep, metrics=accuracy, **o).fit_one_cycle(2, 1e-2) for o in kinds)
    assert same(weights(a), weights(b)) and a.recorder.values == b.recorder.values
    assert not same(weights(a), weights(c))

def state(learn):
    return (
        weights(learn),
        torch.get_rng_state(),
        random.getstate()[1],
        np.random.get_state()[1].tolist(),
        [m.training for m in learn.model.modules()],
        list(learn.recorder.losses),
        learn.recorder.values,
        learn.cbs,
        learn.training,
        learn.metrics,
        set(vars(learn)),
    )

@pytest.mark.parametrize(
    'ask',
    [lambda l: l.validate(), lambda l: l.validate(0),
     lambda l: l.get_preds(0, with_decoded=True, with_loss=True),
     lambda l: l.get_preds(dl=l.dls.train), lambda l: l.predict(items_of(1)[0]),
     lambda l: l.show_results(max_n=4), lambda l: l.show_results(0, seed=3),
     lambda l: l.get_preds(dl=l.dls.test_dl(items_of(3)))])
@pytest.mark.parametrize('mode', [True, False])
def test_questions_change_nothing(ask, mode):
    import matplotlib.pyplot as plt
    learn = learner(deep, metrics=[accuracy, Dice()])
    learn.fit(1)
    learn.model.train(mode); learn.model[1].train(not mode)
    before = state(learn)
    ask(learn)
    plt.close('all')
    assert same(before, state(learn))

def test_questions_in_mid_training_change_nothing():
    class Ask(Callback):
        def after_backward(self): self.learn.get_preds(); self.learn.validate()
        def after_batch(self):
            if not self.training: self.learn.validate()
    learn = learner(deep, metrics=accuracy).fit(2, cbs=Ask())
    quiet = learner(deep, metrics=accuracy).fit(2)
    assert same(weights(learn), weights(quiet)) and learn.recorder.values == quiet.recorder.values

def test_a_failing_question_leaves_the_learner_as_it_was():
    learn = learner()
    learn.fit(1)
    learn.model.train()
    before = state(learn)
    with pytest.raises(RuntimeError):
        learn.get_preds(dl=[(torch.zeros(2, 7), torch.zeros(2).long())])
    assert same(before, state(learn))

def test_what_validation_leaves_can_be_trained_with():
    class Keeps(nn.Module):
        "Keeps something from its first forward pass, as position tables do."
        def __init__(self): super().__init__(); self.lin, self.scale = nn.Linear(64, 3), None
        def forward(self, x):
            if self.scale is None: self.scale = torch.ones(64) * 2
            return self.lin(x.flatten(1) * self.scale)
    learn = learner(Keeps)
    learn.validate(); learn.fit(1)

# Questions and answers

def test_predictions_of_training_items_are_in_their_order():
    dls = loaders(45, bs=8)   # shuffled, and a last batch that is dropped in training
    learn = learner(dls=dls)
    learn.fit(1)
    probs, targs = learn.get_preds(0)
    assert len(dls.train) * 8 < len(probs) == len(dls.train_ds)
    assert [dls.vocab[t] for t in targs] == dls.train_ds.labels()
    one = [learn.predict(o)[2] for o in dls.train_ds.items[:3]]
    assert torch.allclose(torch.stack(one), probs[:3], atol=1e-6)
    assert torch.allclose(probs.sum(1), torch.ones(len(probs)))

def test_training_transforms_do_not_reach_predictions():
    from sotavision.augment.resize import FlipItem
    b = block()
    b.item_tfms = [FlipItem(p=1.)]
    learn = learner(dls=b.dataloaders(items_of(42), bs=8, device='cpu'))
    assert torch.allclose(
        learn.get_preds(0)[0], learn.get_preds(dl=learn.dls.test_dl(learn.dls.train_ds.items))[0]
    )

def test_metrics_weigh_a_last_batch_of_one_like_one_item():
    # 4 + 4 + 1
    dls = block(valid=range(9)).dataloaders(items_of(42), bs=8, val_bs=4, device='cpu')
    learn = learner(dls=dls, metrics=accuracy)
    learn.fit(1)
    probs, targs = learn.get_preds()
    assert (
        learn.validate()[1]
        == pytest.approx((probs.argmax(1) == targs).float().mean().item())
        == learn.recorder.values[-1][2]
    )
    assert learn.validate()[0] == pytest.approx(
        -probs[range(9), targs].log().mean().item(), abs=1e-5
    )

@pytest.mark.parametrize(
    'loss',
    [F.cross_entropy, nn.CrossEntropyLoss(), CrossEntropyLossFlat(),
     partial(F.cross_entropy, label_smoothing=.1), None])
def test_losses_of_every_kind(loss):
    learn = learner(loss_func=loss, metrics=accuracy)
    learn.fit(2, .01)
    probs, targs, answers, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert torch.allclose(probs.sum(1), torch.ones(10)) and torch.equal(answers, probs.argmax(1))
    assert losses.shape == (10,)
    assert losses.mean().item() == pytest.approx(learn.validate()[0], abs=1e-5)
    assert learn.predict(items_of(1)[0])[0] in 'abc'

def test_a_loss_that_is_not_one_number():
    with pytest.raises(ValueError, match=r'loss has shape \(8,\)'):
        learner(loss_func=partial(F.cross_entropy, reduction='none')).fit(1)
    # no `reduction`: asked about each item by itself
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p, t))
    assert learn.get_preds(with_loss=True)[2].mean().item() == pytest.approx(
        learn.validate()[0], abs=1e-5
    )
    # looks at the whole batch
    learn = learner(loss_func=lambda p, t: F.cross_entropy(p - p.mean(0), t))
    with pytest.raises(ValueError, match='no `reduction`'): learn.get_preds(with_loss=True)

def target_learner(target, get_y, model, n_out, **kwargs):
    dls = block(target, get_y).dataloaders(items_of(42), bs=8, device='cpu')
    return learner(model, dls=dls, **kwargs)

def test_multi_label():
    learn = target_learner(
        MultiCategoryBlock,
        lambda o: ['odd'] * (o[1] == 'b') + ['high'] * (o[1] == 'c'),
        lambda: linear(2),
        2,
        metrics=accuracy_multi,
    )
    learn.fit(3, .1)
    probs, targs, answers = learn.get_preds(with_decoded=True)
    assert isinstance(learn.loss_func, BCEWithLogitsLossFlat) and answers.dtype == torch.bool
    assert probs.shape == targs.shape == (10, 2)
    assert isinstance(learn.predict(items_of(1)[0])[0], list)
    learn.show_results(max_n=4)

def test_regression():
    learn = target_learner(
        RegressionBlock, lambda o: float(o[0].mean()) / 255, lambda: linear(1), 1
    )
    learn.fit(3, .01)
    preds, targs, losses = learn.get_preds(with_loss=True)
    assert isinstance(learn.loss_func, MSELossFlat) and preds.shape == (10, 1)
    assert losses.shape == (10,) and learn.recorder.values[-1][1] < learn.recorder.values[0][1]
    learn.predict(items_of(1)[0]); learn.show_results(max_n=4)

def test_segmentation():
    learn = target_learner(
        lambda: MaskBlock(['dark', 'light']),
        lambda o: torch.as_tensor(o[0] > 100).long(),
        lambda: nn.Conv2d(1, 2, 1),
        2,
        metrics=partial(accuracy, axis=1),
    )
    learn.fit(3, .1)
    probs, targs, answers, losses = learn.get_preds(with_decoded=True, with_loss=True)
    assert probs.shape == (10, 2, 8, 8) and targs.shape == answers.shape == (10, 8, 8)
    assert losses.shape == (10,)
    assert losses.mean().item() == pytest.approx(learn.validate()[0], abs=1e-5)
    learn.predict(items_of(1)[0]); learn.show_results(max_n=4)

def test_items_without_labels():
    learn = learner()
    dl = learn.dls.test_dl(items_of(5))
    preds, targs, losses = learn.get_preds(dl=dl, with_loss=True)
    assert preds.shape == (5, 3) and targs is None and losses is None
    learn.show_results(dl=dl)
    with pytest.raises(ValueError, match='no labels'): learn.validate(dl=dl)
    assert len(learn.validate(dl=learn.dls.test_dl(items_of(5), with_labels=True))) == 1

def test_batches_from_anywhere():
    learn = learner()
    batch = learn.dls.valid.one_batch()
    assert torch.equal(learn.get_preds(dl=[batch])[0], learn.get_preds()[0])

def test_width_of_the_model():
    with pytest.raises(ValueError, match='2 outputs and the data 3 classes.*n_out=3'):
        learner(partial(linear, 2)).fit(1)
    with pytest.warns(UserWarning, match='7 outputs and the data 3 classes'):
        learner(partial(linear, 7)).fit(1)

def test_a_loss_that_cannot_be_guessed():
    data = [(torch.randn(1, 8, 8), 0)] * 9
    with pytest.raises(ValueError, match='give loss_func'):
        Learner(DataLoaders(DataLoader(data), DataLoader(data), device='cpu'), linear())
