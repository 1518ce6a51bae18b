"""Chapter 22's table: tags of all of Toynette, and what each part of the recipe brings.

    python benchmarks/tags.py               # runs that are kept are not done again

Lite0, an epoch of the head, then two of all at 64 pixels and four at 128; CPU, one thread. One
line of JSON a run in benchmarks/results/chapters/tags.jsonl; the chapter reads it. Thresholds are
chosen on one half of the validation images, and all figures are of the other half.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch

from sotavision.augment.resize import Resize, aug_transforms
from sotavision.data.datablock import DataBlock, ImageBlock, MultiCategoryBlock
from sotavision.data.files import ColReader
from sotavision.data.splits import ColSplitter
from sotavision.objectives.losses import BCEWithLogitsLossFlat
from sotavision.objectives.metrics import accuracy_multi
from sotavision.objectives.multilabel import APScoreMulti, FBetaMulti
from sotavision.study.compare import compare
from sotavision.tasks.multilabel import best_thresholds
from sotavision.toynette.dataset import toynette
from sotavision.transfer.vision_learner import vision_learner

RESULTS = Path(__file__).resolve().parent / 'results' / 'chapters' / 'tags.jsonl'

def tagged(pretrained=True, sizes=(64, 128), epochs=(2, 4), lr=1e-2, yes=None, train_bn=True):
    "A network for the tags of all of Toynette, and what it knows of half of the validation images."
    path = toynette()
    table = pd.read_csv(path/'tags.csv')
    def loaders(side):
        block = DataBlock(
            (ImageBlock, MultiCategoryBlock),
            get_x=ColReader('file', pref=path), get_y=ColReader('labels', label_delim=' '),
            splitter=ColSplitter('is_valid'),
            item_tfms=Resize(side, 'squish'), batch_tfms=aug_transforms(size=side))
        return block.dataloaders(table, bs=32, device='cpu')
    dls = loaders(sizes[0])
    loss = BCEWithLogitsLossFlat(pos_weight=yes and torch.full((dls.c,), yes))
    learn = vision_learner(dls, 'efficientnet_lite0', pretrained=pretrained, loss_func=loss,
                           train_bn=train_bn, ps=.25)
    if pretrained: learn.fit_one_cycle(1, lr)
    learn.unfreeze()
    for size, n in zip(sizes, epochs):
        if size != sizes[0]: learn.dls = loaders(size)
        learn.fit_one_cycle(n, slice(lr / 4, lr / 2))
    return judged(*learn.get_preds())

def judged(probs, targs) -> dict:
    "Thresholds by every other image, scores by the rest."
    chosen = best_thresholds(probs[::2], targs[::2], beta=2, average='samples')
    own = best_thresholds(probs[::2], targs[::2], beta=2, per_label=True)
    probs, targs = probs[1::2], targs[1::2]
    def score(metric):
        metric.accumulate(probs, targs)
        return metric.value
    def f2(thresh): return score(FBetaMulti(2, thresh, sigmoid=False, average='samples'))
    return dict(
        ap=score(APScoreMulti()), f2=f2(chosen.thresh), f2_per_label=f2(own.thresh),
        f2_at_half=f2(.5), thresh=chosen.thresh,
        accuracy=accuracy_multi(probs, targs, sigmoid=False).item(),
        always_no=1 - targs.float().mean().item())

VARIANTS = {
    'all at 64 pixels': dict(sizes=(64,), epochs=(6,)),
    'all at 128 pixels': dict(sizes=(128,), epochs=(6,)),
    'random weights': dict(pretrained=False),
    'a yes weighs five times': dict(yes=5.),
}

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--seeds', type=int, default=3)
    torch.set_num_threads(1)
    print(compare(tagged, VARIANTS, p.parse_args().seeds, file=RESULTS, key='tags 1'))

if __name__ == '__main__': main()
