"""Digital silence and other empty bands: the same features, text and confidence alone and in batches."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from asr_client.transcription import TranscriptionError, transcribe_all
from asr_serving.audio import floats
from asr_serving.frontend import plain
from model_builder import audio_set, triton
from model_builder.audio_set import AudioSet
from model_builder.onnx_graph import Session
from tests.builder.conftest import NAME, Builder, Built
from tests.support.audio_kinds import KINDS, Pcm

SILENCES = [np.zeros(samples, dtype=np.int16) for samples in (400, 8_000, 24_000, 80_000, 200_000)]
QUIET_KINDS = (
    *("-70 dB", "8 kHz", "mu-law", "DC only", "near-silent", "near-silent, rarely a step"),
    *("silence, a click of one step", "silence, a loud click", "muted between", "tone"),
)


@pytest.fixture(scope="module")
def mel(built: Built) -> Session:
    return Session(built.work / "graphs" / "frontend.onnx")


@pytest.fixture(scope="module")
def speech() -> npt.NDArray[np.float64]:
    return floats(audio_set.load(audio_set.SHIPPED, max_seconds=40).utterances[1].signal).astype(np.float64)


def features(mel: Session, signals: list[Pcm], samples: int) -> list[npt.NDArray[np.float32]]:
    """Of a batch padded with noise."""
    outputs = mel.run(plain(*audio_set.in_noise(signals, batch=len(signals), samples=samples, wire="PCM16")))
    frames = outputs["processed_signal_length"][:, 0]
    return [row[:, :count] for row, count in zip(outputs["processed_signal"], frames, strict=True)]


def test_the_features_of_digital_silence_are_exactly_zero_alone_and_in_a_batch(
    mel: Session, check_audio: AudioSet
) -> None:
    together = features(mel, [*SILENCES, *(item.signal for item in check_audio.utterances[:2])], 250_000)
    alone = [features(mel, [silence], silence.size)[0] for silence in SILENCES]
    assert not any(found.any() for found in (*alone, *together[: len(SILENCES)]))
    assert together[-1].any()


@pytest.mark.parametrize("kind", QUIET_KINDS)
def test_audio_with_empty_bands_has_the_same_features_alone_and_in_a_batch(
    mel: Session, speech: npt.NDArray[np.float64], kind: str
) -> None:
    signal = KINDS[kind](speech)
    (alone,) = features(mel, [signal], signal.size)
    for samples in (signal.size + 7_000, 2 * signal.size):
        for found in features(mel, [signal, SILENCES[1], signal], samples)[::2]:
            np.testing.assert_allclose(found, alone, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_one_band_that_is_constant_is_zero_and_the_others_are_what_they_are() -> None:
    import torch  # noqa: PLC0415

    from model_builder.torch_graph import LogMel, MelRecipe  # noqa: PLC0415

    bank = torch.rand(4, 257, generator=torch.Generator().manual_seed(0))
    gap = bank.clone()
    gap[2] = 0  # a filter between two bins of the transform
    audio = torch.rand(1, 16_000, generator=torch.Generator().manual_seed(1)) - 0.5
    for guard in (2**-24, 1e-5, 1.0, 1e-30):
        whole, holed = (
            LogMel(MelRecipe(torch.hann_window(400), each, 512, 160, 0.97, guard))(audio, torch.tensor([[16_000]]))[0]
            for each in (bank, gap)
        )
        assert not holed[0, 2].any()
        torch.testing.assert_close(holed[0, [0, 1, 3]], whole[0, [0, 1, 3]])
        assert whole[0, 2].any()


def test_a_single_frame_deviates_by_nothing() -> None:
    import torch  # noqa: PLC0415

    from model_builder.torch_graph import LogMel, MelRecipe  # noqa: PLC0415

    mel = LogMel(MelRecipe(torch.hann_window(400), torch.rand(4, 257), 512, 320, 0.97, 2**-24))
    found, frames = mel(torch.rand(1, 400) - 0.5, torch.tensor([[400]]))
    assert frames.item() == 1
    assert not found[:, :, 0].any()


def test_a_muted_microphone_gives_the_same_empty_text_and_confidence_alone_and_among_speech(
    server: triton.Server, check_audio: AudioSet
) -> None:
    def served(signals: list[Pcm], concurrency: int) -> list[tuple[str, float]]:
        results = transcribe_all(server.ports.grpc_url, NAME, signals, concurrency=concurrency)
        assert not any(isinstance(result, TranscriptionError) for result in results)
        return [(result.text, result.confidence) for result in results]  # type: ignore[union-attr]

    among = [item.signal for item in check_audio.utterances[:10]]
    alone = served(SILENCES, 1)
    together = served([*SILENCES, *among, *SILENCES], 64)
    assert [text for text, _ in alone] == [""] * len(SILENCES)
    for found in (together[: len(SILENCES)], together[-len(SILENCES) :]):
        assert [text for text, _ in found] == [""] * len(SILENCES)
        assert [sure for _, sure in found] == pytest.approx([sure for _, sure in alone], abs=1e-5)
    assert all(0.5 < sure <= 1 for _, sure in alone)


def test_half_precision_is_as_silent_alone_and_in_a_batch(half_built: Built) -> None:
    model = Session(half_built.work / "graphs" / "model.onnx")
    blank = 320
    for batch, samples in ((SILENCES[2:3], 24_000), (SILENCES, 250_000)):
        outputs = model.run(plain(*audio_set.in_noise(batch, batch=len(batch), samples=samples, wire="PCM16")))
        steps = outputs["encoded_length"][:, 0]
        assert all(set(row[:count]) == {blank} for row, count in zip(outputs["tokens"], steps, strict=True))


def recorded(folder: Path, speech: npt.NDArray[np.float64], *kinds: str) -> Path:
    """Check audio of some kinds, without transcripts."""
    folder.mkdir()
    made: dict[str, Callable[[npt.NDArray[np.float64]], Pcm]] = KINDS
    for index, kind in enumerate(kinds):
        soundfile.write(folder / f"{index}.wav", made[kind](speech), 16_000, subtype="PCM_16")
    return folder


def test_check_audio_as_it_is_in_life_is_accepted(
    builder: Builder, demo_checkpoint: Path, speech: npt.NDArray[np.float64], tmp_path: Path
) -> None:
    folder = recorded(tmp_path / "audio", speech, "-50 dB", "silence, 20 s", *QUIET_KINDS, "GSM", "25 ms")
    built = builder.build("life", "--check-audio", str(folder), source=demo_checkpoint)
    gate, check = built.report["stages"]["gate"], built.report["stages"]["check"]
    assert (gate["unexplained_texts"], gate["token_agreement"]) == (0, 1.0)
    assert check["max_logprob_difference"] <= 0.01
    assert gate["decided_by"]["file"] in {path.name for path in folder.iterdir()}
    assert check["decided_by"]["features"]["file"] in {path.name for path in folder.iterdir()}
