"""Two typed objects: `Params` is everything that changes a result, `Settings` is where things are.

Both forbid unknown keys and check ranges when they are made, so no later code meets a bad value.
"""

from __future__ import annotations

import json
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from maskfer.errors import ParamsError
from maskfer.labels import EXPRESSIONS, label_column

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataParams(_Frozen):
    """How raw photographs become faces."""

    crop_size: int = Field(96, ge=32, le=512)
    """Side of a stored face, pixels. The paper sends 96 x 96 to the server (§6)."""
    crop_context: float = Field(1.0, ge=1.0, le=3.0)
    """Side of the square crop, in units of the detector box's longer side."""
    min_confidence: Fraction = 0.5
    """A detection below this is no face."""
    val_fraction: Fraction = 0.1
    """Share of the training people that choose the best epoch."""
    test_fraction: Fraction = 0.2
    """Share of the people kept for the verdict, where the raw data does not name its own test people."""
    image_quality: int = Field(92, ge=1, le=101)
    """WebP quality of a stored face; 101 is lossless."""


class MaskingParams(_Frozen):
    """What AWFM draws on the twins of a dataset."""

    types: tuple[Literal["surgical", "kn95", "n95", "cloth", "duckbill"], ...] = (
        "surgical",
        "kn95",
        "n95",
        "cloth",
        "duckbill",
    )
    """Mask shapes, drawn uniformly."""
    patterned: Fraction = 0.5
    """Share of cloth masks that carry a pattern."""
    any_color: Fraction = 0.2
    """Share of masks whose colour is drawn from the whole range instead of what people mostly wear."""


class MaskClassifierParams(_Frozen):
    """Approach 2, stage 1 (§5.1)."""

    epochs: int = Field(8, ge=1)
    batch_size: int = Field(128, ge=2)
    """Faces per step."""
    learning_rate: float = Field(2e-3, gt=0)
    width: int = Field(32, ge=8, multiple_of=8)
    """Channels after the first block."""
    spatial_transformer: bool = True
    """Whether the spatial transformer stands between the blocks, as in §5.1."""


class HeatmapParams(_Frozen):
    """The occlusion-sensitivity map of the mask classifier (§5.1), and the head that learns it."""

    patch: int = Field(16, ge=2)
    """N, the side of the square that is zeroed, in pixels of the stored face."""
    stride: int = Field(8, ge=1)
    """Step between two positions of the patch, pixels; a divisor of `data.crop_size`."""
    center: float = Field(0.25, gt=0, lt=1)
    """Where H_m passes 1/2, in units of the map's height on that face."""
    gain: float = Field(8.0, gt=0)
    """Steepness of the sigmoid over the centred and scaled map."""
    region_weight: float = Field(0.5, ge=0)
    """How far the one-pass head is pulled from the exact map to the drawn mask; 0 not at all."""
    epochs: int = Field(6, ge=1)
    batch_size: int = Field(128, ge=2)
    learning_rate: float = Field(2e-3, gt=0)


class InpaintingParams(_Frozen):
    """Approach 1, stage 1 (§4.1): the network that paints a face where its mask is."""

    epochs: int = Field(12, ge=1)
    batch_size: int = Field(32, ge=2)
    """Pairs of twins per step."""
    learning_rate: float = Field(1e-3, gt=0)
    width: int = Field(8, ge=4, multiple_of=4)
    """Channels of the generator's first block and of the discriminators' first layer; VGG19 has 64."""
    reconstruction: float = Field(1.0, ge=0)
    """Weight of L_r in the generator's loss."""
    adversarial: float = Field(0.005, ge=0)
    """Weight of each discriminator's opinion in the generator's loss."""


class LandmarksParams(_Frozen):
    """The deep regression network for 68 landmarks (§4.2): faces are aligned by them."""

    epochs: int = Field(8, ge=1)
    batch_size: int = Field(128, ge=2)
    """Faces per step."""
    learning_rate: float = Field(2e-3, gt=0)
    width: int = Field(16, ge=8, multiple_of=8)
    """Channels after the first layers; doubled twice on the way."""


ExpressionModel = Literal[
    "two_branch", "landmark_split", "vgg19", "mobilenet", "deep_emotion", "pacnn", "gacnn", "ran", "oadn"
]
"""The expression networks; `learning.architecture` makes each."""
_READS_LANDMARKS: Final = frozenset({"landmark_split", "pacnn", "gacnn", "oadn"})
_NOT_NARROWED: Final = frozenset({"landmark_split", "deep_emotion"})
_INPAINTS: Final = frozenset({"landmark_split"})


class ExpressionParams(_Frozen):
    """Stage 2 of both approaches (§4.2, §5.2), its ablations, and the methods they are compared with."""

    model: ExpressionModel = "two_branch"
    """`two_branch` is approach 2, `landmark_split` approach 1; the others are what §3 and §6 compare with."""
    backbone: Literal["small", "face_resnet", "resnet18", "vgg19"] = "small"
    """What extracts the features F of `two_branch`; `face_resnet` has seen millions of faces before."""
    attention: Literal["heatmap", "unmasked", "none", "region"] = "heatmap"
    """What reweighs F in `two_branch`: H_m and H_u; H_u alone, in one branch; nothing, in one branch; or the
    drawn mask's true region in place of the heatmap, which shows what a perfect one would give and cannot be
    released."""
    aligned: bool = True
    """Whether faces are turned, moved and scaled by their landmarks before the expression is read."""
    spatial_transformer: bool = False
    """Whether each branch of `two_branch` starts with a spatial transformer of its own."""
    pretrained: Path | None = None
    """Weights that the backbone starts from: a state dict as torchvision publishes it, or dlib's file for
    `face_resnet`. Without, `face_resnet` starts from dlib's as a package brings it, others at random."""
    pretrained_rate: float = Field(0.15, gt=0, le=1)
    """Share of `learning_rate` at which weights that were trained before go on learning."""
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(128, ge=4)
    """Faces per step; a face and its masked twin count as two."""
    learning_rate: float = Field(2e-3, gt=0)
    width: int = Field(32, ge=8, multiple_of=8)
    """Channels of `two_branch` after its first layers, doubled three times on the way; on other backbones
    than `small` those of its branches alone, on `face_resnet` of the one on the mask."""
    width_multiplier: float = Field(1.0, ge=1 / 16, le=1)
    """Share of their channels that published networks keep, the compared methods and `two_branch`'s backbones
    other than `small`; at least one of MobileNet's first 16. Deep-Emotion is small as it is and keeps all."""
    dropout: Fraction = 0.3
    masked_branch_weight: Fraction = 0.35
    """Weight of the branch on the mask, in the answer and as l_m in the combined loss; l_u has the rest."""
    prior_strength: Fraction = 0.4
    """How far rare classes are lifted while training: 0 not at all, 1 as if all were equally frequent."""
    label_smoothing: Fraction = 0.1
    """Share of a label that is spread over all classes: some labels are wrong."""
    consistency: float = Field(1.0, ge=0)
    """Weight of the masked twin's divergence from the answer on the unmasked face."""

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> Self:
        # A table of ablations in which one key was silently ignored would compare a network with itself.
        for name in self.ignored:
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                chosen = f"model {self.model}, backbone {self.backbone} and attention {self.attention}"
                raise ValueError(f"{name} has no effect with {chosen}; leave it out")
        if self.pretrained is not None and self.model == "deep_emotion":
            raise ValueError(
                "pretrained has no effect with model deep_emotion, no weights of it are published"
            )
        return self

    @property
    def ignored(self) -> tuple[str, ...]:
        """The keys that have no effect with this model and this attention."""
        if self.model == "two_branch":
            one_branch, grid_branch = self.attention in ("unmasked", "none"), self.backbone == "face_resnet"
            ignored = ["masked_branch_weight"] if one_branch else []
            ignored += ["spatial_transformer"] if grid_branch else []
            ignored += ["width"] if one_branch and grid_branch else []
        elif self.model == "landmark_split":
            ignored = ["backbone", "attention", "spatial_transformer"]
        else:
            ignored = ["backbone", "attention", "spatial_transformer", "width", "masked_branch_weight"]
        if self.model in _NOT_NARROWED or (
            self.model == "two_branch" and self.backbone in ("small", "face_resnet")
        ):
            ignored.append("width_multiplier")
        if self.pretrained is None and not self.knows_faces:
            ignored.append("pretrained_rate")
        return tuple(ignored)

    @property
    def knows_faces(self) -> bool:
        """Whether the backbone is published with weights, in a package that is installed with ours."""
        return self.model == "two_branch" and self.backbone == "face_resnet"

    @property
    def reads_landmarks(self) -> bool:
        """Whether the network needs the landmark network before it."""
        return self.aligned or self.model in _READS_LANDMARKS

    @property
    def inpaints(self) -> bool:
        """Whether the landmark network needs the mask painted over before it."""
        return self.model in _INPAINTS


class EvaluationParams(_Frozen):
    """How a release is judged."""

    bootstrap_samples: int = Field(1000, ge=100)
    """Resamples of the paired bootstrap that compares with the champion."""
    calibration_bins: int = Field(15, ge=2)
    """Bins of the expected calibration error."""


class Params(_Frozen):
    """Everything that changes a result; read once from `params.yaml`."""

    seed: int = Field(7, ge=0)
    classes: tuple[str, ...] = EXPRESSIONS
    """Three expressions by default; names of `labels.EMOTIONS` work as well."""
    data: DataParams = DataParams()
    masking: MaskingParams = MaskingParams()
    mask_classifier: MaskClassifierParams = MaskClassifierParams()
    heatmap: HeatmapParams = HeatmapParams()
    inpainting: InpaintingParams = InpaintingParams()
    landmarks: LandmarksParams = LandmarksParams()
    expression: ExpressionParams = ExpressionParams()
    evaluation: EvaluationParams = EvaluationParams()

    @field_validator("classes")
    @classmethod
    def _known_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ValueError(f"classes must be two or more different names, got {list(classes)}")
        label_column(classes)
        return classes

    @model_validator(mode="after")
    def _rasters_fit(self) -> Self:
        size, stride = self.data.crop_size, self.heatmap.stride
        if size % 32 != 0:
            raise ValueError(f"data.crop_size must be a multiple of 32, got {size}")
        if size % stride != 0:
            raise ValueError(f"heatmap.stride must divide data.crop_size ({size}), got {stride}")
        return self

    @classmethod
    def load(cls, path: Path | None) -> Self:
        """Read `path`; `None` gives the defaults.

        Raises `ParamsError` naming the file, the key, the value and what was expected.
        """
        if path is None:
            return cls()
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            return cls.model_validate(raw)
        except FileNotFoundError as error:
            raise ParamsError(f"{path}: no such file; give --params a YAML file like params.yaml") from error
        except OSError as error:
            raise ParamsError(
                f"{path}: cannot be read ({error.strerror}); give --params a YAML file like params.yaml"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ParamsError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
        except ValidationError as error:
            raise ParamsError(f"{path}: {_first_problem(error)}") from error


def _listed(value: Any) -> Any:
    """Split `a,b`, or read `["a", "b"]`; what is no text stays as it is."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


_Listed = (NoDecode, BeforeValidator(_listed))


PREFIX: Final = "MASKFER_"
OTHER_VARIABLES: Final = ("TOKEN", "REQUIRE_BROWSER")
"""Read without `Settings`: by `maskfer live`, and by the tests of the page."""
_OF_A_SERVICE: Final = re.compile(
    r"(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.IGNORECASE
)
_ADDRESS_OF_A_SERVICE: Final = re.compile(r"(tcp|udp|sctp)://")


class Settings(BaseSettings):
    """Where things are: read from `MASKFER_*` environment variables, defaults for a laptop.

    What Kubernetes sets in every pod beside a service called `maskfer...` is passed over.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    home: Path = Path(".maskfer")
    """Folder for everything the project keeps on a laptop: registry, caches, runs, job state."""
    tracking_uri: str | None = None
    """MLflow server, e.g. `http://registry:5000`; unset means SQLite under `home`."""
    model_name: str = "maskfer"
    """Name of the registered model."""
    broker_url: str | None = None
    """Redis, e.g. `redis://broker:6379/0`; unset means an embedded server for the length of the command."""
    visibility_timeout_s: int = Field(120, ge=2)
    """A task that a lost worker held comes back after this; no segment may take longer."""
    max_deliveries: int = Field(3, ge=1)
    """Times a segment is tried before it is given up because it ends its worker."""
    pipeline_image: str = "maskfer-python:0.1.0"
    """Image of the training steps on a Kubeflow cluster, built by `components/Dockerfile`."""
    pipeline_gpus: int = Field(1, ge=0)
    """GPUs of each training step on a cluster; 0 trains on processors."""
    training_processes: int | None = Field(None, ge=1)
    """Processes that train one network together; unset means one for each accelerator of the machine."""
    scoring_model: str | None = None
    """The service's model: a release folder, `NAME@ALIAS` or `NAME@VERSION`; unset means the champion."""
    model_poll_s: float = Field(2.0, gt=0, le=600)
    """Seconds between two looks at where the alias of the service's model points."""
    shadow_model: str | None = Field(None, pattern=r"^[^/:@]+@[\w-]+$")
    """A second model that is asked too and only compared, e.g. `maskfer@challenger`; unset means none."""
    scoring_host: str = "127.0.0.1"
    scoring_port: int = Field(3000, ge=0, le=65535)
    """Port of the scoring service."""
    max_body_bytes: int = Field(20 * 2**20, ge=1)
    """Largest request body the scoring service accepts."""
    max_pixels: int = Field(50_000_000, ge=1)
    """Largest picture the scoring service decodes."""
    max_crops: int = Field(1024, ge=1)
    """Most crops in one request to `/predict`."""
    max_requests: int = Field(128, ge=1)
    """Requests that one worker of the scoring service works on at a time; more are answered 503."""
    network_runs: int | None = Field(None, ge=1)
    """Batches that one worker of the scoring service has in the network at a time; unset means the cores,
    divided among the workers."""
    max_connections: int = Field(1000, ge=1)
    """Connections that one worker of the scoring service holds at a time, live ones included."""
    request_timeout_s: float = Field(10.0, gt=0)
    """A request that has not arrived and been answered after this is given up; so is an idle connection."""
    api_tokens: Annotated[tuple[SecretStr, ...], *_Listed] = ()
    """Tokens of which the scoring service wants one, separated by commas; none means everybody is allowed."""
    cors_origins: Annotated[tuple[str, ...], *_Listed] = ()
    """Origins, besides its own, whose pages may use the scoring service, separated by commas."""
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)] = "INFO"
    """What the scoring service logs; WARNING leaves out the line for every request."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """Lines of its log: `auto` is text on a terminal and JSON elsewhere."""
    live_idle_s: float = Field(60.0, gt=0)
    """A live connection without a message for this long is closed."""
    live_max_clients: int = Field(64, ge=1)
    """Live connections that one worker of the scoring service keeps at a time."""
    live_max_message_bytes: int = Field(2 * 2**20, ge=1024, le=16 * 2**20)
    """Largest live message."""
    live_max_faces: int = Field(16, ge=1, le=1024)
    """Most faces judged in one live frame."""
    live_max_pixels: int = Field(10_000_000, ge=1)
    """Largest picture decoded in a live frame."""

    statistics_url: str | None = None
    """Database of the sessions' statistics, SQLite or PostgreSQL; unset means SQLite under `home`."""
    statistics_days: int = Field(30, ge=1)
    """Statistics older than this are deleted."""

    @model_validator(mode="before")
    @classmethod
    def _without_services(cls, given: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in given.items() if not _is_of_a_service(name, value)}

    @classmethod
    def load(cls) -> Self:
        """Read the environment; raises `ParamsError` naming the variable that is unknown or out of range."""
        _refuse_unknown(known=[*(name.upper() for name in cls.model_fields), *OTHER_VARIABLES])
        try:
            return cls()
        except ValidationError as error:
            raise ParamsError(f"environment variable MASKFER_{_first_problem(error)}") from error

    @property
    def registry_uri(self) -> str:
        """The MLflow tracking URI, with the laptop's default filled in."""
        return self.tracking_uri or f"sqlite:///{self.home.resolve() / 'mlflow.db'}"

    @property
    def statistics_address(self) -> str:
        """The database of the statistics, with the laptop's default filled in."""
        return self.statistics_url or f"sqlite:///{self.home.resolve() / 'statistics.db'}"


def _refuse_unknown(*, known: list[str]) -> None:
    # pydantic-settings looks only for the variables of its fields; what it does not look for goes unseen.
    ours = {name: value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    for variable, value in ours.items():
        name = variable.upper().removeprefix(PREFIX)
        if name not in known and not _is_of_a_service(name, value):
            alike = get_close_matches(name, known, n=1)
            remedy = f"did you mean {PREFIX}{alike[0]}?" if alike else "unset it"
            raise ParamsError(f"environment variable {variable}: no such setting; {remedy}")


def _is_of_a_service(name: str, value: Any) -> bool:
    """Whether Kubernetes sets this, e.g. NAME_SERVICE_HOST, or NAME_PORT to tcp://10.0.0.1:80."""
    if _OF_A_SERVICE.fullmatch(name) is not None:
        return True
    return name.upper().endswith("PORT") and _ADDRESS_OF_A_SERVICE.match(str(value)) is not None


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    # A token that does not parse is still a token.
    quiet = problem["type"] == "extra_forbidden" or where.startswith("api_tokens")
    got = "" if quiet else f" (got {problem['input']!r})"
    return f"{where}: {problem['msg']}{got}"
