"Downloads from a server of our own: dropped, continued, checked and given up."
import time

import pytest

from server import CONTENT, MD5, get, left, serve, set_home  # noqa: F401 (fixtures)
from sotavision.data import download
from sotavision.data.download import DownloadError, download_url

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
    for location in (
        'http://example.org/data.tgz',
        'ftp://127.0.0.1/a.tgz',
        'file:///etc/passwd',
    ):
        server.location = location
        with pytest.raises((ValueError, DownloadError)):
            download_url(moved, tmp_path / 'b', wait=.01, retries=1)
    assert not (tmp_path/'b').exists()


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
