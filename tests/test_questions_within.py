"Questions from within a training, and from several threads at once."
import random
import threading

import pytest
import torch
from torch import nn

from learners import learner, one_thread, same, weights  # noqa: F401 (a fixture)
from questions import ASK, Counts, Inputs, Pred, augmented, snapshot, unchanged
from sotavision.callbacks.ema import EMA
from sotavision.core.rng import set_seed
from sotavision.objectives.metrics import accuracy
from sotavision.study.gradcam import grad_cam
from sotavision.training.callback import Callback
from sotavision.training.recorder import Recorder

@pytest.mark.parametrize(
    'event',
    ['after_epoch', 'after_batch', 'before_batch', 'after_backward', 'before_validate',
     'after_pred'])
def test_questions_from_a_training(event):
    def ask(self):
        for f in ASK.values(): f(self.learn)
    Asks = type('Asks', (Callback,), {event: ask})
    def run(cbs):
        learn = augmented()
        learn.fit_one_cycle(1, 1e-2, cbs=cbs)
        return learn
    quiet, asked = run([Counts()]), run([Asks(), Counts()])
    assert same(weights(quiet), weights(asked)) and quiet.recorder.values == asked.recorder.values
    assert torch.stack(quiet.recorder.losses).equal(torch.stack(asked.recorder.losses))
    assert quiet.recorder.lrs == asked.recorder.lrs

def test_a_callback_that_asks_the_learner_of_the_notebook_is_no_endless_loop():
    seen = []
    class Asks(Callback):
        def after_batch(self): seen.append(learn.validate())
    class AsksToo(Asks): pass
    learn = learner(metrics=accuracy, cbs=[Recorder(), Asks(), AsksToo()])
    learn.validate()
    assert 0 < len(seen) <= 4 * len(learn.dls.valid) and all(o == seen[0] for o in seen)

def test_a_question_within_a_look_is_about_the_plain_picture():
    seen = []
    class Asks(Callback):
        def after_batch(self): seen.append(self.learn.get_preds()[0])
    learn = learner(cbs=[Recorder(), Asks()])
    # knows left from right
    with torch.no_grad(): learn.model[1].weight[0, ::2] += 3
    plain = learner(); plain.model = learn.model
    want = plain.get_preds()[0]
    learn.tta(views='flip')
    assert len(seen) == 2 and all(o.equal(want) for o in seen)
    assert not plain.tta(views='flip')[0].equal(want)

# Eight threads

def in_threads(jobs):
    "Run the jobs at once, and return what each gave."
    found, start = [None] * len(jobs), threading.Barrier(len(jobs))
    def work(i):
        start.wait()
        try: found[i] = jobs[i]()
        except Exception as e: found[i] = e
    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for t in threads: t.start()
    for t in threads: t.join(60)
    return found

@pytest.mark.parametrize('cbs', [(), (Inputs,), (Counts, Pred)])
def test_eight_threads_get_the_answers_of_one(cbs, often):
    learn = augmented(cbs=[Recorder(), *(o() for o in cbs)])
    learn.fit(1)
    alone = {k: f(learn) for k, f in ASK.items()}
    before, chance = snapshot(learn), random.Random(len(cbs))
    for _ in range(often(2)):
        asks = [[chance.choice(list(ASK)) for _ in range(3)] for _ in range(8)]
        answers = in_threads([lambda names=names: [ASK[k](learn) for k in names] for names in asks])
        for names, got in zip(asks, answers):
            assert not isinstance(got, Exception), got
            for name, answer in zip(names, got): assert answer.equal(alone[name]), name
    unchanged(before, learn)

def test_eight_learners_in_eight_threads():
    "One model's looks draw from the generator of the process; another's must not notice."
    learners = [augmented(seed=i) for i in range(8)]
    alone = [l.tta(n=2)[0] for l in learners]
    for got, want in zip(in_threads([lambda l=l: l.tta(n=2)[0] for l in learners]), alone):
        assert got.equal(want)

def test_a_question_that_fails_in_one_thread_does_not_hurt_the_others():
    learn = augmented()
    want = learn.get_preds()[0]
    def good(): return [learn.get_preds()[0] for _ in range(3)]
    def bad():
        for _ in range(3):
            with pytest.raises(RuntimeError):
                learn.get_preds(dl=[(torch.zeros(2, 7), torch.zeros(2).long())])
    answers = in_threads([good, bad] * 4)
    assert not any(isinstance(o, Exception) for o in answers)
    assert all(o.equal(want) for got in answers[::2] for o in got)
    assert all(m.training for m in learn.model.modules())

def test_heat_maps_and_predictions_at_once():
    set_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(.5),
        nn.Linear(4, 3),
    )
    learn = learner(lambda: net)
    x = learn.dls.valid.one_batch()[0]
    want = learn.get_preds()[0], grad_cam(learn, x)
    for a, b in in_threads([lambda: (learn.get_preds()[0], grad_cam(learn, x))] * 8):
        assert a.equal(want[0]) and b.equal(want[1])
    assert all(m.training for m in net.modules())

def test_a_learner_that_another_thread_trains_is_not_asked():
    got, plain = [], augmented().fit(2)
    def ask(f):
        try: f(learn)
        except RuntimeError as e: got.append(str(e))
    class Elsewhere(Callback):
        def after_backward(self):
            for t in [threading.Thread(target=ask, args=(f,)) for f in ASK.values()]:
                t.start()
                t.join()
    learn = augmented()
    learn.fit(2, cbs=Elsewhere())
    assert len(got) == 2 * len(learn.dls.train) * len(ASK)
    assert all('Another thread trains' in o for o in got)
    assert same(weights(learn), weights(plain)) and learn.recorder.values == plain.recorder.values
    # afterwards it is free again
    assert not in_threads([learn.validate])[0] is None and learn.thread is None

def test_a_learner_that_another_thread_trains_is_not_trained():
    got, plain = [], augmented().fit(2)
    class Elsewhere(Callback):
        def after_backward(self):
            if threading.current_thread() is not threading.main_thread(): return
            t = threading.Thread(target=again); t.start(); t.join()
    def again():
        try: learn.fit(3, cbs=[])
        except RuntimeError as e: got.append(str(e))
    learn = augmented()
    learn.fit(2, cbs=Elsewhere())
    assert len(got) == 2 * len(learn.dls.train)
    assert all('trains this learner already' in o for o in got)
    assert same(weights(learn), weights(plain)) and learn.recorder.values == plain.recorder.values
    assert learn.fit(1)                                               # afterwards it is free again

def test_a_training_waits_for_questions_that_are_on_their_way():
    learn, plain, inside, go = augmented(), augmented(), threading.Event(), threading.Event()
    def act(o): inside.set(); go.wait(20); return o
    want = plain.get_preds(act=lambda o: o)[0]
    found = []
    set_seed(5)
    asker = threading.Thread(target=lambda: found.append(learn.get_preds(act=act)[0]))
    trainer = threading.Thread(target=lambda: learn.fit(1))
    asker.start(); inside.wait(20); trainer.start(); trainer.join(.3)
    assert trainer.is_alive() and not learn.recorder.losses                        # not one step
    go.set(); asker.join(20); trainer.join(20)
    set_seed(5)
    assert found[0].equal(want) and same(weights(learn), weights(plain.fit(1)))

def test_nobody_meets_averaged_weights_by_chance():
    learn = augmented(cbs=[Recorder(), EMA(.5)])
    learn.fit(2)
    want, said = learn.get_preds()[0], []
    with learn.cbs[-1].averaged():
        t = threading.Thread(target=lambda: said.append(learn.get_preds()[0]))
        t.start()
        t.join(.2)
        assert not said and not learn.get_preds()[0].equal(want)
    t.join(20)
    assert said[0].equal(want)

def test_a_question_within_the_range_test():
    class Rates(Callback):
        def after_batch(self):
            if self.training: seen.append((self.opt.param_groups[0]['lr'], float(self.loss)))
    class Asks(Callback):
        order = -1
        def after_batch(self):
            if self.training: self.learn.validate(); self.learn.tta(n=1)
    runs = []
    for cbs in ([], [Asks()]):
        seen = []
        augmented(cbs=[Recorder(), Rates(), *cbs]).lr_find(
            num_it=12, show_plot=False, suggest_funcs=None
        )
        runs.append(seen)
    assert runs[0] == runs[1] and len(seen) == 12
