"""Downloads over bad lines, names of data sets, and work without a network. Every server here is on
this machine."""
import hashlib
import multiprocessing
import os
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from server import CONTENT, MD5, get, left, serve, set_home, tgz  # noqa: F401 (fixtures)
from sotavision.data import archives, download
from sotavision.data.archives import DATASETS, Archive, URLs, dataset_path, untar_data
from sotavision.data.download import DownloadError, SafeRedirect, download_url

def test_plain_download(server, tmp_path):
    assert get(server, tmp_path/'deep/down/a', size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
    assert left(tmp_path/'deep/down') == ['a'] and server.asked == [None]


def test_dropped_connection_is_resumed(server, tmp_path):
    server.drops = [1_500_000, 500_000]
    assert get(server, tmp_path/'a', md5=MD5).read_bytes() == CONTENT
    assert server.asked == [None, 'bytes=1500000-', 'bytes=2000000-']


def test_more_drops_than_retries_arrive_while_bytes_do(server, tmp_path):
    server.drops = [200_000] * 14
    assert get(server, tmp_path/'a', retries=2).read_bytes() == CONTENT and len(server.asked) == 15


def test_server_that_ignores_range(server, tmp_path):
    server.drops, server.mood = [1_500_000], 'ignores Range'
    assert get(server, tmp_path/'a', md5=MD5).read_bytes() == CONTENT


def test_server_that_sends_another_part(server, tmp_path):
    server.drops, server.mood = [1_500_000], 'sends another part'
    assert get(server, tmp_path/'a').read_bytes() == CONTENT and server.asked[-1] is None


def test_server_that_tells_no_length(server, tmp_path):
    server.mood = 'tells no length'
    assert get(server, tmp_path/'a', size=len(CONTENT)).read_bytes() == CONTENT


def test_file_that_changes_during_the_download(server, tmp_path):
    server.drops, server.etag = [1_500_000], '"one"'
    def change(): server.content, server.etag, server.after = CONTENT[::-1], '"two"', lambda: None
    server.after = change
    assert get(server, tmp_path/'a').read_bytes() == CONTENT[::-1]


def test_next_run_continues_where_the_last_stopped(server, tmp_path):
    (tmp_path/'a.part').write_bytes(CONTENT[:2_900_000])
    assert get(server, tmp_path/'a', md5=MD5).read_bytes() == CONTENT
    assert server.asked == ['bytes=2900000-']


def test_whole_part_needs_no_request(server, tmp_path):
    (tmp_path/'a.part').write_bytes(CONTENT)
    assert get(server, tmp_path/'a', size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize('old', [b'junk' * 1000, b'x' * len(CONTENT), CONTENT + b'more'])
@pytest.mark.parametrize('size', [None, len(CONTENT)])
def test_wrong_beginning_is_thrown_away(server, tmp_path, old, size):
    (tmp_path/'a.part').write_bytes(old)
    assert get(server, tmp_path/'a', md5=MD5, size=size).read_bytes() == CONTENT


def test_without_a_checksum_nothing_old_is_continued(server, tmp_path):
    (tmp_path/'a.part').write_bytes(b'junk')
    assert get(server, tmp_path/'a').read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    with pytest.raises(DownloadError, match=f'{MD5} where {"0" * 32} was published'):
        get(server, tmp_path / 'a', md5='0' * 32)
    assert left(tmp_path) == [] and len(server.asked) == 1


def test_wrong_size_is_noticed_before_the_content(server, tmp_path):
    with pytest.raises(DownloadError, match='offers 3,000,000 bytes where 5 were published'):
        get(server, tmp_path / 'a', size=5)
    server.mood = 'tells no length'
    with pytest.raises(DownloadError, match='sends more than the 5 bytes that were published'):
        get(server, tmp_path / 'a', size=5)
    assert not (tmp_path/'a').exists()


def test_busy_server_is_asked_again(server, tmp_path):
    server.replies = [503, 429, 500]
    assert get(server, tmp_path/'a').read_bytes() == CONTENT


def test_it_gives_up(server, tmp_path):
    server.replies = [503] * 9
    with pytest.raises(DownloadError, match='503'): get(server, tmp_path/'a', retries=3)
    assert len(server.asked) == 3


@pytest.mark.parametrize('code', [401, 403, 404, 410])
def test_what_is_not_there_is_asked_for_once(server, tmp_path, code):
    server.replies = [code] * 2
    with pytest.raises(DownloadError, match=f'cannot be fetched.*{code}'): get(server, tmp_path/'a')
    assert len(server.asked) == 1


def test_silent_server(server, tmp_path):
    server.after = lambda: time.sleep(1)
    server.drops = [10, 10, 10]
    with pytest.raises(DownloadError, match='timed out|ended after'):
        get(server, tmp_path / 'a', timeout=.1, retries=1)


def test_redirects_only_to_where_we_would_go(server, tmp_path):
    moved = server.url.replace('/data', '/moved')
    server.location = server.url
    assert download_url(moved, tmp_path/'a', wait=.01).read_bytes() == CONTENT
    for server.location in (
        'http://example.org/data.tgz',
        'ftp://127.0.0.1/a.tgz',
        'file:///etc/passwd',
    ):
        with pytest.raises((ValueError, DownloadError)):
            download_url(moved, tmp_path / 'b', wait=.01, retries=1)
    assert not (tmp_path/'b').exists()


# Servers that speak oddly

@pytest.fixture
def says():
    """A server that answers every request with the bytes given, and goes on with those of `more`,
    if any, until nobody listens."""
    s, stop = socket.create_server(('127.0.0.1', 0)), threading.Event()
    s.settimeout(.05)
    def answer_all(answer, more):
        while not stop.is_set():
            try: c, _ = s.accept()
            except OSError: continue
            with c:
                try:
                    c.recv(2**16); c.sendall(answer)
                    while more and not stop.is_set(): c.sendall(more)
                except OSError: pass
    threads = []
    def start(answer, more=b''):
        threads.append(threading.Thread(target=answer_all, args=(answer, more), daemon=True))
        threads[0].start()
        return f'http://127.0.0.1:{s.getsockname()[1]}/a.tgz'
    yield start
    stop.set()
    for t in threads: t.join(5)
    s.close()


def answer(*headers, status='200 OK', body=b'hello'):
    return '\r\n'.join([f'HTTP/1.1 {status}', *headers, '', '']).encode('latin1') + body


def fetch(url, dest, **options):
    return download_url(url, dest, **{'wait': .01, 'timeout': 2, 'retries': 2, **options})


LENGTHS = ['-5', '-1', 'many', '', '5.0', '1e3', '0x5', '+5', '5_0', '5, 6', '²', '9' * 5000, 'nan']

@pytest.mark.parametrize('told', LENGTHS, ids=lambda o: o[:9])
@pytest.mark.parametrize('size', [None, 5])
def test_a_length_that_is_none(says, tmp_path, told, size):
    with pytest.raises(DownloadError, match='tells a length that is none'):
        fetch(says(answer(f'Content-Length: {told}')), tmp_path / 'a', size=size)
    assert not (tmp_path/'a').exists()


@pytest.mark.parametrize(
    'headers, size, told',
    [(['Content-Length: 3'], 5, 'offers 3 bytes where 5'),
     (['Content-Length: 9'], None, 'ended after 5 of 9'),
     (['Content-Length: 9'], 9, 'ended after 5 of 9'),
     (['Content-Length: 999999999999999999'], None, 'ended after 5'),
     (['Content-Length: 5', 'Content-Length: 6'], None, 'length that is none'),
     ([], 3, 'more than the 3 bytes'), ([], 0, 'more than the 0 bytes'),
     ([], 9, 'has 5 bytes where 9')])
def test_a_length_that_is_wrong(says, tmp_path, headers, size, told):
    with pytest.raises(DownloadError, match=told):
        fetch(says(answer(*headers)), tmp_path / 'a', size=size)
    assert not (tmp_path/'a').exists()


@pytest.mark.parametrize(
    'headers',
    [[], ['Content-Length: 5'], ['Content-Length: 5', 'Content-Length: 5'],
     ['Transfer-Encoding: chunked']])
def test_lengths_that_are_right(says, tmp_path, headers):
    body = b'5\r\nhello\r\n0\r\n\r\n' if 'Transfer-Encoding: chunked' in headers else b'hello'
    assert fetch(says(answer(*headers, body=body)), tmp_path/'a', size=5).read_bytes() == b'hello'


@pytest.mark.parametrize(
    'headers, more', [([], b'x' * 65536), (['Transfer-Encoding: chunked'], b'5\r\nhello\r\n')])
def test_a_flood_ends_at_the_published_size(says, tmp_path, headers, more):
    with pytest.raises(DownloadError, match='more than the 200,000 bytes that were published'):
        fetch(says(answer(*headers, body=b''), more), tmp_path / 'a', size=200_000)
    assert left(tmp_path) == []


@pytest.mark.parametrize('status', ['100 Continue', '102 Processing', '103 Early Hints', '199 Odd'])
def test_interim_answers_without_end(says, tmp_path, status):
    interim = answer('Link: </x>', status=status, body=b'')
    with pytest.raises(DownloadError, match='cannot be fetched: .*interim answers without end'):
        fetch(says(interim, interim), tmp_path / 'a')


def test_a_few_interim_answers_are_fine(says, tmp_path):
    interim = b''.join(
        answer(status=o, body=b'')
        for o in ('100 Continue', '103 Early Hints', '103 Early Hints', '102 Processing')
    )
    assert fetch(says(interim + answer('Content-Length: 5')), tmp_path/'a').read_bytes() == b'hello'


PLACES = [
    'http://example.org/a',
    'ftp://127.0.0.1/a',
    'file:///etc/passwd',
    'https://[bad/a',
    '//example.org/a',
    'data:,hello',
    'http://[::1',
    'javascript:x',
    'http://user@:x/',
]

@pytest.mark.parametrize('place', PLACES)
@pytest.mark.parametrize('status', ['301 Moved', '302 Found', '307 Temporary', '308 Permanent'])
def test_a_refused_redirect(says, tmp_path, place, status):
    with pytest.raises(DownloadError) as e:
        fetch(
            says(answer(f'Location: {place}', 'Content-Length: 5', status=status)), tmp_path / 'a'
        )
    assert '127.0.0.1' in str(e.value) and left(tmp_path) == []


@pytest.mark.parametrize('headers', [[], ['Location: /a.tgz'], ['Location: /b', 'Location: /c']])
def test_redirects_that_lead_nowhere(says, tmp_path, headers):
    with pytest.raises(DownloadError, match='cannot be fetched'):
        fetch(
            says(answer(*headers, 'Content-Length: 0', status='302 Found', body=b'')),
            tmp_path / 'a',
        )


def test_from_outside_no_redirect_leads_to_this_machine():
    req = urllib.request.Request('https://example.org/a')
    with pytest.raises(DownloadError, match='leads to http://127.0.0.1'):
        SafeRedirect().redirect_request(req, None, 302, 'Found', {}, 'http://127.0.0.1:80/x')
    assert (
        SafeRedirect()
        .redirect_request(req, None, 302, 'Found', {}, 'https://cdn.example.org/x')
        .full_url
        == 'https://cdn.example.org/x'
    )


@pytest.mark.parametrize(
    'said',
    [b'', b'nonsense\r\n\r\n', b'HTTP/1.1 abc\r\n\r\n',
     b'HTTP/1.1 200 OK\r\n' + b'a: b\r\n' * 200 + b'\r\n', b'x' * 70000,
     answer('Transfer-Encoding: chunked', body=b'zz\r\nhello'),
     answer('Content-Range: bytes 0-²/²', status='206 Partial'), answer(status='999 Odd'),
     answer(status='101 Switching')])
def test_answers_that_are_none(says, tmp_path, said):
    with pytest.raises(DownloadError): fetch(says(said), tmp_path/'a', size=5, timeout=.3)
    assert not (tmp_path/'a').exists()


def test_a_full_disk_is_not_asked_again(server, tmp_path, monkeypatch):
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    Keep = download.Attempt.keep
    monkeypatch.setattr(
        download.Attempt,
        'keep',
        lambda self, f, block: Keep(self, type('F', (), dict(write=full))(), block),
    )
    with pytest.raises(DownloadError, match='a.part could not be written: No space left'):
        get(server, tmp_path / 'a')
    assert len(server.asked) == 1


# Names, and working without a network

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
