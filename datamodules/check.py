"""What training would use of a folder of captioned images, and what is wrong with the rest."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from datamodules.caption_sources import read_source
from datamodules.manifest import Manifest, build_manifest, manifest_folder

_EXAMPLES = 3


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
    lines += [f"  {sample.file}: {' | '.join(sample.captions)}" for sample in manifest.samples[:_EXAMPLES]]
    for reason, count in Counter(bad.reason for bad in manifest.bad).most_common():
        lines.append(f"{reason}: {count:,}")
        examples = [bad for bad in manifest.bad if bad.reason == reason][:_EXAMPLES]
        lines += [f"  {bad.file}" + (f" ({bad.detail})" if bad.detail else "") for bad in examples]
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Print the report; 0 where training would start, 1 where it would not."""
    parser = argparse.ArgumentParser(prog="python -m datamodules.check", description=__doc__)
    parser.add_argument("root", help="the image folder")
    parser.add_argument("--annotations", help="a captions file elsewhere: COCO JSON, .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--class-template", help="'a photo of a {}' makes captions of class folders")
    parser.add_argument("--max-bad-fraction", type=float, default=0.01)
    parser.add_argument("--cache-dir", default=".cache", help="where the verdicts on the files are kept")
    options = parser.parse_args(arguments)
    try:
        root = Path(options.root).expanduser()
        source = read_source(root, options.annotations, options.class_template)
        manifest = build_manifest(root, source, manifest_folder(options.cache_dir, root, options.annotations))
        print("\n".join(describe(manifest, source.layout)))
        manifest.require(options.max_bad_fraction)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
