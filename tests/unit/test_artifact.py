from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_contract.artifact import MANIFEST, File, Manifest, ModelFacts, Provenance, content_digest, parse_manifest
from asr_contract.errors import ArtifactError
from asr_contract.recipe import ARTIFACT_FORMAT, Recipe, build_key

RECIPE = Recipe(model_name="english_stt", checkpoint_sha256="a" * 64, check_audio_sha256="b" * 64)
FACTS = ModelFacts(features=80, hop=160, channels=256, preprocessor={})


def manifest(*paths: str) -> Manifest:
    return Manifest(
        artifact_format=ARTIFACT_FORMAT,
        build_key=build_key(RECIPE),
        recipe=RECIPE,
        provenance=Provenance(
            source="english.nemo",
            checkpoint_class="EncDecCTCModelBPE",
            parameters=1,
            versions={},
            built_at=datetime(2026, 1, 1, tzinfo=UTC),
        ),
        model=FACTS,
        check={},
        gate={},
        files={path: File(sha256="c" * 64, size=3) for path in paths},
    )


def test_a_manifest_survives_its_json() -> None:
    one = manifest("english_stt/config.pbtxt", "english_stt/1/model.py")
    assert parse_manifest(one.to_json(), where="here") == one


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../b", "a//b", "./a", "", "a\\b", "a\0b", MANIFEST])
def test_a_path_that_leaves_the_repository_is_refused(path: str) -> None:
    content = manifest("harmless").to_json().replace(b'"harmless"', repr(path).replace("'", '"').encode())
    with pytest.raises(ArtifactError, match="is not a manifest that this version reads"):
        parse_manifest(content, where="here")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null"])
def test_what_is_not_a_manifest_is_refused_with_its_place(content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"s3://bucket/manifest\.json is not a manifest"):
        parse_manifest(content, where="s3://bucket/manifest.json")


files = st.dictionaries(
    st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,2}", fullmatch=True),
    st.builds(File, sha256=st.from_regex(r"[0-9a-f]{64}", fullmatch=True), size=st.integers(0, 10**12)),
    min_size=1,
    max_size=6,
)


@given(files)
def test_the_content_digest_does_not_depend_on_the_order_of_the_files(found: dict[str, File]) -> None:
    assert content_digest(found) == content_digest(dict(reversed(found.items())))


@given(files, files)
def test_other_files_have_another_content_digest(one: dict[str, File], other: dict[str, File]) -> None:
    assert (content_digest(one) == content_digest(other)) == (one == other)
