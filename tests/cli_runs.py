"Folders of pictures and runs on them for the tests of the command line."
import numpy as np
import pytest
from PIL import Image

from sotavision.cli import main

def paint(folder, n, value, seed):
    "`n` noisy pictures of one brightness."
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        noise = rng.integers(-40, 40, (40 + i, 48, 3))
        Image.fromarray((value + noise).clip(0, 255).astype(np.uint8)).save(folder/f'{i}.png')

@pytest.fixture(scope='module', name='data')
def make_data(tmp_path_factory):
    "Dark and light pictures, in train/ and val/, painted once for all test files."
    root = tmp_path_factory.getbasetemp()/'cli-data'
    if root.exists(): return root
    for part, n, seed in (('train', 24, 0), ('val', 6, 1)):
        for name, value in (('dark', 60), ('light', 190)): paint(root/part/name, n, value, seed)
    return root

@pytest.fixture(scope='module', name='run')
def make_run(data, tmp_path_factory):
    "A finished run on `data`, trained once for all test files."
    out = tmp_path_factory.getbasetemp()/'cli-run'
    if not out.exists(): assert main(options(data, out)) == 0
    return out

def options(data, out, *more):
    return [
        'train',
        '--data',
        str(data),
        '--size',
        '32',
        '--epochs',
        '3',
        '--bs',
        '8',
        '--device',
        'cpu',
        '--out',
        str(out),
        *more,
    ]

def error(capsys, *argv):
    "The message of a command that must fail with status 2."
    try: status = main([str(o) for o in argv])
    except SystemExit as e: status = e.code
    text = capsys.readouterr().err
    assert status == 2 and 'Traceback' not in text
    return text
