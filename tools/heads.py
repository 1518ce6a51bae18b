"""What a page of the site says about itself to search engines, and to those who share its address.

`docs/conf.py` calls `head` for every page; `check` looks whether all of them got it.
"""
import html
import re
from pathlib import Path

PREVIEW, SIZE = '_static/preview.jpg', (1200, 630)   # made by tools/preview.py
ALT = 'Twenty rendered toys, two of each class of Toynette'

def head(title:str, description:str, url:str, picture:str) -> str:
    "Meta tags of one page: what it is about, and the picture that stands for it."
    told = {
        'og:type': 'website', 'og:site_name': 'sotavision', 'og:title': title,
        'og:description': description, 'og:url': url, 'og:image': picture,
        'og:image:width': SIZE[0], 'og:image:height': SIZE[1], 'og:image:alt': ALT,
    }
    def tag(kind, name, value):
        return f'<meta {kind}="{name}" content="{html.escape(str(value))}" />'
    return '\n'.join(
        ['', tag('name', 'description', description),
         tag('name', 'twitter:card', 'summary_large_image'),
         *(tag('property', k, v) for k, v in told.items()), '']
    )

def lead(doctree) -> str:
    "The line below the title of a Sphinx page, '' where there is none."
    def is_lead(o): return 'lead' in getattr(o, 'attributes', {}).get('classes', [])
    return next((o.astext().replace('\n', ' ') for o in doctree.findall(is_lead)), '')

def add(app, pagename, templatename, context, doctree):
    "Sphinx's `html-page-context`: puts the tags into the page's head."
    base, title = app.config.html_baseurl.rstrip('/'), html.unescape(context.get('title') or '')
    title = re.sub('<[^>]+>', '', title) or app.config.project
    about = doctree and lead(doctree) or app.config.description
    tags = head(title, about, f'{base}/{pagename}.html', f'{base}/{PREVIEW}')
    context['metatags'] = context.get('metatags', '') + tags

def check(site:Path) -> list:
    "What the heads of the pages of `site` lack."
    faults = [] if (site/PREVIEW).is_file() else [f'{PREVIEW}: no such file']
    for p in sorted(site.rglob('*.html')):
        text = p.read_text(encoding='utf8')
        if '_static' in p.parts or 'http-equiv="refresh"' in text: continue
        for o in ('name="description"', 'property="og:title"', 'property="og:image"'):
            if not re.search(f'<meta {o} content="[^"]+"', text.partition('</head>')[0]):
                faults.append(f'{p.relative_to(site).as_posix()}: no {o}')
    return faults
