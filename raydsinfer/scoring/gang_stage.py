"""A data set through predictors that hold a gang each."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, Dataset
from ray.data.dataset import MaterializedDataset

from raydsinfer.checkpoint import DeepSpeedCheckpoint
from raydsinfer.config import GenerationConfig
from raydsinfer.errors import InvalidSettingError
from raydsinfer.groups.keeper import start_keeper
from raydsinfer.groups.placement import gang_request, read_nodes
from raydsinfer.rows.columns import InputColumns, check_columns, kept_names, output_schema
from raydsinfer.rows.limits import changes_for
from raydsinfer.runs.parts import check_stored_names
from raydsinfer.scoring.executions import watch_executions
from raydsinfer.scoring.flow import Flow, plan_flow
from raydsinfer.scoring.gang_scorer import GangScorer
from raydsinfer.scoring.kept_run import STORED_COLUMN, KeptRun, RunRequest, begin_run
from raydsinfer.scoring.kinds import check_kinds
from raydsinfer.scoring.pool import ScoringPool, pool_size
from raydsinfer.scoring.scorer import ScoringPlan

if TYPE_CHECKING:
    from ray.train import ScalingConfig


def predict_on_gangs(
    data: Dataset,
    plan: ScoringPlan,
    pool: ScoringPool,
    batch_size: int | None,
    separate_gpu_stage: bool,
    run: RunRequest | None = None,
) -> Dataset:
    """Predict with `DeepSpeedPredictor`, or a subclass of it.

    Args:
        data: The rows.
        plan: What each actor does.
        pool: The actors. Their `num_gpus` are a gang's.
        batch_size: Rows of a batch; None means as `plan_flow` decides.
        separate_gpu_stage: Preprocess in tasks of their own, not while the gang waits.
        run: Where rows are kept that are done; None: nowhere.

    Raises:
        ConfigurationError: A setting is wrong; nothing was started.
        MissingColumnError: A column that the call names is not in the data.
        RunDirectoryError: The run cannot be kept there.
    """
    checkpoint = DeepSpeedCheckpoint.from_checkpoint(plan.checkpoint)
    check_kinds(plan.predictor_kwargs)
    generation = _check_generation(plan, checkpoint)
    checkpoint = checkpoint.replaced(**changes_for(checkpoint.spec.config, generation))
    config = checkpoint.spec.config
    kept = _kept_names(plan, generation, run)
    if plan.preprocessor is None and (names := known_columns(data)) is not None:
        _input_columns(plan.predictor_kwargs).choose(names, plan.feature_columns, kept)
        check_columns(names, [run.key_column] if run is not None and run.key_column else None, None)
    if pool.remote_args.get("num_gpus"):
        raise InvalidSettingError(
            name="ray_remote_args['num_gpus']",
            value=pool.remote_args["num_gpus"],
            expected="nothing",
            hint="The gang holds the GPUs: use scaling_config or num_gpus_per_worker.",
        )
    scaling_config = gang_scaling(plan.predictor_kwargs.get("scaling_config"), pool.num_gpus)
    request = gang_request("gang", scaling_config)
    smallest, largest = pool_size(request, read_nodes(), pool.min_size, pool.max_size)

    nothing = _empty(data, _schema(plan, generation, run), kept)
    num_rows = data.count() if isinstance(data, MaterializedDataset) else None
    if run is not None:
        use_gpu = bool(scaling_config.use_gpu)
        begun = _begun(plan, run, checkpoint, generation, use_gpu, num_rows)
        # Gangs start again for days: all of them use the model that the keys name.
        plan, checkpoint = replace(plan, run=begun), checkpoint.replaced(revision=begun.identity.revision)
    if num_rows == 0:
        return nothing
    kwargs = {**plan.predictor_kwargs, "scaling_config": scaling_config}
    keeper = kwargs.pop("keeper", None) or start_keeper()
    plan = replace(plan, checkpoint=checkpoint, predictor_kwargs=kwargs, keep_columns=kept, keeper=keeper)
    if plan.preprocessor is not None and separate_gpu_stage:
        data, plan = plan.preprocessor.transform(data), replace(plan, preprocessor=None)
    flow = plan_flow(config, batch_size, num_rows=num_rows, min_gangs=smallest, max_gangs=largest)
    concurrency, options = _concurrency(flow, replace(pool, num_gpus=None).actor_options(default_num_cpus=0))
    result = _split(data, flow.batch_size).map_batches(
        GangScorer,
        fn_constructor_kwargs={"plan": plan},
        batch_size=flow.batch_size,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=smallest,
            max_size=largest,
            max_tasks_in_flight_per_actor=flow.num_in_flight,
            enable_true_multi_threading=True,
            **concurrency,
        ),
        **options,
    )
    result = result.union(nothing)
    watch_executions(result.context, keeper)
    return result


def _concurrency(flow: Flow, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of the pool and of the actors that let an actor work on several batches at once."""
    if "max_concurrency" in options:  # the caller's word
        return {}, options
    if "max_concurrent_calls_per_actor" in inspect.signature(ActorPoolStrategy).parameters:
        return {"max_concurrent_calls_per_actor": flow.num_at_once}, options
    # Ray before 2.60 takes it among the actor's arguments.
    return {}, {"max_concurrency": flow.num_at_once, **options}


def known_columns(data: Dataset) -> list[str] | None:
    """Names of the columns, if Ray Data knows them without running anything."""
    schema = _known_schema(data)
    return None if schema is None else [str(name) for name in schema.names]


def _known_schema(data: Dataset) -> Any:
    # Looking at blocks that are in memory runs nothing of the caller's.
    return data.schema(fetch_if_missing=isinstance(data, MaterializedDataset))


def gang_scaling(scaling_config: ScalingConfig | None, num_gpus: float | None) -> ScalingConfig:
    """The gang that a call asks for, in either of the two ways.

    Args:
        scaling_config: The predictor's, if it was given.
        num_gpus: `num_gpus_per_worker`, if it was given.

    Raises:
        InvalidSettingError: Both were given and differ.
    """
    from ray.train import ScalingConfig

    if scaling_config is None:
        scaling_config = ScalingConfig(num_workers=int(num_gpus), use_gpu=True) if num_gpus else ScalingConfig()
    request = gang_request("gang", scaling_config)
    in_gang = request.num_ranks * request.bundle.get("GPU", 0)
    if num_gpus is not None and num_gpus != in_gang:
        raise InvalidSettingError(
            name="num_gpus_per_worker",
            value=num_gpus,
            expected=f"{in_gang:g}, the GPUs of a gang of {request.num_ranks} ranks by scaling_config",
            hint="Leave it out: the gang holds the GPUs, its predictor needs none.",
        )
    return scaling_config


def _check_generation(plan: ScoringPlan, checkpoint: DeepSpeedCheckpoint) -> GenerationConfig:
    """Settings of the call, over those of the predictor."""
    parameters = inspect.signature(plan.predictor_cls.from_checkpoint).parameters
    defaults = {name: value for name, value in plan.predictor_kwargs.items() if name not in parameters}
    config, read = checkpoint.spec.config, plan.predictor_cls.read_settings
    settings: GenerationConfig = read(config, plan.predict_kwargs, GenerationConfig().replaced(defaults))
    return settings


def _input_columns(kwargs: Mapping[str, Any]) -> InputColumns:
    names = {
        name: kwargs[f"{name}_column"] for name in ("prompt", "messages", "generation") if f"{name}_column" in kwargs
    }
    return InputColumns(**names)


def _kept_names(plan: ScoringPlan, generation: GenerationConfig, run: RunRequest | None) -> list[str]:
    kept = kept_names(plan.keep_columns, generation, report_attempts=plan.report_attempts or run is not None)
    if run is not None:
        check_stored_names(kept)
    if plan.report_attempts and run is not None and STORED_COLUMN in kept:
        raise InvalidSettingError(
            name="keep_columns",
            value=kept,
            expected=f"names that the output does not have itself ({STORED_COLUMN})",
            hint="Rename it first, for example with Dataset.rename_columns.",
        )
    return kept


def _begun(
    plan: ScoringPlan,
    run: RunRequest,
    checkpoint: DeepSpeedCheckpoint,
    generation: GenerationConfig,
    use_gpu: bool,
    num_rows: int | None,
) -> KeptRun:
    recovery = plan.predictor_kwargs.get("recovery_config")
    # Where no row may fail, one that failed before is no answer either.
    strict = recovery is not None and recovery.on_error == "raise"
    return begin_run(
        replace(
            run,
            num_rows=num_rows if run.num_rows is None else run.num_rows,
            retry_failed=run.retry_failed or strict,
        ),
        checkpoint.spec,
        generation,
        use_gpu=use_gpu,
        input_columns=_input_columns(plan.predictor_kwargs),
        feature_columns=plan.feature_columns,
    )


def _schema(plan: ScoringPlan, generation: GenerationConfig, run: RunRequest | None) -> pa.Schema:
    """Columns of the output, but for those that are kept."""
    schema = output_schema(generation, report_attempts=plan.report_attempts)
    return schema.append(pa.field(STORED_COLUMN, pa.bool_())) if plan.report_attempts and run is not None else schema


def _split(data: Dataset, batch_size: int) -> Dataset:
    """Blocks of one batch: a block goes to one gang as a whole, and small data sets are one block."""
    # Ray before 2.54 has no such argument and is always strict.
    strict: dict[str, Any] = {"strict": True} if "strict" in inspect.signature(Dataset.repartition).parameters else {}
    return data.repartition(target_num_rows_per_block=batch_size, **strict)


def _empty(data: Dataset, schema: pa.Schema, kept: list[str]) -> Dataset:
    """No rows, but the right schema. United with the result it gives an empty data set its columns."""
    known = _known_schema(data)
    types = dict(zip(known.names, known.types, strict=True)) if known is not None else {}
    for name in kept:
        kind = types.get(name)
        # Any type can be united with null.
        schema = schema.append(pa.field(name, kind if isinstance(kind, pa.DataType) else pa.null()))
    return ray.data.from_arrow(schema.empty_table())
