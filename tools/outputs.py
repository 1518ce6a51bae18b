"""What cells printed, made ready for a page: tables that align, figures that a phone can show."""
import base64
import html
import io
import re

from nbformat.v4 import new_output
from PIL import Image

# JupyterLab shows the first line of a folded output: let that not be the answer
COVER = 'The answer:'
PX = 100   # of the page for an inch of figure, whatever its resolution
ONE = r'[+\-−]?\.?\d[\d.,:]*(?:e[+\-]?\d+)? ?%?'
NUMBER = re.compile(rf'{ONE}(?: (?:to|±) {ONE})?(?: \({ONE} to {ONE}\))?|nan|NaN|[–-]?')
HEAD = re.compile(r'<thead>\s*<tr[^>]*>(.*?)</tr>\s*(?:<tr[^>]*>(.*?)</tr>\s*)?</thead>', re.S)
ROW = re.compile(r'<tr[^>]*>(.*?)</tr>', re.S)
CELL = re.compile(r'<(t[hd])[^>]*>(.*?)</t[hd]>', re.S)

# --- tables

def texts(row:str) -> list:
    "What stands in the cells of a table row."
    return [html.unescape(re.sub('<[^>]+>', '', o)).strip() for _, o in CELL.findall(row)]

def one_head(table:str) -> str:
    "The name of the index, which pandas puts into a row of its own, in the first row's corner."
    found = HEAD.search(table)
    if not found or not found[2]: return table
    top, below = texts(found[1]), texts(found[2])
    if top[0] or any(below[1:]): return table
    head = re.sub(r'<th></th>', f'<th>{html.escape(below[0])}</th>', found[1], count=1)
    return table.replace(found[0], f'<thead><tr>{head}</tr></thead>')

def numbered(table:str) -> str:
    "Columns of nothing but numbers get the class `num`."
    rows = [texts(o) for o in ROW.findall(table.partition('<tbody>')[2])]
    width = max(map(len, rows), default=0)
    full = [o for o in rows if len(o) == width]
    def is_number(k):
        column = [o[k] for o in full]
        return any(column) and all(NUMBER.fullmatch(o) for o in column)
    numbers = {k for k in range(width) if is_number(k)}
    def marked(row):
        where = iter(range(width))
        def cell(m): return f'<{m[1]}{" class=num" * (next(where, -1) in numbers)}>{m[2]}</{m[1]}>'
        return row[0].replace(row[1], CELL.sub(cell, row[1])) if 'span=' not in row[0] else row[0]
    return ROW.sub(marked, table)

def tidy_table(text:str) -> str:
    "HTML of a pandas table as the page shows it; other HTML stays as it is."
    if 'class="dataframe"' not in text: return text
    text = re.sub(r'<style scoped>.*?</style>', '', text, flags=re.S)
    return re.sub(r'<table.*?</table>', lambda m: numbered(one_head(m[0])), text, flags=re.S)

# --- figures

def inches(data:dict) -> float:
    "How wide a picture in an output is; 0 where it does not say."
    kind = next((o for o in ('image/png', 'image/jpeg') if o in data), None)
    if not kind: return 0
    image = Image.open(io.BytesIO(base64.b64decode(data[kind])))
    dpi = float(image.info.get('dpi', (0, 0))[0])
    return image.width / dpi if dpi > 1 else 0

def is_picture(output:dict) -> bool:
    return any(k.startswith('image/') for k in output.get('data', {}))

def is_cover(output:dict) -> bool:
    return ''.join(output.get('data', {}).get('text/plain', '')) == COVER

def covered(cell:dict) -> list:
    "Outputs of a notebook's cell, with a first line that tells nothing where they are folded."
    found = cell.get('outputs', [])
    if not found or not cell['metadata'].get('jupyter', {}).get('outputs_hidden'): return found
    if is_cover(found[0]): return found
    return [new_output('display_data', {'text/plain': COVER}), *found]

def tidy(outputs:list) -> list:
    "Outputs without a cover, their tables and the widths of their pictures put right."
    outputs = [o for o in outputs if not is_cover(o)]
    for o in outputs:
        data = o.get('data', {})
        if 'text/html' in data: data['text/html'] = tidy_table(''.join(data['text/html']))
        if wide := inches(data):
            kind = next(k for k in data if k.startswith('image/'))
            o['metadata'][kind] = {**o['metadata'].get(kind, {}), 'width': f'{wide * PX:.0f}px'}
    return outputs

def captioned(outputs:list, caption:str) -> list:
    "The caption below the last picture: myst-nb would write it below every output of a cell."
    last = max(k for k, o in enumerate(outputs) if is_picture(o))
    text = f'<p class="caption">{html.escape(caption)}</p>'
    below = new_output('display_data', {'text/html': text})
    return [*outputs[:last + 1], below, *outputs[last + 1:]]

def picture_class(outputs:list) -> str:
    "`inches-8` for a cell whose widest picture has 8: a phone lets it scroll, legible."
    return f'inches-{min(12, round(max(map(wide_of, outputs), default=0)))}'

def wide_of(output:dict) -> float: return inches(output.get('data', {}))
