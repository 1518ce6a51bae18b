"""Chapter 24's tables: the center of a toy by two heads, and what a split of frames hides.

    python benchmarks/points.py               # runs that are kept are not done again

Lite0 at 96 pixels, an epoch of the head and three of all, CPU, one thread. One line of JSON a run
in benchmarks/results/chapters/points.jsonl and points-leak.jsonl; the chapter reads them. Errors
are told as shares of half the image's side.
"""
import argparse
from pathlib import Path

import pandas as pd
import torch
from PIL import Image

from sotavision.augment.resize import Resize, aug_transforms
from sotavision.data.datablock import DataBlock, ImageBlock
from sotavision.data.files import ColReader
from sotavision.data.points import PointBlock
from sotavision.data.splits import ColSplitter, RandomSplitter
from sotavision.objectives.points import PCK, PointError
from sotavision.study.compare import compare
from sotavision.tasks.points import HeatmapHead
from sotavision.toynette.dataset import toynette
from sotavision.transfer.vision_learner import vision_learner

RESULTS = Path(__file__).resolve().parent / 'results' / 'chapters'

def marked() -> pd.DataFrame:
    "Toynette's images and the centers of their toys."
    path = toynette()
    table = pd.read_csv(path/'points.csv')
    return table.assign(is_valid=table.file.str.startswith('val'),
                        file=[str(path/o) for o in table.file])

def loaders(table, size, splitter, get_x=None, **kw):
    "Loaders of points; images are squeezed to a square."
    block = DataBlock(
        (ImageBlock, PointBlock), get_x=get_x or ColReader('file'), get_y=ColReader(['x', 'y']),
        splitter=splitter, item_tfms=Resize(size, 'squish'),
        batch_tfms=aug_transforms(max_warp=.1, size=size))
    return block.dataloaders(table, bs=32, device='cpu', **kw)

def measured(learn, size, dl=None) -> dict:
    "Loss and distances; the latter as shares of half the side."
    learn.metrics = [PointError(), PointError(median=True), PCK(.1)]
    mse, mean, median, near = learn.validate(dl=dl)
    return dict(mse=mse, mean=mean / (size / 2), median=median / (size / 2), pck=near)

def placed(heatmap=True, size=96, pretrained=True, ps=.5, epochs=3, lr=5e-3):
    "A network for the center of the toy, and how far off it is."
    dls = loaders(marked(), size, ColSplitter('is_valid'))
    learn = vision_learner(dls, 'efficientnet_lite0', pretrained=pretrained, ps=ps,
                           custom_head=HeatmapHead if heatmap else None)
    if pretrained: learn.fine_tune(epochs, lr)
    else: learn.fit_one_cycle(epochs + 1, lr)
    return measured(learn, size)

VARIANTS = {
    'coordinates': dict(heatmap=False),
    'coordinates, no dropout': dict(heatmap=False, ps=0.),
    'random weights': dict(pretrained=False),
    '64 pixels': dict(size=64),
}

def frames(n_scenes=60, n_frames=8) -> pd.DataFrame:
    "A row a frame: of each scene several windows that lie close together, as a film has them."
    table, rows = marked(), []
    table = table[~table.is_valid].sample(n_scenes, random_state=0)
    for scene, row in enumerate(table.itertuples()):
        w, h = Image.open(row.file).size
        side = int(.8 * min(w, h))
        chance = torch.Generator().manual_seed(scene)
        for x, y in torch.rand(n_frames, 2, generator=chance).tolist():
            left, top = int(x * (w - side)), int(y * (h - side))
            at = row.x - left, row.y - top
            if all(0 <= o < side for o in at):
                rows.append(dict(file=row.file, scene=scene, left=left, top=top, side=side,
                                 x=at[0], y=at[1]))
    return pd.DataFrame(rows)

def window(row):
    "The image of a frame."
    box = row.left, row.top, row.left + row.side, row.top + row.side
    return Image.open(row.file).convert('RGB').crop(box)

def filmed(by_scene=True, size=64, epochs=8, lr=5e-3):
    "Trained on frames: what its own validation says, and what 500 new images say."
    table = frames()
    groups = table.scene.tolist() if by_scene else None
    dls = loaders(table, size, RandomSplitter(.2, seed=0, groups=groups), window)
    learn = vision_learner(dls, 'efficientnet_lite0', custom_head=HeatmapHead)
    learn.fine_tune(epochs, lr)
    new = loaders(marked(), size, ColSplitter('is_valid')).valid
    return dict(told=measured(learn, size)['median'], new=measured(learn, size, new)['median'])

LEAK = {'split by frame': dict(by_scene=False)}

def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument('--seeds', type=int, default=3)
    torch.set_num_threads(1)
    seeds = p.parse_args().seeds
    print(compare(placed, VARIANTS, seeds, file=RESULTS / 'points.jsonl', key='points 1'))
    print(compare(filmed, LEAK, seeds, file=RESULTS / 'points-leak.jsonl', key='leak 1'))

if __name__ == '__main__': main()
