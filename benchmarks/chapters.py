"""The comparisons of the chapters with ten seeds in place of the three that fit in two minutes.

    python benchmarks/chapters.py               # all studies; runs that are kept are not done again
    python benchmarks/chapters.py mixing tta    # some of them

All on small and few pictures of Toynette, on the CPU. Each network is validated once, at the end of
its training. One line of JSON a run in benchmarks/results/chapters/<study>.jsonl; chapters read it.
"""
import argparse
import random
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import FlipItem, Resize, aug_transforms
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import parent_label
from sotavision.data.loaders import DataLoaders
from sotavision.data.splits import GrandparentSplitter
from sotavision.models.efficientnet import lite0_stats
from sotavision.models.layers import ConvLayer, MaxBlurPool, Mish, SelfAttention, tiny_cnn
from sotavision.models.xresnet import ResBlock, xresnet, xresnet18
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.study.interpret import ClassificationInterpretation
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.folds import stratified_kfold
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.progressive import progressive_resizing
from sotavision.techniques.sampling import PriorShift, class_weights, oversample, undersample
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy, calibration_error
from sotavision.toynette.dataset import small_toys
from sotavision.training import Learner
from sotavision.transfer.heads import create_body

RESULTS = Path(__file__).resolve().parent / 'results' / 'chapters'
toys = cache(small_toys)

def loaders(pictures, bs, item_tfms, batch_tfms=None, labels=parent_label):
    block = DataBlock(
        (ImageBlock, CategoryBlock),
        get_items=list,
        get_x=pictures.get,
        get_y=labels,
        splitter=GrandparentSplitter(),
        item_tfms=item_tfms,
        batch_tfms=batch_tfms,
    )
    return block.dataloaders(pictures, bs=bs, device='cpu')

def results(learn, valid) -> dict:
    probs, y = learn.get_preds(dl=valid)
    return {
        'accuracy': accuracy(probs, y),
        'training loss': learn.recorder.values[-1][0],
        'confidence': probs.max(1).values.mean(),
        'calibration error': calibration_error(probs, y),
    }

def wrong_labels(pictures, share) -> dict:
    "Labels of the files; those of a `share` of the training pictures are drawn from other classes."
    dice, classes = random.Random(0), sorted({f.parent.name for f in pictures})
    def label(f):
        other = dice.choice([c for c in classes if c != f.parent.name])
        return other if f.parts[-3] == 'train' and dice.random() < share else f.parent.name
    return {f: label(f) for f in pictures}

def small(
    per_class=20, epochs=40, bs=20, lr=3e-3, fit='fit_one_cycle', batch_tfms=None, cbs=None,
    loss_func=None, wrong=0., **kwargs,
):
    "A short training of `tiny_cnn` at 40 pixels; `kwargs` go to the learner."
    pictures = toys(per_class)
    labels = wrong_labels(pictures, wrong).get if wrong else parent_label
    dls = loaders(pictures, bs, FlipItem(), batch_tfms, labels)
    learn = Learner(DataLoaders(dls.train), tiny_cnn(), loss_func, **kwargs)
    getattr(learn, fit)(epochs, lr, cbs=cbs)
    return results(learn, dls.valid)

def adam_with_penalty(params, lr):
    "Adam whose decay is a part of the gradient, as torch.optim.Adam has it; else as our own."
    return torch.optim.Adam(params, lr, betas=(.9, .99), eps=1e-5)

def resnet(network='xresnet18', gamma=0., normalized=False, per_class=75, size=32, epochs=3):
    "A short training of an xresnet whose blocks end in norms that start at `gamma`."
    pictures = toys(per_class, size)
    tfms = Normalize.from_stats(*imagenet_stats) if normalized else None
    dls = loaders(pictures, 32, FlipItem(), tfms)
    model = xresnet18(n_out=10) if network == 'xresnet18' else xresnet(1, (1, 1, 1), 10)
    for block in (m for m in model.modules() if isinstance(m, ResBlock)):
        nn.init.constant_(block.residual[-1].norm.weight, gamma)
    learn = Learner(DataLoaders(dls.train), model)
    learn.fit_one_cycle(epochs, 4e-3)
    return results(learn, dls.valid)

def growing(first=48, epochs=10, early=6):
    "All epochs at 48 pixels, or the early ones at `first`."
    pictures = toys(40, 64)
    def data(size, bs): return loaders(pictures, bs, [Resize(size), FlipItem()])
    def unseen(size, bs): return DataLoaders(data(size, bs).train)
    late = [(48, epochs - early, 25, 3e-3)]
    stages = [(48, epochs, 25, 3e-3)] if first == 48 else [(first, early, 25, 3e-3), *late]
    learn = Learner(unseen(stages[0][0], 25), tiny_cnn())
    progressive_resizing(learn, unseen, stages)
    return results(learn, data(48, 25).valid)

@cache
def _cropper(seed):
    "A network that was trained on random crops, and its loaders."
    dls = loaders(toys(75, 48), 50, None, aug_transforms(size=40, min_scale=.5))
    learn = Learner(DataLoaders(dls.train), tiny_cnn(), lr=3e-3)
    learn.fit_one_cycle(7)
    learn.dls = dls
    return learn

def asked(seed, views=0, beta=.25, size=40):
    """The same network asked once a picture, or with test-time augmentation; at 48 pixels things
    look about as large as in the random crops that it was trained on."""
    torch.manual_seed(seed)
    learn = _cropper(seed)
    dl = None if size == 40 else loaders(toys(75, 48), 50, Resize(size)).valid
    probs, y = learn.tta(n=views, beta=beta) if views else learn.get_preds(dl=dl)
    return {'accuracy': accuracy(probs, y), 'calibration error': calibration_error(probs, y)}

def few(per_class=20, size=8):
    "200 steps of `tiny_cnn` on few and small images, however many there are."
    dls = loaders(toys(per_class, size), 20, FlipItem())
    learn = Learner(DataLoaders(dls.train), tiny_cnn())
    learn.fit_one_cycle(400 // per_class, 3e-3)
    return results(learn, dls.valid)

def hunted(seed, per_class=50, planted=20, epochs=12):
    """`planted` training images get the label of another class. Which share of them is among as
    many images with the largest loss?"""
    pictures, dice = toys(per_class), random.Random(seed)
    train = [f for f in pictures if f.parts[-3] == 'train']
    labels, wrong = {f: f.parent.name for f in pictures}, dice.sample(train, planted)
    names = sorted(set(labels.values()))
    labels |= {f: dice.choice([o for o in names if o != labels[f]]) for f in wrong}
    dls = loaders(pictures, 32, FlipItem(), labels=labels.get)
    learn = Learner(DataLoaders(dls.train), tiny_cnn())
    learn.fit_one_cycle(epochs, 3e-3)
    learn.dls = dls
    seen = ClassificationInterpretation.from_learner(learn, ds_idx=0)
    first = seen.top_losses(planted)[1]
    return {
        'found': sum(dls.train_ds.items[i] in wrong for i in first) / planted,
        'right': seen.right.float().mean(),
        'training loss': seen.losses.mean(),
    }

@cache
def seen(per_class=60, size=64) -> tuple: # Training and validation: features, classes
    "What EfficientNet-Lite0, trained on photographs, sees in toys; standardized."
    body, pictures = create_body('efficientnet_lite0').eval(), toys(per_class, size)
    x = torch.stack([pil_to_tensor(o) for o in pictures.values()]) / 255
    x = Normalize(*lite0_stats)(x)
    with torch.inference_mode(): x = torch.cat([body(b).mean((2, 3)) for b in x.split(50)])
    n, names = 10 * per_class, sorted({f.parent.name for f in pictures})
    y = torch.tensor([names.index(f.parent.name) for f in pictures])
    x = (x.clone() - x[:n].mean(0)) / x[:n].std(0).clamp(min=1e-6)
    return x[:n], y[:n], x[n:], y[n:]

def regression(x, y, weight=None, decay=.03) -> nn.Linear:
    "Softmax regression, trained to the end."
    lin = nn.Linear(x.shape[1], 10)
    opt = torch.optim.LBFGS(lin.parameters(), max_iter=60, line_search_fn='strong_wolfe')
    def loss():
        opt.zero_grad()
        e = F.cross_entropy(lin(x), y, weight) + decay / 2 * lin.weight.square().sum()
        e.backward()
        return e
    opt.step(loss)
    return lin.requires_grad_(False)

def unequal(seed, way='as it is', few=6, decay=.03):
    """A regression on 60 images of each class but one, which has `few`; which class that is, and
    which images, the seed says. Validation has 50 of each."""
    x, y, x_valid, y_valid = seen()
    rare, labels = seed % 10, y.tolist()
    train = undersample(range(len(y)), labels, count={rare: few}, seed=seed)
    shares = y[train].bincount()
    weight = class_weights(y[train], vocab=range(10)) if way == 'weights' else None
    change = {'oversampled': oversample, 'undersampled': undersample}.get(way)
    if change: train = change(train, labels, seed=seed)
    out = regression(x[train], y[train], weight, decay)(x_valid)
    said = (PriorShift(shares)(out) if way == 'shifted' else out).argmax(1)
    recall = [(said == k)[y_valid == k].float().mean() for k in range(10)]
    return {
        'balanced accuracy': sum(recall) / 10,
        'recall of the rare class': recall[rare],
        'recall of the others': (sum(recall) - recall[rare]) / 9,
        'answers of the rare class that are right':
            (y_valid == rare)[said == rare].float().mean().nan_to_num(0.),
    }

@cache
def _asked(seed, fold=None, epochs=20, per_class=30):
    "Validation probabilities of a `tiny_cnn`, trained without one of five folds or on everything."
    pictures = toys(per_class)
    train, valid = ([f for f in pictures if f.parts[-3] == part] for part in ('train', 'val'))
    if isinstance(fold, int):
        folds = stratified_kfold(train, [f.parent.name for f in train], 5, seed)
        train = [train[i] for i in folds[fold][0]]
    dls = loaders({f: pictures[f] for f in [*train, *valid]}, 20, FlipItem())
    learn = Learner(DataLoaders(dls.train), tiny_cnn())
    learn.fit_one_cycle(epochs, 3e-3)
    return learn.get_preds(dl=dls.valid)

def averaged(seed, who='one', epochs=20):
    "One network on all training images; or five, each without a fold or all on everything."
    if who == 'one': runs = [_asked(seed, epochs=epochs)]
    elif who == 'five folds': runs = [_asked(seed, k) for k in range(5)]
    else: runs = [_asked(seed, f'all {k}') for k in range(5)]
    y, each = runs[0][1], [accuracy(p, y) for p, y in runs]
    probs = torch.stack([p for p, _ in runs]).mean(0)
    return {
        'accuracy': accuracy(probs, y),
        'mean of single networks': sum(map(float, each)) / len(each),
        'calibration error': calibration_error(probs, y),
    }

@cache
def crops(dx=0, dy=0, size=64, per_class=150) -> dict:
    "Toys at a side of two pixels more, cut `dx` and `dy` pixels from the middle."
    box = (1 + dx, 1 + dy, 1 + dx + size, 1 + dy + size)
    return {f: im.crop(box) for f, im in toys(per_class, size + 2).items()}

def moved(make, per_class=150, epochs=5, lr=4e-3, bs=50):
    """A training at 64 pixels of what `make` makes. Besides accuracy: for which share of the
    validation images the answer stays when the image is cut one pixel beside."""
    def data(dx=0, dy=0, tfms=None):
        return loaders(crops(dx, dy, per_class=per_class), bs, tfms,
                       Normalize.from_stats(*imagenet_stats))
    dls = data(tfms=FlipItem())
    learn = Learner(DataLoaders(dls.train), make())
    learn.fit_one_cycle(epochs, lr)
    said, *beside = [learn.get_preds(dl=data(*o).valid)[0].argmax(1)
                     for o in ((0, 0), (1, 0), (0, 1), (1, 1))]
    stays = [(o == said).float().mean() for o in beside]
    return results(learn, dls.valid) | {'answer stays': sum(stays) / 3}

def sharper(epochs=5, **kwargs):
    "An xresnet18 of half the width; `kwargs` go to it."
    half = dict(stem_widths=(16, 16, 32), widths=(32, 64, 128, 256))
    return moved(lambda: xresnet18(10, **half, **kwargs), epochs=epochs)

def pools(pool=None):
    "Four convolutions, a pool after each of the first three: all max pools, or all of them `pool`."
    def net():
        layers = []
        for ni, nf in ((3, 16), (16, 32), (32, 64), (64, 128)):
            layers += [ConvLayer(ni, nf), pool() if pool else nn.MaxPool2d(3, 2, 1)]
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)
        return nn.Sequential(*layers[:-1], *head)
    return moved(net, 60, epochs=6, lr=6e-3)

smooth = dict(loss_func=LabelSmoothingCrossEntropy(.1))
SMOOTHED = {
    '': {},
    ', smoothing .1': smooth,
    ', smoothing .3': dict(loss_func=LabelSmoothingCrossEntropy(.3)),
}
rates = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
STUDIES = {
    'mixing': (
        small,
        {},
        {
            'mixup': dict(cbs=MixUp(.4)),
            'cutmix': dict(cbs=CutMix(1.)),
            'smoothing': smooth,
            'mixup + smoothing': dict(cbs=MixUp(.4), **smooth),
            'all three': dict(cbs=[MixUp(.4), CutMix(1.)], **smooth),
        },
    ),
    'schedules': (
        small,
        dict(epochs=12, fit='fit', lr=1e-3),
        {f'constant {lr:g}': dict(lr=lr) for lr in rates if lr != 1e-3}
        | {f'one cycle {lr:g}': dict(fit='fit_one_cycle', lr=lr) for lr in rates}
        | {f'flat cos {lr:g}': dict(fit='fit_flat_cos', lr=lr) for lr in rates},
    ),
    'augmentation': (small, {}, {'augmented': dict(batch_tfms=aug_transforms(max_zoom=1.4))}),
    'progressive': (
        growing,
        {},
        {
            '24, then 48': dict(first=24),
            '32, then 48': dict(first=32),
            # about the work of '24, then 48'; about the time of the base on a CPU; about its work
            '48 alone, 6 epochs': dict(epochs=6),
            '24, then 48, 13 epochs': dict(first=24, epochs=13, early=8),
            '24, then 48, 18 epochs': dict(first=24, epochs=18, early=11),
        },
    ),
    'noise': (
        small,
        dict(per_class=30, epochs=20, bs=25),
        {'smoothing .1': smooth}
        | {f'wrong labels{name}': dict(wrong=.2, **loss) for name, loss in SMOOTHED.items()},
    ),
    'wrong': (hunted, {}, {'30 epochs': dict(epochs=30)}),
    'decay': (
        small,
        {},
        {
            'decay 1': dict(wd=1.),
            'penalty 0.01': dict(opt_func=adam_with_penalty, wd=.01),
        },
    ),
    'few': (
        few,
        {},
        {
            '5 per class': dict(per_class=5),
            '80 per class': dict(per_class=80),
            '32 pixels': dict(size=32),
        },
    ),
    'tta': (
        asked,
        {},
        {f'{n} views': dict(views=n) for n in (4, 8)}
        | {'1 random view alone': dict(views=1, beta=0.), 'plain, 48 px': dict(size=48)},
    ),
    'unequal': (
        unequal,
        {},
        {o: dict(way=o) for o in ('weights', 'oversampled', 'undersampled', 'shifted')}
        | {f'{o}, decay {d:g}': dict(way=o, decay=d)
           for d in (.003, .3) for o in ('as it is', 'weights', 'shifted')},
    ),
    'sharper': (
        sharper,
        {},
        {
            'Mish': dict(act_cls=Mish),
            'attention': dict(sa=SelfAttention),
            'blur pool': dict(pool=MaxBlurPool),
            'squeeze-and-excitation': dict(se=True),
            'all four': dict(act_cls=Mish, sa=SelfAttention, pool=MaxBlurPool, se=True),
            'stem without stride': dict(stem_stride=1),
            'two more epochs': dict(epochs=7),
        },
    ),
    'pools': (pools, {}, {'all blur': dict(pool=MaxBlurPool)}),
    'folds': (
        averaged,
        {},
        {
            'five folds, averaged': dict(who='five folds'),
            'five on everything, averaged': dict(who='five on everything'),
            'one, five times as long': dict(epochs=100),
        },
    ),
    'normalization': (resnet, {}, {'normalized': dict(normalized=True)}),
    'gamma': (
        resnet,
        dict(network='three blocks', normalized=True, size=40, epochs=6),
        {
            'three blocks, 1': dict(gamma=1.),
            'xresnet18, 0': dict(network='xresnet18'),
            'xresnet18, 1': dict(network='xresnet18', gamma=1.),
        },
    ),
}

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('studies', nargs='*', help=f'some of {", ".join(STUDIES)}; all without any')
    p.add_argument('--seeds', type=int, default=10)
    args = p.parse_args()
    if unknown := set(args.studies) - set(STUDIES):
        p.error(f'no study {", ".join(unknown)}')
    for name in args.studies or STUDIES:
        recipe, base, variants = STUDIES[name]
        file = RESULTS / f'{name}.jsonl'
        print(f'--- {name}', flush=True)
        c = compare(recipe, variants, seeds=args.seeds, base=base, file=file, key=f'{name} 1')
        print(c, flush=True)

if __name__ == '__main__': main()
