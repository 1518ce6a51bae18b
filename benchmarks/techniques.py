"""Which techniques help on Imagenette? The same short training of xresnet18 with and without each,
paired over seeds.

    python benchmarks/techniques.py PATH
    python benchmarks/techniques.py PATH --only mixup    # one variant

PATH holds train/<class>/ and val/<class>/, Imagenette's layout. Runs that are in the file of
results already are not done again.
The first pictures by name of each class, decoded and presized once. Every run is validated once, at
the end, plainly and with test-time augmentation. Appends to benchmarks/results/techniques.jsonl;
chapter 15 reads it.
"""
import argparse
from functools import lru_cache
from pathlib import Path

from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import Resize, aug_transforms
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import parent_label
from sotavision.data.images import PILImage
from sotavision.data.loaders import DataLoaders
from sotavision.data.splits import GrandparentSplitter
from sotavision.models.xresnet import get_arch
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.progressive import progressive_resizing
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy
from sotavision.training.predict import Learner

HERE = Path(__file__).resolve().parent
VARIANTS = {
    'progressive': dict(grow=True),
    'mixup': dict(cbs=[MixUp(.4)]),
    'cutmix': dict(cbs=[CutMix(1.)]),
    'smoothing': dict(loss_func=LabelSmoothingCrossEntropy(.1)),
    'all': dict(grow=True, cbs=[MixUp(.4), CutMix(1.)], loss_func=LabelSmoothingCrossEntropy(.1)),
}

@lru_cache
def pictures(path:Path, per_class:int, n_valid:int, presize:int) -> dict:
    "Presized pictures by file."
    files = [
        f for split, n in (('train', per_class), ('val', n_valid))
        for folder in sorted((path/split).iterdir()) for f in sorted(folder.iterdir())[:n or None]]
    return {f: Resize(presize)(PILImage.create(f), split_idx=1) for f in files}

def make_recipe(path:Path):
    """The recipe for the pictures at `path`; its other choices are keywords, so that they stand in
    the results."""
    def recipe(
            grow=False, cbs=None, loss_func=None, arch='xresnet18', size=64, first_size=40,
            epochs=8, bs=50, lr=3e-3, per_class=100, n_valid=100, presize=96, looks=4):
        small = pictures(path, per_class, n_valid, presize)
        def loaders(size, bs):
            block = DataBlock(
                (ImageBlock, CategoryBlock), get_items=list, get_x=small.get, get_y=parent_label,
                splitter=GrandparentSplitter(),
                batch_tfms=[*aug_transforms(size=size, min_scale=.75), Normalize(*imagenet_stats)])
            return block.dataloaders(small, bs=bs)
        # without validation between the epochs
        unseen = lambda size, bs: DataLoaders(loaders(size, bs).train)
        learn = Learner(unseen(size, bs), get_arch(arch)(n_out=10), loss_func)
        half = epochs // 2
        progressive_resizing(
            learn, unseen,
            [(first_size, half, bs, lr), (size, epochs - half, bs, lr)] if grow
            else [(size, epochs, bs, lr)], cbs=cbs)
        valid = loaders(size, bs).valid
        return {
            'accuracy': accuracy(*learn.get_preds(dl=valid)),
            'accuracy with tta': accuracy(*learn.tta(dl=valid, n=looks))}
    return recipe

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('path', type=Path)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--only', nargs='*', choices=list(VARIANTS))
    p.add_argument('--epochs', type=int, default=8)
    p.add_argument('--per-class', type=int, default=100)
    p.add_argument('--n-valid', type=int, default=100)
    p.add_argument('--size', type=int, default=64)
    p.add_argument('--arch', default='xresnet18')
    p.add_argument('--out', type=Path, default=HERE/'results'/'techniques.jsonl')
    a = p.parse_args()
    base = dict(
        arch=a.arch, size=a.size, first_size=a.size * 5 // 8, epochs=a.epochs,
        per_class=a.per_class, n_valid=a.n_valid, presize=a.size * 3 // 2)
    c = compare(
        make_recipe(a.path), {k: VARIANTS[k] for k in a.only or VARIANTS}, a.seeds, base,
        'accuracy', a.out)
    print(c, c.by('accuracy with tta'), sep='\n\n')

if __name__ == '__main__': main()
