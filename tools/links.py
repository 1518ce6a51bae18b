"""Look at every link of the built site: does it lead somewhere, and does a page load anything from
outside?"""
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {
    'script': 'src',
    'img': 'src',
    'iframe': 'src',
    'source': 'src',
    'video': 'src',
    'audio': 'src',
    'link': 'href',
}
# <link rel=…> that fetch nothing
NOT_LOADED = {'canonical', 'search', 'next', 'prev', 'index', 'author', 'help', 'copyright'}

class Reader(HTMLParser):
    "Collects what one page links to, what it loads, and the anchors it offers."
    def __init__(self, text:str):
        super().__init__()
        self.links, self.loads, self.anchors = set(), set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.anchors |= {a[k] for k in ('id', 'name') if a.get(k)}
        url = a.get(LOADED.get(tag, ''))
        if url and not (tag == 'link' and NOT_LOADED & set(a.get('rel', '').split())):
            self.loads.add(url)
        self.links |= {o for o in (a.get('href'), a.get('src')) if o}

def outside(url:str) -> bool: return bool(urlsplit(url).netloc)

def fault(site:Path, page:Path, url:str, pages:dict) -> str:
    "Why `url` on `page` leads nowhere; '' when it does lead somewhere."
    parts = urlsplit(url)
    if parts.scheme or parts.netloc: return ''
    target = (page.parent/unquote(parts.path)).resolve() if parts.path else page
    if not target.is_relative_to(site): return 'leaves the site'
    if not target.is_file(): return 'no such file'
    known = pages[target].anchors if target in pages else {unquote(parts.fragment)}
    return (
        ''
        if not parts.fragment or unquote(parts.fragment) in known
        else 'no such place on that page'
    )

def check(site:Path) -> list:
    "Complaints about all pages below `site`."
    site = site.resolve()
    pages = {
        p: Reader(p.read_text(encoding='utf8'))
        for p in sorted(site.rglob('*.html'))
        if '_static' not in p.parts
    }
    rows = [(p, o, 'loaded from outside') for p,r in pages.items() for o in r.loads if outside(o)]
    rows += [(p, o, fault(site, p, o, pages)) for p,r in pages.items() for o in sorted(r.links)]
    return [f'{p.relative_to(site)}: {url}: {why}' for p,url,why in rows if why]

if __name__ == '__main__':
    faults = check(Path(sys.argv[1]))
    print('\n'.join(faults) or 'every link leads somewhere')
    sys.exit(bool(faults))
