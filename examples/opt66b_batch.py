"""The job that this library grew from: OPT-66b on 12 GPUs completes 64 prompts, sampling.

python examples/opt66b_batch.py
python examples/opt66b_batch.py --engine echo      (a rehearsal on this machine, without a model)

Kernel injection, as the job had it, batches statically. Without `kernel_inject` rows join and leave a running batch.
"""

import argparse

import ray.data
from ray.train import ScalingConfig

from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig

parser = argparse.ArgumentParser()
parser.add_argument("--engine", choices=["deepspeed", "echo"], default="deepspeed")
echo = parser.parse_args().engine == "echo"
prompts = ray.data.from_items([{"prompt": f"Story {number}: DeepSpeed is"} for number in range(64)])
checkpoint = DeepSpeedCheckpoint.from_pretrained(
    "facebook/opt-66b",
    EngineConfig(engine="echo") if echo else EngineConfig(dtype="float16", kernel_inject=True, max_tokens=1024),
)
predictor = BatchPredictor.from_checkpoint(
    checkpoint,
    DeepSpeedPredictor,
    scaling_config=ScalingConfig(num_workers=2) if echo else ScalingConfig(num_workers=12, use_gpu=True),
)
completions = predictor.predict(
    prompts, keep_columns=["prompt"], batch_size=64, max_scoring_workers=1, do_sample=True, temperature=0.9, seed=7
)
for row in completions.iter_rows():
    print(row["prompt"], row["output"])
