"""Recipes: printed as code they give the same numbers; sizes and a plain end inside one cycle."""
import random
import re

import pytest
import torch
from PIL import Image

from sotavision.data.datablock import CategoryBlock, DataBlock, ImageBlock
from sotavision.data.files import get_image_files
from sotavision.techniques.recipes import Recipe, get_recipe
from sotavision.training.callback import Callback

TINY = Recipe('tiny', arch='xresnet18', act='Mish', pool='MaxBlurPool', size=32, epochs=3,
              sizes=(16, 24, 32), bs=8, plain=1, smoothing=.1, ema=.9, augment=.5, stem_stride=1,
              widths=(8, 8, 16, 16))

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp('images'), random.Random(0)
    for part, n in ('train', 12), ('val', 4):
        for name, hue in ('red', (200, 40, 40)), ('blue', (40, 40, 200)):
            (root/part/name).mkdir(parents=True)
            for k in range(n):
                color = tuple(o + rng.randint(-30, 30) for o in hue)
                Image.new('RGB', (40, 40), color).save(root/part/name/f'{k}.png')
    return root

def loaders(root, tfms, bs):
    block = DataBlock((ImageBlock, CategoryBlock), get_y=lambda o: o.parent.name,
                      splitter=lambda o: ([i for i, p in enumerate(o) if 'train' in p.parts],
                                          [i for i, p in enumerate(o) if 'val' in p.parts]), **tfms)
    return block.dataloaders(sorted(get_image_files(root)), bs=bs, device='cpu')

def numbers(learn):
    return [r[:-1] if isinstance(r, list) else r for r in learn.recorder.values], [
        o.clone() for o in learn.model.state_dict().values()]

def by_recipe(root, recipe, seed=3):
    learn = recipe.learner(loaders(root, recipe.transforms(), recipe.bs), seed)
    with learn.no_bar(): recipe.train(learn)
    return numbers(learn)

def by_code(root, recipe, seed=3):
    space = {}
    exec(recipe.code(), space)
    tfms = dict(item_tfms=space['item_tfms'], batch_tfms=space['batch_tfms'])
    learn = space['learner'](loaders(root, tfms, recipe.bs), seed)
    with learn.no_bar(): space['train'](learn)
    return numbers(learn)

def same(a, b):
    weights = zip(a[1], b[1], strict=True)
    return str(a[0]) == str(b[0]) and all(torch.equal(x, y) for x, y in weights)

@pytest.mark.parametrize('recipe', [
    TINY,
    Recipe('whole', arch='xresnet18', size=32, epochs=1, bs=8, min_scale=1., smoothing=0.,
           fit='fit_flat_cos', lr=1e-3, wd=.1),
])
def test_printed_code_gives_the_same_numbers(images, recipe):
    first = by_recipe(images, recipe)
    assert same(first, by_recipe(images, recipe))
    assert same(first, by_code(images, recipe))
    assert not same(first, by_recipe(images, recipe, seed=4))

def test_sizes_grow_and_the_end_is_plain(images):
    seen = []
    class Look(Callback):
        order = 90
        def before_pred(self):
            seen.append((self.training, self.epoch, self.x.shape[-1], self.x.clone()))
    dls = loaders(images, TINY.transforms(), TINY.bs)
    learn = TINY.learner(dls)
    with learn.no_bar(): TINY.train(learn, cbs=Look())
    assert {o[1:3] for o in seen if o[0]} == {(0, 16), (1, 24), (2, 32)}
    assert {o[2] for o in seen if not o[0]} == {32}
    def spread(epoch):   # within images of one color: an augmented one is relit, all of one color
        return torch.cat([o[3] for o in seen if o[0] and o[1] == epoch])
    colors = {tuple(x[:, 0, 0].tolist()) for x in torch.cat([o[3] for o in seen if not o[0]])}
    plain = [dls.train.batch_tfms, dls.train.split_idx]
    assert plain[1] == 0                                    # as before the training
    files = {tuple(x) for x in exact_colors(images)}
    last = {tuple(round(v, 3) for v in x[:, 0, 0].tolist()) for x in spread(2)}
    relit = {tuple(round(v, 3) for v in x[:, 0, 0].tolist()) for x in spread(1)}
    assert last <= files and not relit <= files and colors

def exact_colors(root):
    from sotavision.augment.normalize import imagenet_stats
    mean, std = (torch.tensor(o) for o in imagenet_stats)
    for o in get_image_files(root/'train'):
        x = torch.tensor(Image.open(o).getpixel((0, 0))) / 255
        yield [round(v, 3) for v in ((x - mean) / std).tolist()]

@pytest.mark.parametrize('bad, said', [
    (dict(arch='xresnet5O'), 'xresnet50'), (dict(sizes=(64,)), 'one for each epoch'),
    (dict(act='Mush'), 'Mish'), (dict(lr=-1.), '0 or above'), (dict(plain=9), 'from 0'),
    (dict(fit='fit'), 'fit_one_cycle'), (dict(epochs=0), 'at least 1'),
    (dict(min_scale=0.), 'above 0'),
])
def test_a_bad_choice_is_named_in_one_line(bad, said):
    with pytest.raises(ValueError) as e: Recipe('x', **bad)
    assert said in str(e.value) and '\n' not in str(e.value)

def test_recipes_have_names():
    assert get_recipe('imagenette-128-5').size == 128
    with pytest.raises(ValueError, match=re.escape('imagenette-128-5')): get_recipe('imagenette')
