"Labels and masks that come in another form than expected: understood, or asked about."
import copy
import json
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from drawn import block, draw, draw_folder, loaders, no_figures_left  # noqa: F401 (fixtures)
from sotavision.augment.resize import Resize
from sotavision.data.blocks import MaskEncoder
from sotavision.data.datablock import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    MaskBlock,
    MultiCategoryBlock,
)
from sotavision.data.files import ColReader, get_image_files
from sotavision.data.images import PILImageBW
from sotavision.data.labels import Categorize, Vocab
from sotavision.data.splits import IndexSplitter

# --- a vocabulary is a list

def test_a_vocabulary_is_a_list_in_every_way(folder):
    v = loaders(folder).vocab
    assert v == ['cat', 'dog'] and ['cat', 'dog'] == v and isinstance(v, list)
    assert repr(v) == "['cat', 'dog']"
    assert (
        json.loads(json.dumps(v))
        == v
        == pickle.loads(pickle.dumps(v))
        == copy.deepcopy(v)
        == list(v)
    )
    assert v[0] == v[-2] == 'cat' and v[:1] == ['cat'] and v + ['owl'] == ['cat', 'dog', 'owl']
    assert v.index('dog') == 1
    assert (
        v.o2i == {'cat': 0, 'dog': 1} == pickle.loads(pickle.dumps(v)).o2i == copy.deepcopy(v).o2i
    )

@pytest.mark.parametrize(
    'i,want',
    [(torch.tensor(1), 'b'), (torch.tensor([1]), ['b']), (torch.tensor([2, 0]), ['c', 'a']),
     ([0, 1], ['a', 'b']), (np.array([2, 2]), ['c', 'c']), (np.int64(2), 'c'),
     (torch.tensor([True, False, True]), ['a', 'c']),
     (torch.tensor([[0, 1], [2, 0]]), [['a', 'b'], ['c', 'a']]),
     (torch.tensor([], dtype=torch.int64), []),
     (torch.eye(3, dtype=torch.bool), [['a'], ['b'], ['c']]), (np.array([False] * 3), [])])
def test_a_vocabulary_takes_indices_in_tensors(i, want): assert Vocab('abc')[i] == want

def test_a_vocabulary_refuses_what_is_no_index():
    for bad, error in (
        (torch.tensor([True, False]), IndexError),
        (torch.tensor([.5]), TypeError),
        (torch.tensor([7]), IndexError),
        ('a', TypeError),
    ):
        with pytest.raises(error):
            Vocab('abc')[bad]

@pytest.mark.parametrize(
    'given',
    [['dog', 'cat'], ('dog', 'cat'), np.array(['dog', 'cat']), pd.Series(['dog', 'cat']),
     pd.Index(['dog', 'cat'])])
def test_a_vocabulary_of_any_kind_of_list(folder, given):
    v = loaders(folder, blocks=(ImageBlock, CategoryBlock(given))).vocab
    assert v == ['dog', 'cat'] and json.dumps(v) == '["dog", "cat"]'

# --- one label an item

ITEMS = ['owl', 'fox', 'owl', 'fox', 'bee', 'owl', 'fox', 'bee']
def labelled(labels, **kw):
    return DataBlock(
        (CategoryBlock(**kw),), get_x=lambda i: labels[i], splitter=IndexSplitter([5, 6, 7])
    ).datasets(range(len(labels)))

def test_classes_sorted_or_as_they_come():
    assert labelled(ITEMS).vocab == ['bee', 'fox', 'owl'] == labelled(ITEMS, sort=True).vocab
    assert labelled(ITEMS, sort=False).vocab == ['owl', 'fox', 'bee']
    assert (
        labelled(ITEMS, vocab=['owl', 'bee', 'fox'], sort=False).vocab
        == labelled(ITEMS, vocab=['owl', 'bee', 'fox']).vocab
        == ['owl', 'bee', 'fox']
    )

@pytest.mark.parametrize('missing', [None, float('nan'), np.nan])
def test_unknown_and_missing_labels_have_a_class_if_asked_for(missing):
    items = [*ITEMS[:3], missing, *ITEMS[4:6], 'yak', missing]
    with pytest.raises(ValueError, match='have no label'): labelled(items)
    with pytest.warns(
        UserWarning, match="1 validation labels are unknown, 'yak' for one: they count as '#na#'"
    ):
        ds = labelled(items, add_na=True)
    assert ds.vocab == ['#na#', 'bee', 'fox', 'owl'] and ds.c == 4
    assert [ds.train[i][0].item() for i in range(5)] == [3, 2, 3, 0, 1]
    assert [ds.valid[i][0].item() for i in range(3)] == [3, 0, 0]
    assert ds.vocab[ds.valid[1][0]] == '#na#'

def test_a_given_vocabulary_with_a_class_for_the_rest():
    with pytest.warns(UserWarning, match="1 training labels are unknown, 'bee'"):
        ds = labelled(ITEMS, vocab=['owl', 'fox'], add_na=True)
    assert ds.vocab == ['#na#', 'owl', 'fox'] and ds.train[4][0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert labelled(ITEMS, vocab=['owl', '#na#', 'fox', 'bee'], add_na=True).vocab == [
            '#na#',
            'owl',
            'fox',
            'bee',
        ]

@pytest.mark.parametrize('wrap', [torch.tensor, np.int64, np.array])
def test_numbers_in_tensors_are_labels_by_their_value(wrap):
    ds = labelled([wrap(i % 3) for i in range(8)])
    assert ds.vocab == [0, 1, 2] and all(type(o) is int for o in ds.vocab) and ds.valid[1][0] == 0
    assert json.dumps(ds.vocab) == '[0, 1, 2]'

# --- columns of zeros and ones

ROWS = [[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 0, 1]]
FORMS = dict(
    lists=list,
    tuples=tuple,
    arrays=np.array,
    bytes=lambda o: np.array(o, np.uint8),
    truths=lambda o: [bool(i) for i in o],
    floats=lambda o: [float(i) for i in o],
    texts=lambda o: [str(i) for i in o],
    tensors=torch.tensor,
    series=pd.Series,
    tensors_within=lambda o: [torch.tensor(i) for i in o],
)
def tagged(rows, *args, **kw):
    return DataBlock(
        (MultiCategoryBlock(*args, **kw),), get_x=lambda i: rows[i], splitter=IndexSplitter([4, 5])
    ).datasets(range(len(rows)))

@pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
def test_columns_of_zeros_and_ones_are_asked_about_and_taken(form):
    rows = list(map(form, ROWS))
    with pytest.raises(
        ValueError, match=r"zeros and ones.*MultiCategoryBlock\(encoded=True, vocab=\["
    ):
        tagged(rows)
    with pytest.raises(ValueError, match=r'not among the vocabulary.*encoded=True'):
        tagged(rows, ['sky', 'sea', 'sun'])
    ds = tagged(rows, encoded=True, vocab=['sky', 'sea', 'sun'])
    assert ds.vocab == ['sky', 'sea', 'sun'] and ds.c == 3 and ds.train[3][0].dtype == torch.float32
    assert [ds.train[i][0].tolist() for i in range(4)] == ROWS[:4]
    assert ds.train.describe(ds.train[0][0]) == 'sea sun'

def test_zero_and_one_as_classes_when_they_are_named():
    ds = tagged([[0], [1], [0, 1], [], [1], [0]], vocab=[0, 1])
    assert [o[0].tolist() for o in (ds.train[i] for i in range(4))] == [
        [1, 0],
        [0, 1],
        [1, 1],
        [0, 0],
    ]
    assert tagged([[0], [1], [2, 1], [], [1], [0]]).vocab == [0, 1, 2]       # numbers, but not bits

@pytest.mark.parametrize(
    'row,why',
    [([0, 1], '2 values, the vocabulary 3'), ([0, 1, 2], '2, which is neither'),
     ([0, .5, 1], '0.5'), ([0, None, 1], 'None, which'), ([0, float('nan'), 1], 'nan, which'),
     (['sky'], '1 values'), ('011', "'011'.*1 values")])
@pytest.mark.parametrize('place', [0, 5])
def test_rows_that_are_not_zeros_and_ones(row, why, place):
    rows = list(ROWS); rows[place] = row
    with pytest.raises(ValueError, match=why):
        tagged(rows, encoded=True, vocab=['sky', 'sea', 'sun'])

def test_encoded_needs_names_and_says_which_class_is_never_seen():
    with pytest.raises(ValueError, match='a name a column'): MultiCategoryBlock(encoded=True)
    with pytest.raises(TypeError, match='vocabulary is a list'): MultiCategoryBlock(True, ['sky'])
    with (
        pytest.warns(UserWarning, match="No training item has the label 'sun'"),
        pytest.warns(UserWarning, match="No validation item has the label 'sea'"),
    ):
        tagged(
            [[0, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]],
            encoded=True,
            vocab=['sky', 'sea', 'sun'],
        )

def test_columns_of_a_table_reach_the_batch(folder):
    files = get_image_files(folder)
    df = pd.DataFrame(
        dict(
            name=files,
            dog=[int('dog' in o.parts) for o in files],
            big=[int(o.stem) > 2 for o in files],
        )
    )
    make = lambda target: DataBlock(
        (ImageBlock, target),
        get_x=ColReader('name'),
        get_y=ColReader(['dog', 'big']),
        item_tfms=Resize(8),
    )
    with pytest.raises(ValueError, match='encoded=True'): make(MultiCategoryBlock).dataloaders(df)
    dls = make(MultiCategoryBlock(encoded=True, vocab=['dog', 'big'])).dataloaders(
        df, bs=4, device='cpu'
    )
    want = torch.tensor(dls.valid_ds.items[['dog', 'big']].to_numpy(dtype=np.float32))
    assert torch.cat([y for _, y in dls.valid]).equal(want)
    assert dls.test_dl(df.iloc[:2], with_labels=True).one_batch()[1].shape == (2, 2)
    dls.show_batch()

# --- black and white masks

BW = np.zeros((8, 6), np.uint8); BW[2:5, 1:4] = 255
AS_MASK = dict(
    array=lambda a, p: a,
    tensor=lambda a, p: torch.tensor(a),
    wide=lambda a, p: torch.tensor(a).long(),
    picture=lambda a, p: Image.fromarray(a),
    file=lambda a, p: (Image.fromarray(a).save(p / 'm.png'), p / 'm.png')[1],
)
def masked(masks, codes=None):
    return DataBlock(
        (MaskBlock(codes),), get_x=lambda i: masks[i], splitter=IndexSplitter([0])
    ).datasets(range(len(masks)))

@pytest.mark.parametrize('codes', [None, ['background', 'thing'], list('abc')])
@pytest.mark.parametrize('form', AS_MASK.values(), ids=AS_MASK)
def test_black_and_white_masks_are_asked_about(form, codes, tmp_path):
    with pytest.raises(
        ValueError, match=r"0 and 255.*codes=\{0: 'background', 255: 'thing'\}.*255: None"
    ):
        masked([form(BW, tmp_path)] * 3, codes)

@pytest.mark.parametrize('form', AS_MASK.values(), ids=AS_MASK)
def test_values_with_names(form, tmp_path):
    ds = masked([form(BW, tmp_path)] * 3, {0: 'background', 255: 'thing'})
    m, = ds.train[0]
    assert ds.vocab == ['background', 'thing'] and ds.c == 2 and m.dtype == torch.uint8
    assert m.equal(torch.tensor(BW) // 255)
    void, = masked([form(BW, tmp_path)] * 3, {0: 'background', 1: 'thing', 255: None}).train[0]
    assert set(void.unique().tolist()) == {0, 255}

def test_masks_with_void_or_truths_are_not_asked_about():
    truth = BW > 127
    assert masked([truth] * 3).vocab == ['0', '1']
    assert masked([truth] * 3, ['no', 'yes']).train[0][0].equal(torch.tensor(truth).byte())
    void = BW // 255; void[0, 0] = 255
    # one with a thing is enough
    assert masked([void] * 3).c == 2 and masked([BW, BW, void], ['no', 'yes']).c == 2
    # none yet: nothing is known
    assert masked([np.zeros((4, 4), np.uint8)] * 3, ['no', 'yes']).c == 2

@pytest.mark.parametrize('codes', [None, ['a', 'b'], {0: 'a', 255: 'b'}])
def test_masks_in_jpeg_are_refused_with_the_reason(codes, tmp_path):
    file = tmp_path/'m.png'   # whatever its name is
    Image.fromarray(BW).resize((60, 80), Image.BILINEAR).save(file, 'jpeg', quality=60)
    for mask in (file, str(file), file.read_bytes()):
        with pytest.raises(ValueError, match='is a JPEG.*smoothed.*PNG.*> 127'):
            masked([mask] * 3, codes).train[0]
    truth = np.array(PILImageBW.create(file)) > 127   # what the message advises
    assert masked([truth] * 3).c == 2

def test_smoothed_black_and_white_is_asked_about(tmp_path):
    Image.fromarray(BW).resize((60, 80), Image.BILINEAR).save(tmp_path/'m.png')
    with pytest.raises(ValueError, match='smoothed.*> 127'): masked([tmp_path/'m.png'] * 3)
    with pytest.raises(ValueError, match=r'm\.png holds the value \d+, which has no name'):
        masked([tmp_path / 'm.png'] * 3, {0: 'a', 255: 'b'}).train[0]

def test_the_named_void():
    codes = np.array([[0, 1, 2, 255]], np.uint8)
    ds = DataBlock((MaskBlock(['sky', 'void', 'toy'], void='void'),), get_x=lambda i: codes,
                   splitter=IndexSplitter([0])).datasets(range(3))
    assert ds.vocab == ['sky', 'toy'] and ds.c == 2
    assert ds.train[0][0].tolist() == [[0, 255, 1, 255]]
    named = MaskBlock({0: 'sky', 7: 'nothing', 255: 'toy'}, void='nothing').encoder
    assert named.vocab == ['sky', 'toy'] and named.encode(codes[:, [0, 3]]).tolist() == [[0, 1]]
    with pytest.raises(ValueError, match="void='Void' is not one of .*Did you mean 'void'"):
        MaskBlock(['sky', 'void'], void='Void')
    with pytest.raises(ValueError, match='without names'): MaskBlock(void='void')

@pytest.mark.parametrize('cache', [None, 'ram'])
def test_a_mask_of_another_size_than_its_image(cache, tmp_path):
    for i in range(4):
        draw(tmp_path/f'{i}.jpg', seed=i)
        with Image.open(tmp_path/f'{i}.jpg') as im: w, h = im.size
        Image.new('L', (w, h) if i != 2 else (h, w)).save(tmp_path/f'{i}.png')
    dls = DataBlock((ImageBlock, MaskBlock(['a', 'b'])), get_y=lambda o: o.with_suffix('.png'),
                    item_tfms=Resize(16), splitter=IndexSplitter([0])
                    ).dataloaders(sorted(tmp_path.glob('*.jpg')), bs=3, cache=cache, device='cpu')
    with pytest.raises(ValueError, match=rf'2\.jpg.* has {h} × {w} pixels, its image {w} × {h}'):
        dls.one_batch()
    assert dls.valid.one_batch()[1].shape == (1, 16, 16)

@pytest.mark.parametrize('names', [{-1: 'a'}, {256: 'a'}, {.5: 'a'}, {'a': 0}])
def test_values_that_no_pixel_has(names):
    with pytest.raises(ValueError, match='from 0 to 255'): MaskBlock(names)

def test_names_of_values_reach_the_batch_whatever_keeps_the_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))
    for i in range(6):
        draw(tmp_path/f'{i}.jpg', seed=i)
        Image.fromarray(
            np.where(np.arange(40) > 10 + i, 255, 0).astype(np.uint8)[None].repeat(30, 0)
        ).save(tmp_path / f'{i}.png')
    def batch(codes, **kw):
        dls = DataBlock(
            (ImageBlock, MaskBlock(codes)),
            get_y=lambda o: o.with_suffix('.png'),
            item_tfms=Resize(16, 'squish'),
            splitter=IndexSplitter([0]),
        ).dataloaders(sorted(tmp_path.glob('*.jpg')), bs=5, shuffle=False, device='cpu', **kw)
        return next(iter(dls.train))[1]
    one, other = {0: 'a', 255: 'b'}, {255: 'a', 0: 'b'}
    assert set(batch(one).unique().tolist()) == {0, 1} and batch(other).equal(1 - batch(one))
    for codes in (one, other, {0: 'b', 255: None}):
        plain = batch(codes, cache=None)
        assert all(batch(codes, cache=o).equal(plain) for o in ('ram', 'disk'))
        assert batch(codes, cache=None, num_workers=1).equal(plain)

# --- the encoders alone

def test_masks_are_opened_only_until_a_class_is_seen():
    opened = []
    class Counting(MaskEncoder):
        def read(self, m): opened.append(1); return super().read(m)
    Counting(['a', 'b']).setup([BW // 255] * 50); assert len(opened) == 1
    opened.clear(); Counting().setup([BW // 255] * 50); assert len(opened) == 20

def test_unknown_keywords():
    for f in (CategoryBlock, MultiCategoryBlock, MaskBlock, Categorize):
        with pytest.raises(TypeError, match='unheard_of'): f(unheard_of=1)
    assert block(blocks=(ImageBlock, CategoryBlock(sort=False))).blocks[1].encoder.sort is False
