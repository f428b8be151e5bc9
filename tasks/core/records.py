"""The records that travel between steps: small, frozen, unknown fields refused.

Digests, paths, numbers; never tensors or engines. A digest is identity, a path only says where
something was. Nothing here measures or decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from tasks.core.choices import ExaminationProfile, Precision, Profile

# Beside what is defined here.
__all__ = ["ExaminationProfile", "Precision", "Profile"]

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def objects(self) -> list[str]:
        """Digests of the store objects that this record stands for; a cache hit needs them all."""
        return []

    def is_settled(self) -> bool:
        """Tell whether asking again would give the same: a cache keeps nothing else."""
        return True


# ---------------------------------------------------------------- what is asked for


SHIPPABLE = (Precision.INT4, Precision.INT8, Precision.FP16)
QUANTISED = (Precision.INT4, Precision.INT8)


BuilderWay = Literal["fast", "plain"]


class Recipe(Record):
    """How one variant is quantised; every field enters the cache key.

    Field names are those of the ONNX Runtime GenAI 0.18 model builder where it has one.
    """

    precision: Precision
    builder: BuilderWay = Field(
        default="fast",
        description="fast: all precisions from one reading of the weights, where that is known to "
        "give the same; plain: one run of the stock builder for each",
    )
    block_size: Literal[16, 32, 64, 128, 256] = Field(
        default=32, description="weights that share one scale"
    )
    is_symmetric: bool = Field(default=True, description="no zero points")
    algorithm: Literal["default", "rtn", "k_quant"] = "default"
    accuracy_level: Literal[0, 1, 2, 3, 4] = Field(
        default=4, description="MatMulNBits compute type; 4 = INT8 activations, 1 = FP32"
    )
    int8_head: bool = Field(default=False, description="INT4 only: the language head in INT8")
    int8_layers: bool = Field(default=False, description="INT4 only: sensitive layers in INT8")


class Expectation(Record):
    """What a right answer looks like.

    kind `exact`: the answer equals the string `value`, white space around it aside.
    kind `json`: the answer parses as JSON and equals `value`.
    kind `json_schema`: the answer parses as JSON and satisfies the schema `value`.
    kind `regex`: the pattern `value` matches the whole answer.
    kind `contains`: the string `value` is in the answer, case aside.
    """

    kind: Literal["exact", "json", "json_schema", "regex", "contains"]
    value: Any


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Question(Record):
    """One domain question; `answer` is the assistant's ideal text where it is known."""

    id: str = Field(min_length=1)
    category: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    expectation: Expectation
    answer: str | None = None

    @model_validator(mode="after")
    def _ends_with_user(self) -> Question:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self


class QuestionFile(Record):
    """Where the questions are, and which they are; the file is read again by each step."""

    path: Path
    digest: Digest
    count: int


class Conditions(Record):
    """What metrics were measured with; those of two runs compare only where these are equal.

    Attributes:
        questions: digest of the question file.
        profile: how much was measured.
        revision: of the examining code.
    """

    questions: Digest
    profile: ExaminationProfile
    revision: int


# ---------------------------------------------------------------- what was found


class PackageVersion(Record):
    """One package against its pin; `installed` is None when it is absent."""

    name: str
    installed: str | None
    pinned: str
    matches: bool


class Environment(Record):
    """What this machine can do.

    Attributes:
        machine_class: digest over what decides speed (CPU model, flags, cores, versions): timings
            are comparable, and cacheable, inside one class only.
        problems: reasons why nothing can be built here; empty when fit.
        warnings: worth knowing, not in the way.
    """

    python: str
    platform: str
    cpu_model: str
    cpu_features: list[str]
    logical_cores: int
    physical_cores: int
    ram_total_bytes: int
    ram_available_bytes: int
    disk_free_bytes: int
    packages: list[PackageVersion]
    foundry_version: str | None
    foundry_detail: str
    machine_class: str
    problems: list[str]
    warnings: list[str]


class Checkpoint(Record):
    """An admitted Hugging Face checkpoint.

    Attributes:
        digest: over names and bytes of the files that decide what the model is.
        family: `model_type` of config.json, such as `qwen2`.
        source_bytes: bytes of the safetensors files.
        chat_template_file: the file that holds the template.
        eos_token_ids: from generation_config.json, else config.json.
        sampling: sampling defaults of generation_config.json (temperature, top_p, ...).
    """

    name: str
    path: Path
    digest: Digest
    family: str
    architecture: str
    parameters: int
    weight_dtype: str
    source_bytes: int
    weight_files: list[str]
    hidden_size: int
    layers: int
    attention_heads: int
    kv_heads: int
    head_size: int
    vocabulary_size: int
    context_length: int
    tied_embeddings: bool
    eos_token_ids: list[int]
    chat_template_file: str
    sampling: dict[str, float]


class Forecast(Record):
    """What one build will need, from config.json and the safetensors headers alone."""

    recipe: Recipe
    peak_rss_bytes: int
    disk_bytes: int
    seconds: float


class Quantisation(Record):
    """What was read back from a built graph, not what was asked for.

    Attributes:
        bits: number of MatMulNBits nodes by their bits, such as {4: 24, 8: 1}.
        block_sizes: number of MatMulNBits nodes by their block size.
        symmetric: no MatMulNBits node has zero points.
        embedding_bits: bits of the embedding table: 4, 8, 16 or 32.
    """

    bits: dict[int, int]
    block_sizes: dict[int, int]
    symmetric: bool
    embedding_bits: int


class Variant(Record):
    """A built model folder in the store.

    Attributes:
        digest: names and bytes of the folder; identity.
        toolchain: tool versions that made it.
        size_bytes: all files of the folder.
        build_seconds, build_cpu_s, build_peak_rss_bytes: what the building child cost, for all
            that it built.
        built_with: precisions that the same child built; their costs are these costs.
        way: how it was built; `why_plain` says why it was not the fast way.
    """

    checkpoint_digest: Digest
    recipe: Recipe
    digest: Digest
    toolchain: str
    size_bytes: int
    quantisation: Quantisation
    context_length: int
    eos_token_ids: list[int]
    build_seconds: float
    build_cpu_s: float
    build_peak_rss_bytes: int
    built_with: list[Precision] = []
    way: BuilderWay = "plain"
    why_plain: str = ""

    @property
    def precision(self) -> Precision:
        """Precision of the weights."""
        return self.recipe.precision

    def objects(self) -> list[str]:
        """The model folder."""
        return [self.digest]


class Measurement(Record):
    """One number with what is needed to believe it.

    Attributes:
        value: None when it could not be measured; `method` then says why. Never a pass.
        ci95: 95 % interval, or None for an exact count.
        n: number of observations (tokens, questions, rounds).
        unit: SI or `1`.
        method: how it was measured and how the interval was made.
        applies: False when there is nothing to measure, whatever the variant is like, such as
            valid JSON where no question asks for JSON; `method` says why. Its gates are not asked.
        final: True when it has no value and measuring again would give none, see decision 0008:
            such as a ratio to a reference without a right answer. Never a pass, either.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    n: int = 1
    unit: str = "1"
    method: str = ""
    applies: bool = True
    final: bool = False

    @model_validator(mode="after")
    def _has_no_value_where_it_cannot(self) -> Measurement:
        if self.value is not None and (self.final or not self.applies):
            raise ValueError("what does not apply or cannot be measured has no value")
        return self

    def is_settled(self) -> bool:
        """Tell whether measuring again would come to the same."""
        return self.value is not None or self.final or not self.applies


class Cost(Record):
    """What a step cost: wall seconds, CPU seconds, and the peak memory of its child process."""

    seconds: float
    cpu_s: float
    peak_rss_bytes: int


class Evidence(Record):
    """What one examination of one subject measured.

    Attributes:
        suite: which examination.
        subject: digest of what was examined.
        metrics: by dotted name, such as `fidelity.kld_mean`.
        notes: observations in words, most important first.
        frames: digest of the store object that holds the raw rows as parquet, or None.
        cost: what measuring took.
    """

    suite: str
    subject: Digest
    metrics: dict[str, Measurement]
    notes: list[str] = []
    frames: Digest | None = None
    cost: Cost | None = None

    def objects(self) -> list[str]:
        """The raw rows."""
        return [self.frames] if self.frames else []

    def is_settled(self) -> bool:
        """Only when everything was measured that can be; the rest may be the next time."""
        return all(found.is_settled() for found in self.metrics.values())


class Answer(Record):
    """One question's answer by one model."""

    question_id: str
    text: str
    right: bool
    stopped: bool
    tokens: list[int]


# ---------------------------------------------------------------- what was decided


class GateVerdict(StrEnum):
    """Verdict by comparing an interval, not a point, with a limit."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class Severity(StrEnum):
    """Whether a gate that does not pass keeps a variant from shipping."""

    BLOCK = "block"
    WARN = "warn"


class GateResult(Record):
    """One gate, judged.

    Attributes:
        limit: that was held; of a champion-relative gate the one made from the champion's value.
        severity: of this verdict: an INCONCLUSIVE may warn where a FAIL blocks.
    """

    gate: str
    metric: str
    operator: Literal["<=", ">="]
    limit: float
    severity: Severity
    verdict: GateVerdict
    measurement: Measurement | None
    why: str


class VariantVerdict(Record):
    """All gates of one variant, and what they add up to.

    Attributes:
        gates: those that were asked.
        not_asked: by gate, why it was not: there is nothing to measure, or no champion yet.
    """

    variant: Digest
    precision: Precision
    verdict: GateVerdict
    gates: list[GateResult]
    not_asked: dict[str, str] = {}


class Judgement(Record):
    """Which variant ships: the smallest that passes, or None and why."""

    champion: Digest | None
    verdicts: list[VariantVerdict]
    reason: str
    advice: list[str]


class ApprovalState(StrEnum):
    """What became of the question whether a variant that passed may become champion."""

    WAITING = "waiting"
    PROMOTED = "promoted"
    REJECTED = "rejected"
    UNANSWERED = "unanswered"


class Approval(Record):
    """What a person was asked before the champion was changed, and answered.

    Attributes:
        state: `waiting` stands in the evidence that is there while somebody decides.
        instead_of: model id of the champion at that time, or None where there was none.
        by, comment: as written by who decided; Prefect without accounts knows nobody.
        asked_at, answered_at: UTC.
    """

    state: ApprovalState
    instead_of: str | None
    by: str = ""
    comment: str = ""
    asked_at: AwareDatetime
    answered_at: AwareDatetime | None = None

    @property
    def is_granted(self) -> bool:
        """Tell whether the champion may be changed."""
        return self.state is ApprovalState.PROMOTED


class Registration(Record):
    """A variant in the production index of Foundry Local, verified there.

    Attributes:
        model_id: `<name>-<precision>-cpu:<N>`.
        created: False when the same bytes were registered before.
        question, answer: one question put to the registered model, and what it said.
        right: the answer meets the question's expectation.
    """

    model_id: str
    variant: Digest
    path: Path
    created: bool
    question: str
    answer: str
    right: bool


class Release(Record):
    """The outcome of one release, as the command and the UI show it.

    Attributes:
        failures: precision (or `speed`, `registration`) to the reason why it could not be built,
            examined, timed or registered.
        questions: what the variants were asked.
        conditions: what they were measured with; None in runs from before they were written down.
        policy: the user's file over the default limits, or None.
        environment_faults: those of them that this machine, not the model, is the reason for.
        approval: what a person decided about the champion; None where nobody was asked.
        cached: steps that were cache hits.
        metrics: by variant digest, then by metric name.
    """

    run_id: str
    name: str
    checkpoint: Checkpoint
    environment: Environment
    variants: list[Variant]
    failures: dict[str, str]
    environment_faults: list[str] = []
    questions: QuestionFile | None = None
    conditions: Conditions | None = None
    policy: Path | None = None
    metrics: dict[str, dict[str, Measurement]]
    judgement: Judgement
    approval: Approval | None = None
    registration: Registration | None
    report: Path
    seconds: float
    cached: list[str]


def merged(evidence: list[Evidence]) -> Mapping[str, Measurement]:
    """Put the metrics of several examinations of one subject into one table."""
    return {name: value for part in evidence for name, value in part.metrics.items()}
