"""Parquet in, Parquet out, with several gangs; the input's columns `id` and `prompt` are kept.

python examples/parquet_to_parquet.py facebook/opt-1.3b s3://bucket/prompts s3://bucket/completions --gpus 2 --gangs 4
python examples/parquet_to_parquet.py any prompts.parquet completions --engine echo
"""

import argparse

import ray.data
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("prompts")
parser.add_argument("completions")
parser.add_argument("--gpus", type=int, default=0, help="GPUs that share the model in each gang; 0 means one CPU rank")
parser.add_argument("--gangs", type=int, default=1)
parser.add_argument("--engine", default="deepspeed")
parser.add_argument("--max-new-tokens", type=int, default=50)
arguments = parser.parse_args()

predictor = BatchPredictor.from_checkpoint(
    DeepSpeedCheckpoint.from_pretrained(arguments.model, EngineConfig(engine=arguments.engine, max_tokens=256)),
    DeepSpeedPredictor,
    scaling_config=ScalingConfig(num_workers=max(arguments.gpus, 1), use_gpu=arguments.gpus > 0),
)
completions = predictor.predict(
    ray.data.read_parquet(arguments.prompts),
    feature_columns=["prompt"],
    keep_columns=["id", "prompt"],
    batch_size=64,
    min_scoring_workers=arguments.gangs,
    max_scoring_workers=arguments.gangs,
    max_new_tokens=arguments.max_new_tokens,
)
completions.write_parquet(arguments.completions)

written = ray.data.read_parquet(arguments.completions)
print(f"{written.count()} rows, {written.filter(lambda row: row['error'] != '').count()} of them with an error")
