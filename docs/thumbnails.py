"""Write ``docs/thumbnails`` from the figures of the last build that ran the examples.

Builds without figures show these small images in the gallery. CONTRIBUTING.md has the command.
"""

from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent


def main():
    """Write the first panel of the last figure of each example, at most 400 x 280 pixels large."""
    for example in sorted((DOCS.parent / "examples").glob("plot_*.py")):
        name = f"sphx_glr_{example.stem}_[0-9][0-9][0-9].png"
        figures = sorted((DOCS / "gallery/images").glob(name))
        image = Image.open(figures[-1]).convert("RGB")
        n_panels = max(round(image.width / image.height / 1.2), 1)
        image = image.crop((0, 0, image.width // n_panels, image.height))
        image.thumbnail((400, 280))
        path = DOCS / "thumbnails" / f"{example.stem}.png"
        path.parent.mkdir(exist_ok=True)
        image.quantize(64).save(path, optimize=True)


if __name__ == "__main__":
    main()
