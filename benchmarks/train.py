"""The same short training here and in fastai: same pictures, network, size, batch size, schedule
and augmentations, several seeds.

    pip install -e '.[bench]'                                     # in an environment of its own
    python benchmarks/train.py PATH --per-class 150 --seeds 3

PATH holds train/<class>/ and val/<class>/, Imagenette's layout.
Each library keeps its own defaults for what is not named here (precision, workers, weight decay,
initial weights). Writes benchmarks/results/train-<device>.json.
"""
import argparse
import json
import platform
import statistics
import time
from datetime import date
from pathlib import Path

import torch

from augment import HERE, STATS, THREADS, cpu_name

def chosen(path:Path, per_class:int, n_valid:int) -> list:
    """The first pictures by name of each class, `per_class` for training and `n_valid` for
    validation; 0: all."""
    files = []
    for split, n in (('train', per_class), ('val', n_valid)):
        for folder in sorted((path/split).iterdir()): files += sorted(folder.iterdir())[:n or None]
    return files

def sotavision(files, a, seed):
    from sotavision.all import (
        CategoryBlock,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        Learner,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        parent_label,
        set_seed,
        xresnet18,
    )
    set_seed(seed)
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_items=lambda o: o, get_y=parent_label,
        splitter=GrandparentSplitter(), item_tfms=Resize(a.presize),
        batch_tfms=[*aug_transforms(size=a.size, min_scale=.75), Normalize(*STATS)])
    learn = Learner(block.dataloaders(files, bs=a.bs), xresnet18(n_out=10), metrics=accuracy)
    return learn, lambda: learn.validate()[1]

def fastai(files, a, seed):
    from fastai.vision.all import (
        CategoryBlock,
        DataBlock,
        GrandparentSplitter,
        ImageBlock,
        Learner,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        parent_label,
        set_seed,
        xresnet18,
    )
    set_seed(seed)
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_items=lambda o: o, get_y=parent_label,
        splitter=GrandparentSplitter(valid_name='val'), item_tfms=Resize(a.presize),
        batch_tfms=[*aug_transforms(size=a.size, min_scale=.75), Normalize.from_stats(*STATS)])
    learn = Learner(block.dataloaders(files, bs=a.bs), xresnet18(n_out=10), metrics=accuracy)
    return learn, lambda: learn.validate()[1]

def run(maker, files, a, seed) -> dict:
    learn, score = maker(files, a, seed)
    start = time.perf_counter()
    learn.fit_one_cycle(a.epochs, a.lr)
    return {
        'seed': seed, 'accuracy': round(float(score()), 4),
        'seconds_per_epoch': round((time.perf_counter() - start) / a.epochs, 2)}

def arguments():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', type=Path)
    p.add_argument('--per-class', type=int, default=150)
    p.add_argument('--n-valid', type=int, default=100)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=5)
    p.add_argument('--lr', type=float, default=3e-3)
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--size', type=int, default=64)
    p.add_argument('--presize', type=int, default=96)
    return p.parse_args()

def trained(files, a) -> dict:
    "All runs of each library, turn by turn, so that both meet the same machine."
    runs = {'sotavision': [], 'fastai': []}
    for seed in range(a.seeds):
        for maker in (sotavision, fastai):
            runs[maker.__name__].append(run(maker, files, a, seed))
            print(maker.__name__, runs[maker.__name__][-1], flush=True)
    return runs

def header(a, device) -> dict:
    "What was trained, when, on what and with which versions."
    import fastai as peer
    import torchvision
    what = (
        f'xresnet18 from scratch on {a.path.name}, {a.per_class or "all"} training and '
        f'{a.n_valid or "all"} validation images per class, presized to {a.presize}, '
        f'{a.size} px, batch size {a.bs}, aug_transforms(min_scale=.75), '
        f'one cycle of {a.epochs} epochs at {a.lr}'
    )
    cpu = f'{cpu_name()}, {THREADS} threads'
    versions = dict(python=platform.python_version(), torch=torch.__version__,
                    torchvision=torchvision.__version__, fastai=peer.__version__)
    hardware = torch.cuda.get_device_name() if device == 'cuda' else cpu
    return dict(what=what, date=str(date.today()), hardware=hardware, versions=versions)

def summary(runs) -> dict:
    "Mean accuracies, our gain over the seeds, and how many times faster our epochs are."
    pairs = list(zip(runs['sotavision'], runs['fastai']))
    gain = [s['accuracy'] - f['accuracy'] for s, f in pairs]
    faster = statistics.median(f['seconds_per_epoch'] / s['seconds_per_epoch'] for s, f in pairs)
    accuracies = {k: statistics.mean(o['accuracy'] for o in v) for k, v in runs.items()}
    return dict(
        mean_accuracy={k: round(v, 4) for k, v in accuracies.items()},
        gain_mean=round(statistics.mean(gain), 4),
        gain_sd=round(statistics.stdev(gain), 4) if len(gain) > 1 else None,
        faster_by=round(faster, 2))

def main():
    a = arguments()
    torch.set_num_threads(THREADS)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    runs = trained(chosen(a.path, a.per_class, a.n_valid), a)
    found = summary(runs)
    result = header(a, device) | dict(runs=runs) | found
    (HERE/'results'/f'train-{device}.json').write_text(json.dumps(result, indent=1) + '\n')
    print(json.dumps(found))

if __name__ == '__main__': main()
