"""Withdrawn data sets are recognised under any name; ordinary collections are not refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from facelake.admit.lineage import UNKNOWN_PACKAGE, Layout, Lineages, Retracted, RetractedList
from facelake.config import conf_dir, read_yaml_as
from facelake.errors import ConfigError

SHIPPED = read_yaml_as(RetractedList, conf_dir() / "retracted.yaml")
SETS = Lineages(SHIPPED.sets)
ENTRIES = {entry.name: entry for entry in SHIPPED.sets}
LONDON = Path("/work/shared/data/london")
STRONG = [(entry.name, alias) for entry in SHIPPED.sets for alias in entry.aliases]
WEAK = [(entry.name, alias) for entry in SHIPPED.sets for alias in entry.weak_aliases]
ORDINARY = [f"class-{i % 7}/IMG_{i:04d}.jpg" for i in range(3000)]

# (entry, i-th path of a layout of its): every shipped layout must be met by one of these
EXAMPLES: list[tuple[str, Callable[[int], str]]] = [
    ("MS-Celeb-1M", lambda i: f"raw/MsCelebV1-Faces-Aligned{i}.tsv"),
    ("MS-Celeb-1M", lambda i: f"x{i}/FaceImageCroppedWithAlignment.tsv"),
    ("MS-Celeb-1M", lambda i: f"x{i}/FaceImageCroppedWithOutAlignment.tsv"),
    ("MS-Celeb-1M", lambda i: f"x{i}/Top1M_MidList.Name.tsv"),
    ("MS-Celeb-1M", lambda i: f"holiday/m.0107_f/{i}-FaceId-0.jpg"),
    ("MS-Celeb-1M", lambda i: f"holiday\\m.0107_f\\{i}-FaceId-0.jpg"),
    ("MS-Celeb-1M", lambda i: f"m.01mbt1x_{i}-FaceId-0.JPG"),
    ("MS-Celeb-1M", lambda i: f"m.04xzm/{i}_o0MpowuG-FaceId-0_align.png"),
    ("MS-Celeb-1M", lambda i: f"Celeb_4/{i}-FaceId-0.jpg"),
    ("MS-Celeb-1M", lambda i: f"friends/m.0gwyp2d/{i:06d}.jpg"),
    ("C-MS-Celeb", lambda i: f"x{i}/clean_list_128Vec_WT051_P010.txt"),
    ("C-MS-Celeb", lambda i: f"x{i}/relabel_list_128Vec_T058.txt"),
    ("Trillion Pairs", lambda i: f"x{i}/faces_glint/1.jpg"),
    ("RFW", lambda i: f"African/m.0x1lfrd/m.0x1lfrd_{i:04d}.jpg"),
    ("RFW", lambda i: f"m.0b__05j_{i:04d}.jpg"),
    ("RFW", lambda i: f"x{i}/Asian_lmk.txt"),
    ("Duke MTMC", lambda i: f"x{i}/trainvalRaw.mat"),
    ("DukeMTMC-reID", lambda i: f"campus/0001_c2_f{46182 + i:07d}.jpg"),
    ("DukeMTMC-VideoReID", lambda i: f"0001/1/0001C2F0003X{30823 + i}.jpg"),
    ("DukeMTMC-attribute", lambda i: f"x{i}/duke_attribute.mat"),
    ("Brainwash", lambda i: f"x{i}/brainwash_train.idl"),
    ("Brainwash", lambda i: f"cafe/{i:05d}000_640x480.png"),
    ("MegaFace", lambda i: f"album/100/10000339@N08/415857939{i}_2.jpg"),
    ("MegaFace", lambda i: f"album/10000339@N08/415857939{i}_2.jpg"),
    ("MegaFace", lambda i: f"lists/megaface_features_list.json_1000000_{i}"),
    ("DiveFace", lambda i: f"sets/DiveFace/{i}.jpg"),
    ("TinyFace", lambda i: f"tinyface/Training_Set/{i}/1.jpg"),
    ("TinyFace", lambda i: f"x/Testing_Set/Probe/{i}_4.jpg"),
    ("TinyFace", lambda i: f"x{i}/gallery_match_img_ID_pairs.mat"),
    ("VGGFace2", lambda i: f"people/n000002/{i:04d}_01.jpg"),
    ("VGGFace2", lambda i: f"n000002/{i:04d}_01"),
    ("VGGFace2", lambda i: f"people/n000002_{i:04d}_01.png"),
    ("VGGFace2", lambda i: f"x{i}/faces_vgg_112x112.zip"),
    ("VGGFace2", lambda i: f"x{i}/loose_bb_train.csv"),
    ("IJB-B", lambda i: f"x{i}/ijbb_template_pair_label.txt"),
    ("IJB-C", lambda i: f"x{i}/ijbc_face_tid_mid.txt"),
]

NEGATIVES = [
    "0001_01.jpg",
    "class-3/0001.jpg",
    "class-3/0001_01.jpg",
    "IMG_0001.jpg",
    "DSC00001.JPG",
    "n000002/portrait.jpg",
    "n0001/0001_01.jpg",
    "n123456/0001_01.jpg",
    "n01440764/n01440764_10026.JPEG",
    "0002_c1s1_000451_03.jpg",
    "camera2/0001_c2.jpg",
    "12345678@N00/9876543210_abcdef1234_b.jpg",
    "m.mueller/0001.jpg",
    "m.0001/IMG_0001.jpg",
    "m.01/portrait.jpg",
    "00001000_640x480.jpg",
    "frames/frame_00001000.png",
    "00000500_640x480.png",
    "login/FaceId-0.jpg",
    "Indian_people.txt",
    "dive-face/2026/mask-001.jpg",
    "tiny-faces/Training/1.jpg",
    "faces/vgg/1.jpg",
    "faces/glint/1.jpg",
    "training_set/probe/1.jpg",
    "identity.csv",
    "Zoë/été à la mer/Ünïcode_0001.jpg",
    "李明/照片_0001.jpg",
    "movie.idx",
    "property",
]

ORDINARY_NAMES = [
    "brainwash-festival-2026",
    "tiny-face-club",
    "rfw-club",
    "duke-of-york",
    "mega-faces-party",
    "n000002",
    "forms1mile",
    "ms-teams-1m-users",
    "diving-faces",
    "emore-and-sons",
    "ijsselmeer-b",
    "vgg-office",
    "celebrities-2019",
    "members1m",
    "glint-in-the-eye",
    "",
]


def label(name: str) -> str:
    parent = ENTRIES[name].derived_from
    return f"{name} (of {parent})" if parent else name


def entry(name: str = "Ours", **fields: Any) -> Retracted:
    facts = {"withdrawn": "2020", "by": "us", "why": "asked nobody", "source": "a letter", "aliases": [name]}
    return Retracted(name=name, **(facts | fields))


# ---- the shipped list


def test_names_parents_and_sources() -> None:
    assert len(ENTRIES) == len(SHIPPED.sets) >= 20
    for each in SHIPPED.sets:
        assert each.source.strip()
        assert each.why.strip()
        assert each.derived_from is None or each.derived_from in ENTRIES
        assert each.by or each.derived_from
        assert each.content_sha256 == [], "no digest is shipped: none is known to us"


def test_required_data_sets_are_listed() -> None:
    families = {
        None: "MS-Celeb-1M|Duke MTMC|Brainwash|MegaFace|VGGFace|VGGFace2",
        "MS-Celeb-1M": "MS1M-IBUG|MS1MV2|MS1MV3|C-MS-Celeb|RFW",
        "Duke MTMC": "DukeMTMC-reID|DukeMTMC-VideoReID|DukeMTMC4ReID|DukeMTMC-attribute|Occluded-Duke",
        "MegaFace": "DiveFace|TinyFace",
        "IARPA Janus Benchmark": "IJB-A|IJB-B|IJB-C",
    }
    for parent, names in families.items():
        assert all(ENTRIES[name].derived_from == parent for name in names.split("|"))


def test_every_layout_has_an_example_here() -> None:
    for each in SHIPPED.sets:
        shown = [make(1).replace("\\", "/") for name, make in EXAMPLES if name == each.name]
        for layout in each.layouts:
            assert any(re.search(layout.regex, path, re.IGNORECASE) for path in shown), (each.name, layout.regex)


# ---- names


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_recognised_by_its_name(name: str) -> None:
    assert SETS.declared(name) == label(name)
    assert SETS.declared(f"photos of {name.upper()}, cleaned") == label(name)


@pytest.mark.parametrize(("name", "alias"), STRONG)
def test_aliases_match_in_any_case_and_with_any_separators(name: str, alias: str) -> None:
    pieces = re.findall(r"[A-Za-z]+|\d+", alias)
    spelled = [alias, alias.upper(), alias.lower(), *(sep.join(pieces) for sep in ("", "_", "-", " ", ".", " - ", "/"))]
    around = ("{}", "data/{}/x", "old_{}.tar.gz", "({})", "/mnt/a b/{}-train/imgs/0/1.jpg", "\u200b{}\n")
    texts = [each.format(text) for text in spelled for each in around]
    assert {text: SETS.in_name(text) for text in texts} == dict.fromkeys(texts, label(name))
    assert SETS.in_ids(texts) == [label(name)] * len(texts)


@pytest.mark.parametrize(("name", "alias"), STRONG)
def test_an_alias_inside_a_word_does_not_match(name: str, alias: str) -> None:
    joined = re.sub(r"[\W_]+", "", alias).lower()
    for text in (f"for{joined}ile", f"é{joined}", f"{joined}ä"):
        assert SETS.in_name(text) is None
        assert SETS.in_path(f"a/{text}/b.jpg") is None


@pytest.mark.parametrize(("name", "alias"), WEAK)
def test_weak_aliases_match_only_in_declarations(name: str, alias: str) -> None:
    assert SETS.declared(f"dataset: {alias}") == label(name)
    assert SETS.in_name(f"{alias}-club") is None


@pytest.mark.parametrize("name", ORDINARY_NAMES)
def test_ordinary_names_are_not_refused(name: str) -> None:
    assert SETS.in_name(name) is None
    assert SETS.in_path(f"{name}/IMG_0001.jpg") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MS-Celeb-1M", "MS-Celeb-1M"),
        ("ms_celeb_1m", "MS-Celeb-1M"),
        ("MSCeleb1M", "MS-Celeb-1M"),
        ("data/ms1mv2_arcface/x", "MS1MV2 (of MS-Celeb-1M)"),
        ("faces_ms1m-refine-v2_112x112.zip", "MS1MV2 (of MS-Celeb-1M)"),
        ("faces_ms1m_112x112", "MS1M-IBUG (of MS-Celeb-1M)"),
        ("ＭＳ１ＭＶ３", "MS1MV3 (of MS-Celeb-1M)"),
        ("VGG-Face2", "VGGFace2"),
        ("VGG Face", "VGGFace"),
        ("IARPA Janus Benchmark-B", "IJB-B (of IARPA Janus Benchmark)"),
        ("IARPA Janus Benchmarks", "IARPA Janus Benchmark"),
    ],
)
def test_the_longest_alias_wins(text: str, found: str) -> None:
    assert SETS.in_name(text) == found
    assert SETS.in_path(text) == found


@settings(deadline=None)
@given(st.data())
def test_no_separator_hides_a_name_in_a_batch(data: st.DataObject) -> None:
    _, alias = data.draw(st.sampled_from(STRONG))
    separator = st.text(st.sampled_from(" _-./\\#~·—\u200b|"), max_size=3)
    letters = re.sub(r"[\W_]+", "", alias)
    text = "".join(data.draw(st.sampled_from([c.upper(), c.lower()])) + data.draw(separator) for c in letters)
    assert SETS.in_ids(["a.jpg", f"x/{text}/y.jpg", None]) == [None, SETS.in_name(f"x/{text}/y.jpg"), None]
    assert SETS.in_name(text) is not None


# ---- layouts


@pytest.mark.parametrize(("name", "make"), EXAMPLES)
def test_one_repackaged_photo_among_thousands_is_recognised(name: str, make: Callable[[int], str]) -> None:
    layouts = [each for each in ENTRIES[name].layouts if re.search(each.regex, make(1).replace("\\", "/"), re.I)]
    least = min(layout.least for layout in layouts)
    needed = [make(i) for i in range(1, least + 1)]
    mixed = ORDINARY[:1500] + needed[:1] + ORDINARY[1500:] + needed[1:]
    found = SETS.in_ids(mixed)
    assert [path for path, each in zip(mixed, found, strict=True) if each] == needed
    assert {each for each in found if each} == {label(name)}
    if least > 1:
        assert not any(SETS.in_ids(ORDINARY + needed[:-1])), "too few to be sure"
        assert not any(SETS.in_ids(ORDINARY + needed[:-1] * 9)), "the same path again is no further evidence"
        assert SETS.in_path(needed[0]) is None
    else:
        assert SETS.in_path(needed[0]) == label(name)


@pytest.mark.parametrize("path", NEGATIVES)
def test_ordinary_paths_are_not_refused(path: str) -> None:
    assert SETS.in_path(path) is None
    assert not any(SETS.in_ids([path, *ORDINARY]))


@pytest.mark.parametrize(
    "make",
    [
        lambda i: f"{i:04d}_01.jpg",
        lambda i: f"n{i:04d}/0001_01.jpg",
        lambda i: f"m.{i:04d}/IMG_0001.jpg",
        lambda i: f"m.0{i}/a.jpg",
        lambda i: f"{i:08d}_640x480.png",
        lambda i: f"{i:08d}000_640x480.jpg",
        lambda i: f"{i:04d}_c{i % 6 + 1}s1_{i:06d}_00.jpg",
        lambda i: f"12345678@N00/98765{i:05d}_0a1b2c3d4e_b.jpg",
        lambda i: f"scan_{i:04d}/FaceId-{i}.jpg",
    ],
)
def test_ordinary_numbering_of_a_collection_is_not_refused(make: Callable[[int], str]) -> None:
    assert not any(SETS.in_ids([make(i) for i in range(1, 9000)]))


def test_a_layout_counts_rows_that_another_layout_claimed() -> None:
    clear = [f"x/100/10000339@N08/415857939{i}_2.jpg" for i in range(3)]
    faint = [f"x/y/10000339@N08/415857939{i}_2.jpg" for i in range(3, 5)]
    assert SETS.in_ids(clear + faint) == ["MegaFace"] * 5
    assert SETS.in_ids(faint) == [None, None]


def test_the_layout_with_the_fewest_required_matches_wins() -> None:
    both = [f"m.0x1lfrd/m.0x1lfrd_{i:04d}.jpg" for i in range(9)]  # folders of Freebase ids, too
    assert SETS.in_ids(both) == [label("RFW")] * 9
    assert SETS.in_ids([*both, "m.0x1lfrd/1.jpg"]) == [label("RFW")] * 9 + ["MS-Celeb-1M"]


def test_a_name_takes_precedence_over_a_shared_layout() -> None:
    assert SETS.in_path("C-MS-Celeb/m.0107_f/10-FaceId-0.jpg") == "C-MS-Celeb (of MS-Celeb-1M)"


def test_batches_with_missing_and_invalid_ids() -> None:
    assert SETS.in_ids([]) == []
    assert SETS.in_ids([None, "", None]) == [None, None, None]
    undecodable = os.fsdecode(b"caf\xe9/ms1m/\xff.jpg")
    assert SETS.in_ids([undecodable, os.fsdecode(b"\xff.jpg")]) == ["MS-Celeb-1M", None]
    assert Lineages([]).in_ids(["ms1m/a.jpg", "é"]) == [None, None]
    assert Lineages([entry(aliases=[], weak_aliases=["Ours"])]).in_ids(["ours.jpg"]) == [None]


WORDS = "brainwash duke york tiny faces mega festival school class party portrait anna m n c x ms celebration vgg janus"
PLACES = st.one_of(
    st.sampled_from(WORDS.split()),
    st.from_regex(r"(20\d\d|20\d\d-\d\d-\d\d|class-\d|[a-z]{1,8}[-_ ]?\d{0,4}|n\d{2,5}|p\d{1,6})", fullmatch=True),
)
FILES = st.one_of(
    st.from_regex(r"(IMG|DSC|DSCF|DSCN|P|GOPR|MVI|SAM|CIMG|PICT)_?\d{4,7}(_\d)?\.(jpg|JPG|png|heic)", fullmatch=True),
    st.from_regex(r"(PXL|IMG|Screenshot)_20\d{6}_\d{6,9}( \(\d\))?\.(jpg|png)", fullmatch=True),
    st.from_regex(r"\d{1,8}(_\d{1,3})?(-[a-z]{1,6})?\.(jpg|jpeg|webp)", fullmatch=True),
    st.from_regex(r"\d{3}_(neutral|smiling)\.jpg", fullmatch=True),
    st.uuids().map(lambda u: f"{u}.jpg"),
    st.text(min_size=1, max_size=20).map(lambda t: t + ".jpg"),
)
ORDINARY_PATHS = st.builds(lambda folders, file: "/".join([*folders, file]), st.lists(PLACES, max_size=3), FILES)


@settings(deadline=None, max_examples=100)
@given(st.lists(ORDINARY_PATHS, max_size=40))
def test_ordinary_collections_are_never_refused(paths: list[str]) -> None:
    assert not any(SETS.in_ids(paths))
    assert SETS.in_folder(paths, None) is None
    assert not any(SETS.in_name(path) for path in paths)


def test_a_real_collection_is_not_refused() -> None:
    if not LONDON.is_dir():
        print(f"\n!!! {LONDON} IS NOT THERE: no real collection was tried !!!\n")
        pytest.skip(f"{LONDON} is absent")
    paths = [path.relative_to(LONDON.parent).as_posix() for path in LONDON.rglob("*") if path.is_file()]
    assert len(paths) > 100
    assert SETS.in_folder(paths, None) is None
    assert not any(SETS.in_ids(paths))


# ---- folders


@pytest.mark.parametrize(
    ("identities", "name"),
    [(85742, "MS1MV2"), (93431, "MS1MV3"), (85164, "MS1M-IBUG"), (180855, "Trillion Pairs"), (8631, "VGGFace2")],
)
def test_insightface_packages_are_recognised_by_their_identity_count(identities: int, name: str) -> None:
    text = f"{identities},112,112\n"
    package = ["backup/train.rec", "backup/train.idx", "backup/property"]
    assert SETS.in_folder(package, text) == label(name)
    assert SETS.in_folder(["property", "0/1.jpg", "0/2.jpg"], text) == label(name), "unpacked, its property left in"


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["train.rec", "train.idx", "property"], "4711,112,112"),
        (["train.rec", "train.idx", "property"], "rubbish"),
        (["a/Faces.REC", "a/faces.idx", "0001.jpg"], None),
        (["property", "0001.jpg"], " 360232, 112, 112 "),
        (["property", "0001.jpg"], "0,112,112"),
    ],
)
def test_a_package_of_unknown_lineage_is_refused(paths: list[str], text: str | None) -> None:
    assert SETS.in_folder(iter(paths), text) == UNKNOWN_PACKAGE
    assert SETS.in_folder([*paths, "x/ms1m/1.jpg"], text) == "MS-Celeb-1M", "a name says more"


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (["movie.rec", "other.idx", "0001.jpg"], None),
        (["a/train.rec", "b/train.idx", "0001.jpg"], None),
        (["film.idx", "film.sub"], None),
        (["property", "0001.jpg"], "colour=red"),
        (["property", "0001.jpg"], "1,2"),
        (["property", "0001.jpg"], "9" * 5000 + ",112,112"),
        ([], None),
    ],
)
def test_folders_that_are_not_packages_pass(paths: list[str], text: str | None) -> None:
    assert SETS.in_folder(paths, text) is None


def test_a_folder_is_recognised_by_names_and_layouts() -> None:
    assert SETS.in_folder([*ORDINARY, "n000002/0001_01.jpg"], None) == "VGGFace2"
    assert SETS.in_folder([*ORDINARY, "MegaFace.tar"], None) == "MegaFace"
    assert SETS.in_folder([*ORDINARY, "00001000_640x480.png"], None) is None


def test_a_marker_without_identities_needs_all_its_files_in_one_folder() -> None:
    ours = Lineages([entry(markers=[{"files": ["List-*.bin", "readme"]}])])
    assert ours.in_folder(["x/list-1.bin", "x/README"], None) == "Ours"
    assert ours.in_folder(["x/list-1.bin", "y/README"], None) is None


# ---- digests, cards, reasons


def test_digests_come_from_an_operators_list() -> None:
    known = "ab" * 32
    more = entry("VGGFace2", content_sha256=[known], aliases=["VGGFace2", "Oxford faces v2"])
    both = Lineages([*SHIPPED.sets, more])
    assert SETS.by_content(known) is None
    assert both.by_content(known.upper()) == "VGGFace2"
    assert both.by_content("cd" * 32) is None
    assert both.in_name("oxford-faces-v2") == "VGGFace2"
    assert both.in_path("n000002/0001_01.jpg") == "VGGFace2", "what the first list says still stands"
    assert both.why("VGGFace2") == SETS.why("VGGFace2")


@pytest.mark.parametrize(
    ("declared", "text", "found"),
    [
        (["VGGFace2", "MS1MV2"], "CASIA-WebFace, VGGFace2 and MS1MV2.", ("VGGFace2", "MS1MV2")),
        ([], "CASIA-WebFace, VGG-Face2 and MS1M-ArcFace.", ("VGGFace2", "MS1MV2")),
        ([], "MS1MV3, tested on RFW and TinyFace", ("MS1MV3", "RFW", "TinyFace")),
        (["ms1m-retinaface", "Our Lost Set"], "", ("MS1MV3", "Our Lost Set")),
        ([], "WIDER FACE; photos of our members", ()),
    ],
)
def test_sets_that_a_model_card_declares_or_mentions(declared: list[str], text: str, found: tuple[str, ...]) -> None:
    assert SETS.of_card(declared, text) == found


def test_the_shipped_card_declares_what_its_text_names() -> None:
    text = (conf_dir() / "models" / "opencv.yaml").read_text()
    assert set(SETS.of_card([], text)) == {"VGGFace2", "MS1MV2"}


@pytest.mark.parametrize("name", ENTRIES)
def test_why_says_who_when_and_where_in_one_line(name: str) -> None:
    said = SETS.why(label(name))
    assert said == SETS.why(name)
    assert "\n" not in said
    root = ENTRIES[name] if ENTRIES[name].by else ENTRIES[ENTRIES[name].derived_from or ""]
    for part in (name, root.name, root.by or "", root.withdrawn or "date unclear", root.why, ENTRIES[name].source):
        assert part in said


def test_why_for_names_without_an_entry() -> None:
    assert "lineage" in UNKNOWN_PACKAGE
    assert "retracted.yaml" in SETS.why(UNKNOWN_PACKAGE)
    assert "Our Lost Set" in SETS.why("Our Lost Set")


# ---- lists that are wrong


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"alias": []}, "alias"),
        ({"aliases": ["other"]}, "own name"),
        ({"aliases": ["Ours", "a-b-c"]}, "shorter than 4"),
        ({"aliases": ["Ours", "---"]}, "shorter than 4"),
        ({"weak_aliases": ["ab"]}, "shorter than 3"),
        ({"by": None}, "who withdrew it"),
        ({"source": ""}, "source"),
        ({"withdrawn": "last year"}, "withdrawn"),
        ({"content_sha256": ["abc"]}, "64"),
        ({"content_sha256": ["AB" * 32]}, "64"),
        ({"markers": [{"files": []}]}, "files"),
    ],
)
def test_invalid_entries_are_rejected(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        entry(**fields)


@pytest.mark.parametrize("regex", ["(", "a(?=b)", r"(a)\1", "", "a*", "^", "$", ".*"])
def test_invalid_or_universal_layout_regexes_are_rejected(regex: str) -> None:
    with pytest.raises(ValidationError, match=r"RE2|every path"):
        Layout(regex=regex, what="x")


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ([entry(derived_from="Gone")], "not in any list"),
        ([entry("AAAA", derived_from="BBBB"), entry("BBBB", derived_from="AAAA")], "derived from it"),
        ([entry(derived_from="Ours")], "derived from it"),
        ([entry("AAAA"), entry("BBBB", aliases=["BBBB", "a.a.a.a"])], "belongs to both 'AAAA' and 'BBBB'"),
        ([entry("AAAA"), entry("BBBB", weak_aliases=["aa-aa"])], "belongs to both 'AAAA' and 'BBBB'"),
    ],
)
def test_contradictory_lists_are_rejected(entries: list[Retracted], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Lineages(entries)
    assert caught.value.next_step


def test_a_name_occurs_once_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "more.yaml"
    path.write_text(RetractedList(sets=[entry()]).model_dump_json())
    assert read_yaml_as(RetractedList, path).sets == [entry()]
    with pytest.raises(ValidationError, match="twice"):
        RetractedList(sets=[entry("Ours"), entry("OURS")])
    path.write_text("sets: [{name: Ours, colour: red}]")
    with pytest.raises(ConfigError, match="sets"):
        read_yaml_as(RetractedList, path)
