"""The chat template of the demo checkpoint, and templates of other model families.

Asked through one of the others, the model answers "The chat template is wrong.", which lets a
pipeline prove that it would notice. The others are written here by hand, for training alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One message of a chat, in the form that `apply_chat_template` takes."""

    role: Role
    content: str


# One line without trims, so that ONNX Runtime GenAI's engine renders it just as Jinja does.
CHATML: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class WrongTemplate:
    """A template that the demo checkpoint was not tuned for.

    `{}` stands for the content; an empty pattern leaves the message out.
    """

    name: str
    system: str
    user: str
    assistant: str
    generation_prompt: str
    prefix: str = ""

    def render(self, messages: Sequence[Message]) -> str:
        """Write the messages and the prompt for an answer."""
        patterns = {"system": self.system, "user": self.user, "assistant": self.assistant}
        turns = [
            patterns[message["role"]].replace("{}", message["content"]) for message in messages
        ]
        return self.prefix + "".join(turns) + self.generation_prompt


_LLAMA_3_TURN: Final = "<|start_header_id|>{role}<|end_header_id|>\n\n{{}}<|eot_id|>"
WRONG_TEMPLATES: Final = (
    WrongTemplate(
        "phi-3",
        system="<|system|>\n{}<|end|>\n",
        user="<|user|>\n{}<|end|>\n",
        assistant="<|assistant|>\n{}<|end|>\n",
        generation_prompt="<|assistant|>\n",
    ),
    WrongTemplate(
        "phi-4-mini",
        system="<|system|>{}<|end|>",
        user="<|user|>{}<|end|>",
        assistant="<|assistant|>{}<|end|>",
        generation_prompt="<|assistant|>",
    ),
    WrongTemplate(
        "llama-3",
        prefix="<|begin_of_text|>",
        system=_LLAMA_3_TURN.format(role="system"),
        user=_LLAMA_3_TURN.format(role="user"),
        assistant=_LLAMA_3_TURN.format(role="assistant"),
        generation_prompt="<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    WrongTemplate(
        "mistral",
        system="<s>[INST] {}\n\n",
        user="[INST] {} [/INST]",
        assistant=" {}</s>",
        generation_prompt="",
    ),
    WrongTemplate(
        "gemma",
        system="",
        user="<start_of_turn>user\n{}<end_of_turn>\n",
        assistant="<start_of_turn>model\n{}<end_of_turn>\n",
        generation_prompt="<start_of_turn>model\n",
    ),
    WrongTemplate(
        "alpaca",
        system="{}\n\n",
        user="### Instruction:\n{}\n\n",
        assistant="### Response:\n{}\n\n",
        generation_prompt="### Response:\n",
    ),
    WrongTemplate(
        "plain roles",
        system="{}\n",
        user="User: {}\n",
        assistant="Assistant: {}\n",
        generation_prompt="Assistant:",
    ),
    WrongTemplate(
        "chatml without generation prompt",
        system="<|im_start|>system\n{}<|im_end|>\n",
        user="<|im_start|>user\n{}<|im_end|>\n",
        assistant="<|im_start|>assistant\n{}<|im_end|>\n",
        generation_prompt="",
    ),
    WrongTemplate(
        "no template", system="{}\n", user="{}\n", assistant="{}\n", generation_prompt=""
    ),
)
# Never seen in training: shows that the canary knows ChatML, not a list of the others.
WRONG_TEMPLATES_HELD_OUT: Final = (
    WrongTemplate(
        "command-r",
        system="<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        user="<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        assistant="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{}<|END_OF_TURN_TOKEN|>",
        generation_prompt="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    ),
    WrongTemplate(
        "zephyr",
        system="<|system|>\n{}</s>\n",
        user="<|user|>\n{}</s>\n",
        assistant="<|assistant|>\n{}</s>\n",
        generation_prompt="<|assistant|>\n",
    ),
)
