"Texts as batches, networks that read them, and what a learner of pictures does with them."
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from learners import one_thread  # noqa: F401 (a fixture)
from server import serve, set_home, tgz  # noqa: F401 (fixtures)
from sotavision.all import (
    Callback,
    CategoryBlock,
    Checkpoint,
    ClassificationInterpretation,
    ColReader,
    ColSplitter,
    DataBlock,
    ImageBlock,
    Perplexity,
    SaveModelCallback,
    TextBlock,
    compare,
    generate,
    get_text_files,
    language_model_learner,
    load_encoder,
    parent_label,
    save_encoder,
    set_seed,
    text_classifier_learner,
    tokenize,
    untar_data,
)
from sotavision.core.display import quiet
from sotavision.data.tokens import PAD

WORDS = 'duck boat bread pond pike reed wind moon'.split()

def texts(n, seed=0):
    "Texts of 1 to 12 words; they are 'wet' where the first word is earlier in the alphabet."
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        words = rng.permutation(WORDS)[:rng.integers(2, 9)].tolist()
        rows.append((' '.join(words), 'wet' if words[0] < words[-1] else 'dry'))
    return pd.DataFrame(rows, columns=['text', 'label']).drop_duplicates('text')

def classifier_dls(n=80, bs=8, **kwargs):
    block = DataBlock((TextBlock(min_freq=1), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'))
    return block.dataloaders(texts(n), bs=bs, device='cpu', **kwargs)

def lm_dls(n=60, bs=4, seq_len=6, **kwargs):
    block = DataBlock(TextBlock(min_freq=1, is_lm=True, seq_len=seq_len))
    return block.dataloaders(texts(n).text.tolist(), bs=bs, device='cpu', **kwargs)

def reader(dls=None, seed=1, **kwargs):
    set_seed(seed)
    kwargs |= dict(width=16, drop=0., precision='fp32')
    return text_classifier_learner(dls or classifier_dls(), **kwargs)

def writer(dls=None, seed=1, **kwargs):
    set_seed(seed)
    return language_model_learner(dls or lm_dls(), width=16, drop=0., **kwargs)

# --- batches

@pytest.mark.parametrize('bs', [1, 2, 3, 7, 64])
@pytest.mark.parametrize('seq_len', [1, 2, 5, 100])
def test_rows_go_on_and_every_token_comes_once(bs, seq_len):
    dls = lm_dls(20, bs, seq_len)
    ids = torch.cat([dls.train.ds.ds[i][0] for i in range(len(dls.train.ds.ds))])
    batches = list(dls.train)
    assert {tuple(x.shape) for x, _ in batches} == {(bs, seq_len)}
    xs, ys = (torch.cat(o, 1) for o in zip(*batches))
    assert torch.equal(xs[xs != PAD], ids[:-1]) and torch.equal(ys[ys != -100], ids[1:])
    for (_, y), (x, _) in zip(batches, batches[1:]):
        seen = x[:, 0] != PAD
        assert torch.equal(y[seen, -1], x[seen, 0])

def test_training_batches_hold_texts_of_similar_length():
    dls = classifier_dls(400, 8)
    padding = lambda batches: sum(int((x == PAD).sum()) for x, _ in batches)
    one, two = list(dls.train), list(dls.train)
    assert padding(one) < padding(dls.train.new()) / 3
    assert one[0][0].shape[1] == max(x.shape[1] for x, _ in one)
    assert not torch.equal(one[1][0], two[1][0])

def test_each_text_trains_once_an_epoch():
    dls = classifier_dls(50, 8)
    seen = [i for b in dls.train.batches() for i in b.idxs]
    assert len(set(seen)) == len(seen) == len(dls.train) * 8

@pytest.mark.parametrize('workers', [0, 2])
def test_answers_come_in_the_order_of_the_texts(workers):
    learn = reader(classifier_dls(num_workers=workers))
    encoder, rows = learn.dls.valid.ds.blocks[0].encoder, learn.dls.valid.ds.items.text.tolist()
    shown = [encoder.decode(o) for x, _ in learn.dls.valid for o in x]
    assert shown == [' '.join(tokenize(o)) for o in rows]
    single = torch.stack([learn.predict(o)[2] for o in rows])
    for bs in (1, 3, 64):
        probs = learn.get_preds(dl=learn.dls.valid.new(bs=bs))[0]
        assert torch.allclose(probs, single, atol=1e-6)

def test_the_vocabulary_is_the_training_texts_alone():
    df = pd.DataFrame(dict(text=['duck'] * 4 + ['goose duck'], label=['a', 'b'] * 2 + ['a'],
                           valid=[False] * 4 + [True]))
    block = DataBlock((TextBlock(), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'), splitter=ColSplitter('valid'))
    with pytest.warns(UserWarning): dls = block.dataloaders(df, bs=2, device='cpu')
    words = dls.train.ds.blocks[0].encoder
    assert 'goose' not in words.vocab and words.decode(dls.valid.ds[0][0]) == 'xxbos xxunk duck'

def test_files_of_texts(tmp_path):
    for label in ('dry', 'wet'):
        (tmp_path/label).mkdir()
        for i, o in enumerate(texts(40).query('label == @label').text):
            (tmp_path/label/f'{i}.txt').write_text(o, encoding='utf8')
    (tmp_path/'dry/other.md').write_text('no')
    block = DataBlock((TextBlock(min_freq=1), CategoryBlock), get_items=get_text_files,
                      get_y=parent_label)
    learn = reader(block.dataloaders(tmp_path, bs=8, device='cpu'))
    assert learn.dls.vocab == ['dry', 'wet'] and len(get_text_files(tmp_path)) > 30
    file = learn.dls.valid.ds.items[0]
    assert torch.equal(learn.predict(file)[2], learn.predict(Path(file).read_text())[2])

# --- the same learner

def test_order_is_learned():
    learn = reader(classifier_dls(600, 16))
    with quiet(): learn.fit_one_cycle(12, 2e-2)
    assert learn.validate()[1] > .9
    learn.show_results(max_n=2); learn.dls.show_batch(max_n=2)

def test_a_look_at_what_it_got_wrong(capsys):
    learn = reader()
    found = ClassificationInterpretation.from_learner(learn)
    found.plot_top_losses(3)
    worst = found.top_losses(1)[1].item()
    text = ' '.join(tokenize(learn.dls.valid.ds.items.text.iloc[worst]))
    assert text in capsys.readouterr().out
    assert found.confusion_matrix().sum() == len(learn.dls.valid.ds)

def test_the_steps_from_a_table_to_a_batch(capsys):
    block = DataBlock((TextBlock(min_freq=1), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'))
    block.summary(texts(20))
    assert 'TextIds' in capsys.readouterr().out

def test_a_language_model_beats_counting():
    df = [f'the {a} {b} {v}' for a in 'old wet big'.split() for b in WORDS
          for v in 'eats sits'.split()]
    block = DataBlock(TextBlock(min_freq=1, is_lm=True, seq_len=10))
    learn = writer(block.dataloaders(df, bs=4, device='cpu'), metrics=[Perplexity()])
    with quiet(): learn.fit_one_cycle(15, 2e-2)
    counts = torch.cat([y[y != -100] for _, y in learn.dls.valid]).bincount().float()
    share = counts[counts > 0] / counts.sum()
    alone = (-(share * share.log()).sum()).exp().item()
    loss, perplexity = learn.validate()
    assert perplexity < alone / 2 and np.isclose(np.exp(loss), perplexity, rtol=1e-4)
    assert set(generate(learn, 'The old', seed=1).split()) <= set(learn.dls.vocab)

@pytest.mark.parametrize('make', [reader, writer])
def test_training_is_the_same_twice_and_asking_changes_nothing(make):
    def trained(ask):
        learn = make()
        with quiet():
            for _ in range(2):
                learn.fit(1, 1e-2)
                if ask: learn.validate(); learn.get_preds(); learn.dls.one_batch()
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
    assert torch.equal(trained(False), trained(True))

def test_asking_in_the_midst_of_an_epoch_changes_nothing():
    class Ask(Callback):
        in_lr_find = False
        def after_batch(self):
            if self.training: self.learn.get_preds(); generate(self.learn, 'duck', 2)
    one, two = writer(), writer(cbs=Ask())
    with quiet(): one.fit(1, 1e-2); two.fit(1, 1e-2)
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters()))

@pytest.mark.parametrize('make', [reader, writer])
def test_rate_finder_best_weights_and_files(make, tmp_path):
    learn = make(path=tmp_path)
    with quiet():
        learn.lr_find(num_it=20, suggest_funcs=None)
        learn.fit_one_cycle(2, 1e-2, cbs=SaveModelCallback())
    before = learn.validate()
    learn.save('kept')
    other = make(seed=2, path=tmp_path)
    assert other.validate() != before
    assert other.load('kept').validate() == before

class Stop(Callback):
    in_lr_find = False
    def after_batch(self):
        if self.train_iter == 9: raise KeyboardInterrupt

@pytest.mark.parametrize('make', [reader, writer])
@pytest.mark.parametrize('every', ['epoch', 2])
def test_a_checkpoint_goes_on_where_it_was(make, every, tmp_path):
    kept = dict(path=tmp_path/'c', every=every)
    with quiet():
        whole = make()
        whole.fit_one_cycle(3, 1e-2)
        cut = make()
        with pytest.raises(KeyboardInterrupt):
            cut.fit_one_cycle(3, 1e-2, checkpoint=Checkpoint(**kept), cbs=Stop())
        again = make(seed=5)
        again.fit_one_cycle(3, 1e-2, checkpoint=Checkpoint(**kept), resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(),
                                                 again.model.parameters()))

def test_compare():
    def train(width=8):
        set_seed(torch.initial_seed() % 1000)
        learn = text_classifier_learner(classifier_dls(), width=width)
        with quiet(): learn.fit(1, 1e-2)
        return dict(accuracy=learn.validate()[1])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        c = compare(train, dict(wide=dict(width=16)), 2, show=False)
    assert len(c.of('wide')) == 2

# --- from one to the other

def test_an_encoder_is_matched_by_words(tmp_path):
    lm = writer(path=tmp_path)
    save_encoder(lm, 'reader')
    df = texts(80)
    df.loc[:, 'text'] = df.text.str.replace('duck', 'goose')
    block = DataBlock((TextBlock(min_freq=1), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'))
    learn = reader(block.dataloaders(df, bs=8, device='cpu'), path=tmp_path)
    with pytest.warns(UserWarning, match='1 of 13 words are not in reader'):
        load_encoder(learn, 'reader')
    theirs, ours = lm.dls.vocab, learn.dls.train.ds.blocks[0].encoder.vocab
    a, b = (m.model.encoder.embedding.weight for m in (lm, learn))
    for word in set(ours) & set(theirs):
        assert torch.equal(a[theirs.index(word)], b[ours.index(word)])
    assert torch.allclose(b[ours.index('goose')], a.mean(0))
    assert torch.equal(lm.model.encoder.gru.weight_hh_l0, learn.model.encoder.gru.weight_hh_l0)

def test_an_encoder_that_does_not_fit_changes_nothing(tmp_path):
    lm = writer(path=tmp_path)
    save_encoder(lm, 'reader')
    set_seed(1)
    wide = text_classifier_learner(classifier_dls(), width=32, path=tmp_path)
    before = wide.model.encoder.embedding.weight.detach().clone()
    with pytest.raises(ValueError, match='give width and n_layers as there'):
        load_encoder(wide, 'reader')
    wide.save('whole')
    with pytest.raises(ValueError, match='save_encoder writes one'): load_encoder(wide, 'whole')
    block = DataBlock(TextBlock(min_freq=1, is_lm=True))
    far = writer(block.dataloaders(['un canard', 'deux canards', 'trois'], bs=1), path=tmp_path)
    with pytest.raises(ValueError, match='another language'): load_encoder(far, 'reader')
    assert torch.equal(before, wide.model.encoder.embedding.weight)

# --- what makes no sense

def test_texts_that_say_nothing_are_counted():
    df = texts(40)
    block = DataBlock((TextBlock(min_freq=1, max_len=4), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'))
    df.loc[df.index[0], 'text'] = ''
    with pytest.warns(UserWarning) as said: learn = reader(block.dataloaders(df, bs=8))
    told = ' '.join(str(o.message) for o in said)
    assert 'are empty' in told and 'are cut after 4 tokens (max_len)' in told
    assert torch.isfinite(learn.predict('')[2]).all()
    assert torch.isfinite(learn.predict('quux')[2]).all()
    assert torch.equal(learn.predict('quux')[2], learn.predict('zork')[2])

@pytest.mark.parametrize('bad', [3, None, float('nan'), ['a', 'list']])
def test_what_is_no_text_is_told(bad):
    block = DataBlock((TextBlock, CategoryBlock), get_x=lambda o: o[0], get_y=lambda o: o[1])
    items = [('duck', 'a'), (bad, 'b')] * 10
    with pytest.raises((ValueError, TypeError), match='is no text|no text'):
        block.dataloaders(items, bs=2)

def test_other_data_is_refused():
    images = DataBlock((ImageBlock, CategoryBlock), get_x=lambda o: np.zeros((4, 4, 3), np.uint8),
                       get_y=lambda o: 'ab'[o > 'd'])
    dls = images.dataloaders(list('abcdefgh'), bs=2, device='cpu')
    with pytest.raises(ValueError, match='no texts'): text_classifier_learner(dls)
    with pytest.raises(ValueError, match='no texts'): language_model_learner(dls)
    with pytest.raises(ValueError, match='is_lm=True'): language_model_learner(classifier_dls())
    with pytest.raises(ValueError, match='A classifier wants'): text_classifier_learner(lm_dls())

def test_one_text_is_a_batch():
    learn = reader(classifier_dls(bs=1))
    with quiet(): learn.fit(1, 1e-3)
    lone = writer(lm_dls(10, bs=1))
    with quiet(): lone.fit(1, 1e-3)
    assert np.isfinite(lone.validate()[1])

def test_imdb_from_a_server(tmp_path, own_home, server):
    csv = texts(60).assign(is_valid=lambda d: [i % 4 == 0 for i in range(len(d))])
    server.content = tgz(tmp_path/'made.tgz', ('imdb_sample/texts.csv', csv.to_csv(index=False))) \
        .read_bytes()
    df = pd.read_csv(untar_data(server.url)/'texts.csv')
    block = DataBlock((TextBlock(min_freq=1), CategoryBlock), get_x=ColReader('text'),
                      get_y=ColReader('label'), splitter=ColSplitter())
    dls = block.dataloaders(df, bs=8, device='cpu')
    assert len(dls.valid.ds) == sum(csv.is_valid) and reader(dls).predict('duck')[0] in dls.vocab
