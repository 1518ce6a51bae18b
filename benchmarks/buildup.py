"""A recipe for Toynette, built up part by part: chapter 29's table.

    python benchmarks/buildup.py

Every variant adds one part to the one before. The parts were chosen on Imagenette (records.py),
the rate of Muon on Toynette by chapter 21's table; nothing was chosen by these runs. All of
Toynette at 64 pixels on the CPU; each network is validated once, at the end of its training.
One line of JSON a run in benchmarks/results/chapters/buildup.jsonl.
"""
from dataclasses import replace

import torch

from chapters import RESULTS
from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import get_image_files, parent_label
from sotavision.data.loaders import DataLoaders
from sotavision.data.splits import GrandparentSplitter
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.techniques.recipes import get_recipe
from sotavision.toynette.dataset import toynette

START = dict(act=None, pool=None, sa=False, bs=64, smoothing=0., opt='Adam', lr=4e-3, epochs=5,
             sizes=())
PARTS = {
    'newer layers': dict(act='Mish', pool='MaxBlurPool', sa=True), 'smaller batches': dict(bs=25),
    'Muon': dict(opt='muon', lr=16e-3), 'smoothing': dict(smoothing=.1),
    'small images first': dict(epochs=8, sizes=(32,) * 3 + (48,) * 3 + (64,) * 2),
}

def build(**choices):
    "Accuracy of the recipe for Toynette with `choices`."
    recipe = replace(get_recipe('toynette-64'), **START | choices)
    block = DataBlock((ImageBlock, CategoryBlock), get_items=get_image_files, get_y=parent_label,
                      splitter=GrandparentSplitter(), **recipe.transforms())
    dls = block.dataloaders(toynette(), bs=recipe.bs, device='cpu')
    learn = recipe.learner(DataLoaders(dls.train), torch.initial_seed())   # as `compare` set it
    recipe.train(learn)
    return {'accuracy': accuracy(*learn.get_preds(dl=dls.valid))}

def variants() -> dict:
    "Each with the parts of all before it."
    found, so_far = {}, {}
    for name, part in PARTS.items():
        so_far = so_far | part
        found[name] = so_far
    return found

def main():
    print(compare(build, variants(), 5, file=RESULTS / 'buildup.jsonl', key='buildup 1'))

if __name__ == '__main__': main()
