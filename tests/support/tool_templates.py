"""Templates that know tools, in the shapes of models that ship them, shortened to what sets each apart."""

from __future__ import annotations

from pensieved.chat.toolformat import DSML, deepseek

# Hermes and Qwen: JSON between tags, results as a user's turn, reasoning in a field of its own.
QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if message.reasoning_content %}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}{%- endif %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or message.content %}{{- '\\n' }}{%- endif %}
            {%- set call = call.function %}
            {{- '<tool_call>\\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or messages[loop.index0 - 1].role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != "tool" %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

# As above, but the prompt itself opens the reasoning, wanted or not.
ALWAYS_THINKING = QWEN.replace(
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}",
    "{{- '<think>\\n' }}",
)

# Mistral: an array behind one marker, identifiers of nine characters, no user's turn behind results.
MISTRAL = """{%- for message in messages | rejectattr("role", "equalto", "tool") | selectattr("tool_calls", "undefined") %}
    {%- if (message.role == "user") != (loop.index0 % 2 == 0) %}{{- raise_exception("roles must alternate") }}{%- endif %}
{%- endfor %}
{{- bos_token }}
{%- if tools %}{{- "[AVAILABLE_TOOLS] " + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- "[INST] " + message.content + "[/INST]" }}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{- raise_exception("Tool call IDs should be 9 characters") }}{%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
            {{- ", " if not loop.last else "]" + eos_token }}
        {%- endfor %}
    {%- elif message.role == "assistant" %}
        {{- " " + message.content + eos_token }}
    {%- elif message.role == "tool" %}
        {{- '[TOOL_RESULTS] {"content": "' + message.content + '", "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user, assistant and tool roles are supported") }}
    {%- endif %}
{%- endfor %}"""

# Llama 3.1: a call is the whole answer, without markers, one at a time.
LLAMA = """{{- bos_token }}
{%- for message in messages %}
    {%- if message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{- raise_exception("only single tool-calls at once") }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" + message.content + "<|eot_id|>" }}
    {%- else %}
        {{- "<|start_header_id|>" + message.role + "<|end_header_id|>\\n\\n" }}
        {%- if loop.first and tools %}{{- "Functions: " + (tools | tojson) + "\\n" }}{%- endif %}
        {{- message.content + "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}{%- endif %}"""

# Arguments must be text, and are written in a way that nobody here reads.
ODD = """{%- if tools %}{{- "Tools: " + (tools | tojson) + "\\n" }}{%- endif %}
{%- for message in messages %}
    {{- message.role + ": " + message.content }}
    {%- for call in message.tool_calls or [] %}{{- call.function.name + " <- " + call.function.arguments }}{%- endfor %}
    {{- "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "assistant:" }}{%- endif %}"""

# Describes tools, and forgets results.
FORGETFUL = """{%- if tools %}{{- "Tools: " + (tools | tojson) + "\\n" }}{%- endif %}
{%- for message in messages if message.role != "tool" %}{{- message.role + ": " + message.content + "\\n" }}{%- endfor %}
{%- if add_generation_prompt %}{{- "assistant:" }}{%- endif %}"""

# gpt-oss: messages on channels; a call is the last of its turn, and a turn that calls has reasoning or text, not both.
HARMONY = """{{- '<|start|>system<|message|>Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- set said = messages[1:] if messages[0].role == 'system' else messages %}
{%- if tools or messages[0].role == 'system' %}
    {{- '<|start|>developer<|message|>' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {%- for tool in tools or [] %}
        {{- 'type ' + tool.function.name + ' = (_: {' + (tool.function.parameters.properties or {}) | join(', ') + '}) => any;' }}
    {%- endfor %}
    {{- '<|end|>' }}
{%- endif %}
{%- set called = namespace(name=none) %}
{%- for message in said %}
    {%- if message.role == 'user' %}
        {{- '<|start|>user<|message|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {{- '<|start|>functions.' + called.name + ' to=assistant<|channel|>commentary<|message|>' + message.content | tojson + '<|end|>' }}
    {%- elif message.role == 'assistant' and 'tool_calls' in message %}
        {%- if message.content and message.thinking %}{{- raise_exception('content and thinking') }}{%- endif %}
        {%- set reasoned = message.content or message.thinking %}
        {%- if reasoned %}{{- '<|start|>assistant<|channel|>analysis<|message|>' + reasoned + '<|end|>' }}{%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' + call.arguments | tojson + '<|call|>' }}
        {%- set called.name = call.name %}
    {%- elif message.role == 'assistant' %}
        {{- '<|start|>assistant<|channel|>final<|message|>' + message.content }}
        {{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

# DeepSeek V3 and R1 in the templates that describe tools: arguments in a block of code.
DEEPSEEK_V3 = """{{- bos_token }}
{%- if messages[0].role == 'system' %}{{- messages[0].content }}{%- endif %}
{%- if tools %}{{- '\\n\\n' + (tools | tojson) }}{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- 'BUser|>' + message.content + 'BAssistant|>' }}
    {%- elif message.role == 'assistant' %}
        {{- message.content }}
        {%- for call in message.tool_calls or [] %}
            {{- 'Btool_calls_begin|>' if loop.first else '\\n' }}
            {{- 'Btool_call_begin|>' + call.type + 'Btool_sep|>' + call.function.name + '\\n```json\\n' + call.function.arguments | tojson + '\\n```Btool_call_end|>' }}
            {{- 'Btool_calls_end|>' if loop.last }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif message.role == 'tool' %}
        {{- 'Btool_output_begin|>' + message.content + 'Btool_output_end|>' }}
    {%- endif %}
{%- endfor %}"""
for _word in ("calls_begin", "call_begin", "sep", "call_end", "calls_end", "output_begin", "output_end"):
    DEEPSEEK_V3 = DEEPSEEK_V3.replace(f"Btool_{_word}|>", deepseek(f"<|tool_{_word}|>"))
DEEPSEEK_V3 = DEEPSEEK_V3.replace("BUser|>", deepseek("<|User|>")).replace(
    "BAssistant|>", deepseek("<|Assistant|>")
)

# V3.1: arguments as they are, which must come as text.
_SEP = deepseek("<|tool_sep|>")
DEEPSEEK_V31 = DEEPSEEK_V3.replace(f"call.type + '{_SEP}' + ", "").replace("| tojson + '\\n```", "+ '")
DEEPSEEK_V31 = DEEPSEEK_V31.replace("'\\n```json\\n'", f"'{_SEP}'")

# V3.2: each argument between tags of its own.
DEEPSEEK_V32 = """{{- bos_token }}
{%- if tools %}{{- (tools | tojson) + '\\n' }}{%- endif %}
{%- for message in messages %}
    {{- '<|' + message.role + '|>' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n\\n<DSMLfunction_calls>' if loop.first }}
        {{- '\\n<DSMLinvoke name="' + call.function.name + '">\\n' }}
        {%- for key, value in call.function.arguments.items() %}
            {{- '<DSMLparameter name="' + key + '" string="' + ('true' if value is string else 'false') + '">' }}
            {{- (value if value is string else value | tojson) + '</DSMLparameter>\\n' }}
        {%- endfor %}
        {{- '</DSMLinvoke>' + ('\\n</DSMLfunction_calls>' if loop.last else '') }}
    {%- endfor %}
    {{- eos_token if message.role == 'assistant' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

DEEPSEEK_V32 = DEEPSEEK_V32.replace("<DSML", f"<{DSML}").replace("</DSML", f"</{DSML}")

# Kimi K2 Thinking: calls are numbered through the whole conversation, in the identifiers.
KIMI_K2 = """{%- if tools %}{{- '<|im_system|>tool_declare<|im_middle|>' + (tools | tojson) + '<|im_end|>' }}{%- endif %}
{%- for message in messages %}
    {{- '<|im_' + ('user' if message.role == 'user' else 'assistant' if message.role == 'assistant' else 'system') + '|>' }}
    {{- (message.name or message.role) + '<|im_middle|>' }}
    {%- if message.role == 'assistant' %}{{- '<think>' + (message.reasoning_content or '') + '</think>' }}{%- endif %}
    {%- if message.role == 'tool' %}{{- '## Return of ' + message.tool_call_id + '\\n' }}{%- endif %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<|tool_calls_section_begin|>' if loop.first }}
        {{- '<|tool_call_begin|>' + call.id + '<|tool_call_argument_begin|>' + call.function.arguments | tojson + '<|tool_call_end|>' }}
        {{- '<|tool_calls_section_end|>' if loop.last }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_assistant|>assistant<|im_middle|>' }}{%- endif %}"""
