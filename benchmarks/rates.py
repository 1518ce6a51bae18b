"""How good are the rates that `lr_find` suggests? Six tasks on Toynette, each trained with a grid
of five rates and with suggested ones.

    python benchmarks/rates.py               # about fifteen minutes a seed on one idle core
    python benchmarks/rates.py --seeds 4 --rules valley slide steep minimum

Every training is one cycle, and a rate is its peak. A seed draws the training pictures, the start
and the order. All pictures that are not drawn validate. Trainings that the result file already
holds are not repeated. Writes benchmarks/results/rates-cpu.json after every training.
"""
import argparse
import functools
import json
import platform
import statistics
from datetime import date
from pathlib import Path

import torch
from torch import nn

from augment import HERE, cpu_name
from sotavision.all import (
    SGD,
    Adam,
    CategoryBlock,
    ConvLayer,
    DataBlock,
    DataLoaders,
    FlipItem,
    FuncSplitter,
    ImageBlock,
    Learner,
    PILImage,
    Recorder,
    Resize,
    accuracy,
    get_image_files,
    parent_label,
    set_seed,
    toynette,
    vision_learner,
    xresnet18,
)

SUGGEST = 'valley', 'slide', 'steep', 'minimum'

def tiny(n_out):
    "Four convolutions."
    layers = [
        ConvLayer(ni, nf, stride=s)
        for ni, nf, s in ((3, 32, 2), (32, 64, 1), (64, 128, 2), (128, 256, 2))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, n_out))

def sgd(params, lr): return SGD(params, lr, mom=.9)

FOR_ADAM, FOR_SGD = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (1e-2, 3e-2, 1e-1, 3e-1, 1.)
# network (a name: trained on ImageNet, with a new head), pixels, pictures a class, batch size,
# optimizer, epochs, grid
TASKS = {
    'EfficientNet-Lite0, pretrained, 96 px': ('efficientnet_lite0', 96, 20, 20, Adam, 5, FOR_ADAM),
    'four layers, 40 px':      (tiny, 40, 20, 20, Adam, 20, FOR_ADAM),
    'four layers, 24 px':      (tiny, 24, 30, 32, Adam, 20, FOR_ADAM),
    'xresnet18, 32 px':        (xresnet18, 32, 20, 20, Adam, 8, FOR_ADAM),
    'xresnet18, 48 px':        (xresnet18, 48, 20, 32, Adam, 8, FOR_ADAM),
    'four layers, 40 px, SGD': (tiny, 40, 20, 20, sgd, 20, FOR_SGD),
}

@functools.cache
def pictures(px) -> dict:
    "All of Toynette, small."
    return {f: Resize(px, 'squish')(PILImage.create(f)) for f in get_image_files(toynette())}

def drawn(small, n, seed) -> set:
    "`n` pictures of each class."
    g, files = torch.Generator().manual_seed(seed), sorted(small)
    of = {
        c: [f for f in files if f.parent.name == c] for c in sorted({f.parent.name for f in files})}
    return {o[i] for o in of.values() for i in torch.randperm(len(o), generator=g)[:n].tolist()}

def learner(task, seed):
    "A new learner that only trains, and the validation loader."
    arch, px, n, bs, opt_func, *_ = TASKS[task]
    small = pictures(px)
    train = drawn(small, n, seed)
    set_seed(seed)
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_x=small.get, get_y=parent_label,
        splitter=FuncSplitter(lambda f: f not in train), item_tfms=FlipItem())
    dls = block.dataloaders(sorted(small), bs=bs, device='cpu')
    if isinstance(arch, str):
        learn = vision_learner(DataLoaders(dls.train), arch, opt_func=opt_func, metrics=accuracy)
    else:
        learn = Learner(
            DataLoaders(dls.train), arch(n_out=10), opt_func=opt_func, metrics=accuracy,
            default_cbs=False, cbs=Recorder())
    return learn, dls.valid

def trained(task, seed, lr) -> float:
    "Validation accuracy after one cycle with peak `lr`; 0 where the loss diverged."
    learn, valid = learner(task, seed)
    with learn.no_bar():
        try: learn.fit_one_cycle(TASKS[task][5], lr)
        except ArithmeticError: return 0.
        return round(learn.validate(dl=valid)[1], 4)

def suggested(task, seed) -> dict:
    "What `lr_find` says."
    found = learner(task, seed)[0].lr_find(show_plot=False, suggest_funcs=SUGGEST)
    return {k: float(f'{v:.3g}') for k, v in found._asdict().items()}

def mean(values): return round(statistics.mean(values), 4)

def in_points(values): return round(100 * statistics.mean(values), 1) + 0.     # no −0.0

def against_grid(grid:dict, tried:dict) -> dict:
    """How far a rule is from the grid, in points, on the same seeds. `grid[lr][seed]` and
    `tried[seed]` are accuracies. The best of five is picked on the very pictures that score it,
    which flatters it; `points_blind` picks it by the other seeds."""
    seeds = sorted(tried)
    if not seeds: return dict(accuracy=None, points=None, points_each=[], points_blind=None)
    best = max(grid, key=lambda lr: mean([grid[lr][s] for s in seeds]))
    others = {
        s: max(grid, key=lambda lr: mean([v for k, v in grid[lr].items() if k != s]))
        for s in seeds} if len(seeds) > 1 else {}
    each = [in_points([tried[s] - grid[best][s]]) for s in seeds]
    blind = in_points([tried[s] - grid[lr][s] for s, lr in others.items()]) if others else None
    return dict(
        accuracy=mean(tried.values()), points=in_points([tried[s] - grid[best][s] for s in seeds]),
        points_each=each, points_blind=blind)

def summary(runs) -> dict:
    """For each task: mean accuracy of each rate of the grid and of each suggestion, and how far the
    suggestion is from the best of the grid."""
    out = {}
    for task, (*_, rates) in TASKS.items():
        mine = [o for o in runs if o['task'] == task]
        full = {
            o['seed']
            for o in mine if {r.get('grid') for r in mine if r['seed'] == o['seed']} >= set(rates)}
        if not full: continue
        grid = {
            lr: {
                o['seed']: o['accuracy']
                for o in mine if o.get('grid') == lr and o['seed'] in full} for lr in rates}
        means = {str(lr): mean(o.values()) for lr, o in grid.items()}
        out[task] = dict(seeds=len(full), grid=means, best=max(means.values()))
        for rule in SUGGEST:
            tried = {o['seed']: o for o in mine if o.get('by') == rule and o['seed'] in full}
            out[task][rule] = dict(
                rates=[o['lr'] for o in tried.values()],
                **against_grid(grid, {k: o['accuracy'] for k, o in tried.items()}))
    return out

def write(out, runs):
    what = (
        'Toynette, one cycle; a seed draws 20 or 30 training pictures a class, the other 1,800 or '
        '1,700 validate; a suggestion is made and trained once a seed'
    )
    result = dict(
        what=what, date=str(date.today()), seeds=len({o['seed'] for o in runs}),
        hardware=f'{cpu_name()}, 1 thread',
        versions=dict(python=platform.python_version(), torch=torch.__version__),
        summary=summary(runs), runs=runs)
    out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf8')

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--rules', nargs='+', choices=SUGGEST, default=SUGGEST[:2])
    p.add_argument('--tasks', nargs='+', choices=TASKS, default=TASKS)
    p.add_argument('--out', type=Path, default=HERE/'results'/'rates-cpu.json')
    a = p.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(a.out.read_text())['runs'] if a.out.exists() else []
    for seed in range(a.seeds):
        for task in a.tasks:
            grid = TASKS[task][-1]
            done = {
                o.get('grid') or o['by'] for o in runs if o['task'] == task and o['seed'] == seed}
            if done.issuperset([*grid, *a.rules]): continue
            rules = {} if done.issuperset(a.rules) else suggested(task, seed)
            jobs = [dict(grid=lr, lr=lr) for lr in grid] + [
                dict(by=k, lr=v) for k, v in rules.items() if k in a.rules]
            for job in jobs:
                if (job.get('grid') or job['by']) in done: continue
                runs.append(
                    dict(task=task, seed=seed, **job, accuracy=trained(task, seed, job['lr'])))
                print(*runs[-1].values(), flush=True); write(a.out, runs)

if __name__ == '__main__': main()
