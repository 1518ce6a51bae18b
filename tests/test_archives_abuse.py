"Archives that lie about names, sizes and contents, that fill the disk, or that only look alike."
import bz2
import errno
import gzip
import io
import lzma
import os
import random
import struct
import tarfile
import zipfile
import zlib

import pytest

from server import (
    left,
    set_home,  # noqa: F401 (a fixture)
    tgz,
)
from sotavision.data import limits
from sotavision.data.archives import untar_data
from sotavision.data.limits import ArchiveError

MODES = {
    '.tar': 'w',
    '.tgz': 'w:gz',
    '.tar.gz': 'w:gz',
    '.tar.bz2': 'w:bz2',
    '.tar.xz': 'w:xz',
    '.tbz2': 'w:bz2',
    '.txz': 'w:xz',
}


def zipped(path, members, patch=lambda info: None):
    "A zip of `{name: bytes}`, whose entries `patch` may change before they are written."
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as z:
        for name, data in members.items():
            info = zipfile.ZipInfo('x')
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            patch(info)
            z.writestr(info, data)
    return path


def files(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob('*'))
        if p.is_file()
    }


def refused(path, own_home, match, **options):
    with pytest.raises(ArchiveError, match=match) as e: untar_data(path, **options)
    assert str(path) in str(e.value) and left(own_home/'data') == []
    return str(e.value)

# --- kinds

@pytest.mark.parametrize('kind', MODES)
def test_every_tar_opens_by_its_content(tmp_path, kind):
    a = tgz(tmp_path/f'a{kind}', ('a/x', '1'), ('a/y', '2'), mode=MODES[kind])
    assert files(untar_data(a)) == {'x': b'1', 'y': b'2'}
    for other in ('.tgz', '.tar', '.zip', '.tar.xz'):       # the name is wrong, the content is not
        b = tmp_path/f'b{other}'
        b.write_bytes(a.read_bytes())
        if (other, kind) != ('.zip', '.tar'): assert files(untar_data(b)) == {'x': b'1', 'y': b'2'}


def test_a_zip_that_is_called_tgz(tmp_path):
    assert files(untar_data(zipped(tmp_path/'a.tgz', {'a/x': b'1'}))) == {'x': b'1'}


def test_zstd_is_read_or_said(tmp_path, own_home):
    try:
        from compression import zstd
    except ImportError:
        (tmp_path/'a.tar.zst').write_bytes(b'\x28\xb5\x2f\xfd' + bytes(100))
        refused(tmp_path/'a.tar.zst', own_home, 'zstd, which Python reads from 3.14 on')
        return
    plain = tgz(tmp_path/'a.tar', ('a/x', '1'), mode='w').read_bytes()
    (tmp_path/'a.tar.zst').write_bytes(zstd.compress(plain))
    assert files(untar_data(tmp_path/'a.tar.zst')) == {'x': b'1'}


def test_a_plain_tar_cut_anywhere(tmp_path, own_home):
    whole = tgz(tmp_path/'a.tar', ('a/x', '1' * 700), ('a/y', '2' * 700), mode='w').read_bytes()
    end = len(whole.rstrip(b'\0')) // 512 * 512 + 512
    for n in (0, 1, 511, 512, 1024, 1536, end - 512, end - 1, end, end + 100):
        (tmp_path/'b.tar').write_bytes(whole[:n])
        refused(tmp_path/'b.tar', own_home, 'truncated or damaged')


@pytest.mark.parametrize(
    'pack', [bytes, gzip.compress, bz2.compress, lzma.compress], ids=['tar', 'gz', 'bz2', 'xz'])
def test_a_damaged_header_is_no_end(tmp_path, own_home, pack):
    "Python's tarfile stops there without a word."
    whole = bytearray(
        tgz(tmp_path / 'a.tar', *[(f'a/{i}', 'x') for i in range(5)], mode='w').read_bytes()
    )
    whole[3 * 1024 + 5] ^= 1
    (tmp_path/'b.tar').write_bytes(pack(bytes(whole)))
    refused(tmp_path/'b.tar', own_home, 'truncated or damaged')

# --- names

def test_windows_names_become_folders(tmp_path):
    names = {
        'set\\train\\cat\\1.txt': b'1',
        'set\\val\\2.txt': b'2',
        'set\\empty\\': b'',
        'set/mixed\\3.txt': b'3',
    }
    p = untar_data(zipped(tmp_path/'a.zip', names))
    assert files(p) == {'mixed/3.txt': b'3', 'train/cat/1.txt': b'1', 'val/2.txt': b'2'}
    assert (p/'empty').is_dir()


def test_a_tar_keeps_a_file_with_a_backslash(tmp_path):
    p = untar_data(tgz(tmp_path/'a.tar', ('a/x\\y', '1'), ('a/z', '2'), mode='w'))
    assert files(p) == {'x\\y': b'1', 'z': b'2'}


@pytest.mark.parametrize(
    'name',
    ['..\\evil', 'a\\..\\..\\evil', '\\evil', 'C:\\evil', '\\\\host\\share\\evil', 'a/..\\../evil',
     '/evil'])
def test_backslashes_do_not_climb(tmp_path, own_home, name):
    refused(zipped(tmp_path/'a.zip', {'a/ok': b'1', name: b'2'}), own_home, 'holds .*refused')
    refused(tgz(tmp_path/'a.tgz', ('a/ok', '1'), (name, '2')), own_home, 'holds .*refused')


def in_bytes(path, name:bytes, flag=0):
    "A zip with one member, named by these bytes."
    data = (
        zipped(path, {'a/' + 'q' * len(name): b'1'})
        .read_bytes()
        .replace(b'a/' + b'q' * len(name), b'a/' + name)
    )
    path.write_bytes(data)
    return path


def test_names_in_utf8_that_is_not_told(tmp_path, recwarn):
    assert files(untar_data(in_bytes(tmp_path / 'a.zip', 'Kätzchen.txt'.encode()))) == {
        'Kätzchen.txt': b'1'
    }
    assert not recwarn.list


@pytest.mark.parametrize('coding', ['latin1', 'cp850', 'shift_jis'])
def test_names_in_another_encoding(tmp_path, coding):
    word = 'ネコ.txt' if coding == 'shift_jis' else 'Kätzchen.txt'
    with pytest.warns(UserWarning, match='a.zip: 1 names are not in UTF-8, such as .*txt'):
        p = untar_data(in_bytes(tmp_path / 'a.zip', word.encode(coding)))
    assert list(files(p).values()) == [b'1']
    with tarfile.open(tmp_path / 'a.tar', 'w', encoding=coding, format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(f'a/{word}'))
    with pytest.warns(UserWarning, match='a.tar: 1 names are not in UTF-8'):
        p = untar_data(tmp_path / 'a.tar')
    assert len(files(p)) == 1


def test_a_name_too_long_names_the_archive(tmp_path, own_home):
    a = tgz(tmp_path/'a.tgz', ('a/ok', '1'), ('a/' + 'x' * 300, '2'))
    with pytest.raises(
        OSError, match='a.tgz could not be unpacked into .*[Nn]ame too long.*Nothing is left'
    ):
        untar_data(a)
    assert left(own_home/'data') == []

# --- locked or odd

def test_encrypted_says_so(tmp_path, own_home):
    a = zipped(tmp_path/'a.zip', {'a/secret': b'1' * 100})
    data = bytearray(a.read_bytes())
    for mark, at in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)): data[data.index(mark) + at] |= 1
    a.write_bytes(data)
    refused(a, own_home, "a.zip is encrypted .the first file is 'a/secret'.*password")


@pytest.mark.parametrize('number', [1, 6, 9, 98])
def test_a_way_of_packing_that_python_does_not_know(tmp_path, own_home, number):
    a = zipped(tmp_path/'a.zip', {'a/x': b'1' * 100})
    data = bytearray(a.read_bytes())
    for mark, at in ((b'PK\x03\x04', 8), (b'PK\x01\x02', 10)):
        struct.pack_into('<H', data, data.index(mark) + at, number)
    a.write_bytes(data)
    refused(a, own_home, f'cannot read .number {number}')

# --- bombs

@pytest.fixture
def small(monkeypatch): monkeypatch.setattr(limits, 'LEAST', 50_000)


def bomb(path, n=3_000_000):
    if path.suffix == '.zip': return zipped(path, {'a/zeros': bytes(n)})
    with tarfile.open(
        path, MODES[path.suffix if path.suffix == '.tgz' else '.tar' + path.suffix]
    ) as tar:
        info = tarfile.TarInfo('a/zeros')
        info.size = n
        tar.addfile(info, io.BytesIO(bytes(n)))
    return path


@pytest.mark.parametrize('kind', ['.tgz', '.tar.bz2', '.tar.xz', '.zip'])
def test_a_bomb_is_refused_and_the_limit_can_be_raised(tmp_path, own_home, small, kind):
    a = bomb(tmp_path/f'a{kind}')
    told = refused(
        a,
        own_home,
        r'unpacks to more than [\d,]+: refused. If you trust it: untar_data\(…, limit=BYTES\)',
    )
    assert f'{a.stat().st_size:,} bytes' in told
    refused(a, own_home, 'more than 2,999,999', limit=2_999_999)
    assert (untar_data(a, limit=4_000_000)/'zeros').stat().st_size == 3_000_000


def test_ordinary_archives_are_no_bombs(tmp_path, small):
    noise = random.Random(0).randbytes(200_000).hex()
    assert (
        files(
            untar_data(
                tgz(tmp_path / 'a.tgz', ('a/x', noise), ('a/y', noise), ('a/z', '0' * 40_000))
            )
        )['x']
        == noise.encode()
    )


def test_the_stated_limits(tmp_path):
    (tmp_path/'a').write_bytes(bytes(100)); (tmp_path/'b').write_bytes(bytes(6_000_000))
    assert limits.Room(tmp_path/'a').limit == 10**9
    assert limits.Room(tmp_path/'b').limit == 1_200_000_000
    assert limits.Room(tmp_path/'a', 5).limit == 5 and limits.MOST == 500 * 10**9


def test_many_members_of_nothing(tmp_path, own_home, small):
    refused(
        tgz(tmp_path / 'a.tgz', *[(f'a/{i}', '') for i in range(2000)]),
        own_home,
        'unpacks to more than',
        limit=900_000,
    )
    refused(
        zipped(tmp_path / 'a.zip', {f'{i}': b'' for i in range(2000)}),
        own_home,
        'unpacks to more than',
        limit=1000,
    )


def test_members_that_share_their_bytes(tmp_path, own_home, small):
    "Each entry of the directory points to the same packed bytes."
    one = bomb(tmp_path/'a.zip', 40_000).read_bytes()
    start, end = one.index(b'PK\x01\x02'), one.index(b'PK\x05\x06')
    entry, tail = one[start:end], bytearray(one[end:])
    entries = b''.join(entry.replace(b'a/zeros', b'a/%05d' % i) for i in range(50))
    struct.pack_into('<HHII', tail, 8, 50, 50, len(entries), start)
    (tmp_path/'b.zip').write_bytes(one[:start] + entries + tail)
    refused(tmp_path/'b.zip', own_home, 'unpacks to more than')


def test_a_member_that_holds_more_than_it_promises(tmp_path, own_home, small):
    data = bytearray(bomb(tmp_path/'a.zip').read_bytes())
    for mark, at in ((b'PK\x03\x04', 22), (b'PK\x01\x02', 24)):
        struct.pack_into('<I', data, data.index(mark) + at, 100)
    (tmp_path/'b.zip').write_bytes(data)
    refused(tmp_path/'b.zip', own_home, 'truncated or damaged')


@pytest.mark.parametrize('kind', [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_a_header_that_fills_the_memory(tmp_path, own_home, kind):
    "A name of 200 MB, packed into 200 KB."
    info = tarfile.TarInfo('x'); info.type, info.size = kind, 200_000_000
    pack = zlib.compressobj(9, wbits=31)
    data = (
        pack.compress(info.tobuf(tarfile.USTAR_FORMAT))
        + b''.join(pack.compress(bytes(10**7)) for _ in range(20))
        + pack.flush()
    )
    (tmp_path/'a.tgz').write_bytes(data)
    refused(tmp_path/'a.tgz', own_home, 'holds a header of 200,0')


def test_a_sparse_file(tmp_path, own_home, small):
    "Three numbers that stand for a gigabyte."
    info = tarfile.TarInfo('a/holes'); info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for n, at in ((0, 386), (512, 398), (0, 410), (0, 422), (10**9, 483)):
        block[at : at + 12] = b'%011o\0' % n
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    (tmp_path/'a.tar').write_bytes(bytes(block) + b'x' * 512 + bytes(10240))
    refused(tmp_path/'a.tar', own_home, 'unpacks to more than')

# --- the disk

@pytest.mark.parametrize('kind', ['.tgz', '.zip'])
@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EACCES])
def test_what_the_disk_says_names_the_archive(tmp_path, own_home, monkeypatch, kind, number):
    a = (
        zipped(tmp_path / 'a.zip', {'a/x': b'1', 'a/y': b'2'})
        if kind == '.zip'
        else tgz(tmp_path / 'a.tgz', ('a/x', '1'), ('a/y', '2'))
    )
    owner, name = (zipfile.ZipFile, 'extract') if kind == '.zip' else (tarfile.TarFile, 'extract')
    whole, left_over = getattr(owner, name), [1]
    def full(*args, **kwargs):
        if not left_over: raise OSError(number, os.strerror(number))
        left_over.pop()
        return whole(*args, **kwargs)
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(
        OSError,
        match=f'a{kind} could not be unpacked into .*{os.strerror(number)}. Nothing is left',
    ) as e:
        untar_data(a)
    assert e.value.errno == number and not isinstance(e.value, ArchiveError)
    assert left(own_home/'data') == []

# --- alike

def test_equal_name_size_and_time_are_not_the_same(tmp_path):
    for n in (1, 2):
        (tmp_path/str(n)).mkdir()
        a = tgz(tmp_path/str(n)/'a.tar', ('a/x', str(n)), mode='w'); os.utime(a, (1, 1))
    one, two = (untar_data(tmp_path/n/'a.tar') for n in '12')
    assert files(one) == {'x': b'1'} and files(two) == {'x': b'2'}


def test_the_same_archive_elsewhere_is_the_same(tmp_path):
    a = tgz(tmp_path/'a.tgz', ('a/x', '1'))
    one = untar_data(a)
    os.utime(a, (5, 5)); (tmp_path/'sub').mkdir(); a.rename(tmp_path/'sub/a.tgz')
    assert untar_data(tmp_path/'sub/a.tgz') == one


def test_a_file_where_the_folder_should_be(tmp_path, own_home):
    a = tgz(tmp_path/'a.tgz', ('a/x', '1'))
    p = untar_data(a)
    (p/'x').unlink(); p.rmdir(); p.write_text('mine')
    with pytest.raises(OSError, match='a file'): untar_data(a)
    assert p.read_text() == 'mine' and left(own_home/'data') == [p.name]
