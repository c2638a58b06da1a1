"""A small agent that does what the model says and sends the same bytes each time."""

import asyncio
import http.client
import json
from pathlib import Path


class Agent:
    def __init__(self, logs_dir, model_name=None, **extra):
        self.logs_dir = Path(logs_dir)
        self.variables = extra["extra_env"]

    async def setup(self, environment):
        pass

    async def run(self, instruction, environment, context):
        messages, steps = [{"role": "user", "content": instruction}], []
        while True:
            answer = await asyncio.to_thread(self.complete, messages)
            messages.append(answer)
            calls = answer.get("tool_calls") or []
            for call in calls:
                command = json.loads(call["function"]["arguments"])["command"]
                result = await environment.exec(command)
                steps.append([command, result.return_code, result.stdout])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result.stdout or ""})
            (self.logs_dir / "steps.json").write_text(json.dumps(steps))
            if not calls:
                return answer["content"]

    def complete(self, messages):
        connection = http.client.HTTPConnection(
            self.variables["DEEPSEEK_BASE_URL"].removeprefix("http://"), timeout=30
        )
        schema = {"type": "object", "properties": {"command": {"type": "string"}}}
        body = {
            "model": self.variables["LLM_MODEL"],
            "messages": messages,
            "tools": [
                {"type": "function", "function": {"name": "run", "description": "", "parameters": schema}}
            ],
        }
        headers = {
            "Authorization": f"Bearer {self.variables['DEEPSEEK_API_KEY']}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {text[:500]}")
        return json.loads(text)["choices"][0]["message"]
