"""Several processes make the same folder or file: with different homes, by other names of the
place, killed half-way.

What they make is complete or absent, made once, and everybody is told the same.
"""
import hashlib
import json
import multiprocessing
import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from server import left, serve, set_home, tgz  # noqa: F401 (fixtures)
from sotavision.core.files import file_lock, whole_folder, write_whole
from sotavision.data import archives, unpack
from sotavision.data.archives import Archive, untar_data
from sotavision.exercises import progress
from sotavision.toynette import workers as studio
from sotavision.toynette.dataset import toynette

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='forks')
FORK = multiprocessing.get_context('fork') if sys.platform != 'win32' else None


def run(start, results, home, f, args):
    os.environ['SOTAVISION_HOME'] = str(home)
    start.wait()
    try: results.put(f(*args))
    except BaseException as e: results.put(e)


def together(f, calls, homes=None):
    "What `f` says in processes that start at once, each with its own home unless told."
    start, results = FORK.Event(), FORK.Queue()
    homes = homes or [f'{os.environ["SOTAVISION_HOME"]}-{k}' for k in range(len(calls))]
    ps = [
        FORK.Process(target=run, args=(start, results, h, f, args)) for h, args in zip(homes, calls)
    ]
    for p in ps: p.start()
    start.set()
    got = [results.get(timeout=60) for _ in ps]
    for p in ps: p.join(10)
    if bad := [o for o in got if isinstance(o, BaseException)]: raise bad[0]
    return got


def unpacked(archive, dest, **options):
    p = untar_data(archive, dest, **options)
    return str(Path(p).resolve()), len(list(p.rglob('*.txt')))


def members(n): return [(f'a/{i % 7}/{i}.txt', 'x') for i in range(n)]


@pytest.mark.parametrize('kind', ['.tgz', '.zip'])
def test_different_homes_one_destination(tmp_path, kind):
    archive = tgz(tmp_path/f'a{kind}', *members(600), mode='w:gz')     # told by its content
    got = together(unpacked, [(archive, tmp_path/'shared')] * 4)
    assert len(set(got)) == 1 and got[0][1] == 600 and len(left(tmp_path/'shared')) == 1


def test_one_destination_by_other_names(tmp_path):
    archive = tgz(tmp_path/'a.tgz', *members(600))
    (tmp_path/'shared').mkdir(); (tmp_path/'link').symlink_to('shared')
    (tmp_path/'copy').mkdir(); os.link(archive, tmp_path/'copy/a.tgz')
    got = together(
        unpacked,
        [
            (archive, tmp_path / 'shared'),
            (archive, tmp_path / 'link'),
            (tmp_path / 'copy/a.tgz', f'{tmp_path}/copy/../shared'),
        ],
    )
    assert len(set(got)) == 1 and got[0][1] == 600 and len(left(tmp_path/'shared')) == 1


def test_different_destinations_one_home(tmp_path, server, monkeypatch, own_home):
    "The archive is fetched once, and not over each other."
    server.content = tgz(tmp_path/'made.tgz', *members(50)).read_bytes()
    tiny = Archive('tiny', server.url, len(server.content), hashlib.md5(server.content).hexdigest())
    monkeypatch.setitem(archives.PUBLISHED, 'TINY', tiny)
    got = together(unpacked, [('tiny', tmp_path/str(k)) for k in range(3)], [own_home] * 3)
    assert [n for _, n in got] == [50] * 3 and len(set(got)) == 3
    assert left(own_home/'archives') == ['tiny.tgz']


def test_made_anew_by_several(tmp_path):
    archive = tgz(tmp_path/'a.tgz', *members(200))
    folder = untar_data(archive, tmp_path/'shared')
    (folder/'junk').touch()
    for o in together(lambda: str(untar_data(archive, tmp_path / 'shared', force=True)), [()] * 3):
        assert o == str(folder)
    assert len(list(folder.rglob('*.txt'))) == 200 and not (folder/'junk').exists()
    assert left(tmp_path/'shared') == [folder.name]


def facts(path):
    p = toynette(3, 6, 2, path=path, n_workers=1, show=False, extras=True)
    return str(p), hashlib.md5(
        b''.join(o.read_bytes() for o in sorted(p.rglob('*')) if o.is_file() and o.suffix != '.zip')
    ).hexdigest()


def test_toynette_for_different_homes(tmp_path):
    got = together(facts, [(tmp_path/'toys',)] * 3)
    assert len(set(got)) == 1 and left(tmp_path)[-2:] == ['toys', 'toys-extras']
    assert facts(tmp_path/'alone')[1] == got[0][1]


@pytest.mark.parametrize('empty', [False, True])
def test_toynette_into_an_empty_folder_or_none(tmp_path, empty):
    if empty: (tmp_path/'toys').mkdir()
    assert (
        len(list(toynette(1, 2, 1, path=tmp_path / 'toys', n_workers=1, show=False).rglob('*.jpg')))
        == 3
    )
    (tmp_path/'mine').mkdir(); (tmp_path/'mine/notes').touch()
    with pytest.raises(FileExistsError, match='holds something else'):
        toynette(1, 2, 1, path=tmp_path / 'mine', n_workers=1)
    assert os.listdir(tmp_path/'mine') == ['notes']

# --- killed half-way

def killed(f, *args):
    "A child that is killed as soon as it touches `half`."
    p = FORK.Process(target=f, args=args); p.start(); p.join(30)
    assert p.exitcode == -signal.SIGKILL


def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)


def half_unpacked(archive, dest):
    unpack.check_links = die
    untar_data(archive, dest)


def half_rendered(path):
    studio.write_truth = die
    from sotavision.toynette import dataset as module
    module.write_truth = die
    toynette(1, 2, 1, path=path, n_workers=1, show=False)


def test_a_kill_leaves_nothing_that_counts(tmp_path):
    archive = tgz(tmp_path/'a.tgz', *members(20))
    killed(half_unpacked, archive, tmp_path/'data')
    assert all(o.startswith('.') for o in os.listdir(tmp_path/'data'))
    assert len(left(tmp_path/'data')) == 1
    p = untar_data(archive, tmp_path/'data')
    assert len(list(p.rglob('*.txt'))) == 20 and left(tmp_path/'data') == [p.name]
    killed(half_rendered, tmp_path/'toys')
    assert not (tmp_path/'toys').exists()
    assert (
        len(list(toynette(1, 2, 1, path=tmp_path / 'toys', n_workers=1, show=False).rglob('*.jpg')))
        == 3
    )
    assert left(tmp_path) == ['a.tgz', 'data', 'toys']


def half_written(path):
    os.replace = die
    write_whole(path, 'new')


def test_a_kill_in_the_midst_of_a_file(tmp_path):
    write_whole(tmp_path/'a', 'old')
    killed(half_written, tmp_path/'a')
    assert (tmp_path/'a').read_text() == 'old' and len(left(tmp_path)) == 2
    # somebody else's rest stays
    write_whole(tmp_path/'b', 'other'); assert len(left(tmp_path)) == 3
    write_whole(tmp_path / 'a', 'new')
    assert left(tmp_path) == ['a', 'b'] and (tmp_path / 'a').read_text() == 'new'

# --- files

def many_writes(path, k):
    for _ in range(40): write_whole(path, json.dumps([k] * 2000))
    return k


def test_a_file_is_always_one_writers(tmp_path):
    write_whole(tmp_path/'a', json.dumps([0] * 2000))
    start = time.time()
    def read():
        while time.time() - start < .6: assert len(set(json.loads((tmp_path/'a').read_text()))) == 1
    together(
        lambda f, *args: f(*args),
        [(many_writes, tmp_path / 'a', 1), (many_writes, tmp_path / 'a', 2), (read,)],
    )
    assert left(tmp_path) == ['a']


def test_what_a_file_keeps(tmp_path):
    real, link = tmp_path/'real', tmp_path/'link'
    write_whole(real, 'one'); real.chmod(0o640); link.symlink_to('real')
    write_whole(link, 'two')
    assert link.is_symlink() and real.read_text() == 'two' and real.stat().st_mode & 0o777 == 0o640
    long = tmp_path/('n' * 255)
    assert write_whole(long, 'x').read_text() == 'x'
    before = os.umask(0o027)
    try: assert write_whole(tmp_path/'new', '').stat().st_mode & 0o777 == 0o640
    finally: os.umask(before)
    os.mkfifo(tmp_path/'pipe')   # and no device: where this fails, root would have lost it
    with pytest.raises(OSError, match='pipe could not be written: it is no ordinary file'):
        write_whole(tmp_path/'pipe', 'x')
    assert stat.S_ISFIFO((tmp_path/'pipe').stat().st_mode)
    with pytest.raises(OSError, match='no/such'): write_whole(tmp_path/'no/such', 'x')


def note(k, n):
    for i in range(n):
        if told := progress.update(f'e{k}{i:02}', dict(solved=True)): return told
        if told := progress.update('shared', lambda old: dict(tries=old.tries + 1)): return told


def test_progress_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_EXERCISES', str(tmp_path/'.exercises.json'))
    assert together(note, [(k, 15) for k in range(4)]) == [None] * 4
    kept, whole = progress.load()
    assert whole and len(kept) == 61 and progress.entry(kept, 'shared').tries == 60
    assert left(tmp_path) == ['.exercises.json']


@pytest.mark.parametrize(
    'damage',
    [b'', b'{', b'null', b'[1]', b'\xff\xfe\x00', b'{"a": 3}', b'{"a": ' * 3000,
     b'{\n"q1": {"solved": true},\n"q2": {"sol'], ids=range(8))
def test_damaged_progress_is_said_kept_and_goes_on(tmp_path, monkeypatch, damage):
    file = tmp_path/'.exercises.json'
    monkeypatch.setenv('SOTAVISION_EXERCISES', str(file))
    for n, end in enumerate(('.broken', '.broken1')):
        file.write_bytes(damage + b' ' * n)
        told = progress.update('e01', dict(solved=True))
        assert 'was damaged' in told and f'.exercises.json{end}' in told
        assert Path(f'{file}{end}').read_bytes() == damage + b' ' * n
        kept, whole = progress.load()
        assert whole and kept['e01']['solved'] and (b'q1' not in damage or kept['q1']['solved'])
        assert progress.update('e02', dict(solved=True)) == ''


@pytest.mark.parametrize('odd', ['folder', 'unreadable'])
def test_progress_that_cannot_be_read(tmp_path, monkeypatch, odd):
    file = tmp_path/'.exercises.json'
    monkeypatch.setenv('SOTAVISION_EXERCISES', str(file))
    if odd == 'folder': file.mkdir()
    else:
        file.write_text('{}')
        def refuse(self): raise PermissionError(13, 'Permission denied')
        monkeypatch.setattr(Path, 'read_bytes', refuse)
    assert progress.load() == ({}, False)
    assert isinstance(progress.update('e01', dict(solved=True)), str)


def test_the_waiting_are_told_for_whom(tmp_path, capfd):
    held, done = FORK.Event(), FORK.Event()
    def hold():
        with file_lock(tmp_path/'set'): held.set(); done.wait(20)
    p = FORK.Process(target=hold); p.start(); held.wait(20)
    with (
        pytest.raises(TimeoutError, match='another process unpacks .*set'),
        file_lock(tmp_path / 'set', 'unpacks', longest=.1),
    ):
        pass
    done_soon = FORK.Process(target=lambda: (time.sleep(.4), done.set())); done_soon.start()
    with file_lock(tmp_path/'set', 'unpacks', patience=.1), whole_folder(tmp_path/'set'): pass
    assert 'Waiting: another process unpacks' in capfd.readouterr().err
    for o in (p, done_soon): o.join(10)


def test_a_disk_without_locks_lets_everybody_in(tmp_path, monkeypatch):
    def refuse(self, **kwargs): raise NotImplementedError('no flock here')
    monkeypatch.setattr(FileLock, 'acquire', refuse)
    with file_lock(tmp_path/'set'), file_lock(tmp_path/'set', longest=0): (tmp_path/'set').touch()
    with pytest.raises(KeyError), file_lock(tmp_path/'set'): raise KeyError
