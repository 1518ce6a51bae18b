"Archives with bad intentions, cut short or damaged, and of every kind."
import os
import random
import stat
import sys
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pytest

from server import (
    left,
    set_home,  # noqa: F401 (a fixture)
    tgz,
)
from sotavision.data import unpack
from sotavision.data.archives import untar_data
from sotavision.data.limits import ArchiveError

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
    'chain of links': [
        ('a/b/ok', 'x'),
        ('a/b/l', SYM, '..'),
        ('a/m', SYM, 'b/l/..'),
        ('a/n', SYM, 'm/../..'),
    ],
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
    assert left(own_home/'data') == []
    assert {o for o in tmp_path.rglob('*') if own_home not in o.parents and o != own_home} == before
    assert not Path('/tmp/sotavision-evil').exists()


@pytest.mark.parametrize(
    'member',
    [('../evil', 'x'), ('/evil', 'x'), ('a/../../evil', 'x'), ('..\\evil', 'x'),
     ('a/l', '../../evil', stat.S_IFLNK | 0o777)])
def test_unsafe_zip_member(tmp_path, own_home, member):
    with pytest.raises(ArchiveError, match='holds .*refused'):
        untar_data(zipped(tmp_path / 'evil.zip', ('a/ok', 'x'), member))
    assert left(own_home/'data') == [] and not list(tmp_path.rglob('evil'))


def test_links_that_stay_inside_are_fine(tmp_path):
    p = untar_data(
        tgz(
            tmp_path / 'a.tgz',
            ('a/b/x.txt', 'hello'),
            ('a/l.txt', SYM, 'b/x.txt'),
            ('a/b/up', SYM, '..'),
            ('a/h.txt', HARD, 'a/b/x.txt'),
        )
    )
    assert (p/'l.txt').read_text() == (p/'h.txt').read_text() == 'hello'
    assert (p/'b/up').resolve() == p.resolve()


def test_setuid_does_not_survive(tmp_path):
    with tarfile.open(tmp_path/'a.tgz', 'w:gz') as tar:
        info = tarfile.TarInfo('a/x'); info.mode = 0o6777; tar.addfile(info)
    assert not stat.S_IMODE((untar_data(tmp_path/'a.tgz')/'x').stat().st_mode) & 0o6022


@pytest.mark.parametrize(
    'kind, mode',
    [('.tgz', 'w:gz'), ('.tar.gz', 'w:gz'), ('.tar.bz2', 'w:bz2'), ('.tar.xz', 'w:xz'),
     ('.zip', None)])
def test_every_kind_of_archive(tmp_path, kind, mode):
    members = [('set/train/a.txt', 'a'), ('set/ä.txt', 'a'), ('__MACOSX/set/._a.txt', 'x')]
    path = (
        tgz(tmp_path / f'my set{kind}', *members, mode=mode)
        if mode
        else zipped(tmp_path / f'my set{kind}', *members)
    )
    p = untar_data(path)
    assert p.name.startswith('my set-') and (p/'train/a.txt').read_text() == 'a'
    assert sorted(os.listdir(p)) == ['train', 'ä.txt']


def test_several_things_at_the_top_get_a_folder(tmp_path):
    assert sorted(os.listdir(untar_data(tgz(tmp_path / 'a.tgz', ('x/1', '1'), ('y/1', '1'))))) == [
        'x',
        'y',
    ]
    assert os.listdir(untar_data(tgz(tmp_path/'b.tgz', ('x', '1')))) == ['x']


def test_every_truncation_is_noticed(tmp_path, own_home):
    noise = random.Random(0).randbytes(3000).hex()
    for kind, mode in [
        ('.tgz', 'w:gz'),
        ('.tar.xz', 'w:xz'),
        ('.tar.bz2', 'w:bz2'),
        ('.zip', None),
    ]:
        write = partial(tgz, mode=mode) if mode else zipped
        whole = write(tmp_path / f'whole{kind}', ('a/x', noise), ('a/y', noise)).read_bytes()
        for n in [
            0,
            1,
            10,
            100,
            *range(200, len(whole), len(whole) // 12),
            len(whole) - 9,
            len(whole) - 1,
        ]:
            (tmp_path / f'cut{kind}').write_bytes(whole[:n])
            with pytest.raises(ArchiveError, match='truncated or damaged'):
                untar_data(tmp_path / f'cut{kind}')
    assert left(own_home/'data') == []


def test_flipped_byte_is_noticed(tmp_path):
    whole = bytearray(
        tgz(tmp_path / 'a.tgz', ('a/x', random.Random(0).randbytes(4000).hex())).read_bytes()
    )
    for at in range(20, len(whole), 97):
        whole[at] ^= 255
        (tmp_path/'b.tgz').write_bytes(whole)
        with pytest.raises(ArchiveError): untar_data(tmp_path/'b.tgz')
        whole[at] ^= 255


def test_conflicting_members(tmp_path):
    with pytest.raises(ArchiveError, match='damaged'):
        untar_data(tgz(tmp_path / 'a.tgz', ('a/x', 'file'), ('a/x/y', 'below a file')))


def test_not_an_archive(tmp_path):
    (tmp_path/'page.tgz').write_text('<html>404</html>')
    with pytest.raises(ArchiveError, match='page.tgz is truncated or damaged .16 bytes.') as e:
        untar_data(tmp_path / 'page.tgz')
    assert '\n' not in str(e.value)


def test_left_over_of_a_killed_run_is_cleared(tmp_path, own_home):
    a = tgz(tmp_path/'a.tgz', ('a/x', 'x'))
    p = untar_data(a)
    half = p.with_name(f'.{p.name}-0123456789ab.making')
    p.rename(half); (half/'junk').touch()
    assert os.listdir(untar_data(a)) == ['x'] and left(own_home/'data') == [p.name]


def test_changed_archive_is_unpacked_anew(tmp_path):
    one = untar_data(tgz(tmp_path/'a.tgz', ('a/x', '1')))
    tgz(tmp_path/'a.tgz', ('a/x', '2')); os.utime(tmp_path/'a.tgz', (1, 1))
    two = untar_data(tmp_path/'a.tgz')
    assert one != two and (one/'x').read_text() == '1' and (two/'x').read_text() == '2'


def test_full_disk_is_not_called_a_bad_archive(tmp_path, monkeypatch):
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(unpack, '_extract_tar', full)
    with pytest.raises(OSError, match='No space left') as e:
        untar_data(tgz(tmp_path / 'a.tgz', ('a/x', '1')))
    assert not isinstance(e.value, ArchiveError)
