"""Words counted against words read: chapter 25's tables.

    python benchmarks/reviews.py                  # toy_reviews, from 150 labels to 3,000
    python benchmarks/reviews.py --path FILE      # short reviews of films, a fifth held out

FILE has lines `id TAB rating TAB text`, such as `movieReviewSnippets_GroundTruth.txt` in the source
of PyPI's vaderSentiment (Hutto and Gilbert, 2014): a rating above 0 is praise. Every variant sees
the same split. The words are counted by scikit-learn: TF-IDF of words and pairs, and a logistic
regression. The network that reads is trained on the labels alone, or first as a language model on
all training texts, with the same rate and as many steps. How many labels and steps there are was
chosen on toy_reviews after a look at one seed, which is among those that are kept. One line of JSON
a run, in results/chapters/reviews-LABELS.jsonl and films.jsonl.
"""
import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from chapters import RESULTS
from sotavision.core.display import quiet
from sotavision.data.blocks import CategoryBlock
from sotavision.data.datablock import DataBlock
from sotavision.data.files import ColReader
from sotavision.data.loaders import DataLoaders
from sotavision.data.splits import ColSplitter
from sotavision.data.text import TextBlock
from sotavision.objectives.metrics import accuracy
from sotavision.study.compare import compare
from sotavision.tasks.text import (
    language_model_learner,
    load_encoder,
    save_encoder,
    text_classifier_learner,
)
from sotavision.toynette.reviews import toy_reviews

def toys(labels:int) -> tuple:
    "Training texts, how many of them have labels, and texts to judge by."
    seed = 2 * (torch.initial_seed() % 10_000)
    return toy_reviews(seed), labels, toy_reviews(seed + 1, 1000)

def films(path) -> tuple:
    "The same of a file; all training texts have labels."
    lines = [o.split('\t') for o in Path(path).read_text(encoding='latin1').splitlines()]
    df = pd.DataFrame([(t, 'liked' if float(r) > 0 else 'disliked') for _, r, t in lines],
                      columns=['text', 'label']).drop_duplicates('text')
    df = df.sample(frac=1, random_state=torch.initial_seed() % 10_000)
    n = len(df) // 5
    return df[n:], len(df) - n, df[:n]

def counted(train, labels, valid) -> float:
    "Accuracy of words and pairs of words."
    counts, some = TfidfVectorizer(ngram_range=(1, 2)), train[:labels]
    line = LogisticRegression(C=10, max_iter=1000)
    line.fit(counts.fit_transform(some.text), some.label)
    return line.score(counts.transform(valid.text), valid.label)

def loaders(train, valid, blocks, bs, **kwargs):
    df = pd.concat([train.assign(is_valid=False), valid.assign(is_valid=True)], ignore_index=True)
    return DataBlock(blocks, get_x=ColReader('text'), splitter=ColSplitter(), **kwargs) \
        .dataloaders(df, bs=bs, device='cpu')

def read(train, labels, valid, lm_epochs:int, steps:int) -> float:
    "Accuracy of a GRU, after `lm_epochs` of predicting words."
    with TemporaryDirectory() as folder, quiet():
        words = loaders(train, valid, TextBlock(is_lm=True), 32)
        if lm_epochs:
            lm = language_model_learner(words, path=folder)
            lm.fit_one_cycle(lm_epochs, 1e-2)
            save_encoder(lm, 'reader')
        bs = 32 if labels < 1000 else 64
        dls = loaders(train[:labels], valid, (TextBlock(vocab=words.vocab), CategoryBlock), bs,
                      get_y=ColReader('label'))
        learn = text_classifier_learner(DataLoaders(dls.train), path=folder, drop=.3)
        if lm_epochs: load_encoder(learn, 'reader')
        learn.fit_one_cycle(max(1, steps // len(dls.train)), 5e-3)
        return accuracy(*learn.get_preds(dl=dls.valid))

def build(data, how='counted', labels=0, lm_epochs=4, steps=250) -> dict:
    "Accuracy of one way."
    texts = data(labels) if labels else data()
    if how == 'counted': return dict(accuracy=counted(*texts))
    return dict(accuracy=read(*texts, lm_epochs if how == 'after a language model' else 0, steps))

def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', help='reviews of films')
    p.add_argument('--seeds', type=int, default=3)
    a = p.parse_args()
    ways = {o: dict(how=o) for o in ('read', 'after a language model')}
    if a.path:
        make = partial(build, partial(films, a.path), steps=530)   # four epochs
        print(compare(make, ways, a.seeds, file=RESULTS / 'films.jsonl', key='films 1'))
        return
    for n in 150, 300, 3000:
        make = partial(build, toys, labels=n)
        file = RESULTS / f'reviews-{n}.jsonl'
        print(compare(make, ways, a.seeds, file=file, key='reviews 1'))

if __name__ == '__main__': main()
