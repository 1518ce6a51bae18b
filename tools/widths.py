"""Which code blocks and outputs of the built site are wider than their boxes, seen by Chromium.

One headless Chromium opens all pages one after the other in a frame of 1280 px, with everything
unfolded, and sends back what it measured. `python tools/docs.py --widths` builds the site first.

    python tools/widths.py      look at the site that lies in _docs/
"""
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

OUT = Path(__file__).resolve().parents[1]/'_docs'
WIDTH, PATIENCE = 1280, 60   # px; seconds for one page
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome'
DRIVER = '_widths.html'
# opens each page in a frame, unfolds it, and posts what does not fit
SCRIPT = """<!doctype html><meta charset="utf-8"><title>Widths</title>
<iframe style="width: WIDTHpx; height: 2000px; border: 0"></iframe>
<script>
const frame = document.querySelector('iframe')
const boxes = 'pre, .cell_output, .pst-scrollable-table-container'
const post = (page, found) => fetch('/', {method: 'POST', body: JSON.stringify({page, found})})
const opened = page => new Promise(done => { frame.onload = done; frame.src = '/' + page })
const tooWide = o => o.clientWidth > 0 && o.scrollWidth > o.clientWidth + 1
const told = o => ({text: o.textContent.trim().replace(/\\s+/g, ' ').slice(0, 60),
                    width: o.scrollWidth, room: o.clientWidth})
async function run() {
    for (const page of PAGES) {
        await opened(page)
        const doc = frame.contentDocument
        for (const o of doc.querySelectorAll('details')) o.open = true
        const wide = [...doc.querySelectorAll(boxes)].filter(tooWide)
        const inner = wide.filter(o => !wide.some(p => p !== o && o.contains(p)))
        await post(page, [...inner, ...[doc.documentElement].filter(tooWide)].map(told))
    }
}
run()
</script>
"""

@dataclass(frozen=True)
class TooWide:
    "A block that scrolls sideways."
    page: str   # below the site: `course/toynette.html`
    text: str   # its first words
    width: int  # of its content, in px
    room: int   # of its box, in px

    def __str__(self): return f'{self.page}: {self.width} px in {self.room}: {self.text}'

def browser() -> str:
    "Path of a Chromium, '' where there is none."
    return next(filter(None, map(shutil.which, BROWSERS)), '')

def site_pages(site:Path) -> list:
    "Addresses of all pages of `site`, without those that only lead on to another."
    found = [p for p in sorted(site.rglob('*.html')) if '_static' not in p.parts]
    return [
        p.relative_to(site).as_posix()
        for p in found
        if 'http-equiv="refresh"' not in p.read_text(encoding='utf8')
    ]

class Handler(SimpleHTTPRequestHandler):
    "Serves the site and the page that drives the browser, and takes the browser's answers."
    def __init__(self, *args, driver:bytes, answers:Queue, **kwargs):
        self.driver, self.answers = driver, answers
        super().__init__(*args, **kwargs)

    def log_message(self, *args): pass

    def reply(self, body:bytes):
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == f'/{DRIVER}': self.reply(self.driver)
        else: super().do_GET()

    def do_POST(self):
        self.answers.put(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
        self.reply(b'')

def measure(site:Path, pages:list, width:int=WIDTH) -> list:
    "A `TooWide` for every block on `pages` of `site` that scrolls in a window of `width` px."
    answers = Queue()
    driver = SCRIPT.replace('PAGES', json.dumps(pages)).replace('WIDTH', str(width)).encode()
    handler = partial(Handler, directory=str(site), driver=driver, answers=answers)
    server = ThreadingHTTPServer(('127.0.0.1', 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try: return list(collected(f'http://127.0.0.1:{server.server_port}/{DRIVER}', pages, answers))
    finally: server.shutdown(); server.server_close()

def collected(url:str, pages:list, answers:Queue):
    "What the browser says about `pages`, in their order."
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        args = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
                f'--user-data-dir={profile}', f'--window-size={WIDTH + 100},2000']
        window = subprocess.Popen([browser(), *args, '--remote-debugging-port=0', url],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for page in pages:
                for o in answer(answers, page)['found']: yield TooWide(page, **o)
        finally: window.terminate(); window.wait()

def answer(answers:Queue, page:str) -> dict:
    try: return answers.get(timeout=PATIENCE)
    except Empty:
        raise RuntimeError(f'Chromium said nothing about {page} for {PATIENCE} s') from None

def for_readers(page:str) -> bool:
    "Whether a page belongs to the course, which has to fit; pages of the reference may scroll."
    return page.split('/')[0] in ('course', 'exercises', 'index.html')

def report(site:Path=OUT) -> bool:
    "Print what is too wide; True when every page of the course fits."
    if not browser():
        print('There is no Chromium here: the widths of code blocks were not measured.')
        return True
    pages = site_pages(site)
    found = measure(site, pages)
    course = [o for o in found if for_readers(o.page)]
    for name, blocks in (('course', course), ('reference', [o for o in found if o not in course])):
        print(f'{len(blocks)} blocks of the {name} are wider than their boxes at {WIDTH} px')
        for o in blocks: print(f'  {o}')
    return not course

if __name__ == '__main__': sys.exit(not report())
