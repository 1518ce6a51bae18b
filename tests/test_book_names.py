"Names that every first lesson relies on: what a star import gives and what it leaves alone."
import builtins
import functools
import pathlib
import pickle
import subprocess
import sys

import fastcore.foundation
import matplotlib.pyplot
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from PIL import Image

import sotavision.all as everything
from sotavision.data.datablock import ImageBlock
from sotavision.data.handy import tensor
from sotavision.data.images import PILImage, PILImageBW

LESSON = dict(
    torch=torch,
    nn=torch.nn,
    F=torch.nn.functional,
    np=np,
    pd=pd,
    plt=matplotlib.pyplot,
    Path=pathlib.Path,
    L=fastcore.foundation.L,
    partial=functools.partial,
    Image=PIL.Image,
)

def after_star() -> dict:
    space = {}
    exec('from sotavision.all import *', space)
    return {k: v for k, v in space.items() if k != '__builtins__'}

def test_a_star_import_gives_the_list_and_nothing_else():
    assert (
        set(after_star())
        == set(everything.__all__)
        == {o for o in dir(everything) if not o.startswith('_')}
    )
    assert everything.__all__ == sorted(set(everything.__all__))

@pytest.mark.parametrize('name', LESSON)
def test_what_cells_rely_on(name): assert after_star()[name] is LESSON[name]

def test_no_name_hides_a_builtin():
    assert not set(everything.__all__) & set(dir(builtins))

def test_no_module_of_ours_means_something_else_by_them():
    for name, m in list(sys.modules.items()):
        if not name.startswith('sotavision.') or name == 'sotavision.all': continue
        for o in set(getattr(m, '__all__', [])) & set(LESSON):
            assert getattr(m, o) is LESSON[o], name

def test_the_list_of_a_fresh_python_is_the_same():
    "Whatever was imported before leaves no trace in `__all__`."
    code = (
        'from sotavision.all import *; import sotavision.all as a; print(len(a.__all__), '
        '*a.__all__)'
    )
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert r.stdout.split() == [str(len(everything.__all__)), *everything.__all__]

# --- tensors of anything

@pytest.mark.parametrize(
    'x,want',
    [((1, 2, 3), [1, 2, 3]), ((4,), 4), (([1, 2],), [1, 2]),
     ((((1, 2), (3, 4)),), [[1, 2], [3, 4]]), ((np.arange(3),), [0, 1, 2]),
     ((pd.Series([1, 2], index=[7, 9]),), [1, 2]), ((everything.L(1, 2),), [1, 2]),
     (([torch.tensor(1), torch.tensor(2)],), [1, 2]),
     (([np.ones(2), torch.zeros(2)],), [[1, 1], [0, 0]]),
     (([[torch.tensor(1)], [torch.tensor(2)]],), [[1], [2]]), ((True,), True), ((), []),
     ((range(3),), [0, 1, 2])])
def test_tensor(x, want): assert tensor(*x).tolist() == want

def test_tensor_of_pictures():
    im = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(2, 4, 3))
    assert tensor(im).dtype == torch.uint8 and tensor(im).tolist() == np.asarray(im).tolist()
    assert tensor([im.convert('L')] * 3).shape == (3, 2, 4) and tensor([im]).shape == (1, 2, 4, 3)

def test_tensor_keeps_gradients_types_and_refuses_words():
    x = torch.ones(2, requires_grad=True)
    assert tensor(x) is x and tensor([x, x]).requires_grad
    assert tensor(3.).requires_grad_().requires_grad
    assert tensor([1, 2], dtype=torch.float16).dtype == torch.float16
    assert tensor(1, 2.5).dtype == torch.float32
    for words in (pd.Series(['a', 'b']), np.array(['a']), pd.DataFrame({'a': ['x'], 'b': [1]})):
        with pytest.raises(ValueError, match='holds numbers'): tensor(words)
    with pytest.raises(ValueError, match='different shapes'): tensor([np.ones(2), np.ones(3)])
    with pytest.raises(TypeError): tensor([1], unheard_of=1)

# --- folders and pictures

def test_what_a_folder_holds(tmp_path):
    for o in ('b', 'a', '.c'): (tmp_path/o).touch()
    assert [o.name for o in tmp_path.ls()] == ['.c', 'a', 'b']
    assert isinstance(tmp_path.ls(), everything.L)
    assert all(isinstance(o, everything.Path) for o in tmp_path.ls())

def test_thumbnails_are_copies_with_the_same_proportions():
    im = Image.new('RGB', (90, 30))
    assert im.to_thumb(30).size == (30, 10) and im.to_thumb(30, 60).size == (60, 20)
    assert im.size == (90, 30)
    assert im.to_thumb(500).size == (90, 30)

def test_grey_pictures(tmp_path):
    Image.new('RGB', (4, 3), 'red').save(tmp_path/'red.png')
    grey = PILImageBW.create(tmp_path/'red.png')
    assert grey.mode == 'L'
    assert grey.tobytes() == PILImage.create(tmp_path/'red.png', mode='L').tobytes()

@pytest.mark.parametrize(
    'given,mode', [(PILImageBW, 'L'), (PILImage, 'RGB'), ('L', 'L'), ('RGBA', 'RGBA')])
def test_picture_blocks_by_class(given, mode):
    block = ImageBlock(given)
    assert block.create(np.zeros((2, 2), np.uint8)).mode == mode
    assert block.from_file == f'picture {mode}'
    assert pickle.loads(pickle.dumps(block)).from_file == block.from_file

@pytest.mark.parametrize('wrong', [everything.PILMask, Image.Image, 3, None, PILImage.create])
def test_other_classes_are_refused(wrong):
    with pytest.raises(ValueError, match="PILImage.*PILImageBW"): ImageBlock(wrong)
