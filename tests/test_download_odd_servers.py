"Servers with wrong lengths, without an end, with odd redirects, or with answers that are none."
import socket
import threading
import urllib.request

import pytest

from server import left, serve, set_home  # noqa: F401 (fixtures)
from sotavision.data.download import DownloadError, SafeRedirect, download_url

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
