"""Wrong command lines and damaged folders: one line that names the matter, no traceback, nothing
made."""
import json
import os
import random
import shutil

import numpy as np
import pytest
from PIL import Image

from sotavision.app.config import Config
from sotavision.app.train import train
from sotavision.cli import main

def paint(folder, n, value, seed=0):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        noise = value + rng.integers(-40, 40, (36, 40, 3))
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder/f'{i}.png')

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Pictures in data/, a finished run in run/."
    root = tmp_path_factory.mktemp('place')
    for part, n in (('train', 8), ('val', 2)):
        for name, value in (('dark', 60), ('light', 190)): paint(root/'data'/part/name, n, value)
    assert train(Config(str(root/'data'), size=16, epochs=1, bs=8, device='cpu'), root/'run') == 0
    return root

def tree(folder) -> set: return {o for o in folder.rglob('*') if not o.name.endswith('.lock')}

def answer(capsys, *argv) -> tuple:
    "Status and what was said on stderr."
    capsys.readouterr()
    try: status = main([str(o) for o in argv])
    except SystemExit as e: status = e.code
    return status, capsys.readouterr().err

def refused(capsys, *argv) -> str:
    "The one line of a command that is refused."
    status, said = answer(capsys, *argv)
    assert status == 2 and 'Traceback' not in said, said
    lines = [
        o for o in said.strip().splitlines() if not o.startswith(('Try:', 'Did you mean', 'usage:'))
    ]
    assert len(lines) == 1 and 'error: ' in lines[0], said
    return lines[0]

TRAIN = 'train --data {data} --size 16 --epochs 2 --bs 8 --device cpu --out {out}'
# a command, and what the answer must hold
WRONG = [
    ('', 'required'), ('fly', "'fly'"), ('train', '--data'), ('train --data', '--data'),
    ('train --data {data} more', 'more'), ('--debugg data list', '--debugg'),
    *(
        (f'{TRAIN} {more}', said)
        for more, said in [
            ('--size 0', 'size=0'), ('--size -3', 'size=-3'),
            ('--size 99999999999', 'size=99999999999'), ('--size 3.5', '--size'),
            ('--size x', '--size'), ('--size', '--size'), ('--epochs 0', 'epochs=0'),
            ('--epochs -1', 'epochs=-1'), ('--epochs 1e3', '--epochs'), ('--bs 0', 'bs=0'),
            ('--bs -8', 'bs=-8'), ('--lr 0', 'lr=0.0'), ('--lr -1', 'lr=-1'),
            ('--lr inf', 'lr=inf'), ('--lr nan', 'lr=nan'), ('--lr fast', '--lr'),
            ('--lr 1e999', 'lr=inf'), ('--wd -1', 'wd=-1'), ('--wd inf', 'wd=inf'),
            ('--wd nan', 'wd=nan'), ('--seed -1', 'seed=-1'),
            ('--seed 99999999999999999999', 'seed='), ('--seed x', '--seed'),
            ('--method stretch', '--method'), ('--valid-pct 0', 'valid_pct=0'),
            ('--valid-pct 1', 'valid_pct=1'), ('--valid-pct -.5', 'valid_pct=-0.5'),
            ('--valid-pct nan', 'valid_pct=nan'), ('--precision fp8', '--precision'),
            ('--workers -1', 'workers=-1'), ('--workers 100000', 'workers=100000'),
            ('--device gpu', "device='gpu'"), ('--device cuda:99', "device='cuda:99'"),
            ('--device meta', "device='meta'"), ('--mixup inf', 'mixup=inf'),
            ('--mixup -1', 'mixup=-1'), ('--mixup nan', 'mixup=nan'),
            ('--cutmix inf', 'cutmix=inf'), ('--cutmix -.1', 'cutmix=-0.1'),
            ('--smoothing 1', 'smoothing=1'), ('--smoothing -1', 'smoothing=-1'),
            ('--smoothing nan', 'smoothing=nan'), ('--first-size 0', 'first_size=0'),
            ('--first-size 8 --epochs 1', 'each of the two sizes'),
            ('--first-size 8 --pretrained', 'first_size=8'), ('--tta -1', 'tta=-1'),
            ('--tta x', '--tta'), ('--tta 1000000', 'tta=1000000'),
            ('--arch xresnet19', 'xresnet18'), ('--arch ../x', '../x'),
            ('--arch EMPTY', '--arch'), ('--data EMPTY', '--data'),
            ('--data {root}/nowhere', 'nowhere'), ('--data {data}/train/dark/0.png', '0.png'),
            ('--data {root}/run', 'run'), ('--out EMPTY', '--out'),
            ('--out {data}/train/dark/0.png', '0.png'),
            ('--out {data}/train/dark/0.png/x', '0.png')]),
    *(
        (f'compare --data {{data}} --size 16 --epochs 1 --device cpu --out {{out}} {more}', said)
        for more, said in [
            ('', '--variant'), ('--variant a', 'a name, a colon'),
            ('--variant a:', 'a name, a colon'), ('--variant :size=8', 'a name, a colon'),
            ('--variant a:size', 'a name, a colon'),
            ('--variant a:sise=8', "Did you mean 'size'"), ('--variant a:size=x', 'size=x'),
            ('--variant a:size=0', 'size=0'), ('--variant a:lr=nan', 'lr=nan'),
            ('--variant a:mixup=inf', 'mixup=inf'), ('--variant a:tta=-1', 'tta=-1'),
            ('--variant a:augment=perhaps', 'augment=perhaps'),
            ('--variant a:size=8,size=9', 'said twice'),
            ('--variant a:arch=xresnet19', 'xresnet18'),
            ('--variant a:first_size=8', 'each of the two sizes'),
            ('--variant base:size=8', "'base' is there twice"),
            ('--variant a:size=8 --variant a:size=9', "'a' is there twice"),
            ('--variant a:data=x', "'data' is the same"),
            ('--variant a:size=8 --seeds 0', 'seeds=0'),
            ('--variant a:size=8 --seeds -1', 'seeds=-1'),
            ('--variant a:size=8 --seeds 10000000000', 'seeds=10000000000'),
            ('--variant a:size=8 --lr inf', 'lr=inf')]),
    ('lr-find --data {data} --lr nan', 'lr=nan'),
    ('lr-find --data {data} --out {data}', 'is a folder'),
    ('lr-find --data {data} --out {out}.doc', '.doc'),
    ('lr-find --data {data} --size 0 --out {out}', 'size=0'), ('predict', 'run'),
    ('predict {run}', 'pictures'), ('predict {root}/nowhere {data}', 'nowhere'),
    ('predict {data} {data}', 'config.json'), ('predict {run}/config.json {data}', 'config.json'),
    ('predict {run} {root}/nowhere.png', 'nowhere.png'), ('predict {run} EMPTY', 'empty'),
    ('predict {run} https://example.org/cat.jpg', 'https://example.org/cat.jpg'),
    ('predict {run} {run}/config.json', 'config.json'),
    ('predict {run} {data} --format xml', 'xml'),
    ('predict {run} {data} --out {data}', 'is a folder'),
    ('predict {run} {data} --device gpu', "device='gpu'"),
    ('predict {run} {data} --out {run}/config.json/x', 'config.json'), ('report', 'run'),
    ('report {data}', 'config.json'), ('report {run} -n 0', 'k=0'), ('report {run} -n x', '-n'),
    ('report {run} --data {root}/nowhere', 'nowhere'), ('report {run} --data EMPTY', '--data'),
    ('report {run} --out {data}', 'is a folder'), ('report {run} --device gpu', "device='gpu'"),
    ('data', 'required'), ('data fetch', 'data'), ('data fetch EMPTY', 'empty'),
    ('data fetch {root}/nowhere', 'nowhere'), ('data show {data}/train/dark/0.png', '0.png'),
    ('data show {data} -n 0', 'n=0'), ('data show {data} -n -4', 'n=-4'),
    ('data show {data} --out {out}.doc', '.doc'), ('data show {data} --out {data}', 'is a folder'),
    ('exercises check {root}/nowhere.ipynb', 'nowhere.ipynb'), ('exercises check {data}', 'data'),
    ('exercises chek x', 'chek')]

@pytest.mark.parametrize('line, match', WRONG, ids=[o for o, _ in WRONG])
def test_a_wrong_command_line(place, tmp_path, capsys, line, match):
    before = tree(place)
    words = line.format(root=place, data=place/'data', run=place/'run', out=tmp_path/'out').split()
    assert match in refused(capsys, *('' if o == 'EMPTY' else o for o in words))
    assert tree(place) == before and not tree(tmp_path)                     # nothing was begun

# --- damaged folders

JUNK = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**30,
    '',
    'x',
    '64',
    [],
    {},
    [[]],
    [None],
    {'a': 1},
    'é\u0000',
]

def spoiled(config, rng) -> dict:
    "`config` with one value replaced, lost or one level deeper."
    config = json.loads(json.dumps(config))
    at = config
    if rng.random() < .3:
        at = rng.choice([v for v in config.values() if isinstance(v, (dict, list)) and v])
    k = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
    if rng.random() < .2: del at[k]
    else: at[k] = rng.choice(JUNK)
    return config

def damaged(data:bytes, rng) -> bytes:
    "`data` cut short, with wrong bits, or something else altogether."
    how = rng.randrange(4)
    if how == 0: return data[:rng.randrange(len(data))]
    if how == 1:
        return rng.choice(
            [
                b'',
                b'\0' * 40,
                b'\xff\xfe',
                b'null',
                b'[]',
                b'3',
                b'"text"',
                b'{}',
                b'[' * 99999,
                os.urandom(50),
                b'{"a": NaN}',
            ]
        )
    spoilt = bytearray(data)
    for _ in range(rng.randrange(1, 4)): spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)

def asked(capsys, folder, file, *argv):
    "A command on a damaged folder works, or names the file in a line."
    status, said = answer(capsys, *argv)
    assert status in (0, 2) and 'Traceback' not in said, said
    if status == 2:
        assert len(said.strip().splitlines()) == 1 and (file in said or str(folder) in said), said
    return status

@pytest.fixture
def copy(place, tmp_path):
    "A copy of the run without its weights: those are looked at last."
    shutil.copytree(place/'run', tmp_path/'r')
    (tmp_path/'r'/'model.safetensors').unlink()
    return tmp_path/'r'

def test_damaged_configs(copy, place, capsys, often):
    rng = random.Random(0)
    good = (copy/'config.json').read_bytes()
    for _ in range(often(40)):
        if rng.random() < .6:
            (copy / 'config.json').write_text(json.dumps(spoiled(json.loads(good), rng)))
        else: (copy/'config.json').write_bytes(damaged(good, rng))
        for command in (
            ['predict', copy, place / 'data'],
            ['report', copy],
            [
                'train',
                '--data',
                place / 'data',
                '--size',
                '16',
                '--epochs',
                '1',
                '--bs',
                '8',
                '--device',
                'cpu',
                '--out',
                copy,
                '--resume',
            ],
        ):
            status, said = answer(capsys, *command)
            assert status in (0, 2) and 'Traceback' not in said, (
                command,
                said,
                (copy / 'config.json').read_bytes()[:300],
            )
            assert status == 0 or len(said.strip().splitlines()) == 1 and str(copy) in said, said
            assert status == 2 or command[0] == 'train'  # without weights nobody answers

def test_a_config_that_is_a_folder_or_a_loop(copy, place, capsys):
    (copy/'config.json').unlink(); (copy/'config.json').mkdir()
    assert 'config.json could not be read: it is no file' in refused(
        capsys, 'predict', copy, place / 'data'
    )
    (copy/'config.json').rmdir(); (copy/'config.json').symlink_to(copy/'config.json')
    assert str(copy) in refused(capsys, 'predict', copy, place/'data')

def test_damaged_logs(place, tmp_path, capsys, often):
    from sotavision.app.folder import read_log
    rng = random.Random(1)
    good = (place/'run'/'log.csv').read_bytes()
    for _ in range(often(200)):
        (tmp_path/'log.csv').write_bytes(damaged(good, rng))
        try: log = read_log(tmp_path)
        except (ValueError, OSError) as e: assert 'log.csv' in str(e) and 'delete it' in str(e)
        else: assert log is None or {'epoch', 'train_loss', 'valid_loss'} <= set(log)

@pytest.mark.parametrize(
    'text',
    ['', 'epoch\n0\n', 'epoch,train_loss,valid_loss\n0,high,low\n', 'a' * 99, '\n\n',
     'epoch,train_loss,valid_loss,accuracy\n0,.5\n1,.4,.3,.2,.1,0\n'])
def test_a_report_names_a_damaged_log(place, tmp_path, capsys, text):
    shutil.copytree(place/'run', tmp_path/'r'); (tmp_path/'r'/'log.csv').write_text(text)
    assert 'log.csv' in refused(capsys, 'report', tmp_path/'r', '--device', 'cpu')
    assert not (tmp_path/'r'/'report.html').exists()

def test_damaged_choices(place, tmp_path, capsys, often):
    "A training that was cut off, and whose note of its choices is not what it was."
    kept = tmp_path/'r'/'checkpoints'; kept.mkdir(parents=True)
    (kept/'fit0-epoch1-step2.pt').write_bytes(b'half a checkpoint')
    rng = random.Random(2)
    good = json.dumps(json.loads((place/'run'/'config.json').read_text())).encode()
    train = [
        'train',
        '--data',
        place / 'nowhere',
        '--size',
        '16',
        '--epochs',
        '1',
        '--bs',
        '8',
        '--device',
        'cpu',
        '--out',
        tmp_path / 'r',
        '--resume',
    ]
    for _ in range(often(100)):
        (kept / 'choices.json').write_bytes(
            damaged(good, rng)
            if rng.random() < .5
            else json.dumps(spoiled(json.loads(good), rng)).encode()
        )
        assert asked(capsys, tmp_path/'r', 'choices.json', *train) == 2
    (kept/'choices.json').unlink()
    assert 'choices.json' in refused(capsys, *train) and (kept/'fit0-epoch1-step2.pt').exists()

def test_damaged_notebooks(tmp_path, capsys, often):
    rng = random.Random(3)
    good = json.dumps(
        {
            'cells': [
                {'cell_type': 'code', 'source': ['x = 1\n', 'y = x']},
                {'cell_type': 'markdown', 'source': 'words'},
            ],
            'nbformat': 4,
        }
    ).encode()
    for _ in range(often(30)):
        file = tmp_path/('a.ipynb' if rng.random() < .8 else 'a.py')
        file.write_bytes(
            damaged(good, rng)
            if rng.random() < .5
            else json.dumps(spoiled(json.loads(good), rng)).encode()
        )
        status, said = answer(capsys, 'exercises', 'check', file)
        assert status in (0, 1, 2) and 'Traceback' not in said
        assert status != 2 or len(said.strip().splitlines()) == 1 and file.name in said, said

def test_damaged_runs_of_a_comparison(tmp_path, often):
    from sotavision.study.compare import compare
    from sotavision.study.kept import read_runs
    rng, file = random.Random(4), tmp_path/'runs.jsonl'
    compare(lambda seed, k=1: seed + k, {'two': dict(k=2)}, 3, file=file, show=False)
    good = file.read_bytes()
    for _ in range(often(40)):
        if rng.random() < .5: file.write_bytes(damaged(good, rng))
        else:
            file.write_text(
                '\n'.join(json.dumps(spoiled(json.loads(o), rng)) for o in good.splitlines()))
        try: c = compare(lambda seed, k=1: seed + k, {'two': dict(k=2)}, 3, file=file, show=False)
        except (ValueError, OSError) as e: assert 'runs.jsonl' in str(e); continue
        # null: it failed
        assert all(len(c.values(n)) + len(c.failed(n)) == 3 for n in c.names) and 'two' in repr(c)
        assert all(isinstance(r['results'], dict) for r in read_runs(file))
