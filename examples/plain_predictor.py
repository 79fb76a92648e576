"""A predictor without Ray Data: one gang, a data frame in, a data frame out.

python examples/plain_predictor.py facebook/opt-125m
python examples/plain_predictor.py any --engine echo
"""

import argparse

import pandas as pd
from ray.train import ScalingConfig

from raydsinfer import DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--ranks", type=int, default=1, help="CPU processes that share the model")
parser.add_argument("--engine", default="deepspeed")
arguments = parser.parse_args()

checkpoint = DeepSpeedCheckpoint.from_pretrained(
    arguments.model, EngineConfig(engine=arguments.engine, dtype="float32", max_tokens=128)
)
rows = pd.DataFrame(
    {
        "city": ["Paris", "Rome", "Oslo"],
        "prompt": ["The capital of France is", "The capital of Italy is", ""],  # the last cannot be answered
        "generation": [None, {"max_new_tokens": 5}, None],  # a row's own settings go before those of the call
    }
)
with DeepSpeedPredictor.from_checkpoint(
    checkpoint, scaling_config=ScalingConfig(num_workers=arguments.ranks)
) as predictor:
    answers = predictor.predict(rows, keep_columns=["city"], max_new_tokens=20)
    print(answers.to_string())
