"Which way a metric is better is said by the metric, never guessed from its name."
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learners import learner, one_thread  # noqa: F401 (a fixture)
from sotavision.callbacks.ema import EMA
from sotavision.callbacks.tracking import SaveModelCallback
from sotavision.objectives import metrics, multilabel, scores, unequal
from sotavision.objectives.losses import (
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLoss,
    L1LossFlat,
    MSELossFlat,
)
from sotavision.objectives.metrics import AccumMetric, AvgMetric, Metric, as_metric
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy, calibration_error

MODULES = metrics, multilabel, scores, unequal
KNOWN = dict(
    accuracy=False,
    error_rate=True,
    top_k_accuracy=False,
    accuracy_multi=False,
    mse=True,
    mae=True,
    foreground_acc=False,
    FBeta=False,
    FBetaMulti=False,
    F1ScoreMulti=False,
    HammingLoss=True,
    RocAucMulti=False,
    APScoreMulti=False,
    Precision=False,
    Recall=False,
    F1Score=False,
    BalancedAccuracy=False,
    RocAuc=False,
    APScore=False,
    Dice=False,
    JaccardCoeff=False,
)

@pytest.mark.parametrize('name, lower', KNOWN.items())
def test_ours_say_it(name, lower):
    found, = {getattr(o, name) for o in MODULES if name in o.__all__}
    assert as_metric(found).lower_is_better is lower

def test_an_error_of_calibration_says_it():
    assert as_metric(calibration_error).lower_is_better is True

def test_every_public_metric_says_it():
    bare = {'Metric', 'AvgMetric', 'AccumMetric', 'as_metric'}
    assert {name for o in MODULES for name in o.__all__} - bare == set(KNOWN)

def loss_like(p, t): return (p.argmax(1) != t).float().mean()   # a name that would mislead

class Accuracy(Metric):
    "Falls, in spite of its name."
    lower_is_better = True
    def reset(self): self.n = 0
    def accumulate(self, preds, targs): self.n += len(targs)
    value = property(lambda self: 1. * self.n)

LOSSES = [CrossEntropyLossFlat(), FocalLoss(), BCEWithLogitsLossFlat(), MSELossFlat(), L1LossFlat(),
          LabelSmoothingCrossEntropy(), nn.CrossEntropyLoss(), nn.MSELoss(), nn.SmoothL1Loss(),
          F.cross_entropy, F.mse_loss, F.huber_loss, F.binary_cross_entropy_with_logits]

@pytest.mark.parametrize('loss', LOSSES, ids=lambda o: getattr(o, '__name__', type(o).__name__))
def test_of_a_loss_less_is_better(loss):
    for f in loss, partial(loss), partial(partial(loss)):
        assert as_metric(f).lower_is_better is True
        assert AccumMetric(f).lower_is_better is True
        assert AvgMetric(f, lower_is_better=False).lower_is_better is False

def test_what_is_no_loss_of_torchs_says_nothing():
    for f in F.cosine_similarity, nn.CosineSimilarity(), F.pairwise_distance, nn.Identity():
        assert as_metric(f).lower_is_better is None

def test_a_tracker_watches_a_loss(tmp_path):
    learn = learner(metrics=CrossEntropyLossFlat(), path=tmp_path)
    learn.fit(2, cbs=SaveModelCallback('CrossEntropyLossFlat'))
    assert learn.recorder.directions['CrossEntropyLossFlat'] is True

def test_functions_partials_and_classes():
    assert as_metric(loss_like).lower_is_better is None
    assert as_metric(partial(loss_like)).lower_is_better is None
    assert as_metric(partial(metrics.error_rate, axis=-1)).lower_is_better is True
    assert (
        as_metric(partial(partial(metrics.top_k_accuracy, k=2), axis=-1)).lower_is_better is False
    )
    told = partial(loss_like)
    told.lower_is_better = True
    assert as_metric(told).lower_is_better is True
    assert as_metric(partial(told)).lower_is_better is True
    assert AvgMetric(loss_like, 'miss', lower_is_better=True).lower_is_better is True
    # who says so is believed
    assert AvgMetric(metrics.mse, lower_is_better=False).lower_is_better is False
    assert as_metric(Accuracy).lower_is_better is True

def test_the_recorder_knows_every_column():
    own = AvgMetric(loss_like, 'miss', lower_is_better=True)
    learn = learner(metrics=[metrics.accuracy, metrics.error_rate, own, loss_like, Accuracy]).fit(
        1, cbs=EMA()
    )
    rec = learn.recorder
    assert set(rec.directions) == set(rec.metric_names)
    said = dict(
        epoch=None,
        train_loss=True,
        valid_loss=True,
        time=True,
        accuracy=False,
        error_rate=True,
        miss=True,
        loss_like=None,
        accuracy_2=Accuracy.lower_is_better,
    )
    assert {k: rec.directions[k] for k in said} == said
    assert all(
        rec.directions[f'ema_{k}'] == v for k, v in said.items() if f'ema_{k}' in rec.directions
    )
    assert rec.directions['ema_loss'] is True and rec.directions['ema_miss'] is True

def test_directions_of_a_recorder_that_has_seen_nothing():
    assert learner().recorder.directions == {}
    assert not any(torch.is_tensor(o) for o in learner().fit(1).recorder.directions.values())
