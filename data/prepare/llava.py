"""LLaVA-1.5's own two data sets: captions that align the projector, the mixture that teaches to follow instructions."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data.json_records import read_json
from data.prepare.records import images_of
from data.prepare.spec import DatasetSpec, Record, RemoteFile, Unpack
from data.prepare.work import Work
from data.problems import BadRecord

CAPTIONS, MIXTURE = "blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json"
ENDINGS = (".jpg", ".jpeg", ".png", ".gif")  # OCR-VQA's pictures are called .jpg in the mixture, whatever they are on disk
AS_PUBLISHED = "as in the published file"


def convert_558k(work: Work) -> Mapping[str, Iterable[Record]]:
    """The published records; their pictures lie in `images/`."""
    return {"train": (record | {"image": f"images/{record['image']}"} for record in _read(CAPTIONS, work))}


def convert_665k(work: Work) -> Mapping[str, Iterable[Record]]:
    """The published records, text-only ones included."""
    return {"train": _with_endings(_read(MIXTURE, work), work)}


def _read(name: str, work: Work) -> Iterator[Record]:
    """One record at a time: all of the mixture at once would take several gigabytes."""
    for number, record in enumerate(read_json(work.file(name), ("conversations",))):
        if isinstance(record, BadRecord):
            if record.kind == "broken_file":
                raise ValueError(f"{record.message}: {work.file(name)}; remove that file, and it is fetched again")
            work.leave_out(record.kind, f"{name} record {number}: {record.message}")
        else:
            yield record


def _with_endings(records: Iterable[Record], work: Work) -> Iterator[Record]:
    for record in records:
        (image,) = images_of(record) or [""]
        if image.startswith("ocr_vqa/") and not (work.root / image).is_file():
            others = (str(Path(image).with_suffix(ending)) for ending in ENDINGS)
            found = next((other for other in others if (work.root / other).is_file()), None)
            if found:
                work.counts["pictures with another ending than the mixture says"] += 1
                record = record | {"image": found}
        yield record


LLAVA_558K = DatasetSpec(
    name="llava-558k",
    title="558,128 captions of LAION, CC, SBU pictures for projector alignment",
    files=(
        RemoteFile(name=CAPTIONS, hub="liuhaotian/LLaVA-Pretrain", about=181_000_000),
        RemoteFile(
            name="images.zip", hub="liuhaotian/LLaVA-Pretrain", about=27_400_000_000, unpack=Unpack(folder="images", gives="images")
        ),
    ),
    convert=convert_558k,
    splits={"train": "the whole published file; it has no other split"},
    question=AS_PUBLISHED,
    answer=f"a BLIP caption, {AS_PUBLISHED}",
    licence="other (CC-3M, BLIP)",
    licence_notes="Captions: CC-3M's and BLIP's terms. Pictures belong to their owners; its authors share them to reproduce research only.",
    homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain",
    citation="Liu et al., Improved Baselines with Visual Instruction Tuning, arXiv 2310.03744",
)

LLAVA_665K = DatasetSpec(
    name="llava-665k",
    title="the 665,298 dialogues of LLaVA-1.5's instruction tuning",
    files=(
        RemoteFile(name=MIXTURE, hub="liuhaotian/LLaVA-Instruct-150K", about=1_030_000_000),
        RemoteFile(
            name="train2017.zip",
            url="http://images.cocodataset.org/zips/train2017.zip",
            size=19_336_861_798,
            checksum="md5:cced6f7f71b7629ddf16f17bbcfab6b2",
            unpack=Unpack(folder="coco/train2017", gives="coco/train2017", flat=True),
        ),
        RemoteFile(
            name="gqa_images.zip",
            url="https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
            size=21_817_965_542,
            unpack=Unpack(folder="gqa/images", gives="gqa/images", flat=True),
        ),
        RemoteFile(
            name="ocr_vqa_images_llava_v15.zip",
            hub="weizhiwang/llava_v15_instruction_images",
            size=8_971_611_056,
            checksum="sha256:3759c8aa0f17cab162e22fc5c3ac77f3a4d5e342974c4ad4cc316b2308a0094a",
            unpack=Unpack(folder="ocr_vqa/images", gives="ocr_vqa/images", flat=True),
        ),
        RemoteFile(
            name="train_val_images.zip",
            url="https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
            size=7_072_297_970,
            unpack=Unpack(folder="textvqa/train_images", gives="textvqa/train_images", flat=True),
        ),
        RemoteFile(
            name="vg_images.zip",
            url="https://cs.stanford.edu/people/rak248/VG_100K_2/images.zip",
            size=9_731_705_982,
            unpack=Unpack(folder="vg/VG_100K", gives="vg/VG_100K", flat=True),
        ),
        RemoteFile(
            name="vg_images2.zip",
            url="https://cs.stanford.edu/people/rak248/VG_100K_2/images2.zip",
            size=5_471_658_058,
            unpack=Unpack(folder="vg/VG_100K_2", gives="vg/VG_100K_2", flat=True),
        ),
    ),
    convert=convert_665k,
    splits={"train": "the whole published file; it has no other split"},
    question=AS_PUBLISHED,
    answer=AS_PUBLISHED,
    licence="CC BY 4.0",
    licence_notes=(
        "Written by GPT-4 in part: OpenAI's terms of use apply. Each source of pictures has its own terms (COCO: Flickr's; OCR-VQA: book "
        "covers of their publishers, from a volunteer's collection since most of the original links are dead)."
    ),
    homepage="https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K",
    citation="Liu et al., Improved Baselines with Visual Instruction Tuning, arXiv 2310.03744",
    notes=(
        "ids name pictures, so they repeat: the second becomes ID#2.",
        "a few pictures of OCR-VQA are reported to be broken (LLaVA issue 1618): run perennial validate before training.",
    ),
)
