"""What wrong labels cost, and what each way of dealing with them brings back.

    python benchmarks/noise.py toynette
    python benchmarks/noise.py imagenette --path PATH --labels noisy_imagenette.csv
    python benchmarks/noise.py scratch --path PATH --labels noisy_imagenette.csv    # hours on a CPU

PATH holds train/<class>/ and val/<class>/, Imagenette's layout; the labels are its own table of
noisy ones. `toynette` and `imagenette` take the features of a trained EfficientNet-Lite0 at 128
pixels, computed once and kept beside other downloads, and fit a softmax regression on them;
out-of-fold probabilities come from 5 folds. Validation labels are clean. A seed deals the folds, on
Toynette it also draws the noise. `scratch` trains xresnet18 at 64 pixels from random weights.
One line of JSON a run in benchmarks/results/noise/<data>.jsonl; runs that are kept are not done
again. Chapter 19 reads them.
"""
import argparse
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import FlipItem, Resize, aug_transforms
from sotavision.core.display import progress, quiet
from sotavision.core.paths import home
from sotavision.core.rng import set_seed
from sotavision.data.datablock import CategoryBlock, DataBlock, Dataset, ImageBlock
from sotavision.data.files import get_image_files
from sotavision.data.loaders import DataLoader, DataLoaders
from sotavision.data.workers import same
from sotavision.models.efficientnet import efficientnet_lite0, lite0_stats, lite0_weights
from sotavision.models.xresnet import xresnet18
from sotavision.objectives.losses import CrossEntropyLossFlat
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.techniques.folds import stratified_kfold
from sotavision.techniques.label_correction import ELR, ProgressiveLabelCorrection
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.noisy_labels import (
    METHODS,
    add_label_noise,
    find_label_issues,
    prune,
    relabel,
    soft_labels,
)
from sotavision.toynette.dataset import toynette
from sotavision.training import Learner

RESULTS = Path(__file__).resolve().parent / 'results' / 'noise'
STRONG = .3   # weight decay, in place of .001: the baseline's second try
DECAYS = .001, .003, .01, .03, .1, .3, 1., 3.
NOISE = 1, 5, 25, 50
PATHS = {}   # what the command line names

# --- images, features, labels

@cache
def files(data:str) -> tuple:
    "Training files, validation files and the classes."
    path = Path(PATHS['path']) if data == 'imagenette' else Path(toynette())
    train, valid = (sorted(get_image_files(path/o)) for o in ('train', 'val'))
    return train, valid, sorted({o.parent.name for o in train})

def _features_of(items, size=128, bs=64) -> torch.Tensor: # `(n, 1280)`
    "What a trained network sees in images."
    ds = Dataset(items, [same], [ImageBlock()])
    dl = DataLoader(ds, bs, item_tfms=Resize(size, 'squish'), batch_tfms=Normalize(*lite0_stats),
                    device='cpu')
    net = efficientnet_lite0()
    net.load_state_dict(lite0_weights())
    body = nn.Sequential(*list(net.children())[:-1], nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.inference_mode(): return torch.cat([body(x) for x, *_ in progress(dl)])

@cache
def features(data:str) -> tuple: # Training and validation features, standardized
    "Features of both parts, from the disk where they are kept."
    file = home()/'features'/f'{data}-lite0-128.pt'
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save([_features_of(o) for o in files(data)[:2]], file)
    train, valid = torch.load(file, weights_only=True)
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    return (train - mean) / std, (valid - mean) / std

@cache
def labels(data:str, noise:int, seed:int) -> tuple: # Given and right codes of the training items
    "Imagenette's noisy labels are always the same; Toynette's are drawn."
    train, _, classes = files(data)
    code = {o: k for k, o in enumerate(classes)}
    right = np.array([code[o.parent.name] for o in train])
    if data == 'toynette': return add_label_noise(right, noise / 100, seed=seed), right
    table = pd.read_csv(PATHS['labels']).set_index('path')[f'noisy_labels_{noise}']
    told = [table[f'train/{o.parent.name}/{o.name}'] for o in train]
    return np.array([code[o] for o in told]), right

# --- models on features

def regression(x, y, n_out:int, l2:float, steps:int=60):
    "Softmax regression of targets, indices or shares; its weights and biases."
    w = torch.zeros(x.shape[1] + 1, n_out, requires_grad=True)
    opt = torch.optim.LBFGS([w], max_iter=steps, history_size=10, line_search_fn='strong_wolfe')
    def loss():
        opt.zero_grad()
        e = F.cross_entropy(x @ w[1:] + w[0], y) + l2 / 2 * (w[1:] ** 2).sum()
        e.backward()
        return e
    opt.step(loss)
    return w.detach()

def answers(w, x): return (x @ w[1:] + w[0]).softmax(1)

@cache
def out_of_fold(data:str, noise:int, seed:int, l2:float) -> np.ndarray: # `(n, c)`
    "What models say of the items that they did not see."
    x, y, c = features(data)[0], labels(data, noise, seed)[0], len(files(data)[2])
    oof = np.full((len(y), c), np.nan, dtype=np.float32)
    for train, valid in stratified_kfold(list(range(len(y))), y.tolist(), 5, seed):
        w = regression(x[train], torch.tensor(y[train]), c, l2)
        oof[valid] = answers(w, x[valid])
    return oof

def chosen_decay(data:str, noise:int, seed:int) -> float:
    "The weight decay whose out-of-fold predictions fit the given labels best; needs no clean ones."
    given = labels(data, noise, seed)[0]
    def cost(l2):
        told = out_of_fold(data, noise, seed, l2)[np.arange(len(given)), given]
        return -np.log(told.clip(1e-12)).mean()
    return min(DECAYS, key=cost)

def judged(w, data) -> float:
    "Accuracy on the clean validation images."
    _, valid, classes = files(data)
    y = torch.tensor([classes.index(o.parent.name) for o in valid])
    return (answers(w, features(data)[1]).argmax(1) == y).float().mean().item()

def scores(issues, given, right) -> dict:
    "Precision and recall of what was found."
    found = np.isin(np.arange(len(given)), issues['item'])
    wrong = given != right
    hits = int((found & wrong).sum())
    return dict(precision=hits / max(int(found.sum()), 1), recall=hits / max(int(wrong.sum()), 1))

def recall_at(precision, oof, given, right) -> float:
    "The largest share of the wrong labels in a head of the ranking that is as precise as that."
    wrong = (given != right)[np.argsort(oof[np.arange(len(given)), given], kind='stable')]
    hits = wrong.cumsum()
    good = hits >= precision * np.arange(1, len(wrong) + 1)
    return float(hits[good].max(initial=0) / max(wrong.sum(), 1))

def cleaned(data, noise, way, seed) -> dict:
    """A regression on labels as they are ('naive'; 'strong': with much weight decay; 'chosen': with
    what the folds choose), or after one way of dealing with the wrong ones."""
    x, c = features(data)[0], len(files(data)[2])
    given, right = labels(data, noise, seed)
    found, keep, y = {}, np.arange(len(given)), torch.tensor(given)
    l2 = STRONG if way.startswith('strong') else .001
    if way.startswith('chosen'): found['decay'] = l2 = chosen_decay(data, noise, seed)
    if way == 'right': y = torch.tensor(right)
    elif way not in ('naive', 'strong', 'chosen'):
        oof = out_of_fold(data, noise, seed, l2)
        issues = find_label_issues(given, oof)
        if way == 'soft': y = torch.tensor(soft_labels(given, oof))
        elif way == 'relabel': y = torch.tensor(relabel(given, issues))
        elif way == 'prune by self-confidence':
            keep = prune(keep, find_label_issues(given, oof, 'self_confidence'))
        elif way.endswith('prune'):
            keep = prune(keep, issues)
            suggested = np.array(relabel(given, issues))[issues['item']]
            found['suggestions right'] = float((suggested == right[issues['item']]).mean())
            found['recall at precision .7'] = recall_at(.7, oof, given, right)
            for o in METHODS:
                these = scores(find_label_issues(given, oof, o), given, right)
                found |= {f'{o} {k}': v for k, v in these.items()}
    w = regression(x[keep], y[keep], c, l2)
    in_fold = find_label_issues(given, answers(w, x), 'disagree') if way == 'naive' else None
    if in_fold is not None: found['in-fold recall'] = scores(in_fold, given, right)['recall']
    return dict(accuracy=judged(w, data)) | found

class Vectors(list):
    "Features and labels as a data set."
    def __init__(self, x, y, classes):
        super().__init__(zip(x, y))
        self.vocab, self.c = classes, len(classes)

CALLBACKS = dict(
    plain=lambda right: [],
    progressive=lambda right: [ProgressiveLabelCorrection(clean=right)],
    elr=lambda right: [ELR(clean=right)],
    mixup=lambda right: [MixUp(.4)],
)

def in_training(data, noise, way, seed, epochs=20, width=256) -> dict:
    "A small network on the features, trained with a callback."
    x, classes = features(data)[0], files(data)[2]
    given, right = labels(data, noise, seed)
    dl = DataLoader(Vectors(x, torch.tensor(given), classes), 100, shuffle=True, device='cpu')
    model = nn.Sequential(nn.Linear(x.shape[1], width), nn.ReLU(), nn.Linear(width, len(classes)))
    learn = Learner(DataLoaders(dl), model, CrossEntropyLossFlat(), default_cbs=False,
                    precision='fp32')
    cbs = CALLBACKS[way](right.tolist())
    with quiet(): learn.fit_one_cycle(epochs, 1e-3, cbs=cbs)
    with torch.inference_mode(): probs = model.eval()(features(data)[1]).softmax(1)
    y = torch.tensor([classes.index(o.parent.name) for o in files(data)[1]])
    told = {}
    if hasattr(cbs[0] if cbs else None, 'changes'):
        told = scores(cbs[0].changes(), given, right)
    return dict(accuracy=(probs.argmax(1) == y).float().mean().item()) | told

def recipe(data, noise, way, seed=0) -> dict:
    return (in_training if way in CALLBACKS else cleaned)(data, noise, way, seed)

WAYS = (
    'right', 'naive', 'strong', 'soft', 'relabel', 'prune', 'prune by self-confidence',
    'strong prune', 'chosen', 'chosen prune', 'plain', 'progressive', 'elr',
)

# --- from scratch

def from_scratch(noise=50, way='plain', seed=0, epochs=20, size=64, bs=64, lr=4e-3) -> dict:
    "xresnet18 from random weights, validated after each epoch on clean labels."
    set_seed(seed)
    train, valid, classes = files('imagenette')
    given, right = labels('imagenette', noise, seed)
    told = {o: classes[k] for o, k in zip(train, given)} | {o: o.parent.name for o in valid}
    block = DataBlock(
        (ImageBlock, CategoryBlock(classes)), get_y=told.get,
        splitter=lambda o: (range(len(train)), range(len(train), len(o))),
        item_tfms=[Resize(size * 3 // 2, 'squish'), FlipItem()],
        batch_tfms=[*aug_transforms(size=size, min_scale=.35), Normalize(*imagenet_stats)],
    )
    dls = block.dataloaders([*train, *valid], bs=bs, cache='ram')
    learn = Learner(dls, xresnet18(n_out=len(classes)), metrics=accuracy)
    learn.fit_one_cycle(epochs, lr, cbs=CALLBACKS[way](right.tolist()))
    each = [r[2] for r in learn.recorder.values]
    return dict(accuracy=each[-1], best=max(each))

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('data', choices=('toynette', 'imagenette', 'scratch'))
    p.add_argument('--path', help="Imagenette's folder")
    p.add_argument('--labels', help='its table of noisy labels')
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--noise', type=int, nargs='*', default=NOISE, choices=NOISE)
    p.add_argument('--ways', nargs='*', default=WAYS, choices=WAYS)
    args = p.parse_args()
    if args.data != 'toynette' and not (args.path and args.labels):
        p.error('--path and --labels say where Imagenette and its noisy labels are')
    PATHS.update(path=args.path, labels=args.labels)
    torch.set_num_threads(1)
    file, key = RESULTS/f'{args.data}.jsonl', f'{args.data} 1'
    if args.data == 'scratch':
        variants = {o: dict(way=o) for o in CALLBACKS if o != 'plain'}
        print(compare(from_scratch, variants, min(args.seeds, 3), file=file, key=key))
        return
    for noise in args.noise:
        ways = {f'{noise} % {o}': dict(way=o) for o in args.ways if o != 'naive'}
        base = dict(data=args.data, noise=noise, way='naive')
        c = compare(recipe, ways, args.seeds, base, 'accuracy', file, key=f'{key} {noise}')
        print(c, flush=True)

if __name__ == '__main__': main()
