"""A conversation: each line that you type is answered with the conversation so far.

python examples/chat.py HuggingFaceTB/SmolLM2-135M-Instruct
echo "Hello!" | python examples/chat.py any --engine echo
"""

import argparse
import sys

import pandas as pd
from ray.train import ScalingConfig

from raydsinfer import DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--gpus", type=int, default=0, help="GPUs that share the model; 0 means one CPU rank")
parser.add_argument("--engine", default="deepspeed")
arguments = parser.parse_args()

checkpoint = DeepSpeedCheckpoint.from_pretrained(arguments.model, EngineConfig(engine=arguments.engine))
scaling_config = ScalingConfig(num_workers=max(arguments.gpus, 1), use_gpu=arguments.gpus > 0)
with DeepSpeedPredictor.from_checkpoint(checkpoint, scaling_config=scaling_config) as predictor:
    messages: list[dict[str, str]] = []
    for line in sys.stdin:
        messages.append({"role": "user", "content": line.strip()})
        answer = predictor.predict(pd.DataFrame({"messages": [messages]}), max_new_tokens=200)
        if answer.error[0]:
            print(answer.error[0])
            break
        messages.append({"role": "assistant", "content": str(answer.output[0])})
        print(answer.output[0], flush=True)
