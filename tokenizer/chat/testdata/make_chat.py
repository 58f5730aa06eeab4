#!/usr/bin/env python3
"""Writes chat.json: templates, conversations and what Jinja makes of them.

  python3 -m venv V && V/bin/pip install jinja2==3.1.6
  cd tokenizer/chat/testdata && V/bin/python make_chat.py

The environment is that of transformers: sandboxed, trim_blocks, lstrip_blocks,
tojson without HTML escapes, raise_exception. The templates are written here in
the shapes that public models use.
"""
import json

from jinja2 import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "default_system": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if loop.index0 == 0 and system_message != false %}
        {%- set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {%- else %}
        {%- set content = message['content'] %}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' '  + content.strip() + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}
""",
    "llama3": """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "tools": """{%- if tools is defined and tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- else %}
        {{- 'You are a tool user.\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content %}
            {{- '\\n' + message.content }}
        {%- endif %}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function is defined %}
                {%- set tool_call = tool_call.function %}
            {%- endif %}
            {{- '\\n<tool_call>\\n{"name": "' }}
            {{- tool_call.name }}
            {{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    "thinking": """{%- set ns = namespace(multi_step=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if message.role == "assistant" %}
        {%- set reasoning = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last and (loop.last or reasoning) %}
            {{- '<|im_start|>assistant\\n<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' + content }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' + content }}
        {%- endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + content }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- endif %}
{%- endfor %}
""",
    "gemma": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}",
    "phi": "{% for message in messages %}{% if message['role'] in ['user', 'system'] %}{{'<|' ~ message['role'] ~ '|>\n' ~ message['content'] ~ '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{% generation %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endgeneration %}{% else %}{% continue %}{% endif %}{% endfor %}{{ '<|assistant|>\n' if add_generation_prompt else eos_token }}",
}

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather \"now\" <b> in Köln\n", "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "x": 0.5}}, "required": ["city"]}}}]
U, A, S = ({"role": r} for r in ("user", "assistant", "system"))
u, a, s = (lambda text, m=m: {**m, "content": text} for m in (U, A, S))
CONVERSATIONS = [
    [u("Hi")],
    [u(" What's 1+1? \n"), a(" It's 2.\n\n"), u("日本語 🙂 <|im_end|>")],
    [s("Be brief."), u("Hi")],
    [s("Be brief."), u("Hi"), a("<think>\nhm\n</think>\n\nHello"), u("More"), a("<think>x</think>y")],
    [a("I begin")],
    [u("a"), u("b")],
    [u("Weather?"), {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2, "wet": None, "ok": True, "f": 1.0}}}]}, {"role": "tool", "content": "rain"}, {"role": "tool", "content": "sun"}, a("Wet.")],
    [u("")],
]
VARS = [{"add_generation_prompt": True}, {"add_generation_prompt": False, "tools": TOOLS}, {"add_generation_prompt": True, "enable_thinking": False}]

# One template each, on the second conversation: the language itself.
SNIPPETS = [
    "plain", "a\n", "a\n\n", "{{ 1 }}\n{{ 2 }}\n", "{# c #}x", "x {# c #}\ny", "  {% if true %}\n  a\n  {% endif %}\n  b", "  {%+ if true %}\n  a\n  {% endif +%}\n  b", "x  {%- if true -%}  \n a {%- endif -%}  y", "a {{- 'b' -}} c", "{%- if true %} a {%- endif %}",
    "{% raw %}{{ x }}{% y %}{% endraw %}z", "{% raw %}\n{{ x }}\n{% endraw %}\nz", "a\r\nb\r{{ 'c' }}", "x{% if true %}\n\ny{% endif %}", "\t{% set a = 1 %}\n{{ a }}", "{% if true %}a{% endif %}  {% if true %}b{% endif %}",
    "{{ 1 + 2 * 3 - 4 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 2 ** 10 }} {{ 2 ** 3 ** 2 }} {{ 1.5 + 1 }} {{ 1e3 if false else 10.0 }}", "{{ -2 ** 2 }} {{ - 3 | string }} {{ +4 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 2 ** -1 }} {{ 0 ** 200 }} {{ (-1) ** 201 }}",
    "{{ 1 ~ 2 ~ none ~ true ~ 1.0 ~ 'x' ~ undef }}", "{{ [1, 'a', \"it's\", 2.5, none, true, ['x\\n']] }} {{ {'a': 1, 'b': [2]} }}", "{{ true }} {{ True }} {{ none }} {{ None }} {{ false }}",
    "{{ 'a' in 'abc' }} {{ 1 in [1,2] }} {{ 'k' in {'k': 1} }} {{ 3 not in [1] }} {{ not 1 in [1] }}", "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ [1,2] == [1,2] }} {{ {'a':1} == {'a':1} }} {{ none == undef }}",
    "{{ 1 if true }} {{ 1 if false }}| {{ 1 if false else 2 if false else 3 }}", "{{ a or 'x' }} {{ 0 or '' or none }} {{ 1 and 2 }} {{ 0 and 2 }} {{ not a }}", "{{ undef }}|{{ undef is defined }}|{{ messages.nope is defined }}|{{ messages[0].nope }}|{{ messages[9] is undefined }}",
    "{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abcdef'[1:4] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[-2:] }} {{ [1,2,3][1:] }} {{ [1,2,3][:-1] }} {{ [1,2,3,4][3:0:-2] }} {{ 'äöü'[1:] }} {{ [1][5:] }}",
    "{{ ' a b '|trim }}|{{ 'aXb'|upper }}|{{ 'AB'|lower }}|{{ 'abc def'|capitalize }}|{{ 'abc'|length }}|{{ [1,2]|length }}|{{ {'a':1}|length }}|{{ 'äö'|count }}", "{{ [1,2,3]|join(', ') }} {{ [1,2,3]|join }} {{ messages|join('/', attribute='role') }} {{ [1,2]|first }} {{ [1,2]|last }} {{ 'abc'|first }} {{ 'a-b-c'|replace('-', '+') }} {{ 'aaa'|replace('a', 'b', 2) }}",
    "{{ undef|default('d') }} {{ ''|default('d') }} {{ ''|default('d', true) }} {{ none|d('x') }} {{ undef|d }}|", "{{ {'a': [1, 2.0, 'x\"y', none, true], 'é': {}, 'e': []}|tojson }} {{ [1,{'a':2}]|tojson(indent=2) }} {{ '</script>&\\t\\u0001'|tojson }} {{ []|tojson(indent=4) }}",
    "{{ '3'|int + 1 }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ 3.9|int }} {{ 3|string ~ 'a' }} {{ 'abc'|list }} {{ [1,2]|reverse|list }} {{ 'abc'|reverse }} {{ {'a': 1}|items|list|length }}", "{{ messages|map(attribute='role')|join(',') }} {{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|rejectattr('role', 'eq', 'user')|list|length }} {{ messages|selectattr('nope')|list }}",
    "{{ 1 is number }} {{ 'a' is string }} {{ none is none }} {{ {} is mapping }} {{ [] is iterable }} {{ [] is sequence }} {{ 1 is integer }} {{ 1.0 is float }} {{ true is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 3 is odd }} {{ 4 is even }} {{ 4 is divisibleby 2 }} {{ 4 is divisibleby(3) }} {{ 1 is eq 1 }} {{ 1 is in [1] }} {{ 1 is not none }} {{ raise_exception is callable }} {{ 1 is string and 2 }}",
    "{% for i in range(3) %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.cycle('a','b') }} {% endfor %}", "{% for i in [1,2,3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}", "{% for i in [] %}x{% else %}empty{% endfor %}", "{% for i in [1,2,3,4] if i is even %}{{ i }}{{ loop.length }}{% endfor %}", "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k in {'a': 1} %}{{ k }}{% endfor %}", "{% for a, b in [[1,2],[3,4]] %}{{ a + b }} {% endfor %}{% for c in 'hé' %}{{ c }}.{% endfor %}", "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1,2] %}{{ x }}{% set x = 5 %}{{ x }}{% endfor %}{{ x }}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set t %}a{{ 1 }}{% endset %}{{ t|upper }}", "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "{% if 0 %}a{% elif '' %}b{% elif [] %}c{% else %}d{% endif %}",
    "{{ ' x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'a,b,,c'.split(',') }}|{{ ' a  b '.split() }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'abc'.startswith('ab') }}|{{ 'abc'.endswith(('x', 'c')) }}|{{ 'aBc'.upper() }}|{{ 'aBc'.lower() }}|{{ 'ab'.replace('a', 'x') }}|{{ 'abc'.find('c') }}|{{ 'äbc'.find('c') }}|{{ 'abc'.find('z') }}|{{ '-'.join(['a','b']) }}|{{ 'ab cd'.title() }}|{{ 'a\\nb\\n'.splitlines() }}|{{ 'xay'.removeprefix('x').removesuffix('y') }}",
    "{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.keys()|list }} {{ {'a': 1}.values()|list }} {{ {'a': 1}['a'] }} {{ {'a': 1}.a }} {{ dict(a=1) }}", "{{ 'a' 'b' \"c\" }} {{ 'it\\'s' }} {{ '\\u00e9\\x41\\t|' }} {{ (1, 2)|length }} {{ (1) + 1 }} {{ {'a': {'b': 1}}['a']['b'] }} {{ [[1]][0][0] }} {{ messages.0.role }}", "{{ 'x' * 3 }} {{ [1] + [2] }} {{ 'a' + 'b' }} {{ range(2)|list }} {{ range(1, 7, 2)|list }} {{ range(3, 0, -1)|list }}", "{{ 'Ab' ~ ('c' if messages else 'd') ~ messages|length }}", "{{ messages[1:][0].role }} {{ messages[-1]['role'] }} {{ (messages|last).role }} {{ messages[0]['content'].strip() }}",
    "{{ 10000000000000000.0 }} {{ 1.0 }} {{ 0.1 + 0.2 }} {{ 0.00001 }} {{ 3 / 2 }} {{ 4 / 2 }}", "{%- for m in messages -%}\n  {{- m.role -}}\n{%- endfor -%}", "{{ 'a\nb' }}", "{% if x is defined and x %}a{% endif %}b", "{{ not true and false }} {{ 1 == 1 and 2 == 2 }} {{ (1 if 1 else 2) }}", "{{ '%s' }} {{ 'a%b' }} {{ '}}' }} {{ '%}' }} {{ {'a': {'b': 2}} }}",
    # Errors.
    "{{ undef.x }}", "{{ undef + 1 }}", "{{ undef() }}", "{{ 1 + 'a' }}", "{{ 'a' < 1 }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}", "{{ 1 / 0 }}", "{% for i in 5 %}{% endfor %}", "{{ 5|length }}", "{{ 1 in 5 }}", "{{ undef|tojson }}", "{% set a, b = [1] %}", "{{ 'a'() }}", "{{ 5[1:] }}", "{% set x = 1 %}{% set x.y = 2 %}", "{{ messages.append(1) }}",
    "{{", "{{ 1", "{% if %}", "{% if true %}", "{% endif %}", "{{ 1 +}}", "{{ (1 }}", "{{ [1, }}", "{% nope %}", "{{ 1 | nope }}", "{{ 1 is nope }}", "{% for x %}{% endfor %}", "{{ 'a }}", "{# a", "{% raw %}a", "{{ 1 2 }}", "{{ ! }}", "{% set 1 = 2 %}", "{% set %}", "{{ }}", "{% for true in [1] %}{% endfor %}", "{{ a. }}", "{{ {1} }}", "{% else %}",
]


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def raise_exception(message):
    raise TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception


def render(source, messages, variables):
    try:
        return env.from_string(source).render(messages=messages, bos_token="<s>", eos_token="</s>", **variables)
    except Exception:
        return None  # an error


rows = []
for name, source in TEMPLATES.items():
    for c, messages in enumerate(CONVERSATIONS):
        for v, variables in enumerate(VARS):
            rows.append([name, c, v, render(source, messages, variables)])
snippets = [[s, render(s, CONVERSATIONS[1], VARS[0])] for s in SNIPPETS]
with open("chat.json", "w") as f:
    json.dump({"templates": TEMPLATES, "conversations": CONVERSATIONS, "vars": VARS, "rows": rows, "snippets": snippets}, f, ensure_ascii=True, indent=0)
    f.write("\n")
print(len(rows), "rendered", sum(r[3] is None for r in rows), "refused;", len(snippets), "snippets", sum(s[1] is None for s in snippets), "errors")
for s in snippets:
    print(repr(s[0])[:90], "->", repr(s[1])[:90])
