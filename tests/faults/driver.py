"""The job that the faults strike: a process of its own, as a user's script would be.

``python -m tests.faults.driver JOB.json``. It answers the rows of a `Job` with gangs of two ranks on the cluster that
the job names, keeps them in a run directory, and writes what comes out, a JSON object a row.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc

from tests.faults.job import Job


def main(path: str) -> int:
    """Do the job; 0 if it ended well. What it raised goes to ``JOB.error``."""
    import ray

    from raydsinfer.unwrap import unwrap

    job = Job.read(Path(path))
    ray.init(address=job.address, logging_level="ERROR", log_to_driver=False)
    try:
        answer_all(job)
    except Exception as error:
        ours = unwrap(error)
        said = {"type": type(ours or error).__name__, "text": str(ours or error)}
        job.error_path.write_text(json.dumps(said))
        return 1
    finally:
        ray.shutdown()
    return 0


def answer_all(job: Job) -> None:
    """Write every row that comes out, at once, for whoever watches."""
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    result = predicted(job)
    part, tally = job.output_path.with_suffix(".part"), Tally()
    with part.open("w") as sink:
        for batch in result.iter_batches(batch_size=None, batch_format="pyarrow"):
            lines = [tally.add(batch)] if job.only_counts else batch.to_pylist()
            sink.writelines(json.dumps(line) + "\n" for line in lines)
            sink.flush()
    part.rename(job.output_path)


class Tally:
    """What very many rows add up to, and the memory that it takes to see them."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._rows, self._ids, self._different = 0, 0, 0

    def add(self, batch: Any) -> dict[str, Any]:
        """Count a batch; `different` counts the outputs that are not their prompts."""
        self._rows += batch.num_rows
        self._ids += pc.sum(batch["id"]).as_py() or 0
        self._different += batch.num_rows - (pc.sum(pc.equal(batch["output"], batch["prompt"])).as_py() or 0)
        rss = self._process.memory_info().rss
        return {"at": time.time(), "rows": self._rows, "ids": self._ids, "different": self._different, "rss": rss}


def predicted(job: Job) -> Any:
    """The lazy result."""
    import ray
    from ray.train import ScalingConfig

    from raydsinfer import BatchPredictor, DeepSpeedCheckpoint, DeepSpeedPredictor, EngineConfig, GangConfig
    from raydsinfer.config import RecoveryConfig

    predictor = BatchPredictor.from_checkpoint(
        DeepSpeedCheckpoint.from_pretrained(job.model, EngineConfig(**job.engine)),
        DeepSpeedPredictor,
        scaling_config=ScalingConfig(
            num_workers=job.num_ranks,
            use_gpu=job.use_gpu,
            resources_per_worker={"CPU": 0.01, "GPU": 1} if job.use_gpu else {"CPU": 0.5},
        ),
        gang_config=GangConfig(**job.deadlines),
        recovery_config=RecoveryConfig(**job.recovery),
    )
    rows = ray.data.read_parquet(job.input_path) if job.input_path else ray.data.from_items(job.rows())
    return predictor.predict(
        rows,
        keep_columns=["id", "prompt"] if job.only_counts else ["id"],
        batch_size=job.batch_size,
        min_scoring_workers=job.num_gangs,
        max_scoring_workers=job.num_gangs,
        run_dir=job.run_dir or None,
        **job.generation,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
