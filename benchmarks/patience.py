"""How many epochs do mixup, CutMix and label smoothing need? A small network on 30 Toynette
pictures a class, over several lengths of training.

    python benchmarks/patience.py

Appends to benchmarks/results/patience.jsonl; chapter 15 reads it. Runs that are in the file already
are not done again.
"""
import argparse
from functools import lru_cache
from pathlib import Path

from torch import nn

from sotavision.augment.resize import FlipItem, Resize
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import get_image_files, parent_label
from sotavision.data.images import PILImage
from sotavision.data.loaders import DataLoaders
from sotavision.data.splits import GrandparentSplitter
from sotavision.models.layers import ConvLayer
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.techniques.cutmix import CutMix
from sotavision.techniques.mixup import MixUp
from sotavision.techniques.smoothing import LabelSmoothingCrossEntropy
from sotavision.toynette.dataset import toynette
from sotavision.training.predict import Learner

HERE = Path(__file__).resolve().parent
VARIANTS = {
    'mixup': dict(cbs=MixUp(.4)), 'cutmix': dict(cbs=CutMix(1.)),
    'smoothing': dict(loss_func=LabelSmoothingCrossEntropy(.1))}

@lru_cache
def pictures(per_class:int, size:int) -> dict:
    "The first training pictures of each class and all validation pictures, resized."
    files = sorted(get_image_files(toynette()))
    train = [f for f in files if f.parts[-3] == 'train']
    few = [
        f for c in sorted({f.parent.name for f in train})
        for f in [o for o in train if o.parent.name == c][:per_class]]
    return {
        f: Resize(size, 'squish')(PILImage.create(f))
        for f in few + [f for f in files if f.parts[-3] == 'val']}

def network():
    layers = [
        ConvLayer(ni, nf, stride=s)
        for ni, nf, s in ((3, 32, 2), (32, 64, 1), (64, 128, 2), (128, 256, 2))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))

def recipe(epochs, cbs=None, loss_func=None, per_class=30, size=40, bs=25, lr=3e-3):
    small = pictures(per_class, size)
    block = DataBlock(
        (ImageBlock, CategoryBlock), get_items=list, get_x=small.get, get_y=parent_label,
        splitter=GrandparentSplitter(), item_tfms=FlipItem())
    dls = block.dataloaders(small, bs=bs)
    learn = Learner(DataLoaders(dls.train), network(), loss_func)
    learn.fit_one_cycle(epochs, lr, cbs=cbs)
    probs, y = learn.get_preds(dl=dls.valid)
    return {'accuracy': accuracy(probs, y), 'confidence': probs.max(1).values.mean()}

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--epochs', type=int, nargs='+', default=[5, 20, 40])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--out', type=Path, default=HERE/'results'/'patience.jsonl')
    a = p.parse_args()
    for epochs in a.epochs:
        print(
            epochs, 'epochs',
            compare(recipe, VARIANTS, a.seeds, dict(epochs=epochs), 'accuracy', a.out), sep='\n')

if __name__ == '__main__': main()
