"Damaged files of weights are refused, at every door."
import copy
import io
import random
import warnings

import pytest
import torch
from safetensors.torch import save_file

from learners import (
    deep,
    learner,
    linear,
    one_thread,  # noqa: F401 (a fixture)
    same,
    told_already,  # noqa: F401 (a fixture)
    trained,
    weights,
)
from sotavision.models import weights as disk
from sotavision.models.weights import read_weights, write_weights
from sotavision.transfer.heads import create_body

@pytest.mark.parametrize('name', ['ours', 'bare', 'old.pth', 'bare.pt'])
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, often, name):
    learn = trained(tmp_path)
    if name == 'bare.pt': torch.save(learn.model.state_dict(), file := tmp_path/name)
    else: file = learn.save(name, with_opt=name != 'bare')
    data, rng, silent = file.read_bytes(), random.Random(name), 0
    right, at = read_weights(file), tmp_path/f'flipped{file.suffix}'
    # where the order is kept
    heads = [*range(8 * 400), *range(8 * (len(data) - 400), 8 * len(data))]
    for i in range(often(120)):
        bit = rng.choice(heads) if i % 2 else rng.randrange(8 * len(data))
        broken = bytearray(data); broken[bit // 8] ^= 1 << bit % 8
        at.write_bytes(broken)
        try: state = read_weights(at)
        except ValueError as e: assert str(at) in str(e); continue
        silent += 1
        assert same(right, state), f'bit {bit} of {name}'
    assert silent == 0 or name in ('old.pth', 'bare.pt')   # a zip has bytes that mean nothing

@pytest.mark.parametrize('how', ['cut', 'grown', 'zeros', 'swapped', 'empty', 'other'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_other_damage_is_refused(tmp_path, how, suffix):
    learn = trained(tmp_path)
    file = learn.save(f'w{suffix}')
    data, n = file.read_bytes(), file.stat().st_size
    bad = dict(
        cut=data[: n - 7],
        grown=data + b'0' * 9 if suffix == '.safetensors' else data[9:],
        zeros=data[: n // 2] + bytes(64) + data[n // 2 + 64 :],
        swapped=data[n // 2 :] + data[: n // 2],
        empty=b'',
        other=b'GIF89a' * 99,
    )[how]
    file.write_bytes(bad)
    before = weights(learn)
    with pytest.raises(ValueError, match='is damaged'): learn.load('w')
    assert same(before, weights(learn))

@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_out_of_memory_is_no_damage(tmp_path, monkeypatch, suffix):
    "Who is told that a file is damaged deletes it."
    file = trained(tmp_path).save(f'w{suffix}')
    def full(*args, **kwargs): raise MemoryError
    monkeypatch.setattr(disk.st, 'load', full)
    monkeypatch.setattr(torch, 'load', full)
    with pytest.raises(MemoryError): read_weights(file)

def test_a_changed_class_name_is_damage(tmp_path):
    "It changes answers, too."
    file = trained(tmp_path).save('w')
    data = file.read_bytes()
    assert data.count(b'[\\"a\\"') == 1
    file.write_bytes(data.replace(b'[\\"a\\"', b'[\\"c\\"'))
    with pytest.raises(ValueError, match='is damaged'): read_weights(file)

@pytest.mark.parametrize('value', ['nan', 'inf', '-inf'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_weights_that_are_not_finite_are_refused_at_every_door(tmp_path, value, suffix):
    learn = trained(tmp_path)
    good = weights(learn)
    bad = copy.deepcopy(learn.model.state_dict())
    name = next(reversed(bad)); bad[name].view(-1)[-1] = float(value)
    at = tmp_path/'models'/f'bad{suffix}'
    at.parent.mkdir()
    save_file(bad, at) if suffix == '.safetensors' else torch.save(bad, at)
    with pytest.raises(ValueError, match=rf'not finite: 1 of .*{name}'): learn.load('bad')
    with pytest.raises(ValueError, match='not finite'): learn.load('bad', strict=False)
    with pytest.raises(ValueError, match='not finite'): create_body('resnet18', weights=at)
    assert same(good, weights(learn))
    learn.model.load_state_dict(bad)
    with pytest.raises(ValueError, match='not finite'): learn.save('again')
    assert not list((tmp_path/'models').glob('again*'))

def test_a_memory_that_is_not_finite_is_refused(tmp_path):
    learn = trained(tmp_path)
    memory = next(iter(learn.opt.state.values())); memory['exp_avg'][:] = float('nan')
    learn.save('w')
    with pytest.raises(ValueError, match='with_opt=False'): learner(deep, path=tmp_path).load('w')
    learner(deep, path=tmp_path).load('w', with_opt=False)

def test_a_download_is_compared_each_time(tmp_path, monkeypatch):
    "The checksum is in the name of torch's files; it is looked at in the cache too."
    from hashlib import sha256

    from sotavision.transfer.pretrained import fetch_weights
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    data = io.BytesIO()
    # it has no sums inside
    torch.save(linear().state_dict(), data, _use_new_zipfile_serialization=False)
    good = data.getvalue()
    at = tmp_path/'checkpoints'/f'net-{sha256(good).hexdigest()[:8]}.pth'
    at.parent.mkdir()
    at.write_bytes(good)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert (
            fetch_weights('net', f'http://127.0.0.1:9/{at.name}').keys()
            == linear().state_dict().keys()
        )
    bad = bytearray(good); bad[-40] ^= 1; at.write_bytes(bad)
    with pytest.raises(ValueError, match='damaged.*Delete it, and it is fetched again'):
        fetch_weights('net', f'http://127.0.0.1:9/{at.name}')

def test_files_without_a_sum_are_mentioned_once(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, 'TOLD', set())
    w = linear().state_dict()
    torch.save(w, tmp_path / 'zip.pth')
    torch.save(w, tmp_path / 'old.pth', _use_new_zipfile_serialization=False)
    save_file(w, tmp_path/'theirs.safetensors'); write_weights(tmp_path/'ours.safetensors', w)
    for name, match in dict(
        zip='in torch.s format', old='old format', theirs='another program'
    ).items():
        with pytest.warns(UserWarning, match=match):
            read_weights(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for name in ('zip', 'old', 'theirs', 'ours'):
            assert same(read_weights(tmp_path / name)['model'], w)
