# SPDX-License-Identifier: Apache-2.0
"""Writes tests/data/text/chat/expected.json: what transformers' chat template engine makes of the templates there.

python make_chat_templates.py          (needs transformers with jinja2)

Every NAME.jinja is rendered for every conversation of conversations.json, with and without the generation prompt; an
exception that a template raises is recorded as its message.
"""
import json
import pathlib

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

FOLDER = pathlib.Path(__file__).parent / "text" / "chat"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def render(template, messages, prompt):
    try:
        text = template.render(messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **TOKENS)
    except (jinja2.exceptions.TemplateError, TypeError, ValueError) as error:
        return {"error": str(error)}
    return {"text": text}


def main():
    conversations = json.loads((FOLDER / "conversations.json").read_text())
    out = {}
    for path in sorted(FOLDER.glob("*.jinja")):
        template = _compile_jinja_template(path.read_bytes().decode())
        out[path.stem] = [
            {"conversation": name, "prompt": prompt, **render(template, messages, prompt)}
            for name, messages in conversations.items()
            for prompt in (False, True)
        ]
    (FOLDER / "expected.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
