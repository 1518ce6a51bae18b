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

def main():
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
    a = p.parse_args()
    torch.set_num_threads(THREADS)
    files, runs = chosen(a.path, a.per_class, a.n_valid), {'sotavision': [], 'fastai': []}
    # turn by turn, so that both meet the same machine
    for seed in range(a.seeds):
        for maker in (sotavision, fastai):
            runs[maker.__name__].append(run(maker, files, a, seed))
            print(maker.__name__, runs[maker.__name__][-1], flush=True)
    gain = [s['accuracy'] - f['accuracy'] for s, f in zip(*runs.values())]
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    import fastai as peer
    import torchvision
    result = {
        'what': (
            f'xresnet18 from scratch on {a.path.name}, {a.per_class or "all"} training and '
            f'{a.n_valid or "all"} validation pictures a class, presized to {a.presize}, '
            f'{a.size} px, batch size {a.bs}, aug_transforms(min_scale=.75), '
            f'one cycle of {a.epochs} epochs at {a.lr}'
        ),
        'date': str(date.today()),
        'hardware': torch.cuda.get_device_name() if device == 'cuda'
        else f'{cpu_name()}, {THREADS} threads',
        'versions': {
            'python': platform.python_version(), 'torch': torch.__version__,
            'torchvision': torchvision.__version__, 'fastai': peer.__version__}, 'runs': runs,
        'mean_accuracy': {
            k: round(statistics.mean(o['accuracy'] for o in v), 4) for k, v in runs.items()},
        'gain_mean': round(statistics.mean(gain), 4),
        'gain_sd': round(statistics.stdev(gain), 4) if len(gain) > 1 else None,
        'faster_by': round(
            statistics.median(
                f['seconds_per_epoch'] / s['seconds_per_epoch'] for s, f in zip(*runs.values())), 2
        )}
    (HERE/'results'/f'train-{device}.json').write_text(json.dumps(result, indent=1) + '\n')
    print(
        json.dumps({k: result[k] for k in ('mean_accuracy', 'gain_mean', 'gain_sd', 'faster_by')}))

if __name__ == '__main__': main()
