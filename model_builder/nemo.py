"""A NeMo checkpoint as the reference: adapter of NeMo, imported when a build needs it (NeMo takes 20 s to import)."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asr_contract.errors import CheckpointError, MissingExtraError, UnsupportedCheckpointError, WorkFolderError
from asr_serving.text import SPACE, Vocabulary
from model_builder import environment
from model_builder.checkpoint import BYTE_FALLBACK, CONFIG, NOT_MADE, SUPPORTED_TEXT, Description

Floats = npt.NDArray[np.float32]

GREEDY_CONFIG = "model_config.greedy.yaml"
TRANSDUCER_KEYS = ("model_type", "durations", "big_blank_durations")
"""Of a transducer's decoding: what says how its head is built, rather than how it is searched."""

WORD = "a"
"""Any text; SentencePiece drops the space at the start of a line."""
MAX_LOG_DIFFERENCE = 1e-3
"""Of log-mel features in single and double precision, the median of an utterance; rounding gives 1e-6."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the checkpoint itself makes of one utterance.

    Attributes:
        text: NeMo's own greedy transcript; spaces at its ends and runs of spaces are not kept.
        features: [bands, frames] float32, valid frames only.
        logprobs: [steps, classes] float32, valid steps only.
    """

    text: str
    features: Floats
    logprobs: Floats

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """[steps] best token of each step."""
        best: npt.NDArray[np.int32] = self.logprobs.argmax(axis=1).astype(np.int32)
        return best


def _import() -> Any:  # noqa: ANN401 (NeMo has no types)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dozens, of NeMo's own dependencies
            logging.getLogger("nv_one_logger").setLevel(logging.CRITICAL)  # telemetry says that it is off
            import nemo.collections.asr as nemo_asr  # noqa: PLC0415
            from nemo.utils import logging as nemo_logging  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError(f"NeMo cannot be imported ({error})", "builder") from error
    except (OSError, RuntimeError) as error:
        if advice := environment.unwritable_cache(error):
            raise WorkFolderError(advice) from error
        raise
    nemo_logging.setLevel(logging.CRITICAL)  # what it raises is told once, without its tracebacks
    return nemo_asr


def _greedy(config: Any) -> Any:  # noqa: ANN401 (OmegaConf's)
    """The configuration with greedy decoding of every head, as the served model decodes, and without training.

    Another strategy would need language models or libraries that are not here.
    """
    from nemo.collections.asr.parts.submodules.rnnt_decoding import RNNTBPEDecodingConfig  # noqa: PLC0415
    from omegaconf import OmegaConf  # noqa: PLC0415

    for unused in NOT_MADE:
        config.pop(unused, None)
    if "aux_ctc" in config:
        config.aux_ctc.decoding = {"strategy": "greedy"}
        found = config.get("decoding")
        kept = {key: found[key] for key in TRANSDUCER_KEYS if found.get(key)} if hasattr(found, "get") else {}
        usual = OmegaConf.to_container(OmegaConf.structured(RNNTBPEDecodingConfig))
        config.decoding = usual | {"strategy": "greedy_batch"} | kept
    else:
        config.decoding = {"strategy": "greedy"}
    return config


def _refusal(error: Exception) -> CheckpointError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return CheckpointError(f"NeMo cannot load the checkpoint: {reason[:400]}")


class Checkpoint:
    """A loaded CTC model on the CPU, in evaluation mode."""

    def __init__(self, description: Description) -> None:
        """Load an unpacked checkpoint.

        Raises:
            CheckpointError: NeMo refuses it.
            UnsupportedCheckpointError: It holds no CTC head or a tokenizer that is not supported.
            MissingExtraError: NeMo is not installed.
            WorkFolderError: A library cannot write its cache.
        """
        nemo_asr = _import()
        from nemo.core.connectors.save_restore_connector import SaveRestoreConnector  # noqa: PLC0415
        from omegaconf import OmegaConf  # noqa: PLC0415

        connector = SaveRestoreConnector()
        connector.model_extracted_dir = str(description.folder)
        model_class = getattr(nemo_asr.models, description.class_name)
        greedy = description.folder / GREEDY_CONFIG
        try:
            text = OmegaConf.to_yaml(_greedy(OmegaConf.load(description.folder / CONFIG)))
        except Exception as error:  # yaml's, OmegaConf's
            raise _refusal(error) from error
        greedy.write_text(text, encoding="utf-8")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # By a file: NeMo would resolve a configuration that it is given, even where it does not use it.
                model = model_class.restore_from(
                    str(description.folder),
                    override_config_path=str(greedy),
                    map_location="cpu",
                    save_restore_connector=connector,
                )
        except Exception as error:
            if advice := environment.unwritable_cache(error):
                raise WorkFolderError(advice) from error
            # NeMo, hydra, torch and pickle each have their own; all mean that this file is not a usable checkpoint.
            raise _refusal(error) from error
        for name, weight in model.state_dict().items():
            if not weight.isfinite().all():
                raise CheckpointError(f"the checkpoint's weight {name} holds NaN or infinity")
        self.model = model.eval()
        self.model.encoder.sync_max_audio_length = False
        if hasattr(self.model.encoder.pre_encode, "subsampling_conv_chunking_factor"):
            # Chunks change nothing but the memory that is used; 1 makes them only where an array would be too large.
            self.model.encoder.pre_encode.subsampling_conv_chunking_factor = 1
        self.description = description
        self._compared = False
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.decoder = getattr(model, "ctc_decoder", None) or model.decoder
        self.decoding = getattr(model, "ctc_decoding", None) or model.decoding
        if not hasattr(self.decoder, "vocabulary"):
            raise UnsupportedCheckpointError(f"the model has no CTC decoder; {SUPPORTED_TEXT}")
        self.vocabulary = Vocabulary(
            tokens=self._tokens(),
            kind=description.vocabulary_kind,
            step_seconds=description.step_seconds,
            punctuation="".join(sorted(self.decoding.supported_punctuation or ())),
        )

    def _tokens(self) -> tuple[str, ...]:
        """Tokens as they are to be read: of SentencePiece's own marks, what SentencePiece makes of them."""
        tokens = tuple(str(token) for token in self.decoder.vocabulary)
        if self.description.vocabulary_kind != "sentencepiece":
            return tokens
        pieces = self.model.tokenizer.tokenizer
        if any(pieces.is_byte(index) for index in range(len(tokens))):
            raise UnsupportedCheckpointError(BYTE_FALLBACK)

        def text(index: int, token: str) -> str:
            if not (pieces.is_unknown(index) or pieces.is_control(index)):
                return token
            return str(pieces.decode_pieces([WORD, token])[len(WORD) :]).replace(" ", SPACE)

        return tuple(text(index, token) for index, token in enumerate(tokens))

    @property
    def encoder(self) -> Any:  # noqa: ANN401
        """The encoder, a torch module."""
        return self.model.encoder

    @property
    def subsampling_channels(self) -> int:
        """Channels of the first convolution."""
        return int(self.model.encoder.pre_encode.conv[0].out_channels)

    def limit_audio(self, frames: int) -> None:
        """Cut the encoder's table of positions to `frames` feature frames; it goes into the export as a constant."""
        positions = self.model.encoder.pos_enc
        if hasattr(positions, "pe"):
            del positions.pe  # or NeMo keeps it when it is larger
        self.model.encoder.set_max_audio_length(-(-frames // self.description.subsampling) + 1)

    def untyped(self) -> Any:  # noqa: ANN401
        """Context in which NeMo's modules take plain tensors, as tracing needs."""
        from nemo.core.classes.common import typecheck  # noqa: PLC0415

        return typecheck.disable_checks()

    def mel_parts(self) -> dict[str, Any]:
        """Window, mel bank and constants of the checkpoint's own preprocessor."""
        featurizer = self.model.preprocessor.featurizer
        if featurizer.window is None:
            raise UnsupportedCheckpointError("preprocessor.window must name a window, such as 'hann'")
        if featurizer.log_zero_guard_type != "add" or isinstance(featurizer.log_zero_guard_value, str):
            raise UnsupportedCheckpointError("preprocessor.log_zero_guard_type must be 'add' with a number")
        if not float(featurizer.log_zero_guard_value) > 0:
            raise UnsupportedCheckpointError("preprocessor.log_zero_guard_value must be above 0, or silence has no log")
        return {
            "window": featurizer.window,
            "mel": featurizer.fb[0],
            "n_fft": featurizer.n_fft,
            "hop": featurizer.hop_length,
            "preemphasis": featurizer.preemph or 0.0,
            "log_guard": float(featurizer.log_zero_guard_value),
        }

    def features(self, audio: Floats, lengths: npt.NDArray[np.int32]) -> tuple[Floats, npt.NDArray[np.int32]]:
        """NeMo's preprocessor: [B, L] and [B, 1] to [B, bands, frames] and [B, 1]."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            features, frames = self.model.preprocessor(
                input_signal=torch.from_numpy(audio), length=torch.from_numpy(lengths[:, 0]).to(torch.int64)
            )
        return features.numpy(), frames.numpy().astype(np.int32)[:, None]

    def reference(self, signals: Sequence[Floats]) -> list[Reference]:
        """Transcribe utterances [L] one by one, as `transcribe()` with batch size 1 does."""
        references = []
        for signal in signals:
            lengths = np.array([[signal.size]], dtype=np.int32)
            features, frames = self.features(signal[None], lengths)
            references.append(self.reference_of(features[0], int(frames[0, 0])))
        return references

    def reference_of(self, features: Floats, frames: int) -> Reference:
        """What encoder, CTC head and greedy decoding make of features [bands, T], of which `frames` are valid."""
        import torch  # noqa: PLC0415

        with torch.inference_mode():
            encoded, steps = self.model.encoder(
                audio_signal=torch.from_numpy(features[None]), length=torch.tensor([frames])
            )
            logprobs = self.decoder(encoder_output=encoded)
            hypothesis = self.decoding.ctc_decoder_predictions_tensor(logprobs, steps)[0]
        return Reference(
            text=" ".join(str(hypothesis.text).split()),
            features=features[:, :frames],
            logprobs=logprobs[0, : steps[0]].numpy(),
        )

    def exact_features(self, audio: npt.NDArray[np.float64]) -> tuple[Floats, int]:
        """NeMo's own features of utterances [B, L] of one length, computed in double precision.

        In single precision the sums of NeMo's normalisation leave rounding noise, which the division by a small
        deviation makes as large as speech: in digital silence, in empty bands, in very quiet audio.

        Returns:
            [B, bands, T] float32, rounded at the end, and how many frames of each are valid.

        Raises:
            CheckpointError: The features before normalisation are not those that NeMo has in single precision.
        """
        if not self._compared:
            self._compare_precisions(audio[:1])
            self._compared = True
        features, frames = self._featurized(audio, normalize=True)
        return features.astype(np.float32), frames

    @contextmanager
    def half_precision_weights(self) -> Iterator[None]:
        """Within the block, weights of encoder and CTC head are rounded to FP16, and computed with in FP32."""
        import torch  # noqa: PLC0415

        weights = [*self.model.encoder.parameters(), *self.decoder.parameters()]
        kept = [weight.detach().clone() for weight in weights]
        try:
            with torch.no_grad():
                for weight in weights:
                    weight.copy_(weight.half())
            yield
        finally:
            with torch.no_grad():
                for weight, exact in zip(weights, kept, strict=True):
                    weight.copy_(exact)

    def _compare_precisions(self, audio: npt.NDArray[np.float64]) -> None:
        """See to it that NeMo does compute in double precision, and the same, before normalisation."""
        rounded, frames = self._featurized(audio.astype(np.float32), normalize=False)
        exact, _ = self._featurized(audio, normalize=False)
        typical = float(np.median(np.abs(rounded - exact)[:, :, :frames]))
        if exact.dtype != np.float64 or not typical <= MAX_LOG_DIFFERENCE:
            raise CheckpointError(
                f"NeMo's log-mel features in double precision ({exact.dtype}) typically differ by {typical:.2g} from "
                "those in single precision: this version of NeMo cannot be used as the reference"
            )

    def _featurized(self, audio: npt.NDArray[Any], *, normalize: bool) -> tuple[npt.NDArray[Any], int]:
        """NeMo's features [B, bands, T] in the precision of the audio, or its log-mel levels, and the valid frames."""
        import torch  # noqa: PLC0415

        # It computes in the precision of its input; the module around it would round that.
        featurizer = self.model.preprocessor.featurizer
        kind = featurizer.normalize
        featurizer.normalize = kind if normalize else None
        try:
            with torch.inference_mode():
                features, frames = featurizer(torch.from_numpy(audio), torch.full((len(audio),), audio.shape[1]))
        finally:
            featurizer.normalize = kind
        return features.numpy(), int(frames[0])
