"""k learners: each item is predicted by the one that never saw it; a kill changes nothing."""
import os
import signal
import subprocess
import sys
import textwrap
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from learners import items_of, linear, one_thread  # noqa: F401
from sotavision.augment.resize import FlipItem
from sotavision.core.files import file_lock
from sotavision.data.collate import TrainOnly
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import ColReader, get_image_files, parent_label
from sotavision.data.splits import RandomSplitter
from sotavision.objectives.metrics import accuracy
from sotavision.techniques.kfold import KFold
from sotavision.techniques.sampling import PriorShift
from sotavision.training.learner import Learner

ITEMS = items_of(60)

def made(items=ITEMS, **kw):
    "What makes a learner over `items`."
    def make_learner(splitter):
        block = DataBlock((ImageBlock('L'), CategoryBlock), splitter=splitter,
                          **dict(get_x=itemgetter(0), get_y=itemgetter(1)) | kw)
        return Learner(block.dataloaders(items, bs=8, device='cpu'), linear(), lr=.01,
                       metrics=accuracy, precision='fp32')
    return make_learner

def folds(tmp_path, k=3, **kw):
    return KFold(k, **dict(labels=itemgetter(1), path=tmp_path/'folds') | kw)

@pytest.fixture(scope='module')
def fitted(tmp_path_factory): return folds(tmp_path_factory.mktemp('k')).fit(made(), ITEMS, 2)

def test_every_item_is_predicted_once_by_the_learner_that_never_saw_it(fitted):
    assert fitted.oof.shape == (60, 3) and fitted.fold.bincount().tolist() == [20] * 3
    assert torch.allclose(fitted.oof.sum(1), torch.ones(60))
    for f, (learn, (train, valid)) in enumerate(zip(fitted.learners(), fitted.splits)):
        assert (fitted.fold[valid] == f).all() and not set(train) & set(valid)
        probs = learn.get_preds(dl=learn.dls.test_dl([ITEMS[i] for i in valid]))[0]
        assert torch.allclose(fitted.oof[valid], probs, atol=1e-6)
        others = learn.get_preds(dl=learn.dls.test_dl([ITEMS[i] for i in train]))[0]
        assert not torch.allclose(fitted.oof[train], others, atol=1e-3)

def test_predictions_are_the_mean_of_the_learners_own(fitted):
    new = items_of(11, torch.Generator().manual_seed(5))
    single = torch.stack([o.get_preds(dl=o.dls.test_dl(new))[0] for o in fitted.learners()])
    assert single.std(0).max() > 1e-3
    assert torch.allclose(fitted.predict(new), single.mean(0), atol=1e-6)
    mended = torch.stack([o.get_preds(dl=o.dls.test_dl(new), act=PriorShift([1, 2, 3]))[0]
                          for o in fitted.learners()])
    assert torch.allclose(fitted.predict(new, act=PriorShift([1, 2, 3])), mended.mean(0), atol=1e-6)

def test_test_time_augmentation_is_averaged_too(tmp_path):
    kf = folds(tmp_path).fit(made(item_tfms=TrainOnly(FlipItem(1.))), ITEMS, 1)
    single = torch.stack([o.tta(dl=o.dls.test_dl(ITEMS[:7]), n=2)[0] for o in kf.learners()])
    assert torch.allclose(kf.tta(ITEMS[:7], n=2), single.mean(0), atol=1e-6)
    assert not torch.allclose(kf.tta(ITEMS[:7], n=2), kf.predict(ITEMS[:7]), atol=1e-4)

@pytest.mark.parametrize('seed', range(5))
def test_the_average_is_no_worse_than_the_mean_learner(tmp_path, seed):
    new = items_of(300, torch.Generator().manual_seed(100 + seed))
    targ = torch.arange(300) % 3
    kf = folds(tmp_path, 5, seed=seed).fit(made(), ITEMS, 2)
    def loss(probs): return torch.nn.functional.nll_loss(probs.log(), targ).item()
    single = [o.get_preds(dl=o.dls.test_dl(new))[0] for o in kf.learners()]
    assert loss(kf.predict(new)) <= np.mean([loss(p) for p in single]) + 1e-6

def test_the_table_has_a_row_a_fold_mean_and_spread(fitted):
    t = fitted.table()
    assert list(t.index) == [0, 1, 2, 'mean', 'std']
    assert list(t.columns) == ['valid_loss', 'accuracy']
    assert t.accuracy['mean'] == pytest.approx(t.accuracy[:3].mean())
    assert t.accuracy['std'] == pytest.approx(np.std(t.accuracy.iloc[:3], ddof=1))
    right = (fitted.oof.argmax(1) == torch.arange(60) % 3).float()
    assert t.accuracy[1] == pytest.approx(right[fitted.fold == 1].mean().item())

def test_the_same_seed_gives_the_same_and_generators_stay(tmp_path, fitted):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = folds(tmp_path).fit(made(), ITEMS, 2)
    assert torch.equal(again.oof, fitted.oof) and before.equal(torch.get_rng_state())
    other = folds(tmp_path/'other', seed=1).fit(made(), ITEMS, 2)
    assert not torch.equal(other.oof, fitted.oof)

def test_weights_lie_on_disk_and_checkpoints_are_gone(fitted):
    for f in range(3):
        names = {o.name for o in fitted.folder(f).iterdir()}
        assert 'model.safetensors' in names and 'checkpoints' not in names

def test_what_is_there_is_read_not_trained_again(tmp_path, fitted):
    first = folds(tmp_path).fit(made(), ITEMS, 1)
    def never(learn, **kept): raise AssertionError
    again = folds(tmp_path).fit(made(), ITEMS, never, resume=True)
    assert torch.equal(again.oof, first.oof) and again.scores == first.scores
    assert torch.equal(again.predict(ITEMS[:3]), first.predict(ITEMS[:3]))

# --- tables, folders, groups

def test_tables(tmp_path):
    for i, (x, _) in enumerate(ITEMS): Image.fromarray(x).save(tmp_path/f'{i}.png')
    df = pd.DataFrame(dict(name=[f'{i}.png' for i in range(60)], kind=[c for _, c in ITEMS],
                           who=[i // 6 for i in range(60)]), index=range(100, 160))
    make = made(df, get_x=ColReader('name', pref=str(tmp_path) + os.sep), get_y=ColReader('kind'))
    kf = folds(tmp_path, labels='kind', groups='who').fit(make, df, 1)
    assert kf.oof.shape == (60, 3) and kf.predict(df.iloc[:4]).shape == (4, 3)
    assert all(kf.fold[df.who.values == g].unique().numel() == 1 for g in range(10))

def test_folders(tmp_path):
    for i, (x, c) in enumerate(ITEMS):
        (tmp_path/'data'/c).mkdir(parents=True, exist_ok=True)
        Image.fromarray(x).save(tmp_path/'data'/c/f'{i}.png')
    items = get_image_files(tmp_path/'data')
    make = made(items, get_x=lambda o: o, get_y=parent_label)
    kf = KFold(3, path=tmp_path/'folds').fit(make, tmp_path/'data', 1)
    assert kf.oof.shape == (60, 3) and kf.vocab == ['a', 'b', 'c']
    assert torch.equal(kf.predict(tmp_path/'data'), kf.predict(items))

# --- errors

def test_a_folder_that_holds_folds_is_not_written_over(tmp_path):
    folds(tmp_path).fit(made(), ITEMS, 1)
    with pytest.raises(FileExistsError, match='resume=True'): folds(tmp_path).fit(made(), ITEMS, 1)
    for kw, said in ((dict(seed=1), 'seed=42 then, 1 now'), (dict(k=4), 'k=3 then, 4 now')):
        with pytest.raises(ValueError, match=said):
            folds(tmp_path, **kw).fit(made(), ITEMS, 1, resume=True)
    with pytest.raises(ValueError, match='n=60 then, 48 now'):
        folds(tmp_path).fit(made(), ITEMS[:48], 1, resume=True)
    other = ITEMS[:59] + [(255 - ITEMS[59][0], ITEMS[59][1])]
    with pytest.raises(ValueError, match='items='):
        folds(tmp_path).fit(made(), other, 1, resume=True)

def test_loaders_of_another_split_are_refused(tmp_path):
    make = made()
    with pytest.raises(ValueError, match='Fold 0 has 20 items to validate.*the splitter'):
        folds(tmp_path).fit(lambda splitter: make(RandomSplitter(1/3)), ITEMS, 1)

def test_two_trainings_in_one_folder_are_refused(tmp_path):
    k = folds(tmp_path)
    k.path.mkdir(parents=True, exist_ok=True)
    with file_lock(k.path), pytest.raises(TimeoutError, match='is training folds in'):
        k.fit(made(), ITEMS, 1)
    assert not list(k.path.iterdir())

def test_who_asks_before_the_training_is_told(tmp_path):
    with pytest.raises(ValueError, match='fit comes first'): folds(tmp_path).predict(ITEMS)

# --- kill −9

SCRIPT = '''
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    import test_kfold as t
    from sotavision.training.callback import Callback
    class Kill(Callback):
        in_lr_find = False
        def after_batch(self):
            if self.training and self.epoch == 2 and self.iter == 1: os.kill(os.getpid(), 9)
    def train(learn, **kept):
        last = kept['checkpoint'].parent.name == 'fold1'
        learn.fit_one_cycle(4, cbs=[Kill()] if last else None, **kept)
    t.folds(Path({path!r})).fit(t.made(), t.ITEMS, train)
'''

def test_killed_in_the_second_fold_it_goes_on_bit_for_bit(tmp_path):
    script = textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), path=str(tmp_path))
    env = os.environ | dict(OMP_NUM_THREADS='1')
    ended = subprocess.run([sys.executable, '-c', script], env=env, capture_output=True,
                           timeout=250)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-2000:]
    kept = tmp_path/'folds'
    assert (kept/'fold0/scores.json').exists() and not (kept/'fold1/scores.json').exists()
    assert list((kept/'fold1/checkpoints').glob('fit0-epoch2*.pt'))
    before = (kept/'fold0/model.safetensors').stat().st_mtime_ns
    resumed = folds(tmp_path).fit(made(), ITEMS, 4, resume=True)
    whole = folds(tmp_path/'whole').fit(made(), ITEMS, 4)
    assert torch.equal(resumed.oof, whole.oof) and resumed.scores == whole.scores
    assert (kept/'fold0/model.safetensors').stat().st_mtime_ns == before
