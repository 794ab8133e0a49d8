"""Write ``docs/thumbnails`` from the figures of the last build that ran the examples.

Builds without figures show these small images in the gallery. CONTRIBUTING.md has the command.
"""

from pathlib import Path

import numpy as np
from PIL import Image

DOCS = Path(__file__).parent


def main():
    """Write the first panel of the last figure of each example, at most 400 x 280 pixels large."""
    for example in sorted((DOCS.parent / "examples").glob("plot_*.py")):
        name = f"sphx_glr_{example.stem}_[0-9][0-9][0-9].png"
        figures = sorted((DOCS / "gallery/images").glob(name))
        image = first_panel(Image.open(figures[-1]).convert("RGB"))
        image.thumbnail((400, 280))
        path = DOCS / "thumbnails" / f"{example.stem}.png"
        path.parent.mkdir(exist_ok=True)
        image.quantize(64).save(path, optimize=True)


def first_panel(image):
    """Return the part of a figure before the first gap near the expected end of the panel."""
    n_panels = max(round(image.width / image.height / 1.2), 1)
    if n_panels == 1:
        return image
    used = np.flatnonzero(np.asarray(image).min(axis=(0, 2)) < 250)
    ends, gaps = used[:-1], np.diff(used)
    near = np.abs(ends * n_panels / image.width - 1) < 0.2
    end = ends[near & (gaps > 4)][0]
    return image.crop((0, 0, end + 4, image.height))


if __name__ == "__main__":
    main()
