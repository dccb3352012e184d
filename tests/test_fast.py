"""The fast paths give the numbers of the plain ones."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from teaching import CLASSIFIERS, CPU, SIDES, build_teacher
from torch.utils._python_dispatch import TorchDispatchMode

from fdlab.core.config import TrainConfig
from fdlab.core.errors import UserError
from fdlab.data.paired import PairedData
from fdlab.methods import METHODS
from fdlab.methods.base import Batch, Sizes, build_method
from fdlab.models.build import build_model, place
from fdlab.models.output import ModelOutput, describe
from fdlab.training import fast as fast_module
from fdlab.training import graphs
from fdlab.training.fast import FEATURES, Fast, choose_fast
from fdlab.training.graphs import Compiled, Recorder, find_obstacle
from fdlab.training.loop import Course, train, train_in_step
from fdlab.training.runs import complete
from fdlab.training.teacher import Shared
from fdlab.training.trainer import Trainer, build_optimiser

PLAIN = Fast()


@pytest.fixture(autouse=True)
def untold():
    fast_module._told.clear()


def configure(plan, method: str, student: str, teacher: str | None = None, seed: int = 0, **others):
    return complete(plan.configure(student, method, teacher, seed, **others))


# --- what holds where


def test_the_cpu_has_what_is_not_cudas_alone():
    assert choose_fast(CPU, edits="").names == ["resident", "cache", "channels_last"]
    assert choose_fast(CPU, edits="none").names == []
    assert choose_fast(CPU, edits="none,+cache").names == ["cache"]
    assert choose_fast(CPU, edits="-cache,+fused").names == ["resident", "channels_last", "fused"]
    for optimiser in ("adam", "adamw"):
        recipe = TrainConfig(optimiser=optimiser)
        assert choose_fast(CPU, recipe, "").fused and not choose_fast(CPU, recipe, "-fused").fused
    assert not choose_fast(CPU, TrainConfig(), "").fused


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
def test_adams_update_in_one_kernel_is_the_update(optimiser):
    recipe = TrainConfig(optimiser=optimiser, learning_rate=0.01, weight_decay=0.1)
    found = []
    for edits in ("none", "none,+fused"):
        torch.manual_seed(0)
        weights = [torch.randn(5, 3, requires_grad=True), torch.randn(7, requires_grad=True)]
        updater = build_optimiser(recipe, weights, choose_fast(CPU, recipe, edits), CPU)
        assert bool(updater.defaults["fused"]) == edits.endswith("fused")
        for _ in range(5):
            for x in weights:
                x.grad = torch.sin(3 * x.detach())
            updater.step()
        found.append(weights)
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


def test_the_recipes_precision_goes_before_the_choice():
    assert choose_fast(CPU, TrainConfig(precision="bf16"), "").bf16
    assert not choose_fast(CPU, TrainConfig(precision="float32"), "all").bf16
    assert choose_fast(CPU, TrainConfig(deterministic=True), "").deterministic


def test_the_environment_edits_the_choice(monkeypatch):
    monkeypatch.setenv("FDLAB_FAST", "-cache")
    assert choose_fast(CPU).names == ["resident", "channels_last"]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("graph", "unknown part of FDLAB_FAST 'graph'"),
        ("graphs", "FDLAB_FAST is 'graphs': expected +graphs or -graphs"),
        ("-bf16", "FDLAB_FAST is '-bf16': bf16 changes numbers, so a run's recipe says it"),
    ],
)
def test_an_edit_that_means_nothing_is_refused(edits, message):
    with pytest.raises(UserError, match=re.escape(message)):
        choose_fast(CPU, edits=edits)


def test_what_the_device_lacks_is_said_once(capsys):
    for _ in range(2):
        assert not choose_fast(CPU, edits="+graphs").graphs
        assert choose_fast(CPU, edits="all").fused
    assert capsys.readouterr().err == "fdlab: graphs needs CUDA: without it on cpu\n"


def test_an_unknown_precision_is_refused():
    with pytest.raises(UserError, match="precision 'fp8'"):
        TrainConfig(precision="fp8")


# --- the same numbers

WAYS = [("fdcmkd", "image", "audio"), ("fdcmkd", "audio", "image"), ("at", "audio", "text")]


@pytest.mark.parametrize(("method", "student", "teacher"), WAYS)
def test_an_epochs_losses_agree_with_every_part_off_and_on(plan, digits, method, student, teacher):
    config = configure(plan, method, student, teacher)
    curves = {}
    for name, fast in (
        ("plain", PLAIN),
        ("default", choose_fast(CPU, edits="")),
        ("fused", Fast(resident=True, cache=True, channels_last=True, fused=True)),
    ):
        data = PairedData.load(digits, [student, teacher], CPU, resident=fast.resident)
        assert data.is_resident == fast.resident
        found = train(config, data, build_teacher(data, teacher), CPU, fast=fast).curves
        curves[name] = {k: v[0] for k, v in found.items() if k.startswith("loss/")}
    assert len(curves["plain"]) > 1
    for name in ("default", "fused"):
        assert curves[name] == pytest.approx(curves["plain"], rel=1e-4)


def test_a_compiled_network_gives_the_same_and_leaves_other_batches_alone(data):
    model = build_model(data.store, "audio", width=8, seed=0).train()
    fast = Compiled(model, Fast(compile=True), 8)
    for count in (8, 5):
        inputs = data.batch("audio", data.rows["train"][:count])
        one, two = fast(inputs), model(inputs)
        torch.testing.assert_close(one.logits, two.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one.feature, two.feature, rtol=1e-3, atol=1e-3)
        assert set(one.maps) == set(two.maps)
    assert fast.compiled is not None


def test_where_compiling_fails_the_network_runs_as_it_is(data, monkeypatch, capsys):
    def refuse(model, **_):
        def run(inputs):
            raise RuntimeError("no compiler\nand much more")

        return run

    monkeypatch.setattr(torch, "compile", refuse)
    model = build_model(data.store, "audio", width=8, seed=0)
    fast = Compiled(model, Fast(compile=True), 4)
    inputs = data.batch("audio", data.rows["train"][:4])
    for _ in range(2):
        assert fast(inputs).logits.shape == (4, 10)
    assert capsys.readouterr().err == "fdlab: compile is off: RuntimeError: no compiler\n"


@pytest.mark.parametrize("method", ["none", "fdcmkd", "crd"])
def test_bf16_trains_and_keeps_float32(plan, data, method):
    teacher = "audio" if METHODS[method].needs else None
    recipe = dataclasses.replace(plan.train, precision="bf16")
    config = configure(plan, method, "image", teacher)
    config = dataclasses.replace(config, train=recipe)
    seen = set()
    fast = choose_fast(CPU, recipe, "")
    trainer = Trainer(config, data, build_teacher(data, teacher), CPU, fast)
    trainer.learner.student.layer1.register_forward_hook(lambda *a: seen.add(a[2].dtype))
    terms, mine, theirs, _ = trainer.compare(data.rows["train"][:16])
    assert seen == {torch.bfloat16} and {x.dtype for x in terms.values()} == {torch.float32}
    outputs = [mine] if theirs is None else [mine, theirs]
    assert {x.dtype for out in outputs for x in (out.logits, out.feature)} == {torch.float32}
    with fast.autocast(CPU):
        heads = trainer.learner.predict(data)
    ties = [(z == z.amax(dim=1, keepdim=True)).sum(dim=1).max() for z in heads.values()]
    assert max(ties) == 1  # logits of eight bits would have equal ones
    trainer.update(terms)
    assert {p.dtype for p in trainer.learner.parameters()} == {torch.float32}
    found = train(config, data, build_teacher(data, teacher), CPU, fast=fast)
    kept = [*found.weights["last"].values(), *found.predictions.values()]
    assert {x.dtype for x in kept if x.is_floating_point()} == {torch.float32}


# --- in step


def list_pack(plan) -> list:
    return [
        configure(plan, "none", "image"),
        configure(plan, "fdcmkd", "image", "audio"),
        configure(plan, "at", "image", "audio"),  # one teacher, other maps
        configure(plan, "kd", "image", "audio", seed=1),
        configure(plan, "fdcmkd", "audio", "image"),  # the teacher's input is augmented
        configure(plan, "kd", "audio", "image"),  # and shared with the one before
        configure(plan, "feat", "audio", "image", teacher_kind="shuffled"),
        configure(plan, "dkd", "audio", "image", teacher_kind="constant"),
        configure(plan, "c2kd", "audio", "image"),
        configure(plan, "crd", "text", "audio", probes=2),
        configure(plan, "mlkd", "text", "image"),
    ]


def test_runs_in_step_equal_runs_alone(plan, data):
    configs = list_pack(plan)
    fast = choose_fast(CPU, edits="")
    teachers = {name: build_teacher(data, name) for name in SIDES}
    shared = {name: Shared() for name in SIDES}
    alone, courses = [], []
    for config in configs:
        alone.append(train(config, data, build_teacher(data, config.teacher), CPU, fast=fast))
        own = METHODS[config.method].teaching == "frozen"
        model = teachers[config.teacher] if own and config.teacher else None
        if model is None:
            model = build_teacher(data, config.teacher)
        together = shared[config.teacher] if own and config.teacher else Shared()
        courses.append(Course(config, data, model, CPU, fast=fast, shared=together))
    train_in_step(courses)
    for one, course in zip(alone, courses, strict=True):
        two = course.finish()
        assert one.curves == two.curves, course.config.label
        for name in ("weights", "predictions", "probes"):
            pair = [getattr(x, name) for x in (one, two)]
            if name == "weights":
                pair = [x["last"] for x in pair]
            assert pair[0].keys() == pair[1].keys()
            for key, value in pair[0].items():  # a cosine with nothing is not a number
                torch.testing.assert_close(pair[1][key], value, rtol=0, atol=0, equal_nan=True)


def test_one_forward_pass_of_the_teacher_serves_all(plan, data):
    """Counted at the teacher: once a step, not once for each of three students."""
    model, counts = build_teacher(data, "image"), {}
    for size in (1, 3):
        seen = []
        handle = model.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        shared = Shared()
        configs = [configure(plan, name, "audio", "image") for name in ("kd", "feat", "fdcmkd")]
        train_in_step(
            [Course(c, data, model, CPU, fast=PLAIN, shared=shared) for c in configs[:size]]
        )
        counts[size] = len(seen)
        handle.remove()
    described = 1  # a method that is built looks at its teacher once
    assert counts[3] - 3 * described == counts[1] - described > 0


def test_a_run_that_diverges_leaves_the_others_alone(plan, data):
    good = configure(plan, "none", "image")
    bad = complete(plan.configure("image", "kd", "audio", options={"weight": 1e38}))
    courses = [Course(c, data, build_teacher(data, c.teacher), CPU) for c in (bad, good)]
    train_in_step(courses)
    with pytest.raises(UserError, match=r"kd seed 0 diverged"):
        courses[0].finish()
    assert courses[1].finish().curves == train(good, data, None, CPU).curves


def test_runs_of_unequal_length_are_refused(plan, data):
    configs = [configure(plan, "none", name) for name in ("image", "audio")]
    longer = dataclasses.replace(configs[1], train=dataclasses.replace(plan.train, epochs=3))
    courses = [Course(c, data, None, CPU) for c in (configs[0], longer)]
    with pytest.raises(UserError, match="equal numbers of batches"):
        train_in_step(courses)


# --- recorded steps: the bookkeeping, with a stand-in for the graph that computes from the same
# buffers; the graph itself needs CUDA


class Standing(Recorder):
    """A recording runs the step and takes everything back, so that what it leaves in Python is
    there; a replay takes the step from the buffers, as a graph would."""

    wrong = ""
    replays = 0

    def _warm_up(self, rows):
        self.walk(rows)

    def _capture(self):
        before = graphs.Snapshot(self.courses)
        for held in self.rows:
            held.copy_(self.courses[0].data.rows["train"][: len(held)])
        for course, held in zip(self.courses, self.rows, strict=True):
            course.trainer.step(held, graphs.RECORDED)
        before.restore()
        if self.wrong == "capture":
            raise RuntimeError("cannot be recorded\nat all")
        return object()

    def _replay(self, rows):
        self.replays += 1
        for held, own in zip(self.rows, rows, strict=True):
            held.copy_(own if self.wrong != "rows" else own[:1])
        for number, (course, own) in enumerate(zip(self.courses, self.rows, strict=True)):
            trainer = course.trainer
            weights = [p.detach().clone() for p in trainer.learner.parameters()]
            trainer.step(own, -2 - self.replays)
            if self.wrong == "weights":  # everything but the step itself
                torch._foreach_copy_([p.data for p in trainer.learner.parameters()], weights)
            if self.wrong == "nan" and number == 0:
                next(iter(trainer.learner.parameters())).data.fill_(float("nan"))


@pytest.fixture
def recorders(monkeypatch):
    made = []

    def make(courses, walk):
        made.append(Standing(courses, walk))
        return made[-1]

    monkeypatch.setattr("fdlab.training.loop.Recorder", make)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    return made


def train_recorded(configs, data):
    """In step, over one network of each teacher."""
    fast = Fast(resident=True, cache=True, fused=True, graphs=True)
    teachers = {c.teacher: (build_teacher(data, c.teacher), Shared()) for c in configs}
    courses = []
    for config in configs:
        model, shared = teachers[config.teacher]
        courses.append(Course(config, data, model, CPU, fast=fast, shared=shared))
    train_in_step(courses)
    return courses


def test_recorded_steps_are_the_plain_ones(plan, data, recorders):
    recipe = dataclasses.replace(plan.train, batch_size=20, epochs=3)
    names = [
        ("dkd", "audio", "image", 0),
        ("fdcmkd", "image", "audio", 4),
        ("crd", "audio", "image", 0),
    ]
    configs = [
        dataclasses.replace(configure(plan, m, s, t, probes=p), train=recipe)
        for m, s, t, p in names
    ]
    courses = train_recorded(configs, data)
    (recorder,) = recorders
    batches = courses[0].batches
    assert recorder.graph is not None and not recorder.why
    left_over = len(data.rows["train"]) % 20 > 1
    plain = 3 * left_over + graphs.WARM
    probed = 4 - sum(step < graphs.WARM for step in courses[1].probed)
    assert recorder.replays in range(3 * batches - plain - probed, 3 * batches - plain + 1)
    fast = Fast(resident=True, cache=True, fused=True)
    for config, course in zip(configs, courses, strict=True):
        alone = train(config, data, build_teacher(data, config.teacher), CPU, fast=fast)
        found = course.finish()
        for name, curve in alone.curves.items():  # a ramp in float32 instead of float64
            assert found.curves[name] == pytest.approx(curve, rel=1e-5), name
        assert found.probes.keys() == alone.probes.keys()


@pytest.mark.parametrize(
    ("wrong", "replays", "message"),
    [
        ("rows", 1, "a replayed step leaves the weights"),
        ("weights", 1, "a replayed step leaves the weights"),
        ("nan", 1, "a replayed step leaves the weights nan from where"),
        ("capture", 0, "RuntimeError: cannot be recorded"),
    ],
)
def test_a_recording_that_is_wrong_is_found_out(
    plan, data, recorders, monkeypatch, capsys, wrong, replays, message
):
    """And the run ends as if there had been none; its teacher is read live."""
    monkeypatch.setattr(Standing, "wrong", wrong)
    config = configure(plan, "fdcmkd", "audio", "image")
    (course,) = train_recorded([config], data)
    assert recorders[0].graph is None and recorders[0].replays == replays
    assert message in capsys.readouterr().err
    fast = Fast(resident=True, cache=True, fused=True)
    alone = train(config, data, build_teacher(data, "image"), CPU, fast=fast)
    assert course.finish().curves == alone.curves


def test_what_cannot_be_recorded_is_known_before(plan, digits, data):
    def find(*configs, over=data):
        return find_obstacle(
            [Course(c, over, build_teacher(over, c.teacher), CPU) for c in configs]
        )

    config = configure(plan, "fdcmkd", "image", "audio")
    assert find(config) == find(config, config) == ""
    streamed = PairedData.load(digits, SIDES, CPU, resident=False)
    assert find(config, over=streamed) == "the data set does not fit on the device"
    drawing = Course(config, data, build_teacher(data, "audio"), CPU)
    drawing.trainer.learner.student.add_module("extra", torch.nn.Dropout(0.5))
    assert find_obstacle([drawing]) == ""
    assert "dropout" in find_obstacle([drawing, drawing])


# --- nothing waits for the device: seen without one

WAITS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "_unique",
    "unique_dim",
    "equal",
    "item",
)


class Watch(TorchDispatchMode):
    """What on CUDA would wait for the device: a value read, or a shape that depends on one."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        name = call.overloadpacket.__name__
        masks = name in ("index", "index_put_", "index_put") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        if name in WAITS or masks:
            self.found.append(name)
        return call(*args, **kwargs or {})


def test_the_watch_sees_what_waits():
    with Watch() as watch:
        x = torch.arange(4.0)
        x[x > 1], x.sum().item(), x.nonzero()
    assert {"_local_scalar_dense", "index", "nonzero"} <= set(watch.found)


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_step_reads_nothing_back(plan, data, method):
    teacher = "audio" if METHODS[method].needs else None
    config = configure(plan, method, "image", teacher)
    trainer = Trainer(config, data, build_teacher(data, teacher), CPU)
    trainer.start_epoch(0.05, 0.5)
    rows = data.rows["train"][:16]
    trainer.step(rows)
    with Watch() as watch:
        trainer.step(rows)
    assert not watch.found


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_a_loss_stays_on_its_device(data, method, monkeypatch):
    """On the device "meta" nothing has a value, and a tensor of another device is refused: what
    passes there neither reads one back nor leaves something on the CPU."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)  # meta has none
    torch.manual_seed(0)
    sides = [describe(build_teacher(data, name), data.batch(name, data.rows["train"][:1]))
             for name in ("image", "audio")]  # fmt: skip
    labels = data.labels[data.rows["train"]]
    built = build_method(method, {}, Sizes(*sides, 10, labels)).to("meta")
    if any(isinstance(x, torch.Generator) for m in built.modules() for x in vars(m).values()):
        pytest.skip("draws from a generator, of which there is none on meta")
    for side, part in ((sides[0], "head"), (sides[1], "head")):
        if getattr(side, part) is not None:
            getattr(side, part).to("meta")

    def imagine(side, grad):
        def draw(*shape):
            return torch.randn(6, *shape, device="meta", requires_grad=grad)

        maps = {name: draw(*shape) for name, shape in side.maps.items()}
        blocks = {name: draw(*shape) for name, shape in side.blocks.items()}
        found = ModelOutput(draw(10), draw(side.width), maps, blocks)
        found.second = dataclasses.replace(found)
        return found

    trained = METHODS[method].teaching != "frozen"
    student, theirs = imagine(sides[0], True), imagine(sides[1], trained)
    rows = torch.zeros(6, dtype=torch.int64, device="meta")
    progress = torch.ones((), device="meta")
    terms = built(student, theirs, Batch(rows, rows, progress))
    loss = torch.stack(list(terms.values())).sum()
    assert loss.device.type == "meta" and loss.dtype == torch.float32
    loss.backward()
    built.finish()


# --- on CUDA, where there is one

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("method", CLASSIFIERS)
def test_recorded_steps_on_cuda_agree_with_plain_ones(plan, digits, method):
    device = torch.device("cuda")
    data = PairedData.load(digits, ["image", "audio"], device)
    teacher = "audio" if METHODS[method].needs else None
    config = configure(plan, method, "image", teacher)
    curves = []
    for edits in ("-bf16", "-bf16,-graphs"):
        model = build_teacher(data, teacher)
        model = None if model is None else place(model, device)
        fast = choose_fast(device, edits=edits)
        curves.append(train(config, data, model, device, fast=fast).curves)
    losses = [{k: v[0] for k, v in found.items() if k.startswith("loss/")} for found in curves]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@needs_cuda
def test_deterministic_repeats_on_cuda_are_equal_bit_for_bit(plan, digits):
    device = torch.device("cuda")
    data = PairedData.load(digits, ["image", "audio"], device)
    recipe = dataclasses.replace(plan.train, deterministic=True)
    config = dataclasses.replace(configure(plan, "fdcmkd", "image", "audio"), train=recipe)
    found = [
        train(config, data, place(build_teacher(data, "audio"), device), device) for _ in range(2)
    ]
    assert found[0].curves == found[1].curves
    for name, value in found[0].weights["last"].items():
        assert torch.equal(value, found[1].weights["last"][name])


def test_every_part_has_a_line_about_it():
    fields = {field.name for field in dataclasses.fields(Fast)}
    assert fields == {*FEATURES, "deterministic"}


def test_where_the_fused_optimiser_is_refused_the_plain_one_steps(plan, data, monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("no fused kernel\n  for this")

    monkeypatch.setattr(torch, "_fused_sgd_", refuse)
    config = configure(plan, "fdcmkd", "image", "audio")
    fast = Fast(resident=True, cache=True, fused=True)
    found = train(config, data, build_teacher(data, "audio"), CPU, fast=fast)
    plain = train(config, data, build_teacher(data, "audio"), CPU, fast=Fast(cache=True))
    assert found.curves == plain.curves
    assert capsys.readouterr().err.splitlines()[0] == (
        "fdlab: fused is off: no fused kernel for this"
    )
