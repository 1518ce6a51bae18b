"""Files of weights: damaged, foreign, partial. What is not right is refused, or named; nothing is
taken in silence."""
import copy
import io
import json
import random
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from learners import (
    block,
    deep,
    items_of,
    learner,
    linear,
    one_thread,  # noqa: F401 (a fixture)
    same,
    weights,
)
from sotavision.models import weights as disk
from sotavision.models.weights import load_weights, read_weights, write_weights
from sotavision.training.checkpoints import Checkpoint
from sotavision.transfer.heads import create_body, create_vision_model

LIB = Path(__file__).resolve().parents[1]/'sotavision'

@pytest.fixture(autouse=True)
def told(monkeypatch):
    monkeypatch.setattr(
        disk, 'TOLD', {'in torch\'s format', 'in torch\'s old format', 'of another program'}
    )

def trained(tmp_path, model=deep, **kw):
    learn = learner(model, path=tmp_path, **kw)
    learn.fit(1, .01)
    return learn

# --- damaged

def equal_states(a, b) -> bool:
    "Whether all that two files hold is equal."
    if torch.is_tensor(a): return torch.is_tensor(b) and a.dtype == b.dtype and a.equal(b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal_states(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal_states, a, b))
    return a == b

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
        assert equal_states(right, state), f'bit {bit} of {name}'
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

def test_one_function_reads_weights():
    "Nothing else in the library asks torch to open a file."
    ways = 'torch.load(', 'load_state_dict_from_url(', 'import safetensors'
    found = {
        p.relative_to(LIB).as_posix()
        for p in LIB.rglob('*.py')
        for o in ways
        if o in p.read_text(encoding='utf8')
    }
    assert found == {'models/weights.py'}

# --- ours

def test_ours_is_a_file_that_others_can_open(tmp_path):
    learn = trained(tmp_path)
    file = learn.save('w', with_opt=False)
    assert same(load_file(file), learn.model.state_dict()) and file.name == 'w.safetensors'
    n = int.from_bytes(file.read_bytes()[:8], 'little')
    about = json.loads(json.loads(file.read_bytes()[8:8 + n])['__metadata__']['sotavision'])
    assert about['vocab'] == ['a', 'b', 'c'] and about['versions']['torch'] == torch.__version__

def test_names_are_found(tmp_path):
    learn = trained(tmp_path)
    w = weights(learn)
    for name in ('a.ckpt', 'b.bin', 'c.pt', 'd.pth', 'e.pth.tar', 'f'):
        torch.save(learn.model.state_dict(), tmp_path / name)
    for name in ('a', 'a.ckpt', 'b', 'b.bin', 'c', 'c.pt', 'd', 'e.pth.tar', 'f'):
        other = learner(deep, seed=9, path=tmp_path)
        assert not same(w, weights(other)) and same(w, weights(other.load(tmp_path/name))), name
    learn.save('d.pth'); learn.save('d')
    with torch.no_grad(): learn.model[-1].bias.zero_()
    # .safetensors comes first
    assert learn.load('d').model[-1].bias.any()
    (tmp_path/'models'/'folder.pth').mkdir()
    with pytest.raises(FileNotFoundError, match="No weights at .*Did you mean 'd.safetensors'"):
        learn.load('dd')
    with pytest.raises(FileNotFoundError): learn.load('folder')

class Tied(nn.Module):
    """Two names for one tensor, a state that is no tensor, and a tensor that is no whole number of
    rows."""
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3); self.b = nn.Linear(3, 3); self.b.weight = self.a.weight
        self.register_buffer('part', torch.arange(12.).view(3, 4)[:, ::2])
        self.register_buffer('none', torch.zeros(0))
        self.said = (1, None, 'ü', float('inf'), [True, {2: 3.5}])
    def get_extra_state(self): return self.said
    def set_extra_state(self, o): self.said = o

def test_odd_models_go_round(tmp_path):
    one, two = Tied(), Tied()
    two.said = None
    load_weights(two, write_weights(tmp_path/'odd', one.state_dict()))
    assert two.said == one.said and two.a.weight.equal(one.a.weight)
    assert two.b.weight is two.a.weight and two.part.equal(one.part)
    with pytest.raises(TypeError, match='object'):
        write_weights(tmp_path / 'odd', dict(o=object(), w=torch.ones(1)))

@pytest.mark.parametrize(
    'dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8])
def test_types_of_numbers_go_round(tmp_path, dtype):
    w = dict(a=torch.ones(2, 3).to(dtype), b=torch.tensor(1).to(dtype))
    assert equal_states(read_weights(write_weights(tmp_path/'w', w))['model'], w)

@pytest.mark.parametrize(
    'make',
    [lambda p: torch.optim.AdamW(p, 1e-3, amsgrad=True),
     lambda p: torch.optim.SGD(p, .1, momentum=.9), lambda p: torch.optim.RMSprop(p, .1),
     lambda p: torch.optim.Adagrad(p, .1), lambda p: torch.optim.Rprop(p)])
def test_memories_of_optimizers_go_round(tmp_path, make):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).to(
        memory_format=torch.channels_last
    )
    opt = make(net.parameters())
    for _ in range(2): net(torch.randn(3, 1, 4, 4)).sum().backward(); opt.step()
    state = read_weights(write_weights(tmp_path/'w', net.state_dict(), opt=opt.state_dict()))['opt']
    assert equal_states(state, opt.state_dict())
    make(net.parameters()).load_state_dict(state)

def test_training_goes_on_as_from_memory(tmp_path):
    "Channels-last weights and fused steps: the memory lies as its parameter does."
    def conv():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    a = trained(tmp_path, conv); a.save('w'); b = learner(conv, seed=4, path=tmp_path).load('w')
    for p, q in zip(a.model.parameters(), b.model.parameters()):
        assert all(u.stride() == b.opt.state[q][k].stride() for k, u in a.opt.state[p].items())
    for o in (a, b): torch.manual_seed(3); o.fit(1, .01)
    assert same(weights(a), weights(b))

def test_a_checkpoint_gives_its_weights(tmp_path):
    learn = learner(deep, path=tmp_path)
    learn.fit(1, .01, checkpoint=tmp_path/'c')
    newest = Checkpoint(tmp_path/'c').files()[-1]
    assert same(weights(learn), weights(learner(deep, seed=3).load(newest.resolve())))

# --- foreign

WRAPS = {
    '': lambda w: w,
    'module.': lambda w: w,
    '_orig_mod.': lambda w: w,
    'module._orig_mod.': lambda w: w,
    'model.': lambda w: dict(state_dict=w, epoch=3),
    'net.model.': lambda w: dict(model_state_dict=w, loss=.5),
    'backbone.': lambda w: dict(model=w, args=None),
}

@pytest.mark.parametrize('front', WRAPS)
@pytest.mark.parametrize('suffix', ['.pth', '.ckpt', '.safetensors'])
def test_what_stands_in_front_of_names_is_seen_through(tmp_path, front, suffix):
    learn, at = trained(tmp_path), tmp_path/f'theirs{suffix}'
    w = {front + k: v for k, v in learn.model.state_dict().items()}
    save_file(w, at) if suffix == '.safetensors' else torch.save(WRAPS[front](w), at)
    other = learner(deep, seed=2)
    other.load(at)
    assert same(weights(learn), weights(other))

def test_wrapped_models_load_bare_files_and_each_other(tmp_path):
    net = linear()
    plain = write_weights(tmp_path/'plain', net.state_dict())
    for wrap in (nn.DataParallel, torch.compile, lambda m: nn.DataParallel(torch.compile(m))):
        mine = wrap(linear(seed=5) if 'seed' in linear.__code__.co_varnames else linear())
        theirs = wrap(net)
        load_weights(mine, plain)
        assert same(list(mine.state_dict().values()), list(net.state_dict().values()))
        load_weights(linear(), write_weights(tmp_path/'wrapped', theirs.state_dict()))

def test_averaged_weights_of_torch_load(tmp_path):
    learn = trained(tmp_path)
    torch.save(torch.optim.swa_utils.AveragedModel(learn.model).state_dict(), tmp_path/'ema.pth')
    assert same(weights(learn), weights(learner(deep, seed=2).load(tmp_path/'ema.pth')))

@pytest.mark.parametrize('fronts', [('student.', 'teacher.'), ('module.', '')])
def test_weights_that_are_there_twice_are_not_chosen_from(tmp_path, fronts):
    learn = trained(tmp_path)
    torch.save(
        {f + k: v for f in fronts for k, v in learn.model.state_dict().items()},
        tmp_path / 'two.pth',
    )
    for strict in (True, False):
        with pytest.raises(ValueError, match='more than once'):
            learn.load(tmp_path / 'two.pth', strict=strict)

@pytest.mark.parametrize(
    'what',
    [dict(epoch=3), {}, dict(model={}), dict(state_dict=dict(a=1)), [1], torch.ones(3), 'text'])
def test_what_holds_no_weights(tmp_path, what):
    torch.save(what, tmp_path/'x.pth')
    with pytest.raises(ValueError, match='no weights|instead of weights'):
        read_weights(tmp_path / 'x.pth')

def test_weights_of_a_network_for_a_body(tmp_path):
    """What `save` writes of a learner with a body and a head, bare files, and wrapped ones: all
    give the body."""
    whole = create_vision_model('resnet18', 3, pretrained=False)
    whole.set_stats(([.1, .2, .3], [.4, .5, .6]))
    at = write_weights(tmp_path/'w.safetensors', whole.state_dict(), 'abc')
    model = create_vision_model('resnet18', 7, weights=at)
    assert same(weights_of(model.body), weights_of(whole.body)) and model.head[-1].out_features == 7
    # they come with the weights
    assert model.stats == whole.stats
    assert create_vision_model('resnet18', 7, c_in=1, weights=at).stats[0] == pytest.approx([.2])
    from torchvision.models import resnet18
    theirs = resnet18().state_dict()
    torch.save(
        dict(state_dict={f'module.{k}': v for k, v in theirs.items()}), tmp_path / 'theirs.bin'
    )
    assert create_body('resnet18', weights=tmp_path / 'theirs.bin')[0].weight.equal(
        theirs['conv1.weight']
    )
    assert create_body('resnet18', weights=str(tmp_path / 'theirs'))[0].weight.equal(
        theirs['conv1.weight']
    )
    with pytest.raises(ValueError, match='do not fit the body of resnet34'):
        create_body('resnet34', weights=at)

def weights_of(net): return [o.clone() for o in net.state_dict().values()]

@pytest.mark.parametrize('c_in', [1, 2, 4])
def test_weights_for_other_channels_keep_their_first_convolution(tmp_path, c_in):
    whole = create_vision_model('resnet18', 3, c_in=c_in, pretrained=False)
    at = write_weights(tmp_path/'w.safetensors', whole.state_dict())
    assert same(weights_of(create_body('resnet18', c_in, weights=at)), weights_of(whole.body))
    assert create_body('resnet18', 3, weights=at)[0].weight.shape[1] == 3

# --- partial

def test_another_number_of_classes_loads_all_but_the_head(tmp_path, capsys):
    learn = trained(tmp_path); learn.save('w')
    dls = block(get_y=lambda o: 'xy'[o[1] == 'a']).dataloaders(items_of(42), bs=8, device='cpu')
    other = learner(
        lambda: deep(2) if deep.__code__.co_argcount else deep(), dls=dls, path=tmp_path
    )
    if other.model[-1].out_features == 3:
        other.model[-1] = nn.Linear(other.model[-1].in_features, 2)
    before = weights(other)
    with pytest.raises(ValueError, match='know the classes.*strict=False'): other.load('w')
    assert same(before, weights(other))
    head = [o.clone() for o in other.model[-1].parameters()]
    with pytest.warns(UserWarning, match='Train the head'): other.load('w', strict=False)
    n = len(learn.model.state_dict())
    assert (
        f"{n - 2} of the model's {n} tensors are taken" in (said := capsys.readouterr().out)
        and '2 of another shape' in said
    )
    assert same(head, list(other.model[-1].parameters())) and other.opt is None
    assert all(
        v.equal(learn.model.state_dict()[k])
        for k, v in other.model.state_dict().items()
        if v.shape == learn.model.state_dict()[k].shape
    )

@pytest.mark.parametrize('change, said', [
    (lambda w: {k: v for k, v in w.items() if not k.startswith('1.')}, 'are missing, 0 too many'),
    (lambda w: w | dict(new=torch.ones(2)), '0 are missing, 1 too many'),
    (lambda w: {k: (v[:1] if v.ndim else v) for k, v in w.items()}, 'of another shape')])
def test_partial_files(tmp_path, capsys, change, said):
    learn = trained(tmp_path)
    torch.save(change(learn.model.state_dict()), tmp_path/'part.pth')
    other = learner(deep, seed=3, path=tmp_path)
    before = weights(other)
    with pytest.raises(ValueError, match=said): other.load(tmp_path/'part.pth')
    assert same(before, weights(other))

def test_nothing_that_fits_is_an_error(tmp_path):
    learn = trained(tmp_path)
    before = weights(learn)
    torch.save({f'layers.{i}.w{i}': torch.ones(2) for i in range(6)}, tmp_path/'x.pth')
    torch.save({k: torch.ones(7, 7) for k in learn.model.state_dict()}, tmp_path/'y.pth')
    for name in 'xy':
        with pytest.raises(ValueError, match='None of them fits'):
            learn.load(tmp_path / f'{name}.pth', strict=False)
        assert same(before, weights(learn))

def test_statistics_alone_are_no_weights(tmp_path):
    "Every `VisionModel` has `mean` and `std`; that they fit says nothing."
    one, two = (
        create_vision_model(o, 3, pretrained=False, lin_ftrs=n)
        for o, n in (('squeezenet1_1', None), ('efficientnet_lite0', 64))
    )
    at = write_weights(tmp_path/'w', one.state_dict())
    with pytest.raises(ValueError, match='another model'): load_weights(two, at, strict=False)

def test_counts_of_batches_are_not_missed(tmp_path):
    "Files of old torch have none."
    learn = trained(tmp_path)
    torch.save(
        {k: v for k, v in learn.model.state_dict().items() if 'num_batches' not in k},
        tmp_path / 'old.pth',
    )
    learner(deep, seed=1).load(tmp_path/'old.pth')
