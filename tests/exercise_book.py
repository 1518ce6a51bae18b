"All exercises as their sources tell them, and what tests of them share."
import importlib.util
import math
import re
import socket
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('nbformat')
from sotavision.exercises import keys

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location('exercise_tool', ROOT/'tools'/'exercises.py')
tool = importlib.util.module_from_spec(spec)
sys.modules['exercise_tool'] = tool
spec.loader.exec_module(tool)

SOURCES = {
    p.name: tool.nbformat.read(p, as_version=4)
    for p in sorted((ROOT / tool.SOURCE).glob('*.ipynb'))
}
EVERY = [e for name, nb in SOURCES.items() for e in tool.exercises(nb, name)]

@pytest.fixture(autouse=True, name='file')
def own_file(tmp_path, monkeypatch):
    "Progress goes to a folder of its own, and nobody may ask the network."
    def refuse(*args): raise AssertionError('an exercise wants the network')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setenv('SOTAVISION_EXERCISES', str(tmp_path/'.exercises.json'))
    return tmp_path/'.exercises.json'

def said(capsys, f, *args, **kw):
    capsys.readouterr()
    f(*args, **kw)
    return capsys.readouterr().out

def key(e): return keys.book()[e.id]

def space(): return dict(torch=torch, nn=torch.nn, F=torch.nn.functional, math=math, Path=Path)

def plain(text): return re.sub(r'\s+', ' ', text)
