"""Several labels an item, from tables and lists: what is taken, and what is asked about."""
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from sotavision.augment.resize import Resize
from sotavision.data.datablock import MultiCategoryBlock
from sotavision.data.oneline import ImageDataLoaders
from sotavision.study.interpret import ClassificationInterpretation

TAGS = ['grass', 'haze', 'sand']
SETS = [TAGS[:1 + i % 3] if i % 5 else [] for i in range(20)]

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "Twenty pictures."
    root = tmp_path_factory.mktemp('tags')
    for i in range(20): Image.new('RGB', (8, 8), (i * 10, 9, 9)).save(root/f'{i}.png')
    return root

@pytest.fixture
def table():
    bits = {o: [int(o in s) for s in SETS] for o in TAGS}
    return pd.DataFrame(dict(file=[f'{i}.png' for i in range(20)],
                             tags=[' '.join(o) for o in SETS],
                             held=[i >= 12 for i in range(20)], **bits))

def loaders(table, root, **kw):
    kw = dict(valid_col='held', item_tfms=Resize(8), num_workers=0, device='cpu') | kw
    return ImageDataLoaders.from_df(table, root, **kw)

def rows(dls): return dls.train_ds.column(1), dls.valid_ds.column(1)

WANTED = torch.tensor([[float(o in s) for o in TAGS] for s in SETS])
ENCODED = MultiCategoryBlock(encoded=True, vocab=TAGS)

@pytest.mark.parametrize('how', [
    dict(label_col='tags', label_delim=' '),
    dict(label_col=TAGS, y_block=ENCODED),
])
def test_one_truth_from_any_form(root, table, how):
    dls = loaders(table, root, **how)
    assert torch.cat(rows(dls)).equal(WANTED) and dls.vocab == TAGS and dls.c == 3

@pytest.mark.parametrize('form', [
    lambda t: t.assign(tags=t.tags.str.replace(' ', ', ')),
    lambda t: t.assign(tags=t.tags.str.replace(' ', ' ,') + ','),
])
def test_blanks_beside_a_delimiter_are_no_part_of_a_label(root, table, form):
    dls = loaders(form(table), root, label_col='tags', label_delim=',')
    assert dls.vocab == TAGS and torch.cat(rows(dls)).equal(WANTED)

def test_an_empty_cell_is_an_item_without_labels(root, table):
    table.loc[table.tags == '', 'tags'] = np.nan
    assert torch.cat(rows(loaders(table, root, label_col='tags', label_delim=' '))).equal(WANTED)

@pytest.mark.parametrize('kind', [int, float, bool, str])
def test_zeros_and_ones_without_names_are_asked_about(root, table, kind):
    with pytest.raises(ValueError, match=r'MultiCategoryBlock\(encoded=True, vocab='):
        loaders(table.astype(dict.fromkeys(TAGS, kind)), root, label_col=TAGS)

@pytest.mark.parametrize('kind', [np.int64, np.float32, np.float64, np.bool_])
def test_an_array_of_zeros_and_ones_is_asked_about(root, kind):
    bits, files = WANTED.numpy().astype(kind), [root/f'{i}.png' for i in range(20)]
    how = dict(item_tfms=Resize(8), num_workers=0, device='cpu')
    for labels in bits, bits.tolist():
        with pytest.raises(ValueError, match='encoded=True.*RegressionBlock'):
            ImageDataLoaders.from_lists(root, files, labels, **how)
        dls = ImageDataLoaders.from_lists(root, files, labels, y_block=ENCODED, **how)
        assert torch.cat(rows(dls)).sum() == WANTED.sum()

def test_numbers_that_are_not_all_zeros_and_ones_stay_numbers(root):
    files = [root/f'{i}.png' for i in range(20)]
    dls = ImageDataLoaders.from_lists(root, files, WANTED.numpy() / 2, item_tfms=Resize(8),
                                      num_workers=0, device='cpu')
    assert dls.vocab is None and dls.c == 3

def test_a_label_unknown_in_validation_is_told_with_row_file_and_mend(root, table):
    table.loc[15, 'tags'] += ' snd'
    told = (r"1 of 8 validation items: the label 'snd' is not among.*Did you mean 'sand'.*leave "
            r'its items out. First met in row 15 of the table \(.*15.png\)')
    with pytest.raises(ValueError, match=told):
        loaders(table, root, label_col='tags', label_delim=' ')

def test_a_label_unknown_to_a_given_vocabulary_is_told_with_its_row(root, table):
    table.loc[[3, 7], 'tags'] = 'grass fog'
    with pytest.raises(ValueError, match="2 of 12 training items: the label 'fog'.*row 3 of"):
        loaders(table, root, label_col='tags', label_delim=' ',
                y_block=MultiCategoryBlock(vocab=TAGS))

@pytest.mark.parametrize('row', [4, 16])
@pytest.mark.parametrize('value, told', [(2., 'holds 2.0, which is neither 0 nor 1'),
                                         (np.nan, 'holds nan, which')])
def test_a_cell_that_is_neither_is_told_with_row_and_file(root, table, row, value, told):
    table = table.astype(dict.fromkeys(TAGS, float))
    table.loc[row, 'haze'] = value
    with pytest.raises(ValueError, match=rf'{told}.*row {row} of the table \(.*{row}.png\)'):
        loaders(table, root, label_col=TAGS, y_block=ENCODED)

def test_another_number_of_columns_than_names(root, table):
    with pytest.raises(ValueError, match='has 2 values, the vocabulary 3 classes.*row 0 of'):
        loaders(table, root, label_col=TAGS[:2], y_block=ENCODED)

def test_missed_and_invented_labels_against_scikit_learn():
    from sklearn.metrics import multilabel_confusion_matrix
    g = torch.Generator().manual_seed(0)
    probs, true = torch.rand(60, 5, generator=g), (torch.rand(60, 5, generator=g) < .3).long()
    true[:, 4] = 0
    o = ClassificationInterpretation.from_predictions(probs, true, list('abcde'), thresh=.6)
    m = multilabel_confusion_matrix(true, (probs > .6).long())
    missed, invented = dict(o.most_missed()), dict(o.most_invented())
    assert missed == {v: n for v, n in zip('abcde', m[:, 1, 0]) if n} and 'e' not in missed
    assert invented == {v: n for v, n in zip('abcde', m[:, 0, 1]) if n}
    for found in (o.most_missed(), o.most_invented()):
        assert [n for _, n in found] == sorted((n for _, n in found), reverse=True)
    assert o.most_missed(min_val=10**6) == []

def test_one_label_is_not_missed_but_confused():
    o = ClassificationInterpretation.from_predictions([[.9, .1], [.2, .8]], [0, 0])
    for ask in (o.most_missed, o.most_invented):
        with pytest.raises(ValueError, match='most_confused says which'): ask()
