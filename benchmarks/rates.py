"""How good are the rates that `lr_find` suggests? Five tasks on Toynette, each trained with a grid of five rates and with every suggestion.

    python benchmarks/rates.py               # about ten minutes on one idle core
    python benchmarks/rates.py --seeds 4 --rules valley slide

Every training is one cycle, and a rate is its peak. Trainings that the result file already holds are not repeated.
Writes benchmarks/results/rates-cpu.json after every training.
"""
import argparse, json, platform, statistics
from datetime import date
from pathlib import Path

import torch
from torch import nn

from augment import HERE, cpu_name
from sotavision.all import (SGD, Adam, CategoryBlock, ConvLayer, DataBlock, DataLoaders, FlipItem, GrandparentSplitter, ImageBlock, Learner, PILImage,
                            Recorder, Resize, accuracy, get_image_files, parent_label, set_seed, toynette, xresnet18)

SUGGEST = 'valley', 'slide', 'steep', 'minimum'

def tiny(n_out):
    "Four convolutions."
    layers = [ConvLayer(ni, nf, stride=s) for ni, nf, s in ((3, 32, 2), (32, 64, 1), (64, 128, 2), (128, 256, 2))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, n_out))

def sgd(params, lr): return SGD(params, lr, mom=.9)

FOR_ADAM, FOR_SGD = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), (1e-2, 3e-2, 1e-1, 3e-1, 1.)
TASKS = {   # network, pixels, pictures a class, batch size, optimizer, epochs, grid
    'four layers, 40 px':      (tiny, 40, 20, 20, Adam, 20, FOR_ADAM),
    'four layers, 24 px':      (tiny, 24, 30, 32, Adam, 20, FOR_ADAM),
    'xresnet18, 32 px':        (xresnet18, 32, 20, 20, Adam, 8, FOR_ADAM),
    'xresnet18, 48 px':        (xresnet18, 48, 20, 32, Adam, 8, FOR_ADAM),
    'four layers, 40 px, SGD': (tiny, 40, 20, 20, sgd, 20, FOR_SGD),
}

def pictures(px, n) -> dict:
    "The first `n` training pictures of each class and all validation pictures, small."
    files = get_image_files(toynette())
    train = [f for f in files if f.parts[-3] == 'train']
    few = [f for c in sorted({f.parent.name for f in files}) for f in sorted(o for o in train if o.parent.name == c)[:n]]
    return {f: Resize(px, 'squish')(PILImage.create(f)) for f in few + [f for f in files if f.parts[-3] == 'val']}

def learner(task, small, seed):
    "A new learner that only trains, and the validation loader."
    arch, _, _, bs, opt_func, *_ = TASKS[task]
    set_seed(seed)
    block = DataBlock((ImageBlock, CategoryBlock), get_x=small.get, get_y=parent_label, splitter=GrandparentSplitter(), item_tfms=FlipItem())
    dls = block.dataloaders(list(small), bs=bs, device='cpu')
    return Learner(DataLoaders(dls.train), arch(n_out=10), opt_func=opt_func, metrics=accuracy, default_cbs=False, cbs=Recorder()), dls.valid

def trained(task, small, seed, lr) -> float:
    "Validation accuracy after one cycle with peak `lr`; 0 where the loss diverged."
    learn, valid = learner(task, small, seed)
    try: learn.fit_one_cycle(TASKS[task][5], lr)
    except ArithmeticError: return 0.
    return round(learn.validate(dl=valid)[1], 4)

def suggested(task, small, seed) -> dict:
    "What `lr_find` says."
    found = learner(task, small, seed)[0].lr_find(show_plot=False, suggest_funcs=SUGGEST)
    return {k: float(f'{v:.3g}') for k, v in found._asdict().items()}

def mean(runs, **which):
    "Mean accuracy of the runs that are `which`; None when there is none."
    found = [o['accuracy'] for o in runs if all(o.get(k) == v for k, v in which.items())]
    return round(statistics.mean(found), 4) if found else None

def summary(runs) -> dict:
    "For each task: mean accuracy of each rate of the grid and of each suggestion, and how far the suggestion is from the best of the grid, in points."
    out = {}
    for task, (*_, grid) in TASKS.items():
        rates = {str(lr): mean(runs, task=task, grid=lr) for lr in grid}
        best = max((o for o in rates.values() if o is not None), default=None)
        out[task] = dict(grid=rates, best=best)
        for s in SUGGEST:
            acc = mean(runs, task=task, by=s)
            out[task][s] = dict(rates=[o['lr'] for o in runs if o['task'] == task and o.get('by') == s], accuracy=acc,
                                points=None if acc is None else round(100 * (acc - best), 1))
    return out

def write(out, runs, seeds):
    result = dict(what='Toynette, one cycle, 500 validation pictures; a suggestion is made and trained once a seed', date=str(date.today()), seeds=seeds,
                  hardware=f'{cpu_name()}, 1 thread', versions=dict(python=platform.python_version(), torch=torch.__version__), summary=summary(runs), runs=runs)
    out.write_text(json.dumps(result, indent=1) + '\n', encoding='utf8')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--seeds', type=int, default=2); p.add_argument('--rules', nargs='+', choices=SUGGEST, default=SUGGEST); p.add_argument('--out', type=Path, default=HERE/'results'/'rates-cpu.json')
    a = p.parse_args()
    torch.set_num_threads(1)
    runs = json.loads(a.out.read_text())['runs'] if a.out.exists() else []
    for seed in range(a.seeds):
        for task, (_, px, n, *_, grid) in TASKS.items():
            done = {o.get('grid') or o['by'] for o in runs if o['task'] == task and o['seed'] == seed}
            if done.issuperset([*grid, *a.rules]): continue
            small = pictures(px, n)
            jobs = [dict(grid=lr, lr=lr) for lr in grid] + [dict(by=k, lr=v) for k, v in suggested(task, small, seed).items() if k in a.rules]
            for job in jobs:
                if (job.get('grid') or job['by']) in done: continue
                runs.append(dict(task=task, seed=seed, **job, accuracy=trained(task, small, seed, job['lr'])))
                print(*runs[-1].values(), flush=True); write(a.out, runs, a.seeds)

if __name__ == '__main__': main()
