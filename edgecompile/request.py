"""From what the user asked for to a plan: everything is checked here, before any work starts."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompile import catalog, data, packing
from edgecompile.artifact import KERAS, KERAS3, SAVED_MODEL, TFLITE, sha256_path
from edgecompile.backends import BACKENDS
from edgecompile.backends.choice import Chosen, choose
from edgecompile.bundle import check_output
from edgecompile.data import DataSource
from edgecompile.default_recipe import default_recipe, first_recipe, unjudged
from edgecompile.devices.base import Device
from edgecompile.errors import (
    DataError,
    LatencyGateError,
    MissingDependencyError,
    ModelError,
    RecipeError,
    perhaps,
)
from edgecompile.loaders import sniff
from edgecompile.loaders.base import LoadOptions
from edgecompile.loaders.saved_model import GRAPHS
from edgecompile.recipe import Recipe, load_recipe
from edgecompile.stages.base import NOTHING, REPRESENTATIVE, TRAINING, Stage
from edgecompile.stages.load import Bridge, Load, Train
from edgecompile.stages.slim import Slim
from edgecompile.target import Target, load_target
from edgecompile.tasks import TaskFacts
from edgecompile.tflite_file import read

DEFAULT_MAX_DROP = 2.0
DEFAULT_MINUTES = 30.0
MINUTES_AFTER_THE_FIRST = 5.0  # of a build without --recipe: whoever wants more says so


@dataclass(frozen=True)
class BuildRequest:
    """All that `edgecompile build` can be asked. max_drop: percent, None = "off", "default" where not given.
    budget_minutes: None = without end, "default" where not given.
    without: backends of the target's own that are left out. threads: as Plan's, empty for the target's.

    A build is a pure function of its request and of the files it names.
    """

    model: str
    target: str
    data: str | None = None
    recipe: str | None = None
    teacher: str | None = None
    out: Path | None = None
    max_drop: float | str | None = "default"
    max_size: int | None = None
    max_latency_ms: float | None = None
    io: str | None = None
    input_shape: tuple[tuple[str, tuple[int, ...]], ...] = ()
    custom: tuple[str, ...] = ()
    allow_unsafe: bool = False
    backends: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    on: str | None = None
    runtime: str = "provisioned"
    threads: tuple[int, ...] = ()
    budget_minutes: float | str | None = "default"
    tensorboard: Path | None = None
    pack: str | None = None
    remeasure: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Source:
    """`path` of the user's file, or None for a built-in model, which the Train stage makes."""

    name: str
    kind: str
    path: Path | None
    first: Stage


@dataclass(frozen=True)
class Plan:
    """What a build will do. `steps` lead from the loaded source to the final .tflite. `optional`: backends of which the
    build goes on without those that refuse the model. `left_out`: {backend: why} of those that can't be used.
    `threads`: with how many each engine competes, in the order of preference. `first`: the recipe of the model to beat,
    where the recipe is a search that begins with one."""

    request: BuildRequest
    source: Source
    target: Target
    recipe: Recipe
    reason: str
    first: str | None
    steps: tuple[Stage, ...]
    data: DataSource | None
    facts: TaskFacts | None
    out: Path
    io: str
    threads: tuple[int, ...]
    max_drop: float | None
    max_size: int | None
    backends: tuple[str, ...]
    optional: frozenset[str]
    left_out: Mapping[str, str]
    budget_minutes: float | None
    teacher: Source | None

    @property
    def threads_told(self) -> int | list[int]:
        """As plain data: the number, where there is one."""
        return self.threads[0] if len(self.threads) == 1 else list(self.threads)

    @property
    def labelled(self) -> bool:
        return self.facts is not None and self.facts.metric is not None

    @property
    def measures(self) -> bool:
        return self.target.local or self.request.on is not None


def data_source(request: BuildRequest) -> DataSource | None:
    """--data, else the task of the built-in model that is built."""
    if request.data:
        return data.resolve(request.data)
    return data.resolve(request.model) if request.model in catalog.ids() else None


def load_options(request: BuildRequest) -> LoadOptions:
    return LoadOptions(request.custom, request.allow_unsafe, request.input_shape)


@dataclass(frozen=True)
class Named:
    """What the request names, found and read. `recipe` is None where the data decides."""

    target: Target
    source: Source
    recipe: Recipe | None
    backends: Chosen
    teacher: Source | None


def look_up(request: BuildRequest, board: Device | None) -> Named:
    """All that can be checked before the data is touched: reading it may take minutes, a typo is seen at once."""
    target = load_target(request.target)
    check_tensorboard(request.tensorboard)
    if request.pack:
        packing.check(request.pack)
    if request.max_latency_ms is not None and not target.local and request.on is None:
        raise LatencyGateError(
            f"--max-latency can't be checked for {target.id}: there is no device to measure on",
            hint="name a board with --on, leave --max-latency out, or build for the machine you are on (--target host)",
        )
    recipe = load_recipe(request.recipe) if request.recipe else None
    teacher = find_source(request.teacher) if request.teacher else None
    return Named(
        target,
        find_source(request.model),
        recipe,
        choose(target, request.backends, request.without, board),
        teacher,
    )


def plan(request: BuildRequest, named: Named, facts: TaskFacts | None) -> Plan:
    """Check the whole request and decide what to do. `facts`: what the data is, None without data."""
    target, source = named.target, named.source
    quantized = _is_quantized(source)
    first = first_recipe(target, quantized, facts)
    recipe, reason = (
        (named.recipe, "asked for") if named.recipe else default_recipe(target, first, facts, request.max_drop)
    )
    begins = recipe.search is not None and recipe.search.first
    minutes = request.budget_minutes
    if isinstance(minutes, str):
        minutes = MINUTES_AFTER_THE_FIRST if begins else DEFAULT_MINUTES
    request = dataclasses.replace(request, budget_minutes=minutes)
    if quantized and (recipe.search or any(step.name not in ("convert", "slim") for step in recipe.steps)):
        raise RecipeError(
            f"{source.path} is quantized already, {recipe.called} takes a float model",
            hint="give the float model, or leave --recipe out: what is quantized stays as it is (recipe float)",
        )
    steps = () if recipe.search else chain(recipe.called, recipe.steps, source)
    if recipe.search:
        _check_search(recipe, facts, request)
    _check_data(recipe, facts, request)
    _check_teacher(recipe, named.teacher)
    io = _io(request, target, source, None if recipe.search else steps)
    max_drop = _max_drop(request, facts)
    out = request.out or Path("build") / f"{source.name}-{target.id}"
    check_output(out)
    limits = [size for size in (request.max_size, target.max_size) if size is not None]
    return Plan(
        request=request,
        source=source,
        target=target,
        recipe=recipe,
        reason=reason,
        first=first if begins else None,
        steps=steps,
        data=data_source(request),
        facts=facts,
        out=out,
        io=io,
        threads=request.threads or target.numbers_of_threads,
        max_drop=max_drop,
        max_size=min(limits) if limits else None,
        backends=named.backends.names,
        optional=named.backends.optional,
        left_out=named.backends.left_out,
        budget_minutes=minutes,
        teacher=named.teacher,
    )


def find_source(model: str) -> Source:
    """The built-in model of that id, or the file or folder of that name."""
    path = Path(model)
    if model in catalog.ids() and not path.is_file():  # a folder of that name may be anything
        module = catalog.get(model)
        digest = sha256_path(Path(str(module.__file__)))
        return Source(model, KERAS, None, Train(model, digest, module.TRAINING.epochs, module.TRAINING.on_first_use))
    if not path.exists():
        raise ModelError(
            f"{model}: there is no such file, and no built-in model of that name",
            hint=f"{perhaps(model, catalog.ids())}; see `edgecompile models list`",
        )
    kind = sniff(path)
    return Source(path.stem or path.resolve().name, kind, path, Load(str(path.resolve()), sha256_path(path)))


def _is_quantized(source: Source) -> bool:
    return source.kind == TFLITE and source.path is not None and read(source.path).is_quantized


def can_train(source: Source) -> bool:
    """Whether the format holds a graph that Keras can give back: for a SavedModel, what Keras wrote into it tells."""
    if source.kind != SAVED_MODEL or source.path is None:
        return source.kind != TFLITE
    written = [source.path / name for name in ("keras_metadata.pb", "saved_model.pb")]
    contents = [file.read_bytes() for file in written if file.is_file()]
    return any(mark.encode() in content for content in contents for mark in GRAPHS)


def chain(recipe: str, wanted: Sequence[Stage], source: Source) -> tuple[Stage, ...]:
    """The steps of the recipe so called, and what the format needs before them; RecipeError where they don't fit."""
    steps: list[Stage] = []
    kind = source.kind
    for step in wanted:
        if kind == TFLITE and step.name == "convert":
            continue  # it is what convert would give
        changes = KERAS in step.accepts and kind not in step.accepts  # a stage that changes a Keras graph
        if kind == KERAS3 and changes:
            steps.append(Bridge())
            kind = KERAS
        if kind == SAVED_MODEL and changes:
            kind = KERAS  # where tf-keras can't give it back, the stage says so
        if steps and steps[-1].name == "slim":
            raise RecipeError(
                f"{recipe}: stage {step.name!r} comes after 'slim', which changes the names it needs",
                hint="put slim last, or leave it out: a build ends with it anyway",
            )
        if kind not in step.accepts:
            raise RecipeError(
                f"{recipe}: stage {step.name!r} can't take a {kind} model, it takes {', '.join(sorted(step.accepts))}",
                hint="give the Keras model, or take a recipe that doesn't train: int8, dynamic, float16, float",
            )
        steps.append(step)
        kind = step.accepts[kind]
    if steps and kind == TFLITE and steps[-1].name != "slim":
        steps.append(Slim())
    if kind != TFLITE:
        raise RecipeError(f"{recipe} ends in a {kind} model", hint="end it with a convert step")
    return tuple(steps)


def _check_search(recipe: Recipe, facts: TaskFacts | None, request: BuildRequest) -> None:
    why = unjudged(facts, request.max_drop)
    if not why:
        return
    hint = "give --data with x_train, y_train, x_test and y_test of a labelled task, or take another recipe"
    raise RecipeError(
        f"{recipe.called} searches within --max-drop, by the metric on validation samples, and {why}",
        hint="give a number" if request.max_drop is None else hint,
    )


def _check_data(recipe: Recipe, facts: TaskFacts | None, request: BuildRequest) -> None:
    if recipe.needs == TRAINING and (facts is None or not facts.trainable):
        have = "no data was given" if facts is None else f"{request.data or request.model} has no labelled training set"
        raise RecipeError(
            f"{recipe.called} trains, and {have}",
            hint="give --data with x_train and y_train, or take recipe int8 or dynamic",
        )
    if recipe.needs == REPRESENTATIVE and (facts is None or not facts.train):
        have = "no data was given" if facts is None else f"{request.data or request.model} has test samples only"
        raise RecipeError(
            f"{recipe.called} calibrates with training samples, and {have}",
            hint="give --data with x_train (or x), or take recipe dynamic, which needs no data",
        )
    assert recipe.needs in (TRAINING, REPRESENTATIVE, NOTHING)


def _check_teacher(recipe: Recipe, teacher: Source | None) -> None:
    if teacher is None:
        return
    if recipe.search is None and not any("teacher" in step.uses for step in recipe.steps):
        raise RecipeError(
            f"--teacher was given, and {recipe.called} has no step that distils",
            hint="set distillation in a step that trains, or take recipe distill",
        )
    if not can_train(teacher):
        raise ModelError(
            f"--teacher {teacher.path}: distillation needs a Keras model's graph, this is a {teacher.kind} without one",
            hint="give the .keras or .h5 file it was made from",
        )


def _io(request: BuildRequest, target: Target, source: Source, steps: tuple[Stage, ...] | None) -> str:
    """The type of the bundle's inputs and outputs; RecipeError where it isn't one that the steps can give.

    steps: None where a search will find them.
    """
    wanted = request.io or target.io
    if steps is None:
        return wanted
    if not steps and source.path is not None:  # a .tflite stays as it is
        tensors = read(source.path).signature
        own = "int8" if any(t.scale is not None for t in (*tensors.inputs, *tensors.outputs)) else "float"
        if request.io and request.io != own:
            raise RecipeError(
                f"--io {request.io} was asked for, and {source.path} has {own} inputs and outputs, which stay",
                hint="leave --io out, or give the float model with a recipe that quantizes it",
            )
        return own
    integer = any(step.name == "qat" or getattr(step, "static", False) for step in steps)
    if wanted == "int8" and not integer:
        raise RecipeError(
            "--io int8 needs an integer model, and this recipe gives a float one",
            hint="take recipe int8, qat or prune-qat, or --io float",
        )
    return wanted


def check_tensorboard(folder: Path | None) -> None:
    if folder is not None and importlib.util.find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "--tensorboard needs the package tensorboard, which is not installed",
            hint="pip install 'edgecompile[tensorboard]'",
        )


def _max_drop(request: BuildRequest, facts: TaskFacts | None) -> float | None:
    labelled = facts is not None and facts.metric is not None
    if isinstance(request.max_drop, float) and not labelled:
        raise DataError(
            "--max-drop needs labels to measure accuracy with, and there are none",
            hint="give --data with x_test and y_test, or leave --max-drop out",
        )
    if request.max_drop == "default":
        return DEFAULT_MAX_DROP if labelled else None
    assert not isinstance(request.max_drop, str)
    return request.max_drop


def after(plan: Plan) -> list[str]:
    """What follows once the .tflite is there."""
    built = any(BACKENDS[name].on_board for name in plan.backends)
    measured = ["benchmark"] if plan.measures else []
    tested = ["test"] if plan.labelled else []
    engine = ["onnx", *(["engine"] if plan.request.on else [])] if built else []
    return ["compile", "verify", *engine, *measured, "select", *tested, "package"]
