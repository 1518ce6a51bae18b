"""The picture that stands for the site where somebody shares its address: toys and a sentence.

    python tools/preview.py    writes docs/_static/preview.jpg
"""
from pathlib import Path

from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont, ImageOps

from heads import PREVIEW, SIZE
from sotavision.toynette.dataset import toynette
from sotavision.toynette.scenes import toynette_names

ROOT = Path(__file__).resolve().parents[1]
ACROSS, DOWN, BAND = 5, 4, 150   # pictures in a row and a column; px below them
GROUND, INK = '#12303f', 'white'

def font(size:int, weight:str='normal'):
    "DejaVu Sans, which matplotlib brings."
    found = font_manager.findfont(font_manager.FontProperties(family='DejaVu Sans', weight=weight))
    return ImageFont.truetype(found, size)

def sheet() -> Image.Image:
    "Two toys of each class, the name of the site, and what it is."
    image, path = Image.new('RGB', SIZE, GROUND), toynette()
    w, h = SIZE[0] // ACROSS, (SIZE[1] - BAND) // DOWN
    for i in range(ACROSS * DOWN):
        file = sorted((path/'val'/list(toynette_names)[i % 10]).glob('*.jpg'))[i // 10]
        toy = ImageOps.fit(Image.open(file), (w - 4, h - 4), Image.Resampling.LANCZOS)
        image.paste(toy, (i % ACROSS * w + 2, i // ACROSS * h + 2))
    pen = ImageDraw.Draw(image)
    pen.text((40, SIZE[1] - 128), 'sotavision', INK, font(54, 'bold'))
    pen.text((42, SIZE[1] - 56), 'Image classifiers, technique by technique: built, tested, '
             'measured.', INK, font(28))
    return image

if __name__ == '__main__': sheet().save(ROOT/'docs'/PREVIEW, quality=82)
