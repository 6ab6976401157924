"""What training would use of a folder of captioned images, and what is wrong with the rest."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

from datamodules.caption_sources import read_source
from datamodules.manifest import Manifest, build_manifest, manifest_folder
from files import printable

_EXAMPLES = 3
_CAPTIONS = 5  # of an example
_WIDTH = 2000


def describe(manifest: Manifest, layout: str) -> list[str]:
    """The report as lines: layout, usable images, captions, examples, and a few files of every reason."""
    lines = [f"layout: {layout}", manifest.summary()]
    captions = [text for sample in manifest.samples for text in sample.captions]
    if captions:
        words = sorted(len(text.split()) for text in captions)
        lines.append(
            f"{len(captions):,} captions, {len(set(captions)):,} of them different, "
            f"{len(captions) / len(manifest.samples):.3g} per image, {words[len(words) // 2]} words in the median, "
            f"{words[-1]} at most"
        )
    lines += [f"  {sample.file}: {' | '.join(sample.captions[:_CAPTIONS])}" for sample in manifest.samples[:_EXAMPLES]]
    for reason, count in Counter(bad.reason for bad in manifest.bad).most_common():
        lines.append(f"{reason}: {count:,}")
        examples = islice((bad for bad in manifest.bad if bad.reason == reason), _EXAMPLES)
        lines += [f"  {bad.file}" + (f" ({bad.detail})" if bad.detail else "") for bad in examples]
    return [printable(line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…") for line in lines]


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 0 where training would start, 1 where it would not."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.check", description=__doc__)
    parser.add_argument("root", help="the image folder")
    parser.add_argument("--annotations", help="a captions file elsewhere: COCO JSON, .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--class-template", help="'a photo of a {}' makes captions of class folders")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01)
    parser.add_argument("--cache-dir", default=".cache", help="where the verdicts on the files are kept")
    parser.add_argument("--allow-outside", action="store_true", help="take files outside ROOT, by path or by link")
    options = parser.parse_args(arguments)
    try:
        root = Path(options.root).expanduser()
        source = read_source(root, options.annotations, options.class_template, options.allow_outside)
        folder = manifest_folder(options.cache_dir, root, options.annotations)
        manifest = build_manifest(root, source, folder, options.allow_outside)
        print("\n".join(describe(manifest, source.layout)))
        manifest.require(options.max_bad_fraction)
    except (ValueError, OSError) as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
