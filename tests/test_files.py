"Downloads over bad lines, archives with bad intentions, and folders of all kinds. Every server here is on this machine."
import hashlib, http.server, io, multiprocessing, os, random, shutil, socket, stat, sys, tarfile, threading, time, zipfile
from pathlib import Path

import pytest

from sotavision.data import archives
from sotavision.data.archives import DATASETS, Archive, ArchiveError, URLs, dataset_path, untar_data
from sotavision.data.download import DownloadError, download_url
from sotavision.data.files import GrandparentSplitter, RandomSplitter, get_image_files, parent_label

CONTENT = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
SHARED = Path(__file__).parents[2]/'shared/data/imagenette2-160sq.tgz'


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv('SOTAVISION_HOME', str(tmp_path/'home'))
    return tmp_path/'home'


class Handler(http.server.BaseHTTPRequestHandler):
    "Behaves as `server.mood` says; notes each request's Range."
    def log_message(self, *args): pass

    def do_GET(self):
        s = self.server
        s.asked.append(self.headers.get('Range'))
        if s.replies: return self.reply(s.replies.pop(0))
        if self.path.startswith('/moved'):
            self.send_response(302); self.send_header('Location', s.location); return self.end_headers()
        self.send_content(s)

    def reply(self, code):
        self.send_response(code); self.send_header('Content-Length', '0'); self.end_headers()

    def send_content(self, s):
        start, end = 0, len(s.content)
        fresh = self.headers.get('If-Range') in (None, s.etag)
        if self.headers.get('Range') and s.mood != 'ignores Range' and fresh: start = int(self.headers['Range'][6:-1])
        if start >= end > 0: return self.reply(416)
        self.send_response(206 if start else 200)
        if s.mood != 'tells no length': self.send_header('Content-Length', str(end - start))
        if start: self.send_header('Content-Range', f'bytes {start + (s.mood == "sends another part")}-{end - 1}/{end}')
        if s.etag: self.send_header('ETag', s.etag)
        self.end_headers()
        drop = s.drops.pop(0) if s.drops else None
        self.wfile.write(s.content[start:end if drop is None else start + drop])
        s.after()


@pytest.fixture
def server():
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.content, s.mood, s.etag, s.asked, s.drops, s.replies, s.location, s.after = CONTENT, '', None, [], [], [], '', lambda: None
    s.url = f'http://127.0.0.1:{s.server_port}/data.tgz'
    t = threading.Thread(target=s.serve_forever, args=(.02,), daemon=True); t.start()
    yield s
    s.shutdown(); s.server_close()


def get(server, dest, **options):
    return download_url(server.url, dest, **{'wait': .01, 'timeout': 5, **options})


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


# Archives

def tgz(path, *members, mode='w:gz'):
    "A tar archive of `(name, text)` and of `(name, kind[, target])`."
    with tarfile.open(path, mode) as tar:
        for name, *what in members:
            info = tarfile.TarInfo(name)
            if isinstance(what[0], str):
                info.size = len(what[0]); tar.addfile(info, io.BytesIO(what[0].encode()))
            else:
                info.type, info.linkname = what[0], what[1] if len(what) > 1 else ''
                tar.addfile(info)
    return path


def zipped(path, *members):
    with zipfile.ZipFile(path, 'w') as z:
        for name, text, *mode in members:
            info = zipfile.ZipInfo(name); info.external_attr = (mode[0] if mode else 0o644) << 16
            z.writestr(info, text)
    return path


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
UNSAFE = {
    'absolute path': [('/tmp/sotavision-evil', 'x')],
    'climbing path': [('a/ok', 'x'), ('../evil', 'x')],
    'climbing path inside': [('a/../../evil', 'x')],
    'a path with ..': [('a/../b', 'x')],
    'windows drive': [('C:/evil', 'x')],
    'windows climb': [('..\\evil', 'x')],
    'absolute link': [('a/l', SYM, '/etc/passwd')],
    'climbing link': [('a/l', SYM, '../../evil')],
    'link to the parent of the only folder': [('a/ok', 'x'), ('a/l', SYM, '..')],
    'link to a neighbour data set': [('a/ok', 'x'), ('a/l', SYM, '../other')],
    'file written through a link': [('l', SYM, '.'), ('l/evil', 'x')],
    'chain of links': [('a/b/ok', 'x'), ('a/b/l', SYM, '..'), ('a/m', SYM, 'b/l/..'), ('a/n', SYM, 'm/../..')],
    'absolute hard link': [('a/h', HARD, '/etc/passwd')],
    'climbing hard link': [('a/h', HARD, '../evil')],
    'pipe': [('a/ok', 'x'), ('a/p', tarfile.FIFOTYPE)],
    'device': [('a/d', tarfile.CHRTYPE)],
}


@pytest.mark.parametrize('case', UNSAFE)
@pytest.mark.parametrize('filtered', [True, False], ids=['', 'without the filter of newer Pythons'])
def test_unsafe_member_is_refused_by_name(tmp_path, own_home, case, filtered, monkeypatch):
    if not filtered:
        if sys.version_info >= (3, 14): pytest.skip('this Python always filters')
        monkeypatch.delattr(tarfile, 'data_filter', raising=False)
    members = UNSAFE[case]
    archive = tgz(tmp_path/'evil.tgz', ('a/first', 'x'), *members)
    before = {o for o in tmp_path.rglob('*')}
    with pytest.raises(ArchiveError, match='(?s)evil.tgz holds .*refused') as e: untar_data(archive)
    assert any(repr(m[0]) in str(e.value) or m[0].split('/')[-1] in str(e.value) for m in members)
    assert os.listdir(own_home/'data') == [] and {o for o in tmp_path.rglob('*') if own_home not in o.parents and o != own_home} == before
    assert not Path('/tmp/sotavision-evil').exists()


@pytest.mark.parametrize('member', [('../evil', 'x'), ('/evil', 'x'), ('a/../../evil', 'x'), ('..\\evil', 'x'), ('a/l', '../../evil', stat.S_IFLNK | 0o777)])
def test_unsafe_zip_member(tmp_path, own_home, member):
    with pytest.raises(ArchiveError, match='holds .*refused'): untar_data(zipped(tmp_path/'evil.zip', ('a/ok', 'x'), member))
    assert os.listdir(own_home/'data') == [] and not list(tmp_path.rglob('evil'))


def test_links_that_stay_inside_are_fine(tmp_path):
    p = untar_data(tgz(tmp_path/'a.tgz', ('a/b/x.txt', 'hello'), ('a/l.txt', SYM, 'b/x.txt'), ('a/b/up', SYM, '..'), ('a/h.txt', HARD, 'a/b/x.txt')))
    assert (p/'l.txt').read_text() == (p/'h.txt').read_text() == 'hello' and (p/'b/up').resolve() == p.resolve()


def test_setuid_does_not_survive(tmp_path):
    with tarfile.open(tmp_path/'a.tgz', 'w:gz') as tar:
        info = tarfile.TarInfo('a/x'); info.mode = 0o6777; tar.addfile(info)
    assert not stat.S_IMODE((untar_data(tmp_path/'a.tgz')/'x').stat().st_mode) & 0o6022


@pytest.mark.parametrize('kind, mode', [('.tgz', 'w:gz'), ('.tar.gz', 'w:gz'), ('.tar.bz2', 'w:bz2'), ('.tar.xz', 'w:xz'), ('.zip', None)])
def test_every_kind_of_archive(tmp_path, kind, mode):
    members = [('set/train/a.txt', 'a'), ('set/ä.txt', 'a'), ('__MACOSX/set/._a.txt', 'x')]
    path = tgz(tmp_path/f'my set{kind}', *members, mode=mode) if mode else zipped(tmp_path/f'my set{kind}', *members)
    p = untar_data(path)
    assert p.name.startswith('my set-') and (p/'train/a.txt').read_text() == 'a' and sorted(os.listdir(p)) == ['train', 'ä.txt']


def test_several_things_at_the_top_get_a_folder(tmp_path):
    assert sorted(os.listdir(untar_data(tgz(tmp_path/'a.tgz', ('x/1', '1'), ('y/1', '1'))))) == ['x', 'y']
    assert os.listdir(untar_data(tgz(tmp_path/'b.tgz', ('x', '1')))) == ['x']


def test_every_truncation_is_noticed(tmp_path, own_home):
    noise = random.Random(0).randbytes(3000).hex()
    for kind, mode in [('.tgz', 'w:gz'), ('.tar.xz', 'w:xz'), ('.tar.bz2', 'w:bz2'), ('.zip', None)]:
        make = (lambda p: tgz(p, ('a/x', noise), ('a/y', noise), mode=mode)) if mode else (lambda p: zipped(p, ('a/x', noise), ('a/y', noise)))
        whole = make(tmp_path/f'whole{kind}').read_bytes()
        for n in [0, 1, 10, 100, *range(200, len(whole), len(whole) // 12), len(whole) - 9, len(whole) - 1]:
            (tmp_path/f'cut{kind}').write_bytes(whole[:n])
            with pytest.raises(ArchiveError, match='truncated or damaged'): untar_data(tmp_path/f'cut{kind}')
    assert os.listdir(own_home/'data') == []


def test_flipped_byte_is_noticed(tmp_path):
    whole = bytearray(tgz(tmp_path/'a.tgz', ('a/x', random.Random(0).randbytes(4000).hex())).read_bytes())
    for at in range(20, len(whole), 97):
        whole[at] ^= 255
        (tmp_path/'b.tgz').write_bytes(whole)
        with pytest.raises(ArchiveError): untar_data(tmp_path/'b.tgz')
        whole[at] ^= 255


def test_conflicting_members(tmp_path):
    with pytest.raises(ArchiveError, match='damaged'): untar_data(tgz(tmp_path/'a.tgz', ('a/x', 'file'), ('a/x/y', 'below a file')))


def test_not_an_archive(tmp_path):
    (tmp_path/'page.tgz').write_text('<html>404</html>')
    with pytest.raises(ArchiveError, match='page.tgz is truncated or damaged .16 bytes.') as e: untar_data(tmp_path/'page.tgz')
    assert '\n' not in str(e.value)


def test_left_over_of_a_killed_run_is_cleared(tmp_path, own_home):
    a = tgz(tmp_path/'a.tgz', ('a/x', 'x'))
    p = untar_data(a)
    p.rename(p.with_name(f'.{p.name}.unpacking')); (p.with_name(f'.{p.name}.unpacking')/'junk').touch()
    assert os.listdir(untar_data(a)) == ['x'] and os.listdir(own_home/'data') == [p.name]


def test_changed_archive_is_unpacked_anew(tmp_path):
    one = untar_data(tgz(tmp_path/'a.tgz', ('a/x', '1')))
    tgz(tmp_path/'a.tgz', ('a/x', '2')); os.utime(tmp_path/'a.tgz', (1, 1))
    two = untar_data(tmp_path/'a.tgz')
    assert one != two and (one/'x').read_text() == '1' and (two/'x').read_text() == '2'


def test_full_disk_is_not_called_a_bad_archive(tmp_path, monkeypatch):
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(archives, 'extract_tar', full)
    with pytest.raises(OSError, match='No space left') as e: untar_data(tgz(tmp_path/'a.tgz', ('a/x', '1')))
    assert not isinstance(e.value, ArchiveError)


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


# Folders and splits

def test_order_does_not_depend_on_creation(tmp_path):
    names = [f'{c}/{i:02}.jpg' for c in 'ba' for i in range(20)]
    for k, seed in enumerate((1, 2)):
        random.Random(seed).shuffle(names)
        for n in names: (tmp_path/str(k)/n).parent.mkdir(parents=True, exist_ok=True); (tmp_path/str(k)/n).touch()
    one, two = ([o.relative_to(tmp_path/k).as_posix() for o in get_image_files(tmp_path/k)] for k in '01')
    assert one == two == sorted(names)


def test_same_validation_items_at_any_call():
    items = [f'{i}.jpg' for i in range(777)]
    assert RandomSplitter()(items) == RandomSplitter()(items) and len(RandomSplitter()(items)[1]) == 155


@pytest.mark.parametrize('n', [2, 3, 10, 101])
@pytest.mark.parametrize('pct', [.01, .2, .5, .99])
def test_random_split_is_a_partition_or_an_error(n, pct):
    try: train, valid = RandomSplitter(pct)(range(n))
    except ValueError as e: assert 'is empty' in str(e) and round(pct * n) in (0, n)
    else: assert sorted(train + valid) == list(range(n)) and len(valid) == round(pct * n)


def test_stratified_split_gives_each_label_its_share():
    labels = ['a'] * 100 + ['b'] * 50 + ['c'] * 5
    _, valid = RandomSplitter(.2, by=lambda o: o)(labels)
    assert {c: sum(labels[i] == c for i in valid) for c in 'abc'} == {'a': 20, 'b': 10, 'c': 1}


@pytest.mark.skipif(not SHARED.exists(), reason=f'real pictures are not here: {SHARED}')
def test_imagenette(tmp_path):
    "All of Imagenette, from the archive that lies beside the repository."
    items = get_image_files(folder := untar_data(SHARED))
    train, valid = GrandparentSplitter()(items)
    assert (len(train), len(valid)) == (9469, 3925) and len(set(items.map(parent_label))) == 10
    shutil.rmtree(folder)
