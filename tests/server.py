"""A server on this machine that behaves as a test says, archives for it, and a home of its own for
every test."""
import hashlib
import http.server
import io
import os
import random
import tarfile
import threading

import pytest

from sotavision.data.download import download_url

CONTENT = random.Random(0).randbytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.fixture(autouse=True, name='own_home')
def set_home(tmp_path, monkeypatch):
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
            self.send_response(302)
            self.send_header('Location', s.location)
            return self.end_headers()
        self.send_content(s)

    def reply(self, code):
        self.send_response(code); self.send_header('Content-Length', '0'); self.end_headers()

    def send_content(self, s):
        start, end = 0, len(s.content)
        fresh = self.headers.get('If-Range') in (None, s.etag)
        if self.headers.get('Range') and s.mood != 'ignores Range' and fresh:
            start = int(self.headers['Range'][6:-1])
        if start >= end > 0: return self.reply(416)
        self.send_response(206 if start else 200)
        if s.mood != 'tells no length': self.send_header('Content-Length', str(end - start))
        if start:
            self.send_header(
                'Content-Range', f'bytes {start + (s.mood == "sends another part")}-{end - 1}/{end}'
            )
        if s.etag: self.send_header('ETag', s.etag)
        self.end_headers()
        drop = s.drops.pop(0) if s.drops else None
        self.wfile.write(s.content[start:end if drop is None else start + drop])
        s.after()


@pytest.fixture(name='server')
def serve():
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    s.content, s.mood, s.etag, s.asked, s.drops, s.replies = CONTENT, '', None, [], [], []
    s.location, s.after = '', lambda: None
    s.url = f'http://127.0.0.1:{s.server_port}/data.tgz'
    t = threading.Thread(target=s.serve_forever, args=(.02,), daemon=True); t.start()
    yield s
    s.shutdown(); s.server_close()


def get(server, dest, **options):
    return download_url(server.url, dest, **{'wait': .01, 'timeout': 5, **options})


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


def left(folder):
    "What lies in a folder besides locks."
    return sorted(o for o in os.listdir(folder) if not (o.startswith('.') and o.endswith('.lock')))
