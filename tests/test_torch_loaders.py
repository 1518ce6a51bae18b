"Loaders of torch and plain data sets where loaders of ours are expected."
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils import data as tud
from torchvision import tv_tensors

import sotavision.all  # noqa: F401 (all that a Learner can do)
from drawn import no_figures_left  # noqa: F401 (fixture)
from sotavision.core.rng import set_seed
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.training.learner import Learner

def data(n=20):
    return tud.TensorDataset(
        torch.rand(n, 3, 4, 5, generator=torch.Generator().manual_seed(n)), torch.arange(n) % 2
    )

class Pictures(tud.Dataset):
    "As torchvision's data sets are: a picture and an index, `classes` beside them."
    classes = ['dark', 'light']
    def __init__(self, n=12, transform=None): self.n, self.transform = n, transform
    def __len__(self): return self.n
    def __getitem__(self, i):
        im = Image.new('RGB', (5, 4), (20 * i,) * 3)
        return self.transform(im) if self.transform else im, int(i >= 6)

def model(): return nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
def both(train=None, valid=None, **kw):
    return DataLoaders(
        tud.DataLoader(train or data(), 4, shuffle=True),
        tud.DataLoader(valid or data(10), 5),
        device='cpu',
        **kw,
    )

def test_they_train_as_in_a_loop_by_hand():
    def by_hand():
        set_seed(0); net = model(); opt = torch.optim.SGD(net.parameters(), .1)
        set_seed(1)
        for _ in range(2):
            for x, y in tud.DataLoader(data(), 4, shuffle=True):
                nn.CrossEntropyLoss()(net(x), y).backward()
                opt.step()
                opt.zero_grad()
        return net
    from functools import partial

    from sotavision.training.optimizers import SGD
    set_seed(0); net = model()
    learn = Learner(
        both(),
        net,
        CrossEntropyLossFlat(),
        opt_func=partial(SGD, mom=0),
        lr=.1,
        wd=0,
        metrics=accuracy,
        default_cbs=False,
        precision='fp32',
    )
    set_seed(1); learn.fit(2)
    want = by_hand()
    for p, q in zip(net.parameters(), want.parameters()): assert torch.allclose(p, q, atol=1e-6)

def test_lengths_devices_and_what_is_not_known():
    dls = both()
    assert len(dls) == 2 and len(dls.train) == 5 and len(dls.valid) == 2 and dls.train.n == 20
    assert dls.valid.bs == 5
    assert dls.vocab is None and dls.c is None and dls.device == torch.device('cpu')
    x, y = dls.to('meta').one_batch()
    assert x.device.type == 'meta' and y.device.type == 'meta'
    assert next(iter(dls.valid))[0].device.type == 'meta'
    assert DataLoaders(tud.DataLoader(data(), 4)).train.n == 20
    mixed = DataLoaders(DataLoader(data(), 4, device='cpu'), tud.DataLoader(data(10), 5))
    assert mixed.valid.device == torch.device('cpu')

def test_looking_leaves_the_order_alone():
    dls = both()
    def epoch(look=lambda: None):
        set_seed(5); look()
        return torch.cat([y for _, y in dls.train]), torch.cat([x for x, _ in dls.train])
    plain = epoch()
    for look in (
        dls.one_batch,
        dls.show_batch,
        dls.valid.one_batch,
        lambda: dls.train.new().one_batch(),
    ):
        assert all(a.equal(b) for a, b in zip(plain, epoch(look)))

def test_all_questions_can_be_asked():
    learn = Learner(both(), model(), CrossEntropyLossFlat(), metrics=accuracy, default_cbs=False)
    learn.fit_one_cycle(1, 1e-2)
    preds, targs = learn.get_preds()[:2]
    assert preds.shape == (10, 2) and targs.tolist() == [i % 2 for i in range(10)]
    assert torch.allclose(learn.get_preds(dl=tud.DataLoader(data(10), 3))[0], preds, atol=1e-5)
    assert learn.validate()[1] == pytest.approx((preds.argmax(1) == targs).float().mean().item())
    shuffled = tud.DataLoader(data(), 4, shuffle=True, drop_last=True)
    assert len(DataLoaders(shuffled).train.new()) == 5
    assert next(iter(DataLoaders(shuffled).train.new()))[1].tolist() == [0, 1, 0, 1]

def test_classes_of_torchvisions_data_sets():
    to_tensor = lambda im: torch.from_numpy(np.array(im)).permute(2, 0, 1) / 255.
    for ds in (
        Pictures(transform=to_tensor),
        tud.Subset(Pictures(transform=to_tensor), range(8)),
        tud.Subset(tud.Subset(Pictures(transform=to_tensor), range(8)), range(4)),
    ):
        dls = DataLoaders(tud.DataLoader(ds, 4), device='cpu')
        assert dls.vocab == ['dark', 'light'] and dls.c == 2
        dls.show_batch()
        import matplotlib.pyplot as plt

        assert [ax.get_title() for ax in plt.gcf().axes] == ['dark'] * 4

def test_a_plain_data_set_in_a_loader_of_ours():
    dls = DataLoaders(
        DataLoader(Pictures(), 4, shuffle=True, device='cpu'),
        DataLoader(Pictures(8), 4, device='cpu'),
    )
    x, y = dls.one_batch()
    assert type(x) is tv_tensors.Image and x.dtype == torch.float32 and x.max() <= 1
    assert dls.vocab == ['dark', 'light'] and dls.c == 2
    dls.show_batch()
    Learner(dls, model(), CrossEntropyLossFlat(), default_cbs=False).fit(1)
    # a list of tuples is a data set too
    pairs = [(torch.rand(3, 4, 5), i % 2) for i in range(8)]
    dls = DataLoaders(DataLoader(pairs, 4, device='cpu'))
    assert dls.vocab is None and dls.c is None and dls.one_batch()[1].tolist() == [0, 1, 0, 1]
    dls.show_batch()

@pytest.mark.parametrize(
    'kw',
    [dict(batch_sampler=tud.BatchSampler(tud.SequentialSampler(range(20)), 3, False)),
     dict(batch_size=4, sampler=tud.WeightedRandomSampler([1.] * 20, 12)),
     dict(batch_size=4, num_workers=1),
     dict(
         batch_size=4,
         collate_fn=lambda b: (
             torch.stack([o[0] for o in b]), torch.tensor([int(o[1]) for o in b])))])
def test_loaders_of_every_make(kw):
    dls = DataLoaders(tud.DataLoader(data(), **kw), tud.DataLoader(data(10), 5), device='cpu')
    Learner(dls, model(), CrossEntropyLossFlat(), default_cbs=False).fit(1)
    assert dls.train.bs in (3, 4) and len(dls.train.new(bs=5)) == 4

def test_a_sampler_of_some_items_is_never_widened():
    "The usual way to split one data set: validation must not see what trained."
    whole = data(20)
    some = lambda idx: tud.DataLoader(whole, 4, sampler=tud.SubsetRandomSampler(idx))
    dls = DataLoaders(some(range(12)), some([19, 13, 14, 15, 17]), device='cpu')
    assert dls.train.n == 12 and dls.valid.n == 5 and len(dls.valid.new()) == 2
    x, _ = zip(*dls.valid.new())
    assert torch.cat(x).equal(whole.tensors[0][[19, 13, 14, 15, 17]])
    learn = Learner(dls, model(), CrossEntropyLossFlat(), default_cbs=False)
    assert len(learn.get_preds()[0]) == 5 and len(learn.get_preds(ds_idx=0)[0]) == 12

@pytest.mark.parametrize('sampler', [[3, 1, 2], tud.SequentialSampler(range(3))])
def test_an_order_of_ones_own_is_kept(sampler):
    dls = DataLoaders(
        tud.DataLoader(data(), 4), tud.DataLoader(data(), 2, sampler=sampler), device='cpu'
    )
    got = torch.cat([x for x, _ in dls.valid.new()])
    assert got.equal(data().tensors[0][list(sampler)])

def test_one_tensor_a_batch_is_an_input():
    dls = DataLoaders(tud.DataLoader(torch.rand(8, 3, 4, 5), 4), device='cpu')
    assert len(dls.one_batch()) == 1 and dls.one_batch()[0].shape == (4, 3, 4, 5)

def test_what_is_no_loader_is_refused():
    for bad in (data(), [1, 2], 'train', None, Pictures()):
        with pytest.raises(TypeError, match='is no loader.*DataLoader'): DataLoaders(bad)
    class Endless(tud.IterableDataset):
        def __iter__(self): yield from range(3)
    with pytest.raises(TypeError, match='IterableDataset'):
        DataLoaders(tud.DataLoader(Endless(), 2))
    class Named(tud.Dataset):
        def __len__(self): return 4
        def __getitem__(self, i): return dict(x=torch.zeros(2), y=i)
    with pytest.raises(TypeError, match="'x', 'y'.*collate_fn"):
        DataLoaders(tud.DataLoader(Named(), 2), device='cpu').one_batch()
    with pytest.raises(TypeError, match='does not know how to open new items'):
        both().test_dl(['a.jpg'])
    with pytest.raises(ValueError, match='unique'): both().show_batch(unique=True)
