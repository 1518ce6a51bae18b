"How Sphinx builds the site from `_proc/`. tools/docs.py writes that folder and runs Sphinx."
import sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent/'tools'))
import heads

settings = ConfigParser(delimiters=['='], interpolation=None)
settings.read(here.parent/'settings.ini', encoding='utf8')
cfg = settings['DEFAULT']

project, author, version = cfg['title'], cfg['author'], cfg['version']
copyright = cfg['copyright']

extensions = ['myst_nb', 'sphinx.ext.mathjax']
exclude_patterns = ['.doctrees']
html_theme = 'sphinx_book_theme'
html_title = cfg['title']
html_baseurl = cfg['doc_host'] + cfg['doc_baseurl']
html_static_path = ['_static', str(here.parent/'_proc'/'_mathjax')]
html_css_files, html_js_files = ['site.css'], [('search.js', {'defer': 'defer'})]
html_logo, html_favicon = '_static/logo.svg', '_static/logo.svg'
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    'repository_url': cfg['git_url'],
    'use_repository_button': True,
    'use_download_button': False,
    'use_fullscreen_button': False,
    'show_toc_level': 2,
    'pygments_light_style': 'a11y-high-contrast-light',
    'pygments_dark_style': 'github-dark',
    'logo': {'text': cfg['title'], 'alt_text': ''},
}

nb_execution_mode = 'off'
nb_output_stderr = 'remove'
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = 'Show the code', 'Hide the code'
myst_enable_extensions = ['dollarmath', 'amsmath', 'attrs_inline', 'attrs_block']
myst_heading_anchors = 4
mathjax_path = 'tex-svg-full.js'
nitpicky = True

def setup(app):
    app.add_config_value('description', cfg['description'], 'html')
    app.connect('html-page-context', heads.add)
