"""Adam, RAdam, ranger and Muon on chapter 21's network, each at the same rates and schedules.

    python benchmarks/optimizers.py

All at three seeds first. Then the best of each, and Muon for three epochs, at seven fresh ones:
what was chosen is not judged by the seeds that chose it. One line of JSON a run in
benchmarks/results/chapters/steps.jsonl; runs that are kept are not done again. Chapter 21 reads it.
"""
from statistics import fmean

from chapters import RESULTS, crops, loaders, results
from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import FlipItem
from sotavision.data.loaders import DataLoaders
from sotavision.models.xresnet import xresnet18
from sotavision.study.compare import compare
from sotavision.training import Learner
from sotavision.training.lookahead import RAdam, ranger
from sotavision.training.muon import muon
from sotavision.training.optimizers import Adam

OPTS = dict(Adam=Adam, RAdam=RAdam, ranger=ranger, Muon=muon)
RATES = 1e-3, 4e-3, 16e-3
TRIED, FRESH = range(3), range(3, 10)

def steps(opt='Adam', lr=4e-3, epochs=5, fit='fit_one_cycle'):
    "An xresnet18 of half the width, stepped by `opt`."
    dls = loaders(crops(), 50, FlipItem(), Normalize.from_stats(*imagenet_stats))
    net = xresnet18(10, stem_widths=(16, 16, 32), widths=(32, 64, 128, 256))
    learn = Learner(DataLoaders(dls.train), net, opt_func=OPTS[opt])
    getattr(learn, fit)(epochs, lr)
    return results(learn, dls.valid)

VARIANTS = {f'{o} {lr:g}': dict(opt=o, lr=lr) for o in OPTS for lr in RATES}
del VARIANTS['Adam 0.004']   # the base
VARIANTS |= {f'{o} {lr:g}, flat then cosine': dict(opt=o, lr=lr, fit='fit_flat_cos')
             for o in OPTS for lr in RATES}

def chosen(c) -> dict:
    "Of each optimizer the variant with the best mean; of Muon also three epochs alone."
    def mean(name): return fmean(c.values(name).values())
    best = {o: max((k for k in c.names if of(k) == o), key=mean) for o in OPTS}
    short = VARIANTS[best['Muon']] | dict(epochs=3)
    return {k: VARIANTS[k] for k in best.values() if k != 'base'} | {'Muon, three epochs': short}

def of(name:str) -> str: return 'Adam' if name == 'base' else name.split(' ')[0]

def main():
    file, kept = RESULTS / 'steps.jsonl', dict(key='steps 1')
    c = compare(steps, VARIANTS, TRIED, file=file, **kept)
    print(c, compare(steps, chosen(c), FRESH, file=file, **kept), sep='\n', flush=True)

if __name__ == '__main__': main()
