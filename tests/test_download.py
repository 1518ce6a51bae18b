"Downloads over bad lines, names of data sets, and work without a network. Every server here is on this machine."
import hashlib, multiprocessing, os, socket, time
from pathlib import Path

import pytest
from server import CONTENT, MD5, get, tgz
from server import serve, set_home  # noqa: F401 (fixtures)

from sotavision.data import archives
from sotavision.data.archives import DATASETS, Archive, URLs, dataset_path, untar_data
from sotavision.data.download import DownloadError, download_url


def test_plain_download(server, tmp_path):
    assert get(server, tmp_path/'deep/down/a', size=len(CONTENT), md5=MD5).read_bytes() == CONTENT
    assert os.listdir(tmp_path/'deep/down') == ['a'] and server.asked == [None]


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
    assert get(server, tmp_path/'a', md5=MD5).read_bytes() == CONTENT and server.asked == ['bytes=2900000-']


def test_whole_part_needs_no_request(server, tmp_path):
    (tmp_path/'a.part').write_bytes(CONTENT)
    assert get(server, tmp_path/'a', size=len(CONTENT), md5=MD5).read_bytes() == CONTENT and server.asked == []


@pytest.mark.parametrize('old', [b'junk' * 1000, b'x' * len(CONTENT), CONTENT + b'more'])
@pytest.mark.parametrize('size', [None, len(CONTENT)])
def test_wrong_beginning_is_thrown_away(server, tmp_path, old, size):
    (tmp_path/'a.part').write_bytes(old)
    assert get(server, tmp_path/'a', md5=MD5, size=size).read_bytes() == CONTENT


def test_without_a_checksum_nothing_old_is_continued(server, tmp_path):
    (tmp_path/'a.part').write_bytes(b'junk')
    assert get(server, tmp_path/'a').read_bytes() == CONTENT


def test_wrong_checksum(server, tmp_path):
    with pytest.raises(DownloadError, match=f'{MD5} where {"0" * 32} was published'): get(server, tmp_path/'a', md5='0' * 32)
    assert os.listdir(tmp_path) == [] and len(server.asked) == 1


def test_wrong_size_is_noticed_before_the_content(server, tmp_path):
    with pytest.raises(DownloadError, match='offers 3,000,000 bytes where 5 were published'): get(server, tmp_path/'a', size=5)
    server.mood = 'tells no length'
    with pytest.raises(DownloadError, match='has 3,000,000 bytes where 5 were published'): get(server, tmp_path/'a', size=5)
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
    with pytest.raises(DownloadError, match='timed out|ended after'): get(server, tmp_path/'a', timeout=.1, retries=1)


def test_redirects_only_to_where_we_would_go(server, tmp_path):
    moved = server.url.replace('/data', '/moved')
    server.location = server.url
    assert download_url(moved, tmp_path/'a', wait=.01).read_bytes() == CONTENT
    for server.location in ('http://example.org/data.tgz', 'ftp://127.0.0.1/a.tgz', 'file:///etc/passwd'):
        with pytest.raises((ValueError, DownloadError)): download_url(moved, tmp_path/'b', wait=.01, retries=1)
    assert not (tmp_path/'b').exists()


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
    assert p == own_home/'data/tiny' and (p/'train/x.txt').read_text() == 'x' and (own_home/'archives/tiny.tgz').exists()
    assert untar_data('TINY') == untar_data(server.url) == dataset_path('tiny') == p and len(server.asked) == 1
    untar_data('tiny', force=True); assert len(server.asked) == 2


def no_network(*args, **kwargs): raise AssertionError('asked the network')


def test_archive_in_place_needs_no_network(tiny, own_home, tmp_path, monkeypatch):
    (own_home/'archives').mkdir(parents=True); (tmp_path/'made.tgz').rename(own_home/'archives/tiny.tgz')
    monkeypatch.setattr(socket, 'create_connection', no_network)
    assert (untar_data('tiny')/'train/x.txt').read_text() == 'x'
    (own_home/'archives/tiny.tgz').unlink()
    assert (untar_data('tiny')/'train/x.txt').exists()


def test_offline_says_which_file_goes_where(own_home, monkeypatch):
    def unknown(*args, **kwargs): raise socket.gaierror(-2, 'Name or service not known')
    monkeypatch.setattr(socket, 'getaddrinfo', unknown)
    with pytest.raises(DownloadError) as e: untar_data(URLs.IMAGENETTE_160)
    for part in (URLs.IMAGENETTE_160, 'Name or service not known', str(own_home/'archives/imagenette2-160.tgz'), '99,003,388 bytes', 'toynette()'): assert part in str(e.value)
    (own_home/'archives/imagenette2-160.tgz').write_bytes(b'half of it')
    with pytest.raises(DownloadError, match='imagenette2-160.tgz has 10 bytes where 99,003,388 were published'): untar_data('imagenette2-160')


def test_wrong_archive_in_place_is_fetched_again(tiny, own_home, server):
    (own_home/'archives').mkdir(parents=True); (own_home/'archives/tiny.tgz').write_bytes(b'x' * tiny.size)
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
    ps = [ctx.Process(target=unpack_at_once, args=(str(own_home), archive, start, results)) for _ in range(3)]
    for p in ps: p.start()
    start.set()
    got = [results.get(timeout=30) for _ in ps]
    for p in ps: p.join(10)
    assert len(set(got)) == 1 and got[0][1] == 500 and [p.exitcode for p in ps] == [0] * 3 and len(os.listdir(own_home/'data')) == 1


def test_dataset_path(tmp_path, monkeypatch):
    (tmp_path/'pets').mkdir(); monkeypatch.chdir(tmp_path)
    assert dataset_path('pets') == Path('pets') and dataset_path(tmp_path) == tmp_path
    for wrong, right in [('toynete', 'toynette'), ('imagenete2-160', 'imagenette2-160'), ('petz', 'pets')]:
        with pytest.raises(FileNotFoundError, match=f"Did you mean .*'{right}'"): dataset_path(wrong)


def test_published_table():
    for const in 'IMAGENETTE IMAGENETTE_320 IMAGENETTE_160 IMAGEWOOF IMAGEWOOF_320 IMAGEWOOF_160 PETS CAMVID CAMVID_TINY BIWI_SAMPLE PLANET_SAMPLE IMDB_SAMPLE MNIST_SAMPLE'.split():
        assert getattr(URLs, const).startswith('https://')
    assert len({a.md5 for a in DATASETS.values()}) == len({a.url for a in DATASETS.values()}) == len(DATASETS)
