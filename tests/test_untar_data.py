"Data sets by name: fetched once, found in place, without a network, by several processes."
import hashlib
import multiprocessing
import os
import socket
from pathlib import Path

import pytest

from server import left, serve, set_home, tgz  # noqa: F401 (fixtures)
from sotavision.data import archives
from sotavision.data.archives import DATASETS, Archive, URLs, dataset_path, untar_data
from sotavision.data.download import DownloadError

@pytest.fixture
def tiny(monkeypatch, tmp_path, server):
    "A published data set that our own server has."
    server.content = tgz(tmp_path/'made.tgz', ('tiny/train/x.txt', 'x')).read_bytes()
    a = Archive('tiny', server.url, len(server.content), hashlib.md5(server.content).hexdigest())
    monkeypatch.setitem(archives.PUBLISHED, 'TINY', a)
    return a


def test_fetched_once(tiny, server, own_home):
    p = untar_data('tiny')
    assert p == own_home/'data/tiny' and (p/'train/x.txt').read_text() == 'x'
    assert (own_home/'archives/tiny.tgz').exists()
    assert untar_data('TINY') == untar_data(server.url) == dataset_path('tiny') == p
    assert len(server.asked) == 1
    untar_data('tiny', force=True); assert len(server.asked) == 2


def no_network(*args, **kwargs): raise AssertionError('asked the network')


def test_archive_in_place_needs_no_network(tiny, own_home, tmp_path, monkeypatch):
    (own_home / 'archives').mkdir(parents=True)
    (tmp_path / 'made.tgz').rename(own_home / 'archives/tiny.tgz')
    monkeypatch.setattr(socket, 'create_connection', no_network)
    assert (untar_data('tiny')/'train/x.txt').read_text() == 'x'
    (own_home/'archives/tiny.tgz').unlink()
    assert (untar_data('tiny')/'train/x.txt').exists()


def test_offline_says_which_file_goes_where(own_home, monkeypatch):
    def unknown(*args, **kwargs): raise socket.gaierror(-2, 'Name or service not known')
    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(DownloadError) as e: untar_data(URLs.IMAGENETTE_160)
    for part in (
        URLs.IMAGENETTE_160,
        'Name or service not known',
        str(own_home / 'archives/imagenette2-160.tgz'),
        '99,003,388 bytes',
        'toynette()',
    ):
        assert part in str(e.value)
    (own_home/'archives/imagenette2-160.tgz').write_bytes(b'half of it')
    with pytest.raises(
        DownloadError, match='imagenette2-160.tgz has 10 bytes where 99,003,388 were published'
    ):
        untar_data('imagenette2-160')


def test_wrong_archive_in_place_is_fetched_again(tiny, own_home, server):
    (own_home / 'archives').mkdir(parents=True)
    (own_home / 'archives/tiny.tgz').write_bytes(b'x' * tiny.size)
    assert (untar_data('tiny')/'train/x.txt').exists() and len(server.asked) == 1


def test_unknown_addresses_do_not_share_a_folder(server, tmp_path):
    server.content = tgz(tmp_path/'one.tgz', ('a/x', '1')).read_bytes()
    one = untar_data(server.url)
    server.content = tgz(tmp_path/'two.tgz', ('a/x', '2')).read_bytes()
    two = untar_data(server.url.replace('/data', '/other/data'))
    assert one != two and [(p/'x').read_text() for p in (one, two)] == ['1', '2']


def test_failed_force_keeps_what_was_there(tiny, server):
    p = untar_data('tiny')
    server.replies = [404]
    with pytest.raises(DownloadError, match='force=True'): untar_data('tiny', force=True)
    assert (p/'train/x.txt').exists() and untar_data('tiny') == p


def test_plain_http_and_other_schemes_are_refused():
    for url in ('http://example.org/a.tgz', 'ftp://example.org/a.tgz', 'file:///tmp/a.tgz'):
        with pytest.raises(ValueError, match='https'): untar_data(url)


def unpack_at_once(home, archive, start, results):
    os.environ['SOTAVISION_HOME'] = home
    start.wait()
    p = untar_data(archive)
    results.put((str(p), len(list(p.rglob('*.txt')))))


def test_two_processes_at_once(tmp_path, own_home):
    archive = tgz(tmp_path/'a.tgz', *[(f'a/{i}.txt', 'x') for i in range(500)])
    ctx = multiprocessing.get_context('fork')
    start, results = ctx.Event(), ctx.Queue()
    ps = [
        ctx.Process(target=unpack_at_once, args=(str(own_home), archive, start, results))
        for _ in range(3)
    ]
    for p in ps: p.start()
    start.set()
    got = [results.get(timeout=30) for _ in ps]
    for p in ps: p.join(10)
    assert len(set(got)) == 1 and got[0][1] == 500 and [p.exitcode for p in ps] == [0] * 3
    assert len(left(own_home/'data')) == 1


def test_dataset_path(tmp_path, monkeypatch):
    (tmp_path/'pets').mkdir(); monkeypatch.chdir(tmp_path)
    assert dataset_path('pets') == Path('pets') and dataset_path(tmp_path) == tmp_path
    for wrong, right in [
        ('toynete', 'toynette'),
        ('imagenete2-160', 'imagenette2-160'),
        ('petz', 'pets'),
    ]:
        with pytest.raises(FileNotFoundError, match=f"Did you mean .*'{right}'"):
            dataset_path(wrong)


def test_published_table():
    for const in (
        'IMAGENETTE IMAGENETTE_320 IMAGENETTE_160 IMAGEWOOF IMAGEWOOF_320 IMAGEWOOF_160 PETS '
        'CAMVID CAMVID_TINY BIWI_SAMPLE PLANET_SAMPLE IMDB_SAMPLE MNIST_SAMPLE'
    ).split():
        assert getattr(URLs, const).startswith('https://')
    assert (
        len({a.md5 for a in DATASETS.values()})
        == len({a.url for a in DATASETS.values()})
        == len(DATASETS)
    )
