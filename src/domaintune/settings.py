"""Settings of the tasks and methods: frozen models, one for each. Imports no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from domaintune.errors import RecipeError


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    answering: ClassVar[tuple[str, ...]] = ()
    """Those of how answers are made: they need no training, and can be changed for a finished run."""

    def check(self) -> None:
        """
        Raises:
            RecipeError: one of them has no meaning beside the others.
        """


Precision = Literal["fp32", "bf16"]
AskedPrecision = Literal["fp32", "bf16", "auto"]


def _spelled(label: object) -> object:
    """A whole number as text: YAML takes the labels 1 and 2 for numbers."""
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else label


Label = Annotated[str, BeforeValidator(_spelled)]
Labels = tuple[Label, ...]

# --- tasks


class TextClassificationSettings(Settings):
    name: Literal["text-classification"] = "text-classification"
    text_column: str = "text"
    label_column: str = "label"
    labels: Labels | None = None
    """The label set and its order; by default the data's, or all of the base's own head where the data's are among them."""
    multi_label: bool = False
    label_separator: str = Field(default="|", min_length=1)
    """Between the labels of one row, where `multi_label`."""
    class_weights: Literal["none", "balanced"] = "none"
    max_length: int | None = Field(default=None, ge=4)
    """Tokens, special ones included; by default the model's limit, at most 512."""
    long_texts: Literal["windows", "head", "tail"] = "windows"
    """What is read of texts with more tokens: all in windows, whose scores are averaged; the first `max_length`; or the last."""


class TokenClassificationSettings(Settings):
    name: Literal["token-classification"] = "token-classification"
    tokens_column: str = "tokens"
    tags_column: str = "tags"
    text_column: str = "text"
    """Of rows that have a text and entities as spans of its characters."""
    spans_column: str | None = None
    """Where those spans stand; by default `entities`, `spans`, `label` or `labels`."""
    labels: Labels | None = None
    """Entity types (without B-, I-); by default derived from the data."""
    class_weights: Literal["none", "balanced"] = "none"
    max_length: int | None = Field(default=None, ge=8)
    stride: int = Field(default=64, ge=0)
    """Tokens that neighbouring windows share."""
    decoding: Literal["viterbi", "greedy"] = "viterbi"
    """`viterbi`: the likeliest valid sequence of tags, where how tags follow each other is learned from the train part; `greedy`: each
    word's likeliest tag."""


def _without(settings: Settings, key: str, remedy: str) -> None:
    """Refuses a setting that says something, and that the others leave no use."""
    if (value := getattr(settings, key)) != type(settings).model_fields[key].default:
        raise RecipeError(f"got {key}={value:g}, which changes nothing here.", where=f"task.{key}", remedy=remedy)


class TranslationSettings(Settings):
    name: Literal["translation"] = "translation"
    source_column: str = "source"
    target_column: str = "target"
    source_language: str | None = None
    """Of the data: which two languages of a translation memory are read, and from which to which XLIFF and PO are. Multilingual bases
    need both, as their tokenizer knows them."""
    target_language: str | None = None
    source_prefix: str | None = None
    """Put before every source text that the model reads, for bases that are told what to do in it: `'translate English to German: '`
    (T5), `'<2de> '` (MADLAD), `'>>fra<< '` (Marian with several targets). As it stands, its last space too."""
    max_source_length: int = Field(default=256, ge=4)
    max_target_length: int = Field(default=256, ge=4)
    num_beams: int = Field(default=4, ge=1)
    length_penalty: float = 1.0
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)

    answering = ("num_beams", "length_penalty")

    def check(self) -> None:
        if self.num_beams == 1:
            _without(self, "length_penalty", "It compares beams: set task.num_beams above 1, or leave it out.")


class GenerationSettings(Settings):
    name: Literal["generation"] = "generation"
    prompt_column: str = "prompt"
    completion_column: str = "completion"
    text_column: str = "text"
    messages_column: str = "messages"
    """Chats: a list of messages with role and content."""
    max_length: int | None = Field(default=None, ge=8)
    """Tokens of prompt and completion together; by default the model's limit, at most 1024."""
    max_new_tokens: int = Field(default=128, ge=1)
    num_beams: int = Field(default=1, ge=1)
    sample: bool = False
    temperature: float = Field(default=1.0, gt=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    stop: tuple[str, ...] = ()
    """Strings that end the output; they are not part of it. `exact_match` compares completions up to the first of them."""

    answering = ("max_new_tokens", "num_beams", "sample", "temperature", "top_p", "stop")

    def check(self) -> None:
        if self.sample and self.num_beams > 1:
            raise RecipeError(
                f"got sample=true with num_beams={self.num_beams}.",
                where="task.sample",
                remedy="Sample with num_beams=1, or search with sample=false.",
            )
        for key in () if self.sample else ("temperature", "top_p"):
            _without(self, key, "It is of sampling: set task.sample=true too, or leave it out.")


class ImageClassificationSettings(Settings):
    name: Literal["image-classification"] = "image-classification"
    image_column: str = "image"
    """In tables of pictures: the path, relative to the table."""
    label_column: str = "label"
    labels: Labels | None = None
    class_weights: Literal["none", "balanced"] = "none"
    flip: bool | None = None
    """Augmentation: mirror pictures left to right, half of the time; by default where no label names a side (left, rechts, 左)."""
    crop: float = Field(default=0.8, gt=0, le=1)
    """Augmentation: smallest share of a picture's area that a random crop keeps; 1 = none."""


BoxEdge = Literal["xmin", "ymin", "xmax", "ymax", "x", "y", "width", "height"]


class ObjectDetectionSettings(Settings):
    name: Literal["object-detection"] = "object-detection"
    image_column: str = "image"
    """In tables of boxes: the picture's path, relative to the table."""
    label_column: str = "label"
    box_columns: dict[BoxEdge, str] = Field(default_factory=dict)
    """In tables of boxes, where they are called otherwise: `{xmin: left, ymin: top, xmax: right, ymax: bottom}`, or of `x`, `y`,
    `width` and `height`; in pixels."""
    labels: Labels | None = None
    flip: bool | None = None
    """Augmentation: as of image classification."""
    image_size: int | None = Field(default=None, ge=32)
    """Side of the square that pictures are resized to; by default the image processor's own size (of a shortest edge the square of it)."""
    threshold: float = Field(default=0.5, ge=0, le=1)
    """Smallest confidence of a box in what the user sees; scores use all boxes."""
    max_detections: int = Field(default=100, ge=1)
    denoising: bool = True
    """RT-DETR family: train with denoising queries."""

    answering = ("threshold",)


TaskSettings = Annotated[
    TextClassificationSettings
    | TokenClassificationSettings
    | TranslationSettings
    | GenerationSettings
    | ImageClassificationSettings
    | ObjectDetectionSettings,
    Field(discriminator="name"),
]


# --- methods


class FullSettings(Settings):
    name: Literal["full"] = "full"


class FreezeSettings(Settings):
    name: Literal["freeze"] = "freeze"
    train: tuple[str, ...] | None = None
    """What is trained beside the head: `top:K` (top blocks of the chain nearest the output), `CHAIN.top:K` (encoder, decoder,
    backbone), `attention`, `layer-norm`, `bias`, `head` (alone). By default `top:4`; of a chain of no more than four blocks (the
    stages of a ResNet, ConvNeXt or Swin) the upper half."""


class LoRASettings(Settings):
    name: Literal["lora"] = "lora"
    rank: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    rank_stabilised: bool = False
    """Scale alpha / sqrt(rank) instead of alpha / rank."""
    dora: bool = False
    initialise: Literal["zero", "pissa"] = "zero"
    """B starts at zero, or A and B at the weight's principal components (PiSSA), saved as an ordinary update of twice the rank."""
    domain_weights: bool = True
    """Where `data.domain_column` names several domains, each learns a weight in [0, 1] for the shared update; the largest is 1."""
    targets: tuple[str, ...] = ("all-linear",)
    """By anatomy: `attention`, `mlp`, `convolution`, `all-linear` (every linear and, in convnets, convolution site of the blocks);
    `CHAIN.` before a name restricts it to one chain. Experts that a base holds together in one tensor are no layers: a note names them."""


class PTuningSettings(Settings):
    name: Literal["p-tuning"] = "p-tuning"
    version: Literal[1, 2] = 2
    num_virtual_tokens: int = Field(default=16, ge=1)
    gated: bool = False
    """v2: a second attention to the learned keys and values alone, added through a zero-initialised gate."""
    initialise: Literal["random", "text"] = "random"
    """v2: learned keys and values start from noise as large as those of real inputs, or from these."""
    reparameterise: bool = False
    """v2: a network of each attention learns what is added to the starting keys and values; runs do not need it any more."""
    beside: tuple[Literal["layer-norm", "bias"], ...] = ()
    """Parameters of the body that are trained too, on the line between base and tuned: every norm's, every bias."""
    prompt_encoder: Literal["lstm", "mlp"] = "mlp"
    """v1: the network that makes the virtual tokens."""
    hidden_size: int | None = Field(default=None, ge=1)
    """v1 and reparameterise: width of the network; by default that of what it makes."""


MethodSettings = Annotated[FullSettings | FreezeSettings | LoRASettings | PTuningSettings, Field(discriminator="name")]
